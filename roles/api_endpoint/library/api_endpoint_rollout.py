#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a release together and bring it live: start it, prove it, switch to it, ask it through nginx."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_rollout
short_description: Bring a release live, or go back to one, without failing a request
description:
  - With O(components), first makes O(root)C(/releases/<id>), where the id is a digest of all that goes in. Equal inputs are
    the same release. It holds the app's code, a link to each artifact at its C(dest), the settings files, C(p3env) (a link
    to its virtualenv) and C(release.json). It is built under another name and renamed when it is whole; then it never
    changes. Before it gets its name, the build commands in its settings (C(rollout.json)) run in its folder, as the app's
    account.
  - Starts the release in the idle one of two slots, waits until its health path answers as expected over its own socket,
    puts the smoke requests to each of its workers, runs the warm-up command, and only then turns C(live), one link, to that
    slot. nginx connects through the link, so nothing is reloaded. The old slot is drained and stopped.
  - With the strategy C(restart) the old version is stopped first, for hosts without memory for two. Meanwhile requests wait
    on a socket that systemd holds; they are answered by the new version, or by the old one when the new one is refused.
  - How a release is proven stands in its C(rollout.json), so that a roll-back asks what was asked then.
  - A release that is refused is stopped and marked, its last log lines are shown, and the module fails. The old release
    goes on serving.
  - The work is done by a process of its own on the host, which ends whatever becomes of the connection.
  - When that process is killed while requests are held, the unit C(<name>-fallback) at once starts the live release again
    and resumes the requests.
  - A release that is live already is left alone. What an interrupted run left is repaired or removed.
  - All of it is one module because each further one costs the time of a connection and of a start of Python, also when
    there is nothing to do.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  data_dir:
    description: Absolute path of the store of artifacts.
    type: path
    required: true
  release:
    description:
      - Id of a release that is there, where O(components) does not say what it consists of.
      - With O(rollback), the one to go back to; when empty, the good one that was deployed before the live one.
    type: str
    default: ""
  components:
    description:
      - What the release consists of. Leave a component out to keep the live one, so new data alone means the live code with
        new data. Leave all of it out to bring O(release) live.
      - V(null) for a value means that it is not known yet, as happens in check mode on a clean host.
    type: dict
    suboptions:
      code:
        description: Digest of the code.
        type: str
      virtualenv:
        description: Key of the virtualenv.
        type: str
      artifacts:
        description: The artifacts, as returned by M(api_endpoint_artifacts).
        type: list
        elements: dict
      settings:
        description: Settings files, content by name, written beside the WSGI module.
        type: dict
      writable_paths:
        description: Paths, relative to the app's folder, that the app may write. They outlive the release.
        type: list
        elements: str
  revision:
    description: The git commit of the code, for C(release.json).
    type: str
    default: ""
  ask:
    description: How to ask the live release through nginx in the end, as M(api_endpoint_health) does.
    type: dict
    suboptions:
      port:
        description: Port of nginx.
        type: int
        default: 80
      server_name:
        description: Name to send as Host header.
        type: str
        required: true
      path:
        description: Path that is asked, unless the release has its own.
        type: str
        default: /
      status:
        description: Statuses that mean healthy, unless the release has its own. When empty, any below 500.
        type: list
        elements: int
        default: []
      timeout:
        description: Seconds to go on asking, unless the release has its own.
        type: int
        default: 10
  rollback:
    description: Go back to a release that was built before.
    type: bool
    default: false
  build_only:
    description: Make the release of O(components), and leave what is live alone.
    type: bool
    default: false
  keep:
    description: How many good releases to keep, with the virtualenvs and data that they need.
    type: int
    default: 3
  user:
    description: Account of the app.
    type: str
    default: www-data
  error_log:
    description: Absolute path of gunicorn's error log, to quote from.
    type: path
    required: true
  audit_log:
    description: Absolute path of the file that gets a line for each roll-out and each roll-back.
    type: path
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  old_unit:
    description:
      - Unit of a service of the old template that still serves. It is left running, with its virtualenv and its settings
        where they are, for M(api_endpoint_takeover) to stop. When there is no memory for both it is stopped before the new
        version starts, and started again when that is refused.
    type: str
    default: ""
  secrets:
    description:
      - Environment variables of the app that only root may read on the host. They go with the settings; with the live
        settings go the live secrets. They are blanked out in all that is returned, such as a command's output.
    type: dict
    default: {}
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Bring the code live
  api_endpoint_rollout:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    components:
      code: "{{ code.digest }}"
      virtualenv: "{{ venv.key }}"
      artifacts: "{{ data.artifacts }}"
      settings:
        gunicorn.conf.py: "{{ lookup('template', 'gunicorn.conf.py.j2') }}"
    ask:
      server_name: language.wmcloud.org
    error_log: /var/log/gunicorn/error.log
    audit_log: /var/log/api-endpoint/deploys.log
    run: "{{ lock.token }}"

