# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the user's, and pip, run on the host as the app's account, inside the app's walls, with an end."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.api_endpoint.errors import DeployError, disk_of, lacks_room, says_full
from ansible.module_utils.api_endpoint.files import chown_tree, work_folder
from ansible.module_utils.api_endpoint.systemd import systemctl

SPARE_BYTES = 16 * 1024 * 1024  # that a command leaves on the disk
EXCERPT = 6000  # characters of a command's output that a message shows at most
UNITS = Path("/etc/systemd/system")
# The settings of the service's unit that are walls.
WALL = re.compile(
    r"^((?:Protect|Private|Restrict|SystemCall|SocketBind)\w*|NoNewPrivileges|LockPersonality|RemoveIPC|CapabilityBoundingSet"
    r"|InaccessiblePaths|ReadOnlyPaths|LimitCORE)=(.*)$",
    re.M,
)
RESOLVER = re.compile(r"^nameserver\s+([^\s%]+)", re.M)


class Outcome(NamedTuple):
    """How a command ended."""

    status: int
    output: str  # the end of it
    is_late: bool  # it was stopped after its time


@dataclass(frozen=True)
class Sandbox:
    """Where and as whom a command runs: in a systemd unit of its own, inside the walls of the endpoint's service.

    The unit is named after the endpoint and the task, so that one that a killed run left behind is found and ended.
    """

    name: str  # of the endpoint
    task: str
    user: str
    folder: Path  # where it starts
    environment: dict[str, str] = field(default_factory=dict)
    inherited: tuple[str, ...] = ()  # variables of this process's environment that it gets too
    writable: tuple[str, ...] = ()  # paths that it may write, `folder` is one only when named here
    mounts: tuple[str, ...] = ()  # where it sees `folder` as well
    timeout: int | None = 600  # seconds
    root: Path | None = (
        None  # of the endpoint, on whose disk its temporary folders are then; else they are the host's
    )
    secrets: Path | None = None  # file of further environment variables, which only root can read
    limits: dict[str, int] = field(
        default_factory=dict
    )  # of a process, by their names in systemd, such as AS

    @property
    def unit(self) -> str:
        """The name of the transient unit."""
        return f"{self.name}-{self.task}.service"

    @property
    def work(self) -> Path:
        """The folder of its temporary files."""
        return Path(self.root or "/", "work", self.task)

    def arguments(self, command: list[str]) -> list[str]:
        """Return the call of systemd-run."""
        kind = "BindPaths" if str(self.folder) in self.writable else "BindReadOnlyPaths"
        properties = [
            ("User", self.user),
            ("Group", self.user),
            ("UMask", "0027"),
            ("WorkingDirectory", str(self.folder)),
            ("RuntimeMaxSec", str(self.timeout or "infinity")),
            ("TimeoutStopSec", "5"),
            *walls(self.name),
            # Temporary folders of its own. The app's, and often the host's, are memory, and what is built may be large.
            *(self._temporary() if self.root else [("PrivateTmp", "true")]),
            ("TemporaryFileSystem", "/dev/shm:size=25%,mode=1777,nosuid,nodev"),  # noqa: S108 - its own
            # Where clouds tell an instance's secrets to whoever asks from it.
            ("IPAddressDeny", "link-local"),
            *(("IPAddressAllow", address) for address in link_local_resolvers()),
            ("MemoryMax", "75%"),
            ("TasksMax", "1024"),
            *(("ReadWritePaths", path) for path in self.writable),
            *((f"Limit{name}", str(limit)) for name, limit in self.limits.items()),
            *((kind, f"{self.folder}:{mount}") for mount in self.mounts),
            *((("EnvironmentFile", str(self.secrets)),) if self.secrets else ()),
        ]
        call = [
            "systemd-run",
            "--quiet",
            "--wait",
            "--pipe",
            "--collect",
            f"--unit={self.unit}",
            "--service-type=exec",
        ]
        call += [f"--property={name}={value}" for name, value in properties]
        call += [f"--setenv={name}" for name in self.inherited if name in os.environ]
        call += [f"--setenv={name}={value}" for name, value in self.environment.items()]
        # systemd would expand variables by itself, before a shell sees them.
        return [*call, *(word.replace("$", "$$") for word in command)]

    def _temporary(self) -> list[tuple[str, str]]:
        """Return the settings by which the temporary folders are on the disk of the endpoint."""
        places = ("/tmp", "/var/tmp")  # noqa: S108 - its own
        return [
            *(("BindPaths", f"{self.work}:{place}") for place in places),
            ("ReadWritePaths", " ".join(places)),
        ]

    def end(self) -> None:
        """End what a killed run has left running, with all its processes."""
        systemctl("stop", self.unit)
        systemctl("reset-failed", self.unit)

    def start(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        """Start a command, with the streams of Popen; all that it started ends with it."""
        self.end()
        return self._start(command, **streams)

    def _start(self, command: list[str], **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self.arguments(command), env={**os.environ, "LC_ALL": "C.UTF-8"}, **streams
        )

    def run(self, command: list[str], watch: Callable[[str], None] | None = None) -> Outcome:
        """Run a command to its end, or until it has nearly filled the disk of the endpoint.

        `watch` gets the end of what the command has said so far, each second.
        """
        self.end()
        if not self.root:
            return self._run(command, None, watch)
        with work_folder(self.root, self.task) as work:
            chown_tree(work, self.user, self.user)
            return self._run(command, work, watch)

    def _run(
        self, command: list[str], work: Path | None, watch: Callable[[str], None] | None
    ) -> Outcome:
        begun = time.monotonic()
        with tempfile.TemporaryFile(dir=work.parent if work else None) as spool:
            process = self._start(
                command, stdin=subprocess.DEVNULL, stdout=spool, stderr=subprocess.STDOUT
            )
            while (status := poll(process)) is None:
                if watch:
                    watch(tail(spool.fileno()))
                if work and lacks_spare_room(work):
                    self.end()
                    process.wait()
                    raise DeployError(
                        lacks_room(
                            work, f"{shlex.join(command)} was stopped before it filled that disk."
                        )
                    )
            output = tail(spool.fileno())
        if work and status and says_full(output):
            output += f"\nIts files and its temporary files are on {disk_of(work)} of the host. Make room there."
        is_late = self.timeout is not None and time.monotonic() - begun >= self.timeout
        return Outcome(status, output, is_late)


def tail(handle: int) -> str:
    """Return the end of an open file, whose position, which a process that writes it has too, stays."""
    begin = max(0, os.fstat(handle).st_size - EXCERPT)
    return os.pread(handle, EXCERPT, begin).decode(errors="replace").strip()


def poll(process: subprocess.Popen[bytes]) -> int | None:
    """Return the exit status of a process; None when it has not ended within a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1)
    return None


def lacks_spare_room(folder: Path) -> bool:
    """Tell whether the disk of a folder has so little room left that the endpoint itself may fail."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < SPARE_BYTES


def walls(name: str) -> list[tuple[str, str]]:
    """Return the settings of the unit of an endpoint that keep its app in, so that they stand in one place, its template."""
    path = UNITS / f"{name}@.service"
    try:
        found = WALL.findall(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DeployError(
            f"{path} is missing. Run site.yml without tags, or with --tags setup."
        ) from error
    # What is hidden from the service need not be there yet.
    return [
        (key, _if_there(value) if key == "InaccessiblePaths" else value) for key, value in found
    ]


def _if_there(paths: str) -> str:
    """Return paths of a unit's setting so that those that are not there are left out."""
    return " ".join(f"-{path.removeprefix('-')}" for path in paths.split())


def link_local_resolvers(path: Path = Path("/etc/resolv.conf")) -> list[str]:
    """Return the name servers of this host that have link-local addresses, as some clouds' have."""
    try:
        addresses = RESOLVER.findall(path.read_text(encoding="utf-8"))
    except OSError:
        return []
    return [address for address in addresses if _is_link_local(address)]


def _is_link_local(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_link_local
    except ValueError:
        return False


def run_command(command: str, sandbox: Sandbox) -> str:
    """Run a shell command and return its output; raise DeployError with the output when it fails or takes too long."""
    done = sandbox.run(["/bin/sh", "-c", command])
    if done.status != 0:
        if done.is_late:
            reason = f"was stopped after api_endpoint_command_timeout = {sandbox.timeout} s"
        else:
            reason = f"ended with status {done.status}"
        raise DeployError(
            f"the command {command!r} {reason}.\n--- its output\n{done.output or '(nothing)'}"
        )
    return done.output


def environment_of(home: Path, virtualenv: Path, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command: the virtualenv's programs first, and what the app gets."""
    path = f"{virtualenv}/bin:/usr/local/bin:/usr/bin:/bin"
    return {
        "HOME": str(home),
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }
