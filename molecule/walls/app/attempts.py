"""Attempts of a hostile program to get at what is not its own. Needs nothing but Python.

/etc/targets.json tells it where things are, which a real one would have to find out: process ids, names, addresses.
"""

import contextlib
import errno
import glob
import json
import os
import signal
import socket
import subprocess
import sys


def first_bytes(path):
    """Return the beginning of a file, or the first names in a folder."""
    if os.path.isdir(path):
        return os.listdir(path)[:3] or "an empty folder"
    with open(path, "rb") as file:
        return file.read(100) or b"an empty file"


def secrets_of_others():
    """Search the environment of every process that is to be seen."""
    found = []
    for path in glob.glob("/proc/[0-9]*/environ"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if b"the-other-secret" in file.read():
                found.append(path)
    return found


def stop(pid):
    """Stop a process, and let it go on."""
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGCONT)
    return "stopped"


def write(path):
    """Write a file."""
    with open(path, "w") as file:
        file.write("x")
    return "written"


def fill(folder):
    """Write more than a temporary folder may hold."""
    path = f"{folder}/full"
    try:
        with open(path, "wb") as file:
            for _ in range(8):
                file.write(b"x" * 1_000_000)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return "8 MB written"


def send(path):
    """Send what looks like a line of nginx's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(path)
        channel.send(b'<187>Nov 25 14:14:51 nginx_forged: GET 200 0.001 - "200" "-" 198.51.100.99')
    return "sent"


def connect(path):
    """Connect to a service's socket."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(path)
    return "connected"


def reach(host, port):
    """Connect to an address."""
    socket.create_connection((host, port), timeout=2).close()
    return "connected"


def order(*command):
    """Have systemd do something."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise PermissionError(errno.EPERM, done.stderr.strip()[:100])
    return "done"


def attempts(target):
    """Return every attempt by its name."""
    nginx = target["nginx"]
    return {
        "read the secrets of another endpoint from its processes": secrets_of_others,
        "read the environment of the version that is live": lambda: first_bytes(
            f"/proc/{target['live']}/environ"
        ),
        "see what runs, by D-Bus": lambda: order("systemctl", "status", "nginx"),
        "write lines past the journal": lambda: send("/run/systemd/journal/syslog"),
        "write in /run": lambda: write("/run/lock/full"),
        "see nginx's process": lambda: first_bytes(f"/proc/{nginx}/status"),
        "reach the host's files through nginx's root": lambda: first_bytes(
            f"/proc/{nginx}/root/var/log/nginx/access.log"
        ),
        "read nginx's memory": lambda: open(f"/proc/{nginx}/mem", "rb").close() or "open",
        "stop nginx": lambda: stop(nginx),
        "stop another endpoint": lambda: stop(target["other"]),
        "stop what counts requests": lambda: stop(target["counter"]),
        "read nginx's log": lambda: first_bytes("/var/log/nginx/access.log"),
        "read what nginx's cache keeps": lambda: first_bytes("/run/nginx-cache"),
        "read another endpoint's code": lambda: first_bytes("/var/lib/other-api/current/wsgi.py"),
        "read another endpoint's data": lambda: first_bytes("/srv/other-api/data"),
        "read another endpoint's log": lambda: first_bytes(
            "/var/log/gunicorn-other-api/access.log"
        ),
        "reach another endpoint's socket": lambda: connect("/var/lib/other-api/live/gunicorn.sock"),
        "reach another endpoint's socket in /run": lambda: connect(target["socket"]),
        "read its secrets from the disk": lambda: first_bytes("/var/lib/api-endpoint/secrets"),
        "write another virtualenv": lambda: write(f"{target['virtualenv']}/bin/pip"),
        "write its release": lambda: write("/var/lib/api-endpoint/current/wsgi.py"),
        "write its code's folder": lambda: write("/var/lib/api-endpoint/code/x"),
        "forge a line of nginx's error log": lambda: send("/run/nginx-log/error.sock"),
        "forge a request for Prometheus": lambda: send("/run/api-endpoint/metrics.sock"),
        "let a file of its state grow": lambda: fill("/var/lib/api-endpoint/state/home"),
        "fill /tmp": lambda: fill("/tmp"),
        "fill /var/tmp": lambda: fill("/var/tmp"),
        "fill /dev/shm": lambda: fill("/dev/shm"),
        "ask the cloud for the instance's secrets": lambda: reach(target["metadata"], 8169),
        "stop nginx by systemd": lambda: order("systemctl", "--no-ask-password", "stop", "nginx"),
        "leave its walls by a unit of its own": lambda: order(
            "systemd-run", "--no-ask-password", "--wait", "true"
        ),
    }


def results():
    """Return what became of each attempt: the name of its error, "nothing", or what it got."""
    with open("/etc/targets.json") as file:
        target = json.load(file)
    found = {}
    for name, attempt in attempts(target).items():
        try:
            found[name] = f"GOT {got!r}" if (got := attempt()) else "nothing"
        except OSError as error:
            found[name] = errno.errorcode.get(error.errno or 0, type(error).__name__)
    return found


if __name__ == "__main__":
    # A process that stays, if it can, when the program that started it has ended.
    subprocess.Popen(
        ["sleep", "654321"],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    print("ATTEMPTS", json.dumps(results()))
    sys.exit(1)
