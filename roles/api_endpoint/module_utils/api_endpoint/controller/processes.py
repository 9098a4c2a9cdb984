# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process on a host has what a run needs: a TCP port, a lock. In shell, so that no package is needed there."""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass

LONGEST = 60  # characters of a command
# A shell function that shows what a process has, then its number, its unit and its command.
SHOW = (
    r"""show() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$(sed -n 's/^0::.*[/]//p' /proc/$2/cgroup 2>/dev/null)" """
    r""""$(tr '\0\n\t' '   ' </proc/$2/cmdline 2>/dev/null)"; }; """
)
ANY = "[0-9A-F]+"


# Shows a line where the kernel has no IPv6. Where only sysctl turns it off, programs can listen on it.
NO_IPV6 = "this host has no IPv6"
IPV6_LOOK = f"perl -e 'socket(my $s, 10, 1, 0) || print \"{NO_IPV6}\\n\"'; "


@dataclass(frozen=True)
class Process:
    """A process that has something. `pid` is 0 where it belongs to another container, and empty where nobody can tell."""

    has: str
    pid: str
    unit: str
    command: str

    def __str__(self) -> str:
        """Name it for people."""
        command = self.command.strip() or "an unknown program"
        shown = command if len(command) <= LONGEST else command[: LONGEST - 2] + " …"
        where = ", ".join(
            part
            for part in (f"process {self.pid}" if self.pid.strip("0") else "", self.service)
            if part
        )
        return f"{shown} ({where})" if where else shown

    @property
    def service(self) -> str:
        """Its unit, when it is one that can be stopped."""
        return self.unit if self.unit.endswith((".service", ".scope")) else ""

    @property
    def stop(self) -> str:
        """The command that stops it."""
        if "docker-proxy" in self.command:
            return "`docker ps` shows the container that has it"
        if self.unit.endswith(".service"):
            return f"`sudo systemctl disable --now {self.unit}`"
        if self.unit == "init.scope":
            return "`systemctl list-sockets` shows the unit that has it"
        return f"`sudo kill {self.pid}`" if self.pid.strip("0") else "it may be in a container"


def without_ipv6(text: str) -> str:
    """Return a configuration of nginx without the lines by which it listens on IPv6."""
    return re.sub(r"(?m)^[ \t]*listen \[::\]:.*\n", "", text)


def processes(answer: str, prefix: str) -> list[Process]:
    """Return the processes that have something whose name begins with the prefix, each once."""
    found: dict[str, Process] = {}
    for line in answer.splitlines():
        parts = line.split("\t")
        if line.startswith(prefix) and len(parts) == 4:
            found.setdefault(parts[1], Process(*parts))
    return list(found.values())


def local_address(address: str) -> str:
    """Return the pattern of the addresses in /proc/net/tcp and tcp6 that are in the way of an address, empty for any."""
    try:
        own = ipaddress.ip_address(address.strip("[]"))
    except ValueError:
        return ANY
    if own.is_unspecified:
        return ANY
    words = [
        own.packed[begin : begin + 4][::-1].hex().upper() for begin in range(0, len(own.packed), 4)
    ]
    return f"({''.join(words)}|0{{8}}|0{{32}})"


def is_listened_on(port: int, address: str = "") -> str:
    """Return the shell condition that any process listens on a TCP port; it needs no rights."""
    return f"grep -qsE ': {local_address(address)}:{port:04X} [0-9A-F:]+ 0A ' /proc/net/tcp /proc/net/tcp6"


def listeners_look(port: int, address: str = "") -> str:
    """Return the command that shows who listens on a TCP port, one process for each socket; as root it sees them all."""
    wanted = shlex.quote(
        f"^{local_address(address)}:{port:04X}$".replace("{8}", "0" * 7).replace("{32}", "0" * 31)
    )
    return (
        SHOW
        + f"awk -v wanted={wanted} '$4 == \"0A\" && $2 ~ wanted {{ print $10 }}' /proc/net/tcp /proc/net/tcp6 2>/dev/null | "
        'sort -u | while read -r inode; do pid=$(find /proc/[0-9]*/fd -lname "socket:\\[$inode\\]" 2>/dev/null | '
        f"cut -d/ -f3 | sort -n | head -n 1); show 'port {port}' \"$pid\"; done"
    )


def in_the_way(answer: str, port: int, unit: str) -> list[Process]:
    """Return the processes that have the port and are not of the unit to which it belongs, if it has one."""
    return [
        process
        for process in processes(answer, f"port {port}\t")
        if not unit or process.unit != unit
    ]


def taken(name: str, value: object, others: list[Process]) -> str:
    """Say who has the port of a variable, and what to do."""
    first = others[0]
    found = f"{name} is {value}, where {', '.join(map(str, others))} listens on this host already. "
    if first.unit.startswith("ssh"):
        return f"{found}The host is reached by it, so give another port to {name}."
    return f"{found}Stop that ({first.stop}), or give another port to {name} or to that program."
