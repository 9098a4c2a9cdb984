# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a release together and bring it live: start it, prove it through nginx, switch to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import read_json, replace_symlink, write_file
from ansible.module_utils.api_endpoint.http import loaded_configuration
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.builder import Builder
from ansible.module_utils.api_endpoint.release.failures import Failure
from ansible.module_utils.api_endpoint.release.health import ask
from ansible.module_utils.api_endpoint.release.hints import find_hints, left_out, read_journal
from ansible.module_utils.api_endpoint.release.history import (
    RELEASE,
    History,
    audit,
    discard,
    unable,
    went_by,
)
from ansible.module_utils.api_endpoint.release.readiness import ReadinessCheck, ReleaseRejectedError
from ansible.module_utils.api_endpoint.release.secrets import place, setting
from ansible.module_utils.api_endpoint.release.slots import (
    SLOTS,
    Endpoint,
    available_memory,
    memory_of,
    queued,
)
from ansible.module_utils.api_endpoint.sandbox import Sandbox, environment_of, run_command
from ansible.module_utils.api_endpoint.systemd import main_process, masked, must, systemctl
from ansible.module_utils.basic import AnsibleModule

# What is assumed of a release that does not say it.
UNKNOWN: dict[str, Any] = {
    "server_name": "localhost", "health": {"path": "/", "status": [], "timeout": 5}, "start_timeout": 120, "workers": 1,
    "smoke": [], "warm_up": "", "strategy": "auto", "drain": 1, "graceful_timeout": 30, "stream_grace": 0,
    "command_timeout": 600, "environment": {}, "mounts": [],
}  # fmt: skip
POLL_SECONDS = 5.0  # between two words on how far it is
STOP_MARGIN_SECONDS = 10  # beyond its graceful time-out, after which systemd kills what is left (TimeoutStopSec: 5 more)
LONGEST_ANSWER_SECONDS = 600.0  # a request that was held may take so long until it is cut off
COMMANDS = (
    "virtualenv",
    "build",
    "warm-up",
)  # tasks of commands that this module, or one before it, waits for
ANSWERED = re.compile(r"\bstatus [1-4]\d\d\b")  # the app has answered, and no exception has
MARGIN = (
    64 * 1024 * 1024
)  # bytes of memory that a second version may take beyond what the first one does


