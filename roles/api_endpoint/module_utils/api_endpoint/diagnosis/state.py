# SPDX-License-Identifier: GPL-3.0-or-later
"""An endpoint as it is found on a host: what several checks need to know of it, read once, changed never."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.diagnosis.findings import CAUSE, RISK
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import read_json
from ansible.module_utils.api_endpoint.http import Answer, ask, healthy
from ansible.module_utils.api_endpoint.release.health import health_through_nginx
from ansible.module_utils.api_endpoint.release.secrets import place
from ansible.module_utils.api_endpoint.release.slots import SLOTS, Endpoint, lines_since
from ansible.module_utils.api_endpoint.systemd import systemctl
from ansible.module_utils.api_endpoint.traffic.access_log import open_log

PATIENCE_SECONDS = 3.0  # seconds for a command that should answer at once
LOG_BYTES = 200_000  # bytes at the end of a log that are looked at
STATE = (
    "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "UnitFileState", "ExecMainStatus", "MainPID",
    "TimeoutStartUSec",
)  # fmt: skip


def run_command(
    *command: str, timeout: float = PATIENCE_SECONDS, given: str = ""
) -> tuple[int, str]:
    """Run a command that only looks; return its status (127: it is not there; 124: it is late) and all it said."""
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, input=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", timeout=timeout, check=False, env=environment,
        )  # fmt: skip
    except FileNotFoundError as error:
        return 127, str(error)
    except subprocess.TimeoutExpired as late:
        output = late.stdout or b""
        return 124, output.decode(errors="replace") if isinstance(output, bytes) else output
    return done.returncode, done.stdout.strip()


def properties(unit: str) -> dict[str, str]:
    """Return what systemd says of a unit."""
    shown = systemctl("show", unit, f"--property={','.join(STATE)}").stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def tail(path: str) -> str:
    """Return the end of a log; nothing when it cannot be read."""
    try:
        with open_log(Path(path)) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class EndpointState:
    """An endpoint on this host."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.name: str = given["name"]
        self.root = Path(given["root"])
        self.data_dir = Path(given["data_dir"])
        self.user: str = given["user"]
        self.log_dir = Path(given["error_log"]).parent
        self.endpoint = Endpoint(self.name, self.root)

    def look(self) -> None:
        """Ask the app and nginx, both at once: each may take its time-out."""
        with ThreadPoolExecutor() as pool:
            for asked in [
                pool.submit(getattr, self, name) for name in ("over_socket", "through_nginx")
            ]:
                asked.result()

    # --- which version

    @property
    def is_set_up(self) -> bool:
        """Whether the role has ever run here."""
        return self.root.is_dir() or self.template.exists()

    @property
    def template(self) -> Path:
        """The file of the slots' units."""
        return Path(f"/etc/systemd/system/{self.name}@.service")

    @cached_property
    def slot(self) -> str:
        """The slot that is live or, where no link says so, that should be: it runs, will run, or has a release."""
        filled = [slot for slot in SLOTS if self.endpoint.release_of(slot)]
        if (live := self.endpoint.live_slot) in filled:
            return live
        running = [slot for slot in filled if self.endpoint.is_active(slot)]
        enabled = [
            slot
            for slot in filled
            if properties(self.endpoint.unit_of(slot)).get("UnitFileState") == "enabled"
        ]
        return next(iter([*running, *enabled, *filled]), "")

    @property
    def unit(self) -> str:
        """The unit of that slot."""
        return self.endpoint.unit_of(self.slot)

    @property
    def restart(self) -> str:
        """The command that starts it anew, whichever slot it is in by then."""
        return f"sudo systemctl restart '{self.name}@*'"

    @cached_property
    def release(self) -> str:
        """The release in that slot; empty when there is none."""
        return self.endpoint.release_of(self.slot)

    @property
    def folder(self) -> Path:
        """The release's folder."""
        return self.root / "releases" / self.release

    @cached_property
    def components(self) -> dict[str, Any]:
        """What the release consists of; empty when it does not say."""
        return (self._read("release.json")).get("components", {})

    @cached_property
    def plan(self) -> dict[str, Any]:
        """How the release is proven."""
        return self._read("rollout.json")

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return read_json(self.folder / name) or {}
        except (DeployError, OSError):
            return {}

    @property
    def secrets(self) -> Path | None:
        """The file of the release's secrets; None when it has none."""
        name = self.components.get("secrets")
        return place(self.root, name) if name else None

    # --- how it is

    @cached_property
    def state(self) -> dict[str, str]:
        """What systemd says of the live slot's unit."""
        return properties(self.unit)

    @property
    def is_active(self) -> bool:
        """Whether the service runs."""
        return self.state.get("ActiveState") == "active"

    @property
    def has_restarted(self) -> bool:
        """Whether the service has ended by itself since it was started."""
        return self.state.get("NRestarts", "0") != "0"

    @property
    def is_starting(self) -> bool:
        """Whether the service starts, for the first time."""
        return self.state.get("SubState") == "start" and not self.has_restarted

    @property
    def crash_looping(self) -> bool:
        """Whether the service starts and fails, again and again."""
        state = self.state.get("ActiveState")
        is_down = state in ("failed", "activating") or (self.has_restarted and not self.is_healthy)
        return is_down and not self.is_starting

    @property
    def health(self) -> dict[str, Any]:
        """The health request: the release's own, as it was proven by."""
        return {**self.given["health"], **self.plan.get("health", {})}

    @cached_property
    def over_socket(self) -> Answer:
        """The answer of the app itself."""
        socket = self.endpoint.socket_of(self.slot)
        return ask(
            self.health["path"],
            self.given["server_name"],
            unix_socket=socket,
            timeout=self.health["timeout"],
        )

    @cached_property
    def through_nginx(self) -> Answer:
        """The answer that clients get."""
        name, port = self.given["server_name"], self.given["port"]
        return health_through_nginx(
            self.endpoint, self.health, name, port, self.health["timeout"] + 1
        )

    @property
    def is_healthy(self) -> bool:
        """Whether the app itself answers as it should."""
        return healthy(self.over_socket, self.health["status"])

    @property
    def answers(self) -> bool:
        """Whether clients get what they should."""
        return healthy(self.through_nginx, self.health["status"])

    @property
    def severity(self) -> str:
        """The kind of a finding that explains an endpoint which does not answer, and is a risk to one which does."""
        return RISK if self.answers else CAUSE

    @property
    def start_severity(self) -> str:
        """The kind of a finding that keeps the service from starting: no harm yet to one that runs."""
        return RISK if self.is_active else CAUSE

    @property
    def until_restart(self) -> str:
        """What to add to the finding of something that a start needs, and a version that runs has already."""
        return (
            " The live version runs on without it, and its next start will fail."
            if self.is_active
            else ""
        )

    @property
    def has_account(self) -> bool:
        """Whether the service's account is there."""
        try:
            return bool(pwd.getpwnam(self.user))
        except KeyError:
            return False

    @cached_property
    def started_at(self) -> float:
        """When the service was started last (epoch)."""
        return self.endpoint.started_at(self.slot)

    @cached_property
    def log(self) -> list[str]:
        """The lines of gunicorn's error log since the service was started; lines without a time belong to the one before."""
        return lines_since(tail(self.given["error_log"]).splitlines(), self.started_at - 1)

    @cached_property
    def log_tail(self) -> str:
        """The end of the app's logs."""
        return self.endpoint.log_tail(self.slot, self.given["error_log"])

    # --- a start that nobody notices

    @cached_property
    def load_check(self) -> tuple[int, str]:
        """Have gunicorn load settings and app, in the service's own sandbox, without a socket; 124 when it is late."""
        return self._try("--check-config")

    @cached_property
    def start_check(self) -> tuple[int, str]:
        """Have gunicorn start in the service's own sandbox and end at once, without loading the app."""
        return self._try("--version")

    def _try(self, option: str) -> tuple[int, str]:
        limit = self.given["load_check_timeout"]
        rc, unit = run_command("systemctl", "cat", self.unit)
        if rc != 0:
            return rc, unit
        settings, command = sandbox_of(unit, self.slot)
        name = f"{self.name}-diagnosis-{os.getpid()}"
        call = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={name}"]
        call += [
            f"--property={line}"
            for line in [*settings, f"RuntimeMaxSec={limit}", "TimeoutStopSec=2"]
        ]
        started_at = time.monotonic()
        rc, output = run_command(*call, *command, option, timeout=limit + 5)
        if rc != 0 and not output:  # systemd itself failed
            _rc, output = run_command(
                "journalctl", f"--unit={name}", "--lines=3", "--output=cat", "--no-pager"
            )
        return (124 if rc != 0 and time.monotonic() - started_at >= limit else rc), output


# What of a unit makes no sense for a process that only loads the app and ends.
LEFT_OUT = (
    "Exec",
    "Restart",
    "RuntimeDirectory",
    "Timeout",
    "Type=",
    "NotifyAccess",
    "KillMode",
    "Watchdog",
    "RuntimeMax",
)


def sandbox_of(unit: str, slot: str) -> tuple[list[str], list[str]]:
    """Return the settings of a unit's sandbox, and its command without the socket."""
    section, settings, command = "", [], []
    for line in unit.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip()
        if section != "[Service]" or "=" not in line or line.startswith(("#", ";", "[")):
            continue
        setting = re.sub("%[i%]", lambda found: slot if found[0] == "%i" else "%", line.strip())
        if setting.startswith("ExecStart="):
            command = setting.removeprefix("ExecStart=").partition(" --bind ")[0].split()
        elif not setting.startswith(LEFT_OUT):
            settings.append(setting)
    return settings, command
