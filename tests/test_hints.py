"""What an app's log tells of the sandbox, of threads and of the fork leads to a setting."""

import re
import subprocess

import pytest
import yaml
from ansible.module_utils.api_endpoint.release import hints
from ansible.module_utils.api_endpoint.release.hints import (
    RULES,
    find_hints,
    left_out,
    read_journal,
)
from helpers import ROLE

SPEC = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"][
    "options"
]
RELEASE = "/var/lib/api-endpoint/releases/0123456789ab"

# A line as programs write it, and words of the hint.
SAID = {
    # --- threads
    "ValueError: signal only works in main thread of the main interpreter": "worker_class: sync",
    "ValueError: set_wakeup_fd only works in main thread of the main interpreter": "worker_class: sync",
    "RuntimeError: There is no current event loop in thread 'Thread-1 (serve)'.": "worker_class: sync",
    "RuntimeError: This event loop is already running": "worker_class: sync",
    "RuntimeError: Cannot run the event loop while another loop is running": "worker_class: sync",
    "RuntimeError: Task <Task> got Future <Future> attached to a different loop": "worker_class: sync",
    "RuntimeError: <asyncio.locks.Lock object> is bound to a different event loop": "worker_class: sync",
    "sqlite3.ProgrammingError: SQLite objects created in a thread can only be used in that same thread. The object": "sync",
    "RuntimeError: main thread is not in main loop": "worker_class: sync",
    "plot.py:3: UserWarning: Starting a Matplotlib GUI outside of the main thread will likely fail.": "worker_class: sync",
    "greenlet.error: cannot switch to a different thread (which happens to have exited)": "worker_class: sync",
    "Terminating: Nested parallel kernel launch detected. Concurrent access has been detected.": "worker_class: sync",
    # --- files
    f"OSError: [Errno 30] Read-only file system: '{RELEASE}/state.tmp'": "folder in api_endpoint_writable_paths",
    "OSError: [Errno 30] Read-only file system: '/var/lib/api-endpoint/slots/blue/release/a'": "folder in api_endpoint_wr",
    "OSError: [Errno 30] Read-only file system: '/etc/x'": "below its home",
    "mkdir -p failed for path /usr/share/x: [Errno 30] Read-only file system: '/usr/share/x'": "below its home",
    "sqlite3.OperationalError: attempt to write a readonly database": "writable: true",
    "OSError: [Errno 28] No space left on device: '/dev/shm/x'": "temporary_size",
    "RuntimeError: unable to write to file </torch_1_2>: No space left on device (28)": "temporary_size",
    "Worker (pid:7) was sent SIGBUS!": "temporary_size",
    "OSError: [Errno 28] No space left on device": "A disk is full",
    "OSError: [Errno 27] File too large": "file_size_limit",
    "PermissionError: [Errno 13] Permission denied: '/home/me/model.bin'": "api_endpoint_artifacts",
    "FileNotFoundError: [Errno 2] No such file or directory: '/root/.cache'": "api_endpoint_artifacts",
    "FileNotFoundError: [Errno 2] No such file or directory: '/dev/nvidia0'": "api_endpoint_devices",
    # --- /proc
    "FileNotFoundError: [Errno 2] No such file or directory: '/proc/meminfo'": "ProcSubset: all",
    "FileNotFoundError: [Errno 2] No such file or directory: '/proc/stat'": "ProcSubset: all",
    "Error in cpuinfo: failed to parse the list of present processors in /proc/cpuinfo": "ProcSubset: all",
    "psutil.NoSuchProcess: process PID not found (pid=1)": "ProtectProc: default",
    "FileNotFoundError: [Errno 2] No such file or directory: '/proc/1/cmdline'": "ProtectProc: default",
    # --- network
    "OSError: [Errno 97] Address family not supported by protocol": "RestrictAddressFamilies: AF_NETLINK",
    "OSError: [Errno 101] Network is unreachable": "api_endpoint_outbound_network",
    # --- memory that is executed
    "ImportError: libx.so: cannot enable executable stack as shared object requires: Permission denied": "api_endpoint_jit",
    "OSError: libx.so: failed to map segment from shared object": "api_endpoint_jit",
    "MemoryError: Cannot allocate write+execute memory for ffi.callback().": "api_endpoint_jit",
    "LLVM ERROR: Unable to allocate section memory: allocation of executable memory denied": "api_endpoint_jit",
    "RuntimeError: mprotect failed: Permission denied": "api_endpoint_jit",
    # --- system calls
    "pthread_setaffinity_np failed for thread: 9, index: 0, mask: {1, }, error code: 1 error msg: Operation not permitted.":
        "SystemCallFilter",
    "self.socket.bind(self.server_address): PermissionError: [Errno 1] Operation not permitted": "SocketBindAllow: any",
    "_socket.socket.__init__(self, family, type, proto, fileno): PermissionError: [Errno 1] Operation not permitted":
        "connect by TCP",
    "raise child_exception_type(errno_num, err_msg, err_filename): FileNotFoundError: [Errno 2] No such file or directory: "
    "'ffmpeg'": "api_endpoint_apt_packages",
    "Worker (pid:7) was sent SIGSYS!": "SystemCallArchitectures",
    "[0101/1.FATAL:zygote_host_impl_linux.cc(128)] No usable sandbox!": "RestrictNamespaces",
    "RuntimeError: can't start new thread": "TasksMax",
    "OSError: [Errno 24] Too many open files: '/x'": "LimitNOFILE",
    "PermissionError: [Errno 1] Operation not permitted": "SystemCallFilter",
}  # fmt: skip


