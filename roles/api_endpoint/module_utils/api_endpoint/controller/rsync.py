# SPDX-License-Identifier: GPL-3.0-or-later
"""Send a file or folder from the controller with rsync, on the way that Ansible takes: resumed, and saying how far."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from ansible.module_utils.api_endpoint.digests import ALWAYS_EXCLUDED
from ansible.module_utils.api_endpoint.errors import DeployError, says_full

EVERY_SECONDS = 10  # seconds between two words on how far it is
PROGRESS = re.compile(rb"(\d+)%\s+(\S+/s)\s+(\S+)")


SHARED = re.compile("Control(?:Master|Persist|Path)=|ServerAlive")


class NoWayError(DeployError):
    """There is a way to the host for Ansible, but none for rsync, which logs in and becomes root by itself."""


def options_of(connection: Any) -> Callable[[str], Any]:
    """Return a function that gives an option of a connection; None for one that it has not."""

    def option(name: str) -> Any:
        try:
            return connection.get_option(name)
        except KeyError:
            return None

    return option


def ssh_words(option: Callable[[str], Any]) -> list[str]:
    """Return ssh with the very options of the run: port, key, user, jump host."""
    command = [str(option("ssh_executable") or "ssh")]
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        command += shlex.split(str(option(name) or ""))
    if port := option("port"):
        command += ["-p", str(port)]
    if key := option("private_key_file"):
        command += ["-i", os.path.expanduser(str(key)), "-o", "IdentitiesOnly=yes"]
    if user := option("remote_user"):
        command += ["-l", str(user)]
    if option("host_key_checking") is False:
        command += ["-o", "StrictHostKeyChecking=no"]
    return command


def ssh_command(connection: Any) -> str:
    """Return the command by which a person reaches the host as the run does; empty for a connection of another kind."""
    if str(getattr(connection, "transport", "")).rsplit(".", 1)[-1] != "ssh":
        return ""
    option = options_of(connection)
    words = ssh_words(option)
    # Shared connections are the run's affair.
    pairs = zip(words, [*words[1:], ""], strict=True)
    left = {
        n + more
        for n, pair in enumerate(pairs)
        if pair[0] == "-o" and SHARED.match(pair[1])
        for more in (0, 1)
    }
    return shlex.join(
        [*(word for n, word in enumerate(words) if n not in left), str(option("host"))]
    )


def remote_shell(connection: Any, become: bool) -> tuple[list[str], str, str]:
    """Return rsync's remote shell, the name of the host, and the rsync to run there; empty names for a local connection.

    Raise NoWayError for a connection that rsync cannot use, above all one with a password.
    """
    option = options_of(connection)
    kind = connection.transport.rsplit(".", 1)[-1]
    is_root = (
        kind == "docker"
        or (option("remote_user") or "") == "root"
        or (kind == "local" and os.geteuid() == 0)
    )
    method = connection.become if become and not is_root else None  # a plugin of Ansible's
    if method and (method.name.rsplit(".", 1)[-1] != "sudo" or method.get_option("become_pass")):
        raise NoWayError(f"rsync cannot type the password of {method.name}")
    if kind == "local":
        if method:
            raise NoWayError("rsync does not become root on this computer")
        return [], "", "rsync"
    if kind == "docker":
        # As ssh does and `docker exec` does not: the words of the command become one for a shell.
        script = 'host=$1; shift; exec docker exec -i "$host" sh -c "$*"'
        return ["sh", "-c", script, "sh"], str(option("remote_addr")), "rsync"
    if kind != "ssh":
        raise NoWayError(f"rsync does not know the connection {kind!r}")
    if option("password") or option("private_key") or option("private_key_passphrase"):
        raise NoWayError("rsync cannot type the password of the SSH connection")
    return ssh_words(option), str(option("host")), "sudo -n rsync" if method else "rsync"


def send(
    source: Path, target: str, connection: Any, become: bool, busy: str, say: Callable[[str], None], *, follow: bool = False
) -> None:  # fmt: skip
    """Send `source` to the absolute path `target` on the host; what is there already is not sent again.

    With `follow`, what links in a folder point to is sent in their place. `busy` is a file on the host that is locked
    meanwhile, which shows that the run is at work. Raise DeployError with rsync's words when it fails, and NoWayError when
    rsync is not to be had here or has no way to the host.
    """
    if not shutil.which("rsync"):
        raise NoWayError("rsync, which is faster and resumes, is not installed on this computer")
    shell, host, remote = remote_shell(connection, become)
    command = ["rsync", "--partial", "--inplace", "--progress", "--times"]
    if source.is_dir():
        command += ["--recursive", "--copy-links" if follow else "--links", "--perms", "--delete"]
        command += [
            f"--exclude={pattern}" for pattern in ALWAYS_EXCLUDED
        ]  # which do not count in the digest
    where = target
    if shell:
        program, _, rest = f"{remote} ".rpartition("rsync ")
        lock = f"{program}flock --nonblock {shlex.quote(busy)} rsync{rest}"
        command += ["--rsh", shlex.join(shell), "--rsync-path", lock.strip()]
        where = f"{host}:{target}"
    name = f"{source}/" if source.is_dir() else str(source)
    process = subprocess.Popen(
        [*command, name, where],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, words, last = b"", b"", time.monotonic()
    out, err = cast("IO[bytes]", process.stdout), cast("IO[bytes]", process.stderr)
    streams = {out.fileno(): "out", err.fileno(): "err"}
    while streams:
        for handle in select.select(list(streams), [], [], 1)[0]:
            data = os.read(handle, 65536)
            if not data:
                del streams[handle]
            elif streams[handle] == "out":
                said = (said + data)[-4000:]
            else:
                words = (words + data)[-4000:]
        if time.monotonic() - last >= EVERY_SECONDS and (found := PROGRESS.findall(said)):
            last = time.monotonic()
            percent, rate, left = (part.decode() for part in found[-1])
            say(f"sending {source.name}: {percent} %, {rate}, {left} left")
    if process.wait() != 0:
        reason = words.decode(errors="replace").strip()
        if says_full(reason):
            raise DeployError(
                f"The disk of the host that holds {target} took no more of {source}: {reason}\nMake room there (`df -h` and "
                "`df -i` list its disks) and run again: what has arrived is kept."
            )
        raise DeployError(
            f"Sending {source} with rsync failed (exit status {process.returncode}):\n"
            f"{reason}\nThe part that has arrived is kept: run again, and the transfer resumes."
        )
