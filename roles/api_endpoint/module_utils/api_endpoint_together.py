# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of one run know of each other's data, in files of the laptop: there each host has a process of its own.

    <folder>/<host>.json     what that host has, lacks and offers
    <folder>/first           locked by the process whose host fetches from outside; says which host that is
    <folder>/in-vain.json    the hosts that tried to, and could not
    <folder>/<host>.seat-0   locked by a process whose host reads from that host

A lock ends with its process, so that a host that is lost keeps nobody waiting. Nothing here waits for a host whose process
has not begun: Ansible has fewer of them at a time than there may be hosts.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible.module_utils.api_endpoint_store import StoreError, read_json

SEATS = 2  # hosts that read from one host at a time
TRIES = 3  # hosts that fetch from outside in vain, one after the other, before the others give up too


def write(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value), encoding="utf-8")
    os.replace(temporary, path)


def url_of(address: str, port: int) -> str:
    """Return the URL of a host's nginx."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def with_first(host: str, givers: list[list[str]]) -> list[list[str]]:
    """Return the same hosts, each a name and a URL, with one of them first."""
    return sorted(givers, key=lambda giver: giver[0] != host)


class Together:
    """One host among those of the run."""

    def __init__(self, folder: Path, host: str, hosts: list[str], urls: dict[str, str]) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder, self.host, self.urls = folder, host, urls
        self.hosts = hosts  # of this batch of the run, this one included, in their order

    def _of(self, host: str, ending: str = ".json") -> Path:
        return self.folder / f"{quote(host, safe='')}{ending}"

    def state(self, host: str) -> dict[str, Any]:
        """Return what was told of a host; empty when nothing was."""
        return read_json(self._of(host)) or {}

    def tell(self, **news: Any) -> None:
        """Tell the other hosts what this one has, lacks or offers now."""
        write(self._of(self.host), {**self.state(self.host), **news})

    @property
    def token(self) -> str:
        """What the hosts of this run know each other by."""
        path = self.folder / "token"
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
        except FileExistsError:
            # The one who made it is just writing it.
            while len(path.read_text(encoding="ascii")) < 64:
                time.sleep(0.01)
        return path.read_text(encoding="ascii")

    # Who has what.

    def chosen(self) -> dict[str, str]:
        """Return the keys of all that is on any host. What differs is what the first one has: a release is one release."""
        found: dict[str, str] = {}
        for host in self.hosts:
            found = {**self.state(host).get("there", {}), **found}
        return found

    def lacking(self, host: str) -> set[str]:
        """Return the names of what a host lacks, or has otherwise than it should."""
        state, chosen = self.state(host), self.chosen()
        differs = {name for name, key in state.get("there", {}).items() if chosen[name] != key}
        return {*state.get("lacks", []), *differs}

    def has_all(self) -> None:
        """Tell that this host has what it lacked."""
        chosen = self.chosen()
        there = self.state(self.host).get("there", {})
        self.tell(there={**there, **{name: chosen[name] for name in self.lacking(self.host) & chosen.keys()}}, lacks=[])

    def is_waited_for(self) -> bool:
        """Tell whether another host lacks anything."""
        return any(self.lacking(host) for host in self.hosts if host != self.host)

    def asked_for(self) -> dict[str, str]:
        """Return the keys of what other hosts lack and this one has."""
        lacked = set().union(*(self.lacking(host) for host in self.hosts if host != self.host))
        chosen, there = self.chosen(), self.state(self.host).get("there", {})
        return {name: key for name, key in there.items() if name in lacked and chosen[name] == key}

    def offers(self) -> dict[str, dict[str, Any]]:
        """Return what other hosts offer, and C(from) whom."""
        found: dict[str, dict[str, Any]] = {}
        for host in self.hosts:
            if host == self.host or host not in self.urls:
                continue
            for name, offer in self.state(host).get("offers", {}).items():
                entry = found.setdefault(name, {**offer, "from": []})
                entry["from"].append([host, self.urls[host]])
        return found

    # Who goes first.

    @contextmanager
    def first(self) -> Iterator[bool]:
        """Try to be the host that fetches from outside, as long as the block lasts; yield whether it is."""
        with self._locked(self.folder / "first") as is_mine:
            if is_mine:
                (self.folder / "first.json").write_text(json.dumps({"host": self.host}), encoding="utf-8")
            yield is_mine

    def who_is_first(self) -> str:
        """Return the host that fetches from outside."""
        return str((read_json(self.folder / "first.json") or {}).get("host", "another host"))

    def in_vain(self) -> dict[str, str]:
        """Return what the hosts that could not fetch it said."""
        return read_json(self.folder / "in-vain.json") or {}

    def tried_in_vain(self, words: str) -> None:
        """Note that this host could not fetch it; called by the first one alone."""
        write(self.folder / "in-vain.json", {**self.in_vain(), self.host: words})

    def check_hope(self) -> None:
        """Raise StoreError when enough hosts have tried in vain."""
        tried = self.in_vain()
        if len(tried) >= TRIES:
            said = "\n".join(f"{host}: {words}" for host, words in tried.items())
            raise StoreError(f"{len(tried)} hosts could not bring the data, so this one did not try.\n{said}")

    @contextmanager
    def seat(self, offers: dict[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]] | None]:
        """Take a seat at a host that gives something of this, as long as the block lasts.

        Yield the offers with that host as the first one to be asked; None when every seat is taken.
        """
        givers = list(dict.fromkeys(host for offer in offers.values() for host, _ in offer["from"]))
        start = self.hosts.index(self.host) % max(1, len(givers))
        for host in givers[start:] + givers[:start]:
            for number in range(SEATS):
                with self._locked(self._of(host, f".seat-{number}")) as is_mine:
                    if is_mine:
                        yield {name: {**offer, "from": with_first(host, offer["from"])} for name, offer in offers.items()}
                        return
        yield None

    @contextmanager
    def _locked(self, path: Path) -> Iterator[bool]:
        """Lock a file, as long as the block lasts, unless another process has; yield whether it is locked."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)