class Rollout:
    """One rollout or rollback."""

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
        self.say: Callable[[str], None] = lambda _text: None  # takes how far it is
        self.offset = 0  # where gunicorn's error log ended before the start
        self.prepared = 0.0  # when the slot got its settings (epoch); 0 before
        self.started = 0.0  # when the slot was started (epoch); 0 before
        self.told_of_streams: list[str] = []
        self.rollout_lock = -1  # the file descriptor that holds the rollout lock; -1 before

    def run(self) -> dict[str, Any]:
        """Bring the release live, or leave things as they are."""
        if not self.check_mode:
            self.hold_rollout_lock()
        if self.given["rollback"]:
            self.release = self.target()
            self.refuse_unable()
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
            raise DeployError(self.unknown())
        try:
            told = self.activate()
        except Exception as error:
            raise DeployError(self.failed(error)) from error
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
                raise DeployError(self.unknown())
            return self.release
        if found := self.history.previous(self.previous):
            return found
        raise DeployError(
            f"There is no good release to go back to: {self.previous or 'none'} is the oldest. {self.overview()}"
        )

    def refuse_unable(self) -> None:
        """Raise DeployError when the release to go back to cannot start on this host any more, and name those that can."""
        if self.release != self.previous and (why := unable(self.endpoint.root, self.release)):
            others = [
                name
                for name in self.history.good()
                if name != self.previous and not unable(self.endpoint.root, name)
            ]
            raise DeployError(went_by(self.release, why, others))

    def unknown(self) -> str:
        """Say that a release is not there, and which ones are."""
        return f"There is no release {self.release!r} on this host. {self.overview()}"

    def overview(self) -> str:
        """Say which releases there are, with their state."""
        there = [
            f"{name} ({self.history.state(name, self.previous)})"
            for name in self.history.releases()
        ]
        return f"There are: {', '.join(there) or 'none'}."

    # --- bringing a release live

    def activate(self) -> dict[str, Any]:
        """Start, prove and switch by the strategy that suits."""
        plan = self.plan(self.release)
        self.restore_link()
        self.take_over_held_requests()
        self.end_streams_in_the_idle_slot(plan)
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
        proof.final_check()
        self.switch()
        self.say("switched; the version before ends its requests")
        if self.live:
            if strategy == "blue_green":
                time.sleep(live_plan["drain"])
                self.endpoint.wait_until_accepted(self.live, live_plan["graceful_timeout"])
            self.retire(live_plan)
        self.resume_requests()
        notes = [*self.notes(), *self.told_of_streams]
        # A rollback removes nothing: its author may want to look at the release that was wrong.
        removed = [] if self.given["rollback"] else self.collect()
        self.audit("live", strategy=strategy, seconds=str(seconds))
        return {
            "strategy": strategy, "why": why, "seconds": seconds, "removed": removed, "proof": proof.way, "notes": notes,
        }  # fmt: skip

    def end_streams_in_the_idle_slot(self, plan: dict[str, Any]) -> None:
        """Wait for the streams of the version that had the slot before. A rollback is urgent, and waits for none."""
        begun, streams = time.monotonic(), self.endpoint.streams(self.slot)
        if not streams:
            return
        release = self.endpoint.release_of(self.slot)
        cut = self.stop(self.slot, 0 if self.given["rollback"] else plan["stream_grace"])
        self.told_of_streams.append(
            f"Waited {time.monotonic() - begun:.0f} s for {count(streams)} of release {release}, which still had the slot, "
            f"and cut off {cut}."
        )

    def retire(self, live_plan: dict[str, Any]) -> None:
        """Stop the version that was live. Its streams go on for a while, beside the new version and without this run."""
        grace = live_plan["stream_grace"]
        systemctl("disable", self.endpoint.unit_of(self.live))
        streams = self.stop(self.live, leaves_streams=grace > 0)
        if not streams:
            systemctl("reset-failed", self.endpoint.unit_of(self.live))
        elif grace:
            self.told_of_streams.append(
                f"{count(streams)} of release {self.previous} may go on for {grace} s (api_endpoint_stream_grace). "
                "A release within that time waits for them, and a rollback cuts them off."
            )
        else:
            self.told_of_streams.append(
                f"Cut off {count(streams)} of release {self.previous}: api_endpoint_stream_grace is 0."
            )

    def restore_link(self) -> None:
        """Make the link `live` where somebody has removed it, so that the release that serves gets its requests back."""
        if self.live and not self.endpoint.live_slot:
            replace_symlink(self.endpoint.root / "live", f"slots/{self.live}")

    def plan(self, release: str) -> dict[str, Any]:
        """Return how a release is proven and rolled out."""
        plan = read_json(self.folder(release) / "rollout.json")
        if plan is None and release == self.release:
            raise ReleaseRejectedError(
                "start",
                "it has no rollout.json; it was made before there was one. Deploy its code again",
            )
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
        return (
            bool(self.old_unit) and systemctl("is-active", "--quiet", self.old_unit).returncode == 0
        )

    def prepare(self) -> None:
        """Put the release into the idle slot."""
        self.end_leftover_commands()
        systemctl("stop", self.endpoint.unit_of(self.slot))
        self.endpoint.link_of(self.slot).parent.mkdir(parents=True, exist_ok=True)
        replace_symlink(self.endpoint.link_of(self.slot), self.endpoint.socket_of(self.slot))
        # The unit makes it again for a version that takes uwsgi; the last one in this slot may have been of another kind.
        shutil.rmtree(self.endpoint.uwsgi_link_of(self.slot).parent, ignore_errors=True)
        replace_symlink(
            self.endpoint.root / "slots" / self.slot / "release", f"../../releases/{self.release}"
        )
        self.write_drop_in(self.slot, self.release)

    def write_drop_in(self, slot: str, release: str) -> None:
        """Give a slot's unit the settings of its release."""
        self.prepared = time.time()
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

    def start(self, slot: str, plan: dict[str, Any]) -> ReadinessCheck:
        """Start a slot's unit and wait until it is healthy; raise ReleaseRejectedError when it does not get so."""
        error_log = Path(self.given["error_log"])
        self.offset = error_log.stat().st_size if error_log.exists() else 0
        self.started = time.time()
        unit, endpoint = self.endpoint.unit_of(slot), self.endpoint
        replace_symlink(endpoint.candidate, os.path.dirname(endpoint.socket_of(slot)))
        systemctl("reset-failed", unit)
        must("start", "--no-block", unit)
        proof = ReadinessCheck(
            plan, endpoint.socket_of(slot), lambda: endpoint.workers(slot), lambda: self.how_it_stopped(slot),
            endpoint.proof_socket if loaded_configuration(endpoint.proof_socket) else "", endpoint.proof_log,
            lambda: self.why_it_fails(slot, ""), self.say,
        )  # fmt: skip
        proof.wait_until_healthy()
        return proof

    def how_it_stopped(self, slot: str) -> str:
        """Say how a slot's unit stopped by itself since it was started; empty while it runs or starts."""
        state = self.endpoint.properties(
            slot, "ActiveState", "SubState", "NRestarts", "Result", "ExecMainStatus", "Job"
        )
        has_restarted = state.get("NRestarts", "") not in ("", "0")
        if (
            state.get("ActiveState") == "failed"
            or state.get("SubState") == "auto-restart"
            or has_restarted
        ):
            if state.get("Result") == "exit-code":
                return f"it stopped with status {state.get('ExecMainStatus')}"
            return f"it stopped (result: {state.get('Result')})"
        never_started = state.get("ActiveState") == "inactive" and state.get("Job", "0") in (
            "",
            "0",
        )
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
            root=root,
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
        replace_symlink(self.endpoint.root / "live", f"slots/{self.slot}")
        if self.live:
            systemctl("disable", self.endpoint.unit_of(self.live))
        self.history.went_live(self.release, self.previous, by_rollback=self.given["rollback"])
        self.write_links()

    def stop(
        self, slot: str, stream_seconds: float | None = None, leaves_streams: bool = False
    ) -> int:
        """Stop a slot, with force when it does not stop in its time, which an app can have systemd extend without end.

        Streams get `stream_seconds`, or the graceful time-out as all requests; or all else is waited for, and they are left
        to systemd. Return how many were cut off, or left.
        """
        unit = self.endpoint.unit_of(slot)
        plan = read_json(self.folder(self.endpoint.release_of(slot)) / "rollout.json") or {}
        graceful = plan.get("graceful_timeout", UNKNOWN["graceful_timeout"])
        stream_seconds = graceful if stream_seconds is None else stream_seconds
        systemctl("stop", "--no-block", unit)
        begun = time.monotonic()
        while self.endpoint.properties(slot, "ActiveState").get("ActiveState") not in (
            "inactive",
            "failed",
        ):
            waited, streams = time.monotonic() - begun, self.endpoint.streams_left(slot)
            if streams and leaves_streams:
                return streams
            if (streams and waited > stream_seconds) or (
                waited > max(graceful, stream_seconds) + STOP_MARGIN_SECONDS
            ):
                systemctl("kill", "--signal=KILL", unit)
                must("stop", unit)
                return streams
            time.sleep(0.1)
        return 0

    def stop_and_disable(self, slot: str) -> None:
        """Stop a slot, keep it from starting at the next boot, and forget how it failed."""
        systemctl("disable", self.endpoint.unit_of(slot))
        self.stop(slot)
        systemctl("reset-failed", self.endpoint.unit_of(slot))

    # --- requests that are held while no version runs

    def is_holding(self) -> bool:
        """Tell whether the socket on which requests wait is open."""
        return (
            systemctl("is-active", "--quiet", f"{self.endpoint.holding_unit}.socket").returncode
            == 0
        )

    def stop_the_old_one(self, live_plan: dict[str, Any]) -> None:
        """Hold requests, and stop the live version. The old template's service has nowhere to hold them."""
        if not self.live:
            must("stop", self.old_unit)
            return
        self.endpoint.resume_flag.unlink(missing_ok=True)
        self.schedule_fallback()
        must("start", f"{self.endpoint.holding_unit}.socket")
        replace_symlink(self.endpoint.link_of(self.live), self.endpoint.holding_socket)
        time.sleep(0.2)
        self.endpoint.wait_until_accepted(self.live, live_plan["graceful_timeout"])
        if streams := self.stop(self.live):
            self.told_of_streams.append(
                f"Cut off {count(streams)} of release {self.previous}: with the strategy restart they get "
                f"api_endpoint_graceful_timeout, {live_plan['graceful_timeout']} s."
            )

    def schedule_fallback(self) -> None:
        """Have systemd serve the live release again and resume requests as soon as this process dies.

        A fallback that an earlier run left ends here: the new one waits until this process ends.
        """
        unit = self.endpoint.fallback_unit
        done = systemctl("restart", "--no-block", unit)
        if done.returncode != 0:
            raise DeployError(
                f"{unit}, which keeps requests from waiting for ever, does not start: {done.stderr.strip().rstrip('.')}. "
                "Run site.yml without tags, which installs it."
            )

    def is_fallback_left(self) -> bool:
        """Tell whether the fallback of an earlier run waits, runs, or has failed."""
        state = systemctl(
            "show", "--property=ActiveState", "--value", self.endpoint.fallback_unit
        ).stdout.strip()
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
            replace_symlink(self.endpoint.link_of(live), self.endpoint.socket_of(live))
            time.sleep(0.5)
            self.endpoint.resume_flag.touch()
            service = f"{self.endpoint.holding_unit}.service"
            deadline = time.monotonic() + LONGEST_ANSWER_SECONDS
            while time.monotonic() < deadline:
                state = systemctl(
                    "show", "--property=ActiveState", "--value", service
                ).stdout.strip()
                if state in ("inactive", "failed") and not queued(self.endpoint.holding_socket):
                    break
                time.sleep(0.2)
            systemctl("stop", f"{self.endpoint.holding_unit}.socket", service)
            systemctl("reset-failed", service)
        if self.is_fallback_left():
            self.cancel_fallback()
        self.endpoint.resume_flag.unlink(missing_ok=True)

    def notes(self) -> list[str]:
        """Return what the new version's log tells of the fork, of threads and of the sandbox, with what helps."""
        written = ""
        with contextlib.suppress(OSError):  # the app may have put something else in the log's place
            written = self.endpoint.written_since(
                self.slot, str(self.given["error_log"]), self.offset, self.started
            )
        with contextlib.suppress(OSError):  # without a journal
            journal = read_journal(
                self.endpoint.unit_of(self.slot), self.prepared
            )  # systemd reads settings before the start
            hints = find_hints(f"{written}\n{journal}")
            return [*map(str, hints), *left_out(journal, self.settings(self.release))]
        return []

    # --- when it does not work

    def failed(self, error: Exception) -> str:
        """Stop the new version, make sure that the old one serves, and say all that."""
        step = error.step if isinstance(error, ReleaseRejectedError) else self.step
        reason = describe_error(error).rstrip(".")
        if self.is_live:
            self.attempt(self.resume_requests)
            self.attempt(lambda: self.audit("live", unfinished=step))
            return f"Release {self.release} is live, but what follows the switch failed: {reason}. Run again to finish it."
        words, first = "", ""
        if self.started:
            failure = self.why_it_fails(self.slot, reason)
            first = f"{failure.line}\n" if failure else ""
            words = self.log_words(self.slot, failure, self.notes())
        self.attempt(lambda: self.stop_and_disable(self.slot))
        serving = self.restore_live()
        self.attempt(lambda: self.history.has_failed(self.release, step, first or reason))
        self.attempt(lambda: self.audit("failed", step=step))
        if not self.given["rollback"]:
            self.attempt(self.collect)
        told = f'Release {self.release} was not brought live. It failed at the step "{step}": {reason}.'
        return f"{first}{told} {serving}{words}"

    def why_it_fails(self, slot: str, reason: str) -> Failure | None:
        """Return what the logs say of a start that failed for a reason; an answer below 500 has none in them."""
        failure = None
        if not ANSWERED.search(reason):
            with contextlib.suppress(OSError):
                failure = self.endpoint.why_it_fails(
                    slot,
                    str(self.given["error_log"]),
                    self.given["requirements"],
                    self.offset,
                    self.started,
                )
        return failure

    def log_words(self, slot: str, failure: Failure | None, notes: list[str]) -> str:
        """Return what the log tells: hints that were not given yet, the app's own frames, the last lines."""
        lines = [
            note
            for note in notes
            if not (failure and failure.what and note.startswith(failure.what))
        ]
        lines += failure.trace if failure else []
        tail = self.endpoint.log_tail(
            slot, str(self.given["error_log"]), self.offset, self.started, shown=failure
        )
        return "".join(f"\n{line}" for line in [*lines, tail])

    def attempt(self, note: Callable[[], object]) -> None:
        """Do something that must not hide the failure it is about, such as a note on a full disk."""
        with contextlib.suppress(Exception):
            note()

    def restore_live(self) -> str:
        """Make sure that the release that was live serves, and say whether it does."""
        if not self.live and self.old_unit:
            started = systemctl("start", self.old_unit)
            return f"{self.old_unit} of the old template {'does not start' if started.returncode else 'still serves'}."
        if not self.live:
            return "No release is live on this host yet."
        try:
            self.restore_link()
            if not self.endpoint.is_active(self.live):
                self.start(self.live, self.plan(self.previous))
        except (DeployError, OSError) as error:
            return f"Release {self.previous}, which is live, does not serve either: {describe_error(error).rstrip('.')}."
        finally:
            # Healthy or not: held requests get their answer from the version itself.
            self.resume_requests()
        return f"Release {self.previous} is still live."

    # --- what an interrupted run left

    def repair(self) -> dict[str, Any]:
        """Repair what is amiss with a release that is live already, and remove what an interrupted run left."""
        slot, idle = self.live, self.slot
        state = self.endpoint.properties(slot, "ActiveState", "UnitFileState", "NeedDaemonReload")
        if state.get("UnitFileState", "").startswith("masked"):
            raise DeployError(masked(self.endpoint.unit_of(slot)))
        drop_in = self.endpoint.drop_in_of(slot)
        idle_state = self.endpoint.properties(idle, "ActiveState", "UnitFileState")
        link = self.endpoint.link_of(slot)
        amiss = {
            "the link live": not self.endpoint.live_slot,
            "settings of the unit": not drop_in.exists()
            or drop_in.read_text(encoding="utf-8") != self.settings(self.release)
            or state.get("NeedDaemonReload") == "yes",
            "links": self.links_differ()
            or not link.is_symlink()
            or os.readlink(link) != self.endpoint.socket_of(slot)
            or self.endpoint.lacks_uwsgi_link(slot),
            "requests were left waiting": self.is_holding(),
            "the fallback was left on": self.is_fallback_left(),
            "not enabled for the next boot": state.get("UnitFileState") != "enabled",
            "not running": state.get("ActiveState") != "active",
            # One that is being stopped has streams, which it may end.
            "the other slot was left on": idle_state.get("ActiveState")
            not in ("inactive", "deactivating")
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
        replace_symlink(self.endpoint.root / "live", f"slots/{slot}")
        self.take_over_held_requests()
        if amiss["settings of the unit"]:
            self.write_drop_in(slot, self.release)
        self.write_links()
        must("enable", self.endpoint.unit_of(slot))
        # A slot that is crash-looping is stopped first, or its exits so far would count as those of the new start.
        if amiss["not running"] and not self.runs(slot):
            try:
                self.start(slot, plan)
            except ReleaseRejectedError as error:
                failure = self.why_it_fails(slot, str(error))
                first = f"{failure.line}\n" if failure else ""
                raise DeployError(
                    f'{first}Release {self.release} is live and does not run. It failed at the step "{error.step}": '
                    f"{error}.{self.log_words(slot, failure, [])}"
                ) from error
        self.resume_requests()
        replace_symlink(self.endpoint.link_of(slot), self.endpoint.socket_of(slot))
        if self.endpoint.lacks_uwsgi_link(slot):
            self.endpoint.uwsgi_link_of(slot).parent.mkdir(mode=0o755, exist_ok=True)
            replace_symlink(self.endpoint.uwsgi_link_of(slot), "../gunicorn.sock")
        if amiss["the other slot was left on"]:
            self.stop_and_disable(idle)
        if amiss["not in the history"]:
            self.history.went_live(self.release, self.endpoint.release_of(idle), by_rollback=False)

    def leftover_commands(self) -> list[str]:
        """Return the units of commands that run though their run, which waited for them, does not."""
        units = [f"{self.endpoint.name}-{task}.service" for task in COMMANDS]
        shown = systemctl(
            "list-units", "--plain", "--no-legend", "--state=active,activating", *units
        ).stdout
        return [line.split()[0] for line in shown.splitlines() if line.strip()]

    def end_leftover_commands(self) -> None:
        """End them."""
        for unit in self.leftover_commands():
            systemctl("stop", unit)

    def unfinished(self) -> list[Path]:
        """Return what interrupted runs left on the disk; nothing where another run may be at work on it."""
        if self.given["rollback"] or (self.check_mode and Lock(self.endpoint.name).holder()):
            return []
        return self.history.unfinished(self.given["data_dir"], self.release, is_busy=self.is_busy())

    def links(self) -> dict[Path, str]:
        """Return the links that lead people to what is live, but for those where the old service has things of its own."""
        links = self.endpoint.links
        return {
            link: links[link]
            for link in links
            if not (self.old_unit and link.exists() and not link.is_symlink())
        }

    def links_differ(self) -> bool:
        """Tell whether one of the links is missing or leads elsewhere."""
        return any(
            not link.is_symlink() or os.readlink(link) != target
            for link, target in self.links().items()
        )

    def write_links(self) -> None:
        """Make the links."""
        for link, target in self.links().items():
            link.parent.mkdir(parents=True, exist_ok=True)
            replace_symlink(link, target)

    # --- notes

    def collect(self) -> list[str]:
        """Remove what no release that is worth keeping needs; return the ids of the releases that went."""
        live = self.release if self.is_live else self.previous
        kept = self.history.worth_keeping(live, self.given["keep"], also=self.release)
        return self.history.collect(self.given["data_dir"], kept, is_busy=self.is_busy())

    def is_busy(self) -> bool:
        """Tell whether data is being brought to this host, or a virtualenv is built, without a lock."""
        names = (f"{self.endpoint.name}-data", f"{self.endpoint.name}-virtualenv")
        return any(Background(name).is_alive() for name in names)

    def audit(self, result: str, **more: str) -> None:
        """Write a line into the log of deployments."""
        action = "rollback" if self.given["rollback"] else "rollout"
        words = {
            "release": self.release,
            "result": result,
            "previous": self.previous or "none",
            **more,
        }
        audit(self.given["audit_log"], self.endpoint.name, action, words)


def count(streams: int) -> str:
    """Return a number of streams in words."""
    return f"{streams} stream{'' if streams == 1 else 's'}"


def bring(module: AnsibleModule) -> dict[str, Any]:
    """Put the release together where its components are given, and bring it live."""
    built: dict[str, Any] = {"changed": False}
    if module.params["components"] is not None:
        os.umask(0o027)
        built = Builder(module).build()
        module.params["release"] = built.get("release", "")
    os.umask(0o022)
    if module.params["build_only"]:
        return {
            **built,
            "previous": Rollout(module).previous,
            "components": built.get("diff", {}).get("after", {}),
        }
    if module.check_mode:
        return finished(module, built, Rollout(module).run())
    rollout = Rollout(module)

    def work(say: Callable[[str], None]) -> dict[str, Any]:
        rollout.say = say
        return {"built": built, "told": rollout.run()}

    task = str(module.params["run"])
    background(module).begin(task, work, keeps_lock=True)
    return {"task": task}


def background(module: AnsibleModule) -> Background:
    """Return the process that brings a release live, which goes on when the connection drops."""
    return Background(f"{module.params['name']}-rollout", does="brings the release live")


def finished(module: AnsibleModule, built: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return the module's answer."""
    differences = [result["diff"] for result in (built, told) if "diff" in result]
    if told.get("proof") == "over its socket" and not module.params["old_unit"]:
        module.warn(
            "nginx on this host does not run, or runs a configuration of an earlier version of the role: the release was "
            "proven over its own socket, not through nginx. Run site.yml without tags, which configures nginx."
        )
    return {**built, **told, "changed": built["changed"] or told["changed"], "diff": differences}


def asked(module: AnsibleModule, would_change: bool) -> dict[str, Any]:
    """Ask what is live through nginx."""
    given = module.params
    return ask(
        Endpoint(given["name"], given["root"]),
        {
            **given["health_check"],
            "would_change": would_change or given["health_check"]["would_change"],
            "error_log": given["error_log"],
            "requirements": given["requirements"],
        },
        module.check_mode,
    )


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    result: dict[str, Any] = {}
    lock, task = Lock(module.params["name"]), str(module.params["task"])
    try:
        if not task:  # else the process that was started has the lock
            with lock.held(module.params["run"], module.check_mode):
                result = bring(module)
            task = str(result.get("task", ""))
        if task:
            answer = background(module).wait(task, POLL_SECONDS)
            if "result" not in answer:
                module.exit_json(changed=False, task=task, text=answer["text"])
            result = finished(module, **answer["result"])
            with lock.held(module.params["run"]):  # a sign of life
                pass
        if module.params["health_check"]:
            result["answer"] = asked(module, result["changed"])
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error), changed=result.get("changed", False))
    module.exit_json(**result)
