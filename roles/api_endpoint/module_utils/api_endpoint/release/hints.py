# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app's log says of the sandbox, of threads and of the fork, and the setting that changes it.

A refusal of the sandbox reaches the app as a plain error of the system, which names no setting.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

JOURNAL_CHARACTERS = 200_000  # of its end
LINE_CHARACTERS = 300  # of a line that is quoted
JOURNAL_LINES = 2000
# The last line of a traceback: an error that nothing has handled.
ERROR = re.compile(r"(?:[\w.]+\.)?\w*(?:Error|Exception|NoSuchProcess|AccessDenied)(?:: |$)")

SYNC = "api_endpoint_worker_class: sync"
PROC = "api_endpoint_service_settings: {ProcSubset: all}"
TEMPORARY = "api_endpoint_temporary_size: 50%"
JIT = "api_endpoint_jit: true"
RESOURCES = 'api_endpoint_service_settings: {SystemCallFilter: "@resources"}'
FOLDER = (
    "Name a folder in api_endpoint_writable_paths (such as `state/`), and let the app write there. "
    "A single file cannot be replaced or rotated: that needs the folder"
)


@dataclass(frozen=True)
class Hint:
    """Something that a log tells, and the setting that helps; `is_fault` when a request or the start has failed of it."""

    what: str
    line: str
    setting: str = ""
    advice: str = ""
    is_fault: bool = True

    def __str__(self) -> str:
        """Return it as a sentence."""
        remedy = (
            f" Set {self.setting}." if self.setting else f" {self.advice}." if self.advice else ""
        )
        return f"{self.what} ({self.line}).{remedy}" if self.what else self.line


@dataclass(frozen=True)
class Rule:
    """A pattern in a line of a log, what it means, and a setting or an advice."""

    pattern: str
    what: str
    setting: str = ""
    advice: str = ""


RULES = (
    # --- threads answer the requests
    Rule(r"signal only works in main thread|set_wakeup_fd only works in main thread",
         "A view sets a signal or an alarm, which only the main thread may, and threads answer requests", SYNC),
    Rule(r"There is no current event loop in thread", "A view needs an event loop, and its thread has none", SYNC),
    Rule(r"This event loop is already running|Cannot run the event loop while another loop is running|"
         r"attached to a different (?:event )?loop|is bound to a different event loop",
         "Views in several threads use one event loop", SYNC),
    Rule(r"SQLite objects created in a thread can only be used in that same thread",
         "A view uses an SQLite connection that another thread has made, and threads answer requests", SYNC),
    Rule(r"main thread is not in main loop|outside of the main thread will|[Cc]annot switch to a different thread",
         "A view uses a library that only the main thread may use, and threads answer requests", SYNC),
    Rule(r"Concurrent access has been detected", "Threads use Numba's work queue at the same time", SYNC),
    # --- files
    Rule(r"Read-only file system.*/(?:slots/\w+/release|releases/\w+|current)/",
         "The app writes into its own folder, which is read-only", "", FOLDER),
    Rule(r"attempt to write a readonly database", "The app writes to an SQLite database that is read-only", "",
         "Name its folder in api_endpoint_writable_paths, or give the artifact `writable: true`"),
    Rule(r"No space left on device.*/(?:tmp|var/tmp|dev/shm)\b|was sent SIGBUS|"
         r"[Uu]nable to (?:write to|open|allocate).*(?:shared memory|shm|torch_)",
         "A temporary folder (/tmp, /var/tmp, /dev/shm) is full", TEMPORARY),
    Rule(r"No space left on device|disk quota exceeded", "A disk is full", "",
         "If the app has written to /tmp, /var/tmp or /dev/shm, set api_endpoint_temporary_size: 50%"),
    Rule(r"File too large", "The app has written a file that is larger than it may be",
         "api_endpoint_file_size_limit: 100G"),
    Rule(r"(?:No such file or directory|Permission denied).*['\"/ ](?:/home|/root)\b",
         "The app looks into a home folder, which the sandbox hides", "", "List the file in api_endpoint_artifacts"),
    Rule(r"Read-only file system", "The app writes where only the system may", "",
         "Let it write below its home ($HOME), or in a folder of api_endpoint_writable_paths"),
    Rule(r"(?:No such file or directory|[Nn]o such device|Permission denied|not permitted).*/dev/(?!shm|log|null)\w+",
         "The app looks for a device, which the sandbox hides", "", "List the device in api_endpoint_devices"),
    # --- what the kernel tells
    Rule(r"/proc/(?:meminfo|cpuinfo|stat|loadavg|uptime|net|vmstat|diskstats|version|filesystems|modules|cmdline)\b.*"
         r"|(?:[Cc]annot|[Ff]ailed to|[Uu]nable to) (?:open|read|parse) .*(?:cpuinfo|meminfo)",
         "The app reads a file of /proc that the sandbox hides", PROC),
    Rule(r"(?:No such file or directory|Permission denied|NoSuchProcess|AccessDenied).*(?:/proc/\d+\b|pid=\d+)",
         "The app looks at other processes, which the sandbox hides",
         "api_endpoint_service_settings: {ProtectProc: default}"),
    Rule(r"Address family not supported by protocol|Errno 97\b|errno: 97\b",
         "The app makes a socket of a kind that the sandbox refuses, such as to list network interfaces",
         "api_endpoint_service_settings: {RestrictAddressFamilies: AF_NETLINK}"),
    Rule(r"Network is unreachable|Errno 101\b", "The app reaches no network",
         "", "If api_endpoint_outbound_network is false, set it to true"),
    # --- memory that is written and executed
    Rule(r"[Cc]annot enable executable stack|failed to map segment from shared object|write\+execute memory|"
         r"(?:allocat\w+|mprotect|mmap)\b.*\bexecutable memory|executable memory.*(?:fail|denied|not permitted)|"
         r"(?:mmap|mprotect)\b.*(?:EACCES|EPERM|[Pp]ermission denied|not permitted)",
         "Code that is made while the app runs may not be executed", JIT),
    # --- system calls
    Rule(r"(?:affinity|setpriority|sched_set\w+|os\.nice|mbind|mempolicy).*(?:not permitted|EPERM|error code: 1\b)",
         "The app chooses processors, priorities or memory for itself, which the sandbox refuses", RESOURCES),
    Rule(r"\bbind\b.*(?:not permitted|EPERM)",
         "The app listens on a port, which the sandbox refuses, since each worker of each version would want it", "",
         "Answer in a route of the app instead (api_endpoint_metrics_listen has metrics). For a port that the app alone "
         "talks to, and that the system chooses, set api_endpoint_service_settings: {SocketBindAllow: any}"),
    Rule(r"\bsocket\.__init__.*not permitted|\b[Ss]ocket: Operation not permitted",
         "The app makes a raw socket, as ping does", "", "Let it connect by TCP instead"),
    Rule(r"child_exception_type.*No such file or directory: '[\w.+-]+'", "The app starts a program that this host has not",
         "", "Name its Debian package in api_endpoint_apt_packages"),
    Rule(r"was sent SIGSYS", "A worker was killed for a system call that the sandbox refuses", "",
         "If it is a 32-bit program, set api_endpoint_service_settings: {SystemCallArchitectures: native x86}"),
    Rule(r"[Nn]o usable sandbox|[Ff]ailed to move to new namespace|unshare.*not permitted|clone.*not permitted",
         "A program of the app makes a sandbox of its own", "api_endpoint_service_settings: {RestrictNamespaces: false}"),
    Rule(r"can't start new thread|[Rr]esource temporarily unavailable.*(?:fork|thread)|pthread_create failed",
         "The app has as many threads and processes as it may", "api_endpoint_service_settings: {TasksMax: 8192}"),
    Rule(r"Too many open files", "The app has as many files open as it may",
         "api_endpoint_service_settings: {LimitNOFILE: 65536}"),
    Rule(r"PermissionError: \[Errno 1\] Operation not permitted", "The sandbox refuses a system call", "",
         f"Allow it, for example with {RESOURCES}"),
)  # fmt: skip