- name: Go back to the previous release
  api_endpoint_rollout:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    rollback: true
    error_log: /var/log/gunicorn/error.log
    audit_log: /var/log/api-endpoint/deploys.log
    run: "{{ lock.token }}"
"""

RETURN = r"""
release:
  description: Id of the release that was asked for, or found.
  type: str
  returned: always
differs:
  description: The components in which the release differs from the live one.
  type: list
  elements: str
  returned: when components are given, and all are known
components:
  description: What the release is a digest of.
  type: dict
  returned: with O(build_only), when all are known
answer:
  description: The C(status) that was answered through nginx, and the C(release) that is live; an empty one when none is.
  type: dict
  returned: when O(ask) is given
slot:
  description: The slot that is live now.
  type: str
  returned: when a release is live
previous:
  description: Id of the release that was live before; empty when none was.
  type: str
  returned: always
strategy:
  description: C(blue_green) or C(restart).
  type: str
  returned: when a slot was started
why:
  description: Why that strategy.
  type: str
  returned: when a slot was started
seconds:
  description: Seconds from the start of the slot until it was proven.
  type: float
  returned: when a slot was started
removed:
  description: Ids of the releases that were removed because they are no longer kept.
  type: list
  elements: str
  returned: when a slot was started
repaired:
  description: What was repaired although the release was live already.
  type: list
  elements: str
  returned: when the release was live already
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint_background import Background
from ansible.module_utils.api_endpoint_builder import Builder
from ansible.module_utils.api_endpoint_commands import Sandbox, environment_of, run_command
from ansible.module_utils.api_endpoint_detached import detached
from ansible.module_utils.api_endpoint_health import ask_through_nginx
from ansible.module_utils.api_endpoint_history import RELEASE, History, audit, discard
from ansible.module_utils.api_endpoint_lock import Lock
from ansible.module_utils.api_endpoint_proof import Proof, RefusedError
from ansible.module_utils.api_endpoint_secrets import place, setting
from ansible.module_utils.api_endpoint_service import (
    SLOTS,
    Endpoint,
    available_memory,
    main_process,
    memory_of,
    must,
    queued,
    systemctl,
)
from ansible.module_utils.api_endpoint_store import StoreError, in_words, point, read_json, write_file
from ansible.module_utils.basic import AnsibleModule

# What is assumed of a release that does not say it.
UNKNOWN: dict[str, Any] = {
    "server_name": "localhost", "health": {"path": "/", "status": [], "timeout": 5}, "start_timeout": 120, "workers": 1,
    "smoke": [], "warm_up": "", "strategy": "auto", "drain": 1, "graceful_timeout": 30, "command_timeout": 600,
    "environment": {}, "mounts": [],
}  # fmt: skip
STOP_MARGIN_SECONDS = 10  # beyond its graceful time-out, after which systemd kills what is left (TimeoutStopSec: 5 more)
LONGEST_ANSWER_SECONDS = 600.0  # a request that was held may take so long until it is cut off
COMMANDS = ("virtualenv", "build", "warm-up")  # tasks of commands that this module, or one before it, waits for
MARGIN = 64 * 1024 * 1024  # bytes of memory that a second version may take beyond what the first one does


