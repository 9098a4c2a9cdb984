# SPDX-License-Identifier: GPL-3.0-or-later
"""The two slots of an endpoint: where they are, which one is live, and what systemd and the logs say of them."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
import subprocess
import time
from datetime import datetime
from pathlib import Path

from ansible.module_utils.api_endpoint.release.failures import Failure, explain, folded
from ansible.module_utils.api_endpoint.systemd import systemctl

SLOTS = ("blue", "green")
LAST_WORD = "Shutting down: Master"  # gunicorn's main process writes nothing after it
CONNECTED = "03"  # the state of a connected socket in /proc/net/unix
LOOK_BACK_BYTES = 200_000  # bytes of a log that are read at most
EXCERPT = 6000  # characters of a log that a message shows at most
TAIL_LINES = 40  # of each log that a message shows at most


def queued(socket_path: str, pid: int = 0) -> int:
    """Return how many connections wait to be accepted on a unix socket, of the network that a process is in.

    A version that may reach no network has one of its own, where only its socket's name is in the common file system.
    """
    command = ["ss", "-xlH", f"src {socket_path}"]
    if pid and _network(pid) != _network(os.getpid()):
        command = ["nsenter", f"--net=/proc/{pid}/ns/net", *command]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return 0
    return sum(int(line.split()[2]) for line in shown.splitlines() if len(line.split()) > 4)


def accepted(socket_path: str, pid: int) -> set[str]:
    """Return the connections that were accepted on a unix socket and are open, in our network and in that of a process.

    One that waits to be accepted belongs to nobody yet: it has no number.
    """
    shown = [_read("/proc/self/net/unix")] + (
        [_read(f"/proc/{pid}/net/unix")] if _network(pid) != _network(os.getpid()) else []
    )
    lines = [line.split() for text in shown for line in text.decode(errors="replace").splitlines()]
    return {
        line[6]
        for line in lines
        if line[7:] == [socket_path] and line[5] == CONNECTED and line[6] != "0"
    }


def _network(pid: int) -> str:
    """Return the name of the network namespace of a process; empty when the process is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/net")
    except OSError:
        return ""


def listening(socket_path: str, pid: int) -> set[str]:
    """Return the listening sockets of a path in a process's network, as they are called among a process's open files."""
    lines = (
        line.split()
        for line in _read(f"/proc/{pid}/net/unix").decode(errors="replace").splitlines()
    )
    accepting = "00010000"  # the flag of a socket that listens
    return {
        f"socket:[{line[6]}]"
        for line in lines
        if line[7:] == [socket_path] and line[3] == accepting
    }


def _open_files(pid: int) -> set[str] | None:
    """Return what a process has open; None where this is not for us to know (a container without CAP_SYS_PTRACE)."""
    found = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    except PermissionError:
        return None
    except OSError:
        return set()
    return found


def memory_of(main: int) -> int:
    """Return the bytes of memory that a process and its children use, shared pages counted once (the sum of their PSS)."""
    total, queue = 0, [main] if main else []
    while queue:
        pid = queue.pop()
        queue += [int(child) for child in _read(f"/proc/{pid}/task/{pid}/children").split()]
        found = re.search(rb"^Pss:\s+(\d+) kB", _read(f"/proc/{pid}/smaps_rollup"), re.M)
        total += int(found[1]) * 1024 if found else 0
    return total