@pytest.mark.parametrize("line", SAID)
def test_a_refusal_leads_to_the_setting(line):
    (hint,) = find_hints(
        f"[2026-11-25 10:00:00 +0000] [7] [INFO] Booting worker\n{line}\nanother line"
    )
    assert SAID[line] in str(hint)
    assert line in str(hint)


def test_every_rule_has_a_line_and_names_variables_that_there_are():
    told = {hint.what for line in SAID for hint in find_hints(line)}
    assert told == {rule.what for rule in RULES}
    for rule in RULES:
        assert bool(rule.setting) != bool(rule.advice), rule
        named = set(re.findall(r"\bapi_endpoint_\w+", rule.setting + rule.advice))
        assert named <= set(SPEC), rule
        if rule.setting:
            assert len(yaml.safe_load(rule.setting)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "/etc/x/release.conf:13: Unknown key 'ProcSubset' in section [Service], ignoring.",
        "/etc/x/release.conf:13: Unknown key name 'ProcSubset' in section 'Service', ignoring.",
        "/etc/x/release.conf:13: Failed to parse ProcSubset=al, ignoring: Invalid argument",
    ],
)
def test_a_setting_that_systemd_leaves_out_is_told_once(line):
    (told,) = left_out(f"Starting a\n{line}\n{line}\n", "[Service]\nProcSubset=al\n")
    assert (
        told
        == f"systemd leaves out ProcSubset ({line}). Correct it in api_endpoint_service_settings."
    )
    # The journal may still have it of the release that the slot had before.
    assert left_out(line, "[Service]\nNoProcSubset=al\n") == []


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-25 10:00:00 +0000] [7] [INFO] Listening at: unix:/run/api-endpoint/blue/gunicorn.sock (7)",
        "FileNotFoundError: [Errno 2] No such file or directory: 'model.bin'",
        "PermissionError: [Errno 13] Permission denied: '/srv/api-endpoint/data/x'",
        "OSError: [Errno 22] Invalid argument",
        "Worker (pid:7) was sent SIGKILL! Perhaps out of memory?",
        "  open('/proc/meminfo')",
    ],
)
def test_other_lines_tell_nothing(line):
    assert find_hints(line) == []


def test_the_line_of_code_tells_which_system_call_was_refused():
    log = (
        "Traceback (most recent call last):\n"
        '  File "/x/wsgi.py", line 7, in affinity\n'
        "    os.sched_setaffinity(0, {0})\n"
        "    ~~~~~~~~~~~~~~~~~~~~^^^^^^^^\n"
        "PermissionError: [Errno 1] Operation not permitted\n"
    )
    (hint,) = find_hints(log)
    assert (
        hint.line
        == "os.sched_setaffinity(0, {0}): PermissionError: [Errno 1] Operation not permitted"
    )
    assert "chooses processors" in hint.what
    assert hint.is_fault
    (hint,) = find_hints(log.replace("    os.sched_setaffinity(0, {0})", "    print(7)"))
    assert "system call" in hint.what


def test_each_kind_is_told_once_an_error_before_a_warning():
    warning = "cache: Read-only file system: '/etc/a'"
    error = "OSError: [Errno 30] Read-only file system: '/etc/b'"
    assert [(hint.line, hint.is_fault) for hint in find_hints(f"{warning}\n{error}\n{error}")] == [
        (error, True)
    ]
    assert [(hint.line, hint.is_fault) for hint in find_hints(f"{warning}\n{warning}")] == [
        (warning, False)
    ]


@pytest.mark.parametrize(
    ("what", "is_fault"),
    [("Loaded in each worker", False), ("Refused to fork with api_endpoint_preload: true", True)],
)
def test_the_last_line_about_the_fork_is_told_as_it_is(what, is_fault):
    lines = [
        f"[x] [{number}] [WARNING] {what}, since a fork would share or lose: a pipe. {number}"
        for number in (1, 2)
    ]
    (hint,) = find_hints("\n".join(lines))
    assert str(hint) == f"{what}, since a fork would share or lose: a pipe. 2"
    assert hint.is_fault is is_fault


def test_lost_lines_are_counted():
    log = (
        3 * "Dropped a log line: No space left on device\n"
        + "--- Logging error in Loguru Handler #1 ---\n"
    )
    assert [str(hint) for hint in find_hints(log) if "lost" in hint.what] == [
        "3 log lines were lost (No space left on device).", "1 log line was lost (logging error).",
    ]  # fmt: skip


def test_the_journal_is_read_since_the_start(monkeypatch):
    calls = []

    def run(command, **_options):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0, "of the journal\n")

    monkeypatch.setattr(hints.subprocess, "run", run)
    assert read_journal("x@blue.service", 1700000000.5) == "of the journal\n"
    assert "--since=@1700000000" in calls[1]