# What the role's own part of gunicorn writes (files/api_endpoint_forks.py and api_endpoint_worker.py).
FORK = re.compile(
    r"(Loaded in each worker|Refused to fork with api_endpoint_preload: true), since .*"
)
# What systemd writes; Debian's releases word it differently.
LEFT_OUT = re.compile(
    r"Unknown key(?: name)? '(\w+)' in section|Failed to parse (\w+)=.*, ignoring"
)
LOST = re.compile(r"Dropped a log line: (.*)|(--- Logging error)")


def find_hints(text: str) -> list[Hint]:
    """Return what the lines of a log tell: the first line that a rule knows, for each rule; lost lines are counted."""
    lines = text.splitlines()
    forks = [match for line in lines if (match := FORK.search(line))]
    found = [Hint("", match[0], is_fault=match[1].startswith("Refused")) for match in forks[-1:]]
    first: dict[Rule, tuple[str, bool]] = {}
    for line, is_error in statements(lines):
        rule = next((rule for rule in RULES if re.search(rule.pattern, line)), None)
        # A line that is an error says more than one that warns of it.
        if rule and (rule not in first or (is_error and not first[rule][1])):
            first[rule] = line, is_error
    found += [
        Hint(rule.what, line[:LINE_CHARACTERS], rule.setting, rule.advice, is_fault)
        for rule, (line, is_fault) in first.items()
    ]
    return found + list(lost_lines(lines))


def statements(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Yield the lines that tell something, and whether they are errors; these with the line of code that they came from."""
    code = ""
    for line in lines:
        if line[:1].isspace():
            if line.strip(" ~^") and not line.lstrip().startswith("File "):
                code = line.strip()
        elif ERROR.match(line):
            yield (f"{code}: {line}" if code else line), True
            code = ""
        elif not FORK.search(line) and not LOST.search(line):
            yield line, "was sent SIG" in line
            code = ""


def lost_lines(lines: list[str]) -> Iterator[Hint]:
    """Count the lines of logs that could not be written."""
    reasons = Counter(match[1] or "logging error" for line in lines if (match := LOST.search(line)))
    for reason, count in reasons.items():
        is_rotated = "Read-only" in reason
        advice = (
            "A log that the app rotates needs a folder in api_endpoint_writable_paths"
            if is_rotated
            else ""
        )
        yield Hint(
            f"{count} log line{'s were' if count > 1 else ' was'} lost", reason, advice=advice
        )


def left_out(journal: str, settings: str) -> list[str]:
    """Return which of a unit's settings systemd has left out, from its journal: it logs that, and starts the unit."""
    found = {}
    for line in journal.splitlines():
        match = LEFT_OUT.search(line)
        name = match and (match[1] or match[2])
        if name and re.search(rf"(?m)^{name}=", settings):
            found[name] = (
                f"systemd leaves out {name} ({line}). Correct it in api_endpoint_service_settings."
            )
    return list(found.values())


def read_journal(unit: str, since: float) -> str:
    """Return what the journal has of a unit since a time (epoch)."""
    subprocess.run(["journalctl", "--sync"], capture_output=True, check=False)
    journal = subprocess.run(
        [
            "journalctl",
            "--unit",
            unit,
            f"--since=@{int(since)}",
            f"--lines={JOURNAL_LINES}",
            "--output=cat",
            "--no-pager",
        ],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    ).stdout
    return journal[-JOURNAL_CHARACTERS:]
