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

# Kills one of the two processes of a rollout, by means of the one that holds its lock.
KILL_OF_ROLL_OUT = r"""
import os
killed = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        program = open(f"/proc/{pid}/comm").read()
        files = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        if program.startswith("python") and "/run/api-endpoint/deploying" in files:
            os.kill(VICTIM, 9)
            killed += 1
    except (FileNotFoundError, ProcessLookupError):
        pass
print(killed)
"""
KILL_WHO_WORKS = KILL_OF_ROLL_OUT.replace("VICTIM", "int(pid)")
# The module that waits for the rollout: its parent.
KILL_WHO_WAITS = KILL_OF_ROLL_OUT.replace(
    "VICTIM", 'int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[1])'
)


def python_on(host, program: str) -> str:
    """Run a Python program on a host and return what it prints."""
    return host.check_output(f"python3 -c {shlex.quote(program)}")