class Rollout:
    """One roll-out or roll-back."""

    def __init__(self, module: AnsibleModule) -> None:
        self.check_mode: bool = module.check_mode
        self.given = module.params
        self.endpoint = Endpoint(self.given["name"], self.given["root"])
        self.history = History(self.given["root"])
        self.live = self.endpoint.serving_slot
        self.previous = self.endpoint.release_of(self.live)
        self.release: str = self.given["release"]
        self.slot = SLOTS[1] if self.live == SLOTS[0] else SLOTS[0]
        self.old_unit: str = self.given.get("old_unit") or ""
        self.step = "start"
        self.offset = 0  # where gunicorn's error log ended before the start
        self.started = 0.0  # when the slot was started (epoch); 0 before
        self.rollout_lock = -1  # the file descriptor that holds the roll-out lock; -1 before

    def run(self) -> dict[str, Any]:
        """Bring the release live, or leave things as they are."""
        if not self.check_mode:
            self.hold_rollout_lock()
        if self.given["rollback"]:
            self.release = self.target()
        found = {"release": self.release, "previous": self.previous}
        if self.release and self.previous == self.release:
            return {**found, **self.repair()}
        found["diff"] = {
            "before": f"live: {self.previous or 'nothing'}\n",
            "after": f"live: {self.release or 'a new one'}\n",
        }
        if self.check_mode:
            return {**found, "changed": True}
        if not self.release or not self.folder(self.release).is_dir():
            raise StoreError(self.unknown())
        try:
            told = self.activate()
        except Exception as error:
            raise StoreError(self.failed(error)) from error
        return {**found, **told, "changed": True, "slot": self.slot}

    def hold_rollout_lock(self) -> None:
        """Lock a file until this process ends, however it ends: the fallback waits for that.

        Python closes the descriptor in every program that this process starts, so none of them keeps the lock.
        """
        path = self.endpoint.rollout_lock
        path.parent.mkdir(mode=0o755, exist_ok=True)
        self.rollout_lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.rollout_lock, fcntl.LOCK_EX)

    @property
    def is_live(self) -> bool:
        """Whether the release gets the requests."""
        return self.endpoint.live_slot == self.slot

    def folder(self, release: str) -> Path:
        """Return a release's folder."""
        return self.endpoint.root / "releases" / release

    def target(self) -> str:
        """Return the release to go back to."""
        if self.release:
            if not RELEASE.fullmatch(self.release) or not self.folder(self.release).is_dir():
                raise StoreError(self.unknown())
            return self.release
        if found := self.history.previous(self.previous):
            return found
        raise StoreError(
            f"There is no good release to go back to: {self.previous or 'none'} is the oldest. {self.overview()}"
        )

    def unknown(self) -> str:
        """Say that a release is not there, and which ones are."""
        return f"There is no release {self.release!r} on this host. {self.overview()}"

    def overview(self) -> str:
        """Say which releases there are, with their state."""
        there = [f"{name} ({self.history.state(name, self.previous)})" for name in self.history.releases()]
        return f"There are: {', '.join(there) or 'none'}."

    # --- bringing a release live

    def activate(self) -> dict[str, Any]:
        """Start, prove and switch by the strategy that suits."""
        plan = self.plan(self.release)
        self.restore_link()
        self.take_over_held_requests()
        strategy, why = self.choose(plan)
        live_plan = self.plan(self.previous)
        begun = time.monotonic()
        self.prepare()
        if strategy == "restart":
            self.stop_the_old_one(live_plan)
        proof = self.start(self.slot, plan)
        proof.every_worker_answers()
        self.warm_up(plan)
        seconds = round(time.monotonic() - begun, 1)
        proof.last_look()
        self.switch()
        if self.live:
            if strategy == "blue_green":
                time.sleep(live_plan["drain"])
                self.endpoint.wait_until_accepted(self.live, live_plan["graceful_timeout"])
            self.stop_and_disable(self.live)
        self.resume_requests()
        # A roll-back removes nothing: its author may want to look at the release that was wrong.
        removed = [] if self.given["rollback"] else self.collect()
        self.audit("live", strategy=strategy, seconds=str(seconds))
        return {"strategy": strategy, "why": why, "seconds": seconds, "removed": removed}

    def restore_link(self) -> None:
        """Make the link `live` where somebody has removed it, so that the release that serves gets its requests back."""
        if self.live and not self.endpoint.live_slot:
            point(self.endpoint.root / "live", f"slots/{self.live}")

    def plan(self, release: str) -> dict[str, Any]:
        """Return how a release is proven and rolled out."""
        plan = read_json(self.folder(release) / "rollout.json")
        if plan is None and release == self.release:
            raise RefusedError("start", "it has no rollout.json; it was made before there was one. Deploy its code again")
        return {**UNKNOWN, **(plan or {})}

    def choose(self, plan: dict[str, Any]) -> tuple[str, str]:
        """Return the strategy, and why."""
        if self.live and self.runs(self.live):
            used = self.endpoint.memory(self.live)
        elif not self.live and self.old_runs():
            used = memory_of(main_process(self.old_unit))
        else:
            return "blue_green", "no version is running"
        if plan["strategy"] != "auto":
            return str(plan["strategy"]), f"api_endpoint_strategy is {plan['strategy']}"
        available = available_memory()
        needed = int(used * 1.1) + MARGIN
        figures = f"a second version needs about {needed / 1e6:,.0f} MB of memory, {available / 1e6:,.0f} MB are available"
        return ("blue_green" if needed <= available else "restart"), figures

    def runs(self, slot: str) -> bool:
        """Tell whether a slot's version runs; one that starts is waited for, one that only comes and goes is stopped."""
        deadline = time.monotonic() + self.plan(self.previous)["start_timeout"]
        while time.monotonic() < deadline:
            state = self.endpoint.properties(slot, "ActiveState", "SubState", "NRestarts")
            if state.get("ActiveState") in ("active", "inactive", "failed"):
                return state.get("ActiveState") == "active"
            if state.get("SubState") == "auto-restart" or state.get("NRestarts", "0") != "0":
                break
            time.sleep(0.5)
        systemctl("stop", self.endpoint.unit_of(slot))
        return False

    def old_runs(self) -> bool:
        """Tell whether a service of the old template runs."""
        return bool(self.old_unit) and systemctl("is-active", "--quiet", self.old_unit).returncode == 0

    def prepare(self) -> None:
        """Put the release into the idle slot."""
        self.end_leftover_commands()
        systemctl("stop", self.endpoint.unit_of(self.slot))
        self.endpoint.link_of(self.slot).parent.mkdir(parents=True, exist_ok=True)
        point(self.endpoint.link_of(self.slot), self.endpoint.socket_of(self.slot))
        point(self.endpoint.root / "slots" / self.slot / "release", f"../../releases/{self.release}")
        self.write_drop_in(self.slot, self.release)

    def write_drop_in(self, slot: str, release: str) -> None:
        """Give a slot's unit the settings of its release."""
        drop_in = self.endpoint.drop_in_of(slot)
        drop_in.parent.mkdir(exist_ok=True, mode=0o755)
        write_file(drop_in, self.settings(release), 0o644)
        must("daemon-reload")

    def settings(self, release: str) -> str:
        """Return what a release adds to the unit of its slot."""
        text = (self.folder(release) / "service.conf").read_text(encoding="utf-8")
        return text + setting(self.endpoint.root, self.secrets_of(release))

    def secrets_of(self, release: str) -> str:
        """Return the name of a release's secrets; empty when it has none."""
        record = read_json(self.folder(release) / "release.json") or {}
        return str(record.get("components", {}).get("secrets", ""))

    def start(self, slot: str, plan: dict[str, Any]) -> Proof:
        """Start a slot's unit and wait until it is healthy; raise RefusedError when it does not get so."""
        error_log = Path(self.given["error_log"])
        self.offset = error_log.stat().st_size if error_log.exists() else 0
        self.started = time.time()
        unit = self.endpoint.unit_of(slot)
        systemctl("reset-failed", unit)
        must("start", "--no-block", unit)
        proof = Proof(
            plan, self.endpoint.socket_of(slot), lambda: self.endpoint.workers(slot), lambda: self.how_it_stopped(slot)
        )
        proof.wait_until_healthy()
        return proof

    def how_it_stopped(self, slot: str) -> str:
        """Say how a slot's unit stopped by itself since it was started; empty while it runs or starts."""
        state = self.endpoint.properties(slot, "ActiveState", "SubState", "NRestarts", "Result", "ExecMainStatus", "Job")
        has_restarted = state.get("NRestarts", "") not in ("", "0")
        if state.get("ActiveState") == "failed" or state.get("SubState") == "auto-restart" or has_restarted:
            if state.get("Result") == "exit-code":
                return f"it stopped with status {state.get('ExecMainStatus')}"
            return f"it stopped (result: {state.get('Result')})"
        never_started = state.get("ActiveState") == "inactive" and state.get("Job", "0") in ("", "0")
        if never_started and time.time() - self.started > 3:
            return f"systemd did not start it (result: {state.get('Result')})"
        return ""

    def warm_up(self, plan: dict[str, Any]) -> None:
        """Run the warm-up command."""
        if not plan.get("warm_up"):
            return
        self.step = "warm-up"
        root = self.endpoint.root
        sandbox = Sandbox(
            name=self.endpoint.name,
            task="warm-up",
            user=self.given["user"],
            folder=self.folder(self.release),
            environment=environment_of(
                root / "state" / "home",
                self.folder(self.release) / "p3env",
                {**plan["environment"], "API_ENDPOINT_SOCKET": self.endpoint.socket_of(self.slot)},
            ),
            writable=(str(root / "state"),),
            mounts=tuple(plan["mounts"]),
            timeout=plan["command_timeout"],
            secrets=place(root, name) if (name := self.secrets_of(self.release)) else None,
        )
        run_command(plan["warm_up"], sandbox)

    def switch(self) -> None:
        """Turn the requests to the new slot, for now and after a reboot."""
        self.step = "switch"
        must("enable", self.endpoint.unit_of(self.slot))
        point(self.endpoint.root / "live", f"slots/{self.slot}")
        if self.live:
            systemctl("disable", self.endpoint.unit_of(self.live))
        self.history.went_live(self.release, self.previous, by_rollback=self.given["rollback"])
        self.write_links()

    def stop(self, slot: str) -> None:
        """Stop a slot, with force when it does not stop in its time, which an app can have systemd extend without end."""
        unit = self.endpoint.unit_of(slot)
        plan = read_json(self.folder(self.endpoint.release_of(slot)) / "rollout.json") or {}
        graceful = plan.get("graceful_timeout", UNKNOWN["graceful_timeout"])
        systemctl("stop", "--no-block", unit)
        deadline = time.monotonic() + graceful + STOP_MARGIN_SECONDS
        while self.endpoint.properties(slot, "ActiveState").get("ActiveState") not in ("inactive", "failed"):
            if time.monotonic() > deadline:
                systemctl("kill", "--signal=KILL", unit)
                must("stop", unit)
                return
            time.sleep(0.1)

    def stop_and_disable(self, slot: str) -> None:
        """Stop a slot, keep it from starting at the next boot, and forget how it failed."""
        systemctl("disable", self.endpoint.unit_of(slot))
        self.stop(slot)
        systemctl("reset-failed", self.endpoint.unit_of(slot))

    # --- requests that are held while no version runs

    def is_holding(self) -> bool:
        """Tell whether the socket on which requests wait is open."""
        return systemctl("is-active", "--quiet", f"{self.endpoint.holding_unit}.socket").returncode == 0

    def stop_the_old_one(self, live_plan: dict[str, Any]) -> None:
        """Hold requests, and stop the live version. The old template's service has nowhere to hold them."""
        if not self.live:
            must("stop", self.old_unit)
            return
        self.endpoint.resume_flag.unlink(missing_ok=True)
        self.schedule_fallback()
        must("start", f"{self.endpoint.holding_unit}.socket")
        point(self.endpoint.link_of(self.live), self.endpoint.holding_socket)
        time.sleep(0.2)
        self.endpoint.wait_until_accepted(self.live, live_plan["graceful_timeout"])
        self.stop(self.live)

    def schedule_fallback(self) -> None:
        """Have systemd serve the live release again and resume requests as soon as this process dies.

        A fallback that an earlier run left ends here: the new one waits until this process ends.
        """
        unit = self.endpoint.fallback_unit
        done = systemctl("restart", "--no-block", unit)
        if done.returncode != 0:
            raise StoreError(
                f"{unit}, which keeps requests from waiting for ever, does not start: {done.stderr.strip().rstrip('.')}. "
                "Run site.yml without tags, which installs it."
            )

    def is_fallback_left(self) -> bool:
        """Tell whether the fallback of an earlier run waits, runs, or has failed."""
        state = systemctl("show", "--property=ActiveState", "--value", self.endpoint.fallback_unit).stdout.strip()
        return state != "inactive"

    def cancel_fallback(self) -> None:
        """End the fallback. Nothing happens when there is none."""
        systemctl("stop", self.endpoint.fallback_unit)
        systemctl("reset-failed", self.endpoint.fallback_unit)

    def take_over_held_requests(self) -> None:
        """End the fallback of a run that was killed, so that it starts nothing beside what this run starts.

        Requests that still wait go on to the live release where it runs. Otherwise they get the next one, and a fallback of
        this run sees to that.
        """
        if self.is_holding():
            self.schedule_fallback()
            if self.live and self.runs(self.live):
                self.resume_requests()
        elif self.is_fallback_left():
            self.cancel_fallback()

    def resume_requests(self) -> None:
        """Let held requests go on to the live slot, close the socket when the last one is answered, cancel the fallback.

        Killed between any two steps, the fallback does the rest; so it is cancelled last.
        """
        if self.is_holding():
            live = self.endpoint.live_slot
            point(self.endpoint.link_of(live), self.endpoint.socket_of(live))
            time.sleep(0.5)
            self.endpoint.resume_flag.touch()
            service = f"{self.endpoint.holding_unit}.service"
            deadline = time.monotonic() + LONGEST_ANSWER_SECONDS
            while time.monotonic() < deadline:
                state = systemctl("show", "--property=ActiveState", "--value", service).stdout.strip()
                if state in ("inactive", "failed") and not queued(self.endpoint.holding_socket):
                    break
                time.sleep(0.2)
            systemctl("stop", f"{self.endpoint.holding_unit}.socket", service)
            systemctl("reset-failed", service)
        if self.is_fallback_left():
            self.cancel_fallback()
        self.endpoint.resume_flag.unlink(missing_ok=True)

    # --- when it does not work

    def failed(self, error: Exception) -> str:
        """Stop the new version, make sure that the old one serves, and say all that."""
        step = error.step if isinstance(error, RefusedError) else self.step
        reason = in_words(error).rstrip(".")
        if self.is_live:
            self.attempt(self.resume_requests)
            self.attempt(lambda: self.audit("live", unfinished=step))
            return f"Release {self.release} is live, but what follows the switch failed: {reason}. Run again to finish it."
        words = ""
        if self.started:
            words = "\n" + self.endpoint.last_words(self.slot, str(self.given["error_log"]), self.offset, self.started)
        self.attempt(lambda: self.stop_and_disable(self.slot))
        serving = self.restore_live()
        self.attempt(lambda: self.history.has_failed(self.release, step, reason))
        self.attempt(lambda: self.audit("failed", step=step))
        if not self.given["rollback"]:
            self.attempt(self.collect)
        return f'Release {self.release} was not brought live. It failed at the step "{step}": {reason}. {serving}{words}'

    def attempt(self, note: Callable[[], object]) -> None:
        """Do something that must not hide the failure it is about, such as a note on a full disk."""
        with contextlib.suppress(Exception):
            note()

    def restore_live(self) -> str:
        """Make sure that the release that was live serves, and say whether it does."""
        if not self.live and self.old_unit:
            started = systemctl("start", self.old_unit)
            return f"{self.old_unit} of the old template {'does not start' if started.returncode else 'goes on serving'}."
        if not self.live:
            return "No release is live on this host yet."
        try:
            self.restore_link()
            if not self.endpoint.is_active(self.live):
                self.start(self.live, self.plan(self.previous))
        except (StoreError, OSError) as error:
            return f"Release {self.previous}, which is live, does not serve either: {in_words(error).rstrip('.')}."
        finally:
            # Healthy or not: held requests get their answer from the version itself.
            self.resume_requests()
        return f"Release {self.previous} goes on serving."

    # --- what an interrupted run left

    def repair(self) -> dict[str, Any]:
        """Repair what is amiss with a release that is live already, and remove what an interrupted run left."""
        slot, idle = self.live, self.slot
        state = self.endpoint.properties(slot, "ActiveState", "UnitFileState", "NeedDaemonReload")
        drop_in = self.endpoint.drop_in_of(slot)
        idle_state = self.endpoint.properties(idle, "ActiveState", "UnitFileState")
        link = self.endpoint.link_of(slot)
        amiss = {
            "the link live": not self.endpoint.live_slot,
            "settings of the unit": not drop_in.exists()
            or drop_in.read_text(encoding="utf-8") != self.settings(self.release)
            or state.get("NeedDaemonReload") == "yes",
            "links": self.links_differ() or not link.is_symlink() or os.readlink(link) != self.endpoint.socket_of(slot),
            "requests were left waiting": self.is_holding(),
            "the fallback was left on": self.is_fallback_left(),
            "not enabled for the next boot": state.get("UnitFileState") != "enabled",
            "not running": state.get("ActiveState") != "active",
            "the other slot was left on": idle_state.get("ActiveState") != "inactive"
            or idle_state.get("UnitFileState") == "enabled",
            "not in the history": "live" not in self.history.entries.get(self.release, {}),
            "commands of an interrupted run": bool(self.leftover_commands()),
        }
        repaired = [what for what, is_so in amiss.items() if is_so]
        if repaired and not self.check_mode:
            self.repair_slots(slot, idle, amiss)
        if unfinished := self.unfinished():
            repaired.append("files of an interrupted run")
            if not self.check_mode:
                for path in unfinished:
                    discard(path)
        return {"changed": bool(repaired), "slot": slot, "repaired": repaired}

    def repair_slots(self, slot: str, idle: str, amiss: dict[str, bool]) -> None:
        """Bring the live slot, its links and what surrounds it to what they should be; `amiss` says what is not."""
        plan = self.plan(self.release)
        self.end_leftover_commands()
        point(self.endpoint.root / "live", f"slots/{slot}")
        self.take_over_held_requests()
        if amiss["settings of the unit"]:
            self.write_drop_in(slot, self.release)
        self.write_links()
        must("enable", self.endpoint.unit_of(slot))
        # A slot that is crash-looping is stopped first, or its exits so far would count as those of the new start.
        if amiss["not running"] and not self.runs(slot):
            try:
                self.start(slot, plan)
            except RefusedError as error:
                words = self.endpoint.last_words(slot, str(self.given["error_log"]), self.offset, self.started)
                raise StoreError(
                    f'Release {self.release} is live and does not run. It failed at the step "{error.step}": '
                    f"{error}.\n{words}"
                ) from error
        self.resume_requests()
        point(self.endpoint.link_of(slot), self.endpoint.socket_of(slot))
        self.stop_and_disable(idle)
        if amiss["not in the history"]:
            self.history.went_live(self.release, self.endpoint.release_of(idle), by_rollback=False)

    def leftover_commands(self) -> list[str]:
        """Return the units of commands that run though their run, which waited for them, does not."""
        units = [f"{self.endpoint.name}-{task}.service" for task in COMMANDS]
        shown = systemctl("list-units", "--plain", "--no-legend", "--state=active,activating", *units).stdout
        return [line.split()[0] for line in shown.splitlines() if line.strip()]

    def end_leftover_commands(self) -> None:
        """End them."""
        for unit in self.leftover_commands():
            systemctl("stop", unit)

    def unfinished(self) -> list[Path]:
        """Return what interrupted runs left on the disk; nothing where another run may be at work on it."""
        if self.given["rollback"] or (self.check_mode and Lock(self.endpoint.name).holder()):
            return []
        return self.history.unfinished(self.given["data_dir"], self.release, data_is_busy=self.data_is_busy())

    def links(self) -> dict[Path, str]:
        """Return the links that lead people to what is live, but for those where the old service has things of its own."""
        links = self.endpoint.links
        return {link: links[link] for link in links if not (self.old_unit and link.exists() and not link.is_symlink())}

    def links_differ(self) -> bool:
        """Tell whether one of the links is missing or leads elsewhere."""
        return any(not link.is_symlink() or os.readlink(link) != target for link, target in self.links().items())

    def write_links(self) -> None:
        """Make the links."""
        for link, target in self.links().items():
            link.parent.mkdir(parents=True, exist_ok=True)
            point(link, target)

    # --- notes

    def collect(self) -> list[str]:
        """Remove what no release that is worth keeping needs; return the ids of the releases that went."""
        live = self.release if self.is_live else self.previous
        kept = self.history.worth_keeping(live, self.given["keep"], also=self.release)
        return self.history.collect(self.given["data_dir"], kept, data_is_busy=self.data_is_busy())

    def data_is_busy(self) -> bool:
        """Tell whether data is being brought to this host."""
        return Background(f"{self.endpoint.name}-data").is_alive()

    def audit(self, result: str, **more: str) -> None:
        """Write a line into the log of deployments."""
        action = "rollback" if self.given["rollback"] else "rollout"
        words = {"release": self.release, "result": result, "previous": self.previous or "none", **more}
        audit(self.given["audit_log"], self.endpoint.name, action, words)