def available_memory() -> int:
    """Return the bytes of memory that can be had without swapping."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    return int(re.findall(r"^MemAvailable:\s+(\d+) kB", text, re.M)[0]) * 1024


class Endpoint:
    """An endpoint on this host.

    Everything that says which version is live hangs on one link, `live`, so that one rename turns nginx's socket, the
    live release and the live virtualenv at once:

        live -> slots/blue                    current -> live/release
        slots/blue/release -> releases/<id>   p3env   -> live/release/p3env
        slots/blue/gunicorn.sock -> /run/<name>/blue/gunicorn.sock
        slots/blue/uwsgi/gunicorn.sock -> ../gunicorn.sock, where the version takes uwsgi

    While the strategy `restart` has no version running, the live slot's gunicorn.sock leads to the waiting socket
    instead. A slot that starts turns its link back by itself (ExecStartPost of its unit), after a reboot for example.
    """

    def __init__(self, name: str, root: str | Path) -> None:
        self.name = name
        self.root = Path(root)

    @property
    def live_slot(self) -> str:
        """The slot that gets the requests; empty before the first release."""
        link = self.root / "live"
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    @property
    def serving_slot(self) -> str:
        """The live slot. Where the link `live` is missing: the slot that systemd starts at boot, a running one first.

        A slot is enabled only once its release is proven, so a slot that merely runs does not count.
        """
        if self.live_slot:
            return self.live_slot
        states = {
            slot: self.properties(slot, "ActiveState", "UnitFileState")
            for slot in SLOTS
            if self.release_of(slot)
        }
        enabled = [slot for slot in states if states[slot].get("UnitFileState") == "enabled"]
        active = [slot for slot in enabled if states[slot].get("ActiveState") == "active"]
        return next(iter([*active, *enabled]), "")

    def release_of(self, slot: str) -> str:
        """Return the id of the release in a slot; empty when it holds none."""
        link = self.root / "slots" / slot / "release"
        return os.path.basename(os.readlink(link)) if slot and link.is_symlink() else ""

    def socket_of(self, slot: str) -> str:
        """Return the path of a slot's socket."""
        return f"/run/{self.name}/{slot}/gunicorn.sock"

    @property
    def candidate(self) -> Path:
        """The link through which nginx reaches the version that is being proven."""
        return self.root / "candidate"

    @property
    def proof_socket(self) -> str:
        """The socket, for root alone, on which nginx leads to the version that is being proven."""
        return f"/run/nginx-proof/{self.name}.sock"

    @property
    def proof_log(self) -> Path:
        """What nginx logs of the requests to that version."""
        return Path(f"/run/nginx-log/{self.name}-proof.log")

    def link_of(self, slot: str) -> Path:
        """Return the link through which nginx reaches a slot, when it is live."""
        return self.root / "slots" / slot / "gunicorn.sock"

    def uwsgi_link_of(self, slot: str) -> Path:
        """Return the same link for uwsgi, which the unit makes when the version has left word that it takes that."""
        return self.root / "slots" / slot / "uwsgi" / "gunicorn.sock"

    def lacks_uwsgi_link(self, slot: str) -> bool:
        """Tell whether a version takes uwsgi without its link: it was started by the unit of an earlier role."""
        return (
            Path(self.socket_of(slot)).with_name("uwsgi").exists()
            and not self.uwsgi_link_of(slot).is_symlink()
        )

    @property
    def holding_unit(self) -> str:
        """The name, without suffix, of the socket unit and the service unit that hold requests while no version runs."""
        return f"{self.name}-waiting"

    @property
    def holding_socket(self) -> str:
        """The path of the socket on which requests wait."""
        return f"/run/{self.name}/waiting.sock"

    @property
    def fallback_unit(self) -> str:
        """The unit that serves the live release again when a rollout process dies while requests are held."""
        return f"{self.name}-fallback.service"

    @property
    def rollout_lock(self) -> Path:
        """The file that a rollout process locks for its whole life."""
        return Path("/run", self.name, "deploying")

    @property
    def resume_flag(self) -> Path:
        """The file that lets held requests go on to the live slot."""
        return Path("/run", self.name, "resume")

    def unit_of(self, slot: str) -> str:
        """Return the name of a slot's systemd unit."""
        return f"{self.name}@{slot}.service"

    def drop_in_of(self, slot: str) -> Path:
        """Return the file with which the release in a slot completes the slot's unit."""
        return Path("/etc/systemd/system", f"{self.unit_of(slot)}.d", "release.conf")

    def properties(self, slot: str, *names: str) -> dict[str, str]:
        """Return properties of a slot's unit."""
        shown = systemctl("show", self.unit_of(slot), f"--property={','.join(names)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def is_active(self, slot: str) -> bool:
        """Tell whether a slot's unit runs."""
        return self.properties(slot, "ActiveState").get("ActiveState") == "active"

    def main_process(self, slot: str) -> int:
        """Return the process id of a slot's main process; 0 when it has none."""
        return int(self.properties(slot, "MainPID").get("MainPID") or 0)

    @property
    def links(self) -> dict[Path, str]:
        """The links that lead people to what is live; they follow `live` and so never change."""
        return {
            self.root / "current": "live/release",
            self.root / "p3env": "live/release/p3env",
            Path("/etc", self.name, "gunicorn.conf.py"): f"{self.root}/current/gunicorn.conf.py",
        }

    def wait_until_accepted(self, slot: str, seconds: float) -> None:
        """Wait until no connection waits on a slot's socket any more, `seconds` at most."""
        main, deadline = self.main_process(slot), time.monotonic() + seconds
        while queued(self.socket_of(slot), main) and time.monotonic() < deadline:
            time.sleep(0.1)

    def streams(self, slot: str) -> int:
        """Return how many streams a slot has: each has a lock on a byte of a file beside the slot's socket."""
        try:
            its = os.stat(Path(self.socket_of(slot)).with_name("streams"))
        except OSError:
            return 0
        name = f"{os.major(its.st_dev):02x}:{os.minor(its.st_dev):02x}:{its.st_ino}"
        locks = (line.split() for line in _read("/proc/locks").decode().splitlines())
        ranges = [lock[-2:] for lock in locks if name in lock and "->" not in lock]
        return sum(int(last) - int(first) + 1 for first, last in ranges if last != "EOF")

    def streams_left(self, slot: str) -> int:
        """Return how many streams a slot has when it has no other requests; 0 when it has some."""
        streams = self.streams(slot)
        main = self.main_process(slot) if streams else 0
        is_all = bool(streams) and len(accepted(self.socket_of(slot), main)) <= streams
        return streams if is_all else 0

    def workers(self, slot: str) -> list[int]:
        """Return the process ids of a slot's workers: the children of its main process that can accept requests."""
        main = self.main_process(slot)
        sockets = listening(self.socket_of(slot), main)
        command = _read(f"/proc/{main}/cmdline")

        def is_worker(pid: int) -> bool:
            files = _open_files(pid)
            return (
                _read(f"/proc/{pid}/cmdline") == command if files is None else bool(sockets & files)
            )

        children = _read(f"/proc/{main}/task/{main}/children").split() if main else []
        return sorted(int(pid) for pid in children if is_worker(int(pid)))

    def _processes(self, slot: str) -> list[int]:
        """Return the process ids of a slot's main process and its children."""
        main = self.main_process(slot)
        children = _read(f"/proc/{main}/task/{main}/children").split() if main else []
        return [main, *map(int, children)] if main else []

    def memory(self, slot: str) -> int:
        """Return the bytes of memory that a slot's processes use."""
        return memory_of(self.main_process(slot))

    def started_at(self, slot: str) -> float:
        """Return when a slot was started last (epoch); 0 when it never was since the host's start."""
        started = int(
            self.properties(slot, "InactiveExitTimestampMonotonic").get(
                "InactiveExitTimestampMonotonic"
            )
            or 0
        )
        return time.time() - time.monotonic() + started / 1e6 if started else 0

    def written_since(self, slot: str, error_log: str, offset: int, since: float) -> str:
        """Return what a slot has written into gunicorn's error log since a time (epoch), from an offset on.

        The log is both slots': the lines of processes that wrote before, or are the other slot's, are left out.
        Raise OSError for a log that is no file, or cannot be read.
        """
        others = {pid for other in SLOTS if other != slot for pid in self._processes(other)}
        with open(os.open(error_log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("it is no file")
            end = file.seek(0, os.SEEK_END)
            begin = offset if offset <= end else 0
            file.seek(max(0, begin - LOOK_BACK_BYTES))
            others |= _writers(file.read(begin - file.tell()).decode(errors="replace").splitlines())
            file.seek(max(begin, end - LOOK_BACK_BYTES))
            return "\n".join(
                lines_since(file.read().decode(errors="replace").splitlines(), since, others)
            )

    def logs(
        self, slot: str, error_log: str, offset: int = 0, since: float = 0, lines: int = TAIL_LINES
    ) -> tuple[str, str]:
        """Return what a slot has written into gunicorn's error log and into the journal since a time (epoch).

        Without one, that is its last start. The error log is read from `offset` on. Where no start is known, the journal's
        last `lines` are returned.
        """
        since = since or self.started_at(slot)
        subprocess.run(["journalctl", "--sync"], capture_output=True, check=False)
        # Both together would give the first lines since then, on older versions.
        extent = f"--since=@{since:.6f}" if since else f"--lines={lines}"
        journal = subprocess.run(
            ["journalctl", "--unit", self.unit_of(slot), extent, "--output=cat", "--no-pager"],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        ).stdout
        try:
            written = self.written_since(slot, error_log, offset, since)
        except OSError as error:
            written = f"(not readable: {error})"
        return written, journal

    def log_tail(
        self,
        slot: str,
        error_log: str,
        offset: int = 0,
        since: float = 0,
        lines: int = TAIL_LINES,
        shown: Failure | None = None,
    ) -> str:
        """Return the last lines of both logs, tracebacks folded, without the one of a failure that was `shown` already."""
        written, journal = (
            folded(text, shown) for text in self.logs(slot, error_log, offset, since, lines)
        )
        return f"--- {error_log}\n{_end(written, lines)}\n--- journal of {self.unit_of(slot)}\n{_end(journal, lines)}"

    def why_it_fails(
        self, slot: str, error_log: str, requirements: str, offset: int = 0, since: float = 0
    ) -> Failure | None:
        """Return what both logs say of the app's last failure; None when they have no traceback."""
        text = "\n".join(self.logs(slot, error_log, offset, since))
        return explain(text, self.root / "slots" / slot / "release", requirements)


def lines_since(written: list[str], since: float, others: set[int] | None = None) -> list[str]:
    """Return the lines of gunicorn's error log that were written since a time (epoch), but for those of some processes.

    A process that wrote before is of an earlier start, which may have ended since then. A line without a time (an app's
    traceback) belongs to the one before, unless that is the last word of another process.
    """
    others = _writers(written, int(since)) | (others or set())
    found, is_wanted = [], True
    for line in written:
        if (time_and_writer := _stamp(line)) is not None:
            is_ours = time_and_writer[0] >= int(since) and time_and_writer[1] not in others
            is_wanted = is_ours or (time_and_writer[0] >= int(since) and LAST_WORD in line)
            if not is_ours:
                continue
        if is_wanted:
            found.append(line)
    return found


def _writers(written: list[str], before: float = math.inf) -> set[int]:
    """Return the processes that wrote lines of gunicorn's error log before a time (epoch)."""
    stamps = [stamp for line in written if (stamp := _stamp(line)) is not None]
    return {writer for when, writer in stamps if when < before}


def _stamp(line: str) -> tuple[float, int] | None:
    """Return the time (epoch) and the process id at the begin of a line, 0 for none; None when it has no time."""
    found = re.match(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4})\] (?:\[(\d+)\])?", line)
    return (
        (datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S %z").timestamp(), int(found[2] or 0))
        if found
        else None
    )


def _read(path: str) -> bytes:
    """Return a file of /proc; nothing when its process is gone."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def _end(text: str, lines: int) -> str:
    """Return the last lines of a text, not too long."""
    return "\n".join(text[-EXCERPT:].strip().splitlines()[-lines:]) or "(nothing)"
