# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts of one endpoint give each other while a run brings model data: nginx reads it out, to them alone.

    /run/<name>/shared/<token>/files/<digest>   links to what may be read
    /run/<name>/shared/<token>/<address>        -> files, for each address that may read

nginx looks for a file below the token that the request has and the address that it comes from; where no run has made them,
there is nothing. A file of the store is given as it is, a folder as a tar whose bytes depend on its content alone.
"""

from __future__ import annotations

import os
import shlex
import socket
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint_data import Store, extent, mib
from ansible.module_utils.api_endpoint_download import Note, Policy, Progress, download
from ansible.module_utils.api_endpoint_store import BUILDING, StoreError, file_digest, own, point

FOLDER = "/run"
PLACE = "/.api-endpoint-data/"  # below it nginx reads out: templates/site.conf.j2
HEADER = "X-API-Endpoint-Peer"
PACKED = f"{BUILDING}shared-"
OPEN = "12h"  # after which a host closes by itself, when the run did not do it
# A host of the same network answers at once, or another one is asked.
PATIENCE = Policy(tries=2, connect_timeout=3, stall_timeout=15, stall_rate=10_000, longest_retry_after=2)


@dataclass(frozen=True)
class Offer:
    """What the other hosts need to know of an artifact: all that they cannot find out from what arrives."""

    key: str
    sha256: str  # of what was fetched, once
    content: str  # of the file or folder that it became
    source: str
    unverified: bool
    size: int  # bytes of that file or folder
    is_folder: bool
    file: str  # SHA-256 of what is sent: the file itself, or the folder packed


@dataclass(frozen=True)
class Given:
    """A file that arrived from another host."""

    path: Path
    peer: str
    size: int


def closing(name: str, data_dir: str) -> str:
    """Return the shell command that ends all reading from this host; it needs no Python there."""
    shared, packed = shlex.quote(f"{FOLDER}/{name}/shared"), shlex.quote(f"{data_dir}/{PACKED}")
    stop = f"systemctl stop --quiet {shlex.quote(f'{name}-shared.timer')} 2>/dev/null"
    return f"if [ -e {shared} ]; then {stop}; rm -rf {shared} {packed}*; fi"


def close_later(name: str, data_dir: str) -> None:
    """Have the host close by itself, after a run that was cut off."""
    unit = f"{name}-shared"
    subprocess.run(["systemctl", "stop", "--quiet", f"{unit}.timer"], capture_output=True, check=False)
    timer = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={OPEN}"]
    done = subprocess.run([*timer, "sh", "-c", closing(name, data_dir)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StoreError(f"The other hosts cannot read this host's data: no timer could be set. {done.stderr.strip()}")


def addresses(names: Iterable[str]) -> list[str]:
    """Return the addresses from which hosts with these names or addresses come, as nginx writes them."""
    found: dict[str, None] = {}
    for name in names:
        with suppress(OSError):
            found |= dict.fromkeys(str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM))
    return list(found)


def pack(folder: Path, target: Path) -> str:
    """Pack a folder; return the SHA-256 of the tar. The same content is the same tar, on every host."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = member.mtime = 0
        member.uname = member.gname = ""
        member.mode = 0o755 if member.isdir() or member.mode & stat.S_IXUSR else 0o644
        return member

    names = []
    for place, folders, files in os.walk(folder):
        names += [os.path.relpath(os.path.join(place, name), folder) for name in (*folders, *files)]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in sorted(names):
            tar.inodes = {}  # type: ignore[attr-defined] # a hard link is no content
            tar.add(folder / name, name, recursive=False, filter=plain)
    return file_digest(target)


class Door:
    """What this host lets the others read."""

    def __init__(self, store: Store, name: str, folder: str = FOLDER) -> None:
        self.store, self.name = store, name
        self.shared = Path(folder, name, "shared")

    def open(self, keys: dict[str, str], readers: Iterable[str], token: str) -> dict[str, dict[str, Any]]:
        """Let the readers' addresses have what this host has of these keys; return the offers, by the same names.

        A folder for which there is no room twice is not offered.
        """
        offers = {}
        files = self.shared / token / "files"
        for name, key in keys.items():
            if key and self.store.has(key) and (offer := self._offer(key, files)):
                offers[name] = asdict(offer)
        if not offers:
            return {}
        close_later(self.name, str(self.store.folder))
        for address in addresses(readers):
            point(files.parent / address, "files")
        own(self.shared, "root", self.store.group)
        return offers

    def _offer(self, key: str, files: Path) -> Offer | None:
        """Put an artifact behind the door."""
        stamp, place = self.store.stamp(key), self.store.place(key)
        file, is_folder = str(stamp["content"]), place.is_dir()
        if is_folder:
            packed = self.store.folder / f"{PACKED}{key[:16]}"
            try:
                self.store.check_room([("a packed folder", extent(place)[0])])
                file = pack(place, packed)
            except (StoreError, OSError, tarfile.TarError):
                packed.unlink(missing_ok=True)
                return None
            own(packed, "root", self.store.group)
            place = packed
        files.mkdir(parents=True, exist_ok=True)
        point(files / file, str(place))
        return Offer(
            key=key, sha256=str(stamp.get("sha256", "")), content=str(stamp["content"]), source=str(stamp["source"]),
            unverified=bool(stamp.get("unverified")), size=int(stamp["size"]), is_folder=is_folder, file=file,
        )  # fmt: skip


def read(
    offer: Offer, peers: list[tuple[str, str]], store: Store, server_name: str, token: str, progress: Progress, note: Note
) -> Given:
    """Read what is offered from the first of these peers, each a name and a URL, that gives it whole and right."""
    part = store.folder / f".part-{offer.file}"
    urls = {f"{url}{PLACE}{offer.file}": peer for peer, url in peers}

    def named(text: str) -> str:
        for url, peer in urls.items():
            text = text.replace(url, peer)
        return text

    try:
        got = download(
            part,
            list(urls),
            sha256=offer.file,
            size=None if offer.is_folder else offer.size,
            headers={"Host": server_name, HEADER: token},
            policy=PATIENCE,
            progress=progress,
            note=lambda text: note(named(text)),
            direct=True,
        )
    except StoreError as error:
        raise StoreError(named(str(error))) from error
    return Given(part, urls[got.url], got.size)


def in_one_line(what: str, size: int, source: str, seconds: float) -> str:
    """Say where something came from."""
    return f"{what}: {mib(size)} from {source} in {seconds:.0f} s"