def bring(module: AnsibleModule) -> dict[str, Any]:
    """Put the release together where its components are given, and bring it live."""
    built: dict[str, Any] = {"changed": False}
    if module.params["components"] is not None:
        os.umask(0o027)
        built = Builder(module).build()
        module.params["release"] = built.get("release", "")
    os.umask(0o022)
    if module.params["build_only"]:
        return {**built, "previous": Rollout(module).previous, "components": built.get("diff", {}).get("after", {})}
    told = Rollout(module).run() if module.check_mode else detached(Rollout(module).run)
    differences = [result["diff"] for result in (built, told) if "diff" in result]
    return {**built, **told, "changed": built["changed"] or told["changed"], "diff": differences}


def asked(module: AnsibleModule) -> dict[str, Any]:
    """Ask what is live through nginx."""
    given = module.params
    endpoint = Endpoint(given["name"], given["root"])
    if module.check_mode and not endpoint.release_of(endpoint.live_slot):
        return {"release": ""}
    return ask_through_nginx(endpoint, {**given["ask"], "error_log": given["error_log"]})


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "release": {"type": "str", "default": ""},
            "components": {"type": "dict"},
            "revision": {"type": "str", "default": ""},
            "rollback": {"type": "bool", "default": False},
            "build_only": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 3},
            "user": {"type": "str", "default": "www-data"},
            "error_log": {"type": "path", "required": True},
            "audit_log": {"type": "path", "required": True},
            "run": {"type": "str", "default": ""},
            "old_unit": {"type": "str", "default": ""},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "ask": {
                "type": "dict",
                "options": {
                    "port": {"type": "int", "default": 80},
                    "server_name": {"type": "str", "required": True},
                    "path": {"type": "str", "default": "/"},
                    "status": {"type": "list", "elements": "int", "default": []},
                    "timeout": {"type": "int", "default": 10},
                },
            },
        },
        supports_check_mode=True,
    )
    result: dict[str, Any] = {}
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result = bring(module)
        if module.params["ask"]:
            result["answer"] = asked(module)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error), changed=result.get("changed", False))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
