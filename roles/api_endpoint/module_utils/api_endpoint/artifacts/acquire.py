# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring artifacts into the store: download, copy, take an upload, unpack, run a command; verified; saying how far it is."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.artifacts.download import asked_size, download
from ansible.module_utils.api_endpoint.artifacts.extract import Limits, extract
from ansible.module_utils.api_endpoint.artifacts.store import (
    MARGIN_BYTES,
    Artifact,
    Store,
    extent,
    key_of,
    mib,
)
from ansible.module_utils.api_endpoint.digests import (
    CHUNK_BYTES,
    file_digest,
    tree_digest,
    value_digest,
    walk,
)
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import (
    BUILDING,
    chown_tree,
    escapes,
    read_json,
    write_json,
)
from ansible.module_utils.api_endpoint.placeholders import check_data, check_file, check_size
from ansible.module_utils.api_endpoint.sandbox import Sandbox, environment_of, run_command

Say = Callable[[str], None]
IN_ARCHIVE = "Run `{command}` where it is packed, and pack it again."


class Progress:
    """Says how far a transfer is: percent, rate, time left."""

    def __init__(self, say: Say, what: str) -> None:
        self.say = say
        self.what = what
        self.begun = time.monotonic()
        self.first: int | None = None

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say that so many bytes of so many are done."""
        if self.first is None:
            self.first = done
        seconds = max(time.monotonic() - self.begun, 0.001)
        rate = (done - self.first) / seconds
        words = f"{self.what}: {mib(done)}"
        if total:
            words = f"{self.what}: {done / total:.0%} of {mib(total)}"
        words += f", {mib(rate)}/s"
        if total and rate:
            left = int((total - done) / rate)
            words += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        self.say(words)


def digest_of(path: Path, progress: Progress) -> str:
    """Return the SHA-256 of a file, saying how far it is."""
    found, done, size = hashlib.sha256(), 0, path.stat().st_size
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
            done += len(chunk)
            progress(done, size)
    return found.hexdigest()


def digest_of_path(store: Store, path: Path) -> str:
    """Return the SHA-256 of a file on the host, read once for each size and time.

    One that was there and is gone has the digest that it had; the digest of one that never was is empty.
    """
    known = read_json(store.folder / "paths.json") or {}
    entry = known.get(str(path))
    if not path.is_file():
        return str(entry[-1]) if entry else ""
    found = path.stat()
    stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
    if entry and entry[:-1] == stamp:
        return str(entry[-1])
    digest = file_digest(path)
    if store.folder.is_dir():
        write_json(store.folder / "paths.json", {**known, str(path): [*stamp, digest]}, 0o600)
    return digest


def copy(source: Path, target: Path, progress: Progress) -> str:
    """Copy a file and return its SHA-256."""
    found, done, size = hashlib.sha256(), 0, source.stat().st_size
    with open(source, "rb") as reading, open(target, "wb") as writing:
        while chunk := reading.read(CHUNK_BYTES):
            writing.write(chunk)
            found.update(chunk)
            done += len(chunk)
            progress(done, size)
    return found.hexdigest()


class Fetch:
    """Brings what is missing, one artifact after the other."""

    def __init__(
        self,
        store: Store,
        name: str,
        root: str,
        user: str,
        timeout: int,
        environment: dict[str, str],
    ) -> None:
        self.store = store
        self.name = name
        self.root = Path(root)
        self.user = user
        self.timeout = timeout
        self.environment = environment

    def run(
        self, artifacts: list[Artifact], virtualenv: str, verify: bool, say: Say
    ) -> dict[str, Any]:
        """Bring all artifacts; return their keys by dest, and what was fetched."""
        keys: dict[str, str] = {}
        fetched: list[str] = []
        if verify:
            self.verify(artifacts, say)
        self.check_room(artifacts, say)
        for artifact in artifacts:
            key = artifact.key or (self.store.unverified(artifact.urls) if artifact.urls else "")
            if artifact.command:
                key = derived_key(artifact, keys)
            if not key or not self.store.has(key):
                try:
                    key = (
                        self.make(artifact, keys, key, virtualenv, say)
                        if artifact.command
                        else self.bring(artifact, say)
                    )
                except (DeployError, OSError) as error:
                    reason = describe_error(error, self.store.folder)
                    raise DeployError(
                        f"The artifact {artifact.dest!r} could not be brought: {reason}"
                    ) from error
                fetched.append(artifact.dest)
            keys[artifact.dest] = key
        return {"keys": keys, "fetched": fetched}

    def verify(self, artifacts: list[Artifact], say: Say) -> None:
        """Read what is in the store and compare it; what is damaged loses its stamp, so that it is brought again."""
        for key in dict.fromkeys(artifact.key for artifact in artifacts):
            stamp = self.store.stamp(key)
            place = self.store.place(key)
            if not stamp or not place.exists():
                continue
            progress = Progress(say, f"verifying {place.parent.name[:12]}")
            found = tree_digest(place) if place.is_dir() else digest_of(place, progress)
            if found == stamp["content"]:
                self.store.restamp(key)
            else:
                (self.store.folder / key / "artifact.json").unlink()

    def check_room(self, artifacts: list[Artifact], say: Say) -> None:
        """Compare the room on the disk with all that is to come, before a byte is moved."""
        needs = []
        for artifact in artifacts:
            if artifact.command or (artifact.key and self.store.has(artifact.key)):
                continue
            size = artifact.size
            if artifact.path and size is None and Path(artifact.path).is_file():
                size = Path(artifact.path).stat().st_size
            if artifact.urls and size is None:
                say(f"asking for the size of {artifact.dest}")
                size = asked_size(artifact.urls[0], artifact.headers)
            part = self.store.folder / artifact.part
            there = extent(part)[0] if part.exists() else 0
            unpacked = (
                (size or 0) if artifact.unpack else 0
            )  # at least; the exact figure is known when it is there
            needs.append((artifact.dest, max(0, (size or 0) - there) + unpacked))
        self.store.check_room([need for need in needs if need[1]])

    def bring(self, artifact: Artifact, say: Say) -> str:
        """Download an artifact, or take what is on the host; return its key."""
        unverified = bool(artifact.urls) and not artifact.sha256
        part = self.store.folder / artifact.part
        if artifact.urls:
            found = download(
                part,
                artifact.urls,
                sha256=artifact.sha256,
                size=artifact.size,
                headers=artifact.headers,
                progress=Progress(say, f"downloading {artifact.dest}"),
                note=say,
                name=artifact.dest,
            ).sha256
        elif artifact.path:
            check_path(artifact)
            found = copy(Path(artifact.path), part, Progress(say, f"copying {artifact.path}"))
        elif not part.exists():
            raise DeployError(
                f"what lay in the store was damaged and was removed, and {artifact.src} lies on the laptop. Run again: it "
                "is sent again."
            )
        elif artifact.is_folder:
            say(f"verifying {artifact.dest}")
            found = tree_digest(part)
        else:
            found = digest_of(part, Progress(say, f"verifying {artifact.dest}"))
        if artifact.sha256 and found != artifact.sha256:
            discard(part)
            raise DeployError(
                f"what came from {artifact.source} is not the expected file: its SHA-256 is {found}, expected "
                f"{artifact.sha256}. It was removed. Correct sha256, or the file at its source."
            )
        key = key_of(found, artifact.unpack, artifact.mode)
        content = self.unpacked(artifact, part, say) if artifact.unpack else part
        kept = (
            tree_digest(content)
            if content.is_dir()
            else found
            if content == part
            else digest_of(content, Progress(say, "reading"))
        )
        self.store.add(
            key,
            content,
            sha256=found,
            content=kept,
            source=artifact.source,
            unverified=unverified,
            mode=artifact.mode,
        )
        discard(part)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
        return key

    def unpacked(self, artifact: Artifact, archive: Path, say: Say) -> Path:
        """Unpack an archive beside itself; return what it became."""
        target = self.store.folder / f"{BUILDING}unpacked-{archive.name[-16:]}"
        discard(target)
        disk = os.statvfs(self.store.folder)
        limits = Limits(size=max(0, disk.f_bavail * disk.f_frsize - MARGIN_BYTES))
        progress = Progress(say, f"unpacking {artifact.dest}")
        extract(archive, target, limits, name=self.name, user=self.user, progress=progress)
        if target.is_dir():
            check_data(target, list(walk(target)), IN_ARCHIVE)
        else:
            check_file(target, artifact.dest, IN_ARCHIVE)
        return target

    def make(
        self, artifact: Artifact, keys: dict[str, str], key: str, virtualenv: str, say: Say
    ) -> str:
        """Make an artifact of others by its command; return its key."""
        say(f"making {artifact.dest}: {artifact.command}")
        folder = Path(tempfile.mkdtemp(dir=self.store.folder, prefix=BUILDING))
        try:
            for dest in artifact.inputs:
                (folder / dest).parent.mkdir(parents=True, exist_ok=True)
                os.symlink(self.store.place(keys[dest]), folder / dest)
            (folder / artifact.dest).parent.mkdir(parents=True, exist_ok=True)
            chown_tree(folder, self.user, self.user)
            run_command(
                artifact.command,
                Sandbox(
                    name=self.name,
                    task="make-data",
                    root=self.root,
                    user=self.user,
                    folder=folder,
                    environment=environment_of(
                        self.root / "state" / "home", Path(virtualenv), self.environment
                    ),
                    writable=(str(folder), str(self.root / "state")),
                    timeout=self.timeout,
                ),
            )
            made = folder / artifact.dest
            if made.is_symlink() or not made.exists() or escapes(folder, made):
                raise DeployError(
                    f"the command {artifact.command!r} ended well and made no {artifact.dest!r} in the folder where it ran. "
                    "Let it write that file."
                )
            if not (made.is_file() or made.is_dir()):
                raise DeployError(
                    f"the command {artifact.command!r} made {artifact.dest!r}, which is no file and no folder."
                )
            kept = (
                tree_digest(made)
                if made.is_dir()
                else digest_of(made, Progress(say, f"reading {artifact.dest}"))
            )
            self.store.add(
                key,
                made,
                content=kept,
                source=artifact.source,
                unverified=False,
                mode=artifact.mode,
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return key


def check_path(artifact: Artifact) -> None:
    """Raise DeployError unless what an artifact is to be copied from, on the host, is a file with content of its own."""
    path = Path(artifact.path)
    where = f"The artifact {artifact.dest!r} should be at {path} on the host,"
    if path.is_symlink() and not path.exists():
        raise DeployError(
            f"{where} which is a link to {os.readlink(path)!r}, and nothing is there. Copy the file there."
        )
    if not path.exists():
        raise DeployError(f"{where} and is not. Copy it there.")
    if not path.is_file():
        kind = (
            "a folder. Pack it (tar), give the archive and unpack: true"
            if path.is_dir()
            else "no file. Give a file"
        )
        raise DeployError(f"{where} and that is {kind}.")
    check_file(
        path, artifact.dest, "Run `{command}` where it comes from, and copy the file itself."
    )
    check_size(path, artifact.size, artifact.sha256, may_be_empty=artifact.writable)


def derived_key(artifact: Artifact, keys: dict[str, str]) -> str:
    """Return the key of what a command makes of artifacts with these keys."""
    inputs = {dest: keys.get(dest, "") for dest in artifact.inputs}
    if not all(inputs.values()):
        return ""
    return value_digest(
        {
            "command": artifact.command,
            "dest": artifact.dest,
            "inputs": inputs,
            "mode": artifact.mode,
        }
    )


def discard(path: Path) -> None:
    """Remove a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
