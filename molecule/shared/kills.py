"""Programs that kill what a run has started on a host, and print how many processes they killed."""

import shlex

# Kills what was started from outside the container (a module of Ansible's, as if its connection had been cut), and what
# that has started; not what systemd has started, and not itself.
KILL_MODULES = r"""
import os
def parent(pid):
    try:
        return int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
def first(pid):
    while parent(pid):
        pid = parent(pid)
    return pid
there = [int(name) for name in os.listdir("/proc") if name.isdigit()]
killed = 0
for pid in [pid for pid in there if first(pid) not in (1, first(os.getpid()))]:
    try:
        os.kill(pid, 9)
        killed += 1
    except ProcessLookupError:
        pass
print(killed)
"""

# Kills the process that works on a roll-out, which the module waits for: the one that holds its lock.
KILL_WHO_WORKS = r"""
import os
killed = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        program = open(f"/proc/{pid}/comm").read()
        files = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        if program.startswith("python") and "/run/api-endpoint/deploying" in files:
            os.kill(int(pid), 9)
            killed += 1
    except (FileNotFoundError, ProcessLookupError):
        pass
print(killed)
"""

# Kills the module that waits for the roll-out, and not the roll-out: the parent of the process that holds its lock.
KILL_WHO_WAITS = r"""
import os
killed = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        program = open(f"/proc/{pid}/comm").read()
        files = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        if program.startswith("python") and "/run/api-endpoint/deploying" in files:
            os.kill(int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1]), 9)
            killed += 1
    except (FileNotFoundError, ProcessLookupError):
        pass
print(killed)
"""


def python_on(host, program: str) -> str:
    """Run a Python program on a host and return what it prints."""
    return host.check_output(f"python3 -c {shlex.quote(program)}")
