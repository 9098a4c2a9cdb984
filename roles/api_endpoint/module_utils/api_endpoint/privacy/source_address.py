# SPDX-License-Identifier: GPL-3.0-or-later
"""Addresses of this host that nothing else uses, to send requests from: a log that has one of them names the client."""

from __future__ import annotations

import random
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Addresses for use within a site, of a network that was made up for this; routes to any of them are ours.
NETWORK = "fd5e:7a1d:c0de"
FREE_BIND = 78  # IPV6_FREEBIND, which Python has no name for


@dataclass(frozen=True)
class SourceAddresses:
    """The addresses that requests come from. `ipv6` is empty where this host has no IPv6; `why` says why."""

    ipv4: str
    ipv6: str = ""
    why: str = ""

    @property
    def all(self) -> list[str]:
        """The addresses that there are."""
        return [address for address in (self.ipv4, self.ipv6) if address]


def _ip(commands: str) -> None:
    """Have iproute2 do something; by standard input, because process lists and audit logs show arguments."""
    done = subprocess.run(
        ["ip", "-6", "-batch", "-"], input=commands, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise OSError(done.stderr.strip() or "ip failed")


def remove_leftovers() -> None:
    """Remove the routes of runs that were killed."""
    shown = subprocess.run(
        ["ip", "-6", "route", "show", "table", "local"], capture_output=True, text=True, check=False
    ).stdout
    for address in re.findall(rf"^local ({NETWORK}:\S+) dev lo\b", shown, re.M):
        _ip(f"route del local {address} dev lo\n")


@contextmanager
def source_addresses(rng: random.Random, port: int) -> Iterator[SourceAddresses]:
    """Have addresses to send requests to nginx from while the block runs.

    All of 127.0.0.0/8 is this host's. For IPv6 a route makes an address this host's; no interface gets it, so that no
    daemon that watches interfaces notes it in its log.
    """
    ipv4 = f"127.{rng.randint(64, 254)}.{rng.randint(100, 254)}.{rng.randint(100, 254)}"
    ipv6 = ":".join([NETWORK, *(f"{rng.randint(0x1000, 0xFFFF):x}" for _ in range(5))])
    try:
        remove_leftovers()
        _ip(f"route add local {ipv6} dev lo\n")
    except OSError as error:
        yield SourceAddresses(ipv4, why=str(error))
        return
    try:
        try:
            connect(ipv6, port, 5).close()
        except OSError as error:
            yield SourceAddresses(ipv4, why=str(error))
            return
        yield SourceAddresses(ipv4, ipv6)
    finally:
        _ip(f"route del local {ipv6} dev lo\n")


def connect(source: str, port: int, timeout: float) -> socket.socket:
    """Return a connection from an address of this host to a port of this host."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM)
    try:
        client.settimeout(timeout)
        if family == socket.AF_INET6:
            client.setsockopt(socket.IPPROTO_IPV6, FREE_BIND, 1)
        client.bind((source, 0))
        client.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client
