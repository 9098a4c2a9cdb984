# SPDX-License-Identifier: GPL-3.0-or-later
"""Which releases were brought live when, which ones failed, and which ones are worth keeping."""

from __future__ import annotations

import grp
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.files import BUILDING, read_json, write_json
from ansible.module_utils.api_endpoint.interpreter import cannot_start
from ansible.module_utils.api_endpoint.lock import Lock

RELEASE = re.compile(r"[0-9a-f]{12}")
ENTRY = re.compile(r"[0-9a-f]{16}|[0-9a-f]{64}")
FORGOTTEN = (
    7 * 86400
)  # seconds after which the half of a download that nobody went on with is removed


def now() -> str:
    """Return the time in UTC, to the millisecond; such times sort as text."""
    seconds = time.time()
    return (
        time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        + f".{int(seconds * 1000) % 1000:03d}Z"
    )


def audit(log: str, name: str, action: str, words: dict[str, str]) -> None:
    """Write a line into the log of deployments: when, what, and who holds the lock of the endpoint `name`."""
    holder = Lock(name).holder()
    words = {**words, "by": holder.get("who", "unknown"), "from": holder.get("computer", "unknown")}
    line = " ".join(
        [now(), action, *(f"{key}={str(value).replace(' ', '_')}" for key, value in words.items())]
    )
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o640)
    with os.fdopen(handle, "a", encoding="utf-8") as file:
        os.fchown(handle, 0, grp.getgrnam("adm").gr_gid)
        file.write(line + "\n")


def unable(root: Path, release: str) -> str:
    """Return why a release cannot start on this host any more; empty when nothing is known."""
    virtualenv = root / "releases" / release / "p3env"
    return cannot_start(virtualenv) if virtualenv.is_symlink() else ""


def went_by(release: str, why: str, others: list[str]) -> str:
    """Say that there is no way back to a release, and what there is."""
    way = (
        f"Go back to one of these with -e api_endpoint_release=<id>: {', '.join(others)}."
        if others
        else "No older release on this host can. Run site.yml without tags, with the older code or data."
    )
    return f"Nothing was touched: release {release} cannot start any more, because {why}. {way}"


class History:
    """`history.json` of an endpoint.

    For each release: `deployed`, when a deployment last brought it live, and `before`, what was live until then (a rollback
    leaves both as they are, so that rolling back twice goes back twice); `live`, when it last went live; `left`, when a
    rollback went from it to an older one; `failed`, when and why it last did not go live.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.path = self.root / "history.json"
        self.entries: dict[str, dict[str, Any]] = read_json(self.path) or {}

    def releases(self) -> list[str]:
        """Return the ids of the releases on the disk."""
        folder = self.root / "releases"
        return (
            sorted(path.name for path in folder.iterdir() if RELEASE.fullmatch(path.name))
            if folder.is_dir()
            else []
        )

    def went_live(self, release: str, before: str, *, by_rollback: bool) -> None:
        """Note that a release went live, and which one was live before."""
        entry = self.entries.setdefault(release, {})
        entry["live"] = now()
        if not by_rollback or "deployed" not in entry:
            entry["deployed"] = entry["live"]
            entry["before"] = before
        elif self._deployed(before) > str(entry["deployed"]):
            self.entries[before]["left"] = entry["live"]
        entry.pop("failed", None)
        entry.pop("left", None)
        self.save()

    def has_failed(self, release: str, step: str, reason: str) -> None:
        """Note that a release did not go live; one that was good before stays good."""
        first_line = reason.splitlines()[0] if reason else ""
        self.entries.setdefault(release, {})["failed"] = {
            "at": now(),
            "step": step,
            "reason": first_line[:300],
        }
        self.save()

    def save(self) -> None:
        """Write what is known of the releases that are on the disk."""
        there = set(self.releases())
        self.entries = {
            release: entry for release, entry in self.entries.items() if release in there
        }
        write_json(self.path, self.entries, 0o640)

    def state(self, release: str, live: str) -> str:
        """Return what became of a release: live, good (it was live), rolled back (left by a rollback), failed, or built."""
        entry = self.entries.get(release, {})
        if release == live:
            return "live"
        if "left" in entry:
            return "rolled back"
        if "deployed" in entry:
            return "good"
        return "failed" if "failed" in entry else "built"

    def good(self) -> list[str]:
        """Return the releases that were live at some time and are on the disk, the last deployed first."""
        there = [
            release for release in self.releases() if "deployed" in self.entries.get(release, {})
        ]
        return sorted(
            there, key=lambda release: str(self.entries[release]["deployed"]), reverse=True
        )

    def previous(self, live: str) -> str:
        """Return the good release that the live one was deployed over, or else an older one; empty when there is none."""
        # Nobody is led back to what was left on purpose.
        good = [one for one in self.good() if one == live or "left" not in self.entries[one]]
        if live not in good:
            return good[0] if good else ""
        before = str(self.entries[live].get("before", ""))
        return before if before in good else next(iter(good[good.index(live) + 1 :]), "")

    def _deployed(self, release: str) -> str:
        """Return when a release was deployed last; empty when it never was."""
        return str(self.entries.get(release, {}).get("deployed", ""))

    def worth_keeping(self, live: str, keep: int, also: str = "") -> set[str]:
        """Return the live release, the one before it, the last `keep` good ones, and `also`."""
        return {live, self.previous(live), also, *self.good()[:keep]} - {""}

    def collect(self, data_dir: str | Path, kept: set[str], is_busy: bool = False) -> list[str]:
        """Remove releases that are not kept, and what no kept one refers to; return the ids that went.

        Data and virtualenvs are left alone while the host is busy, that is, while more of them are being made.
        """
        gone = [release for release in self.releases() if release not in kept]
        for release in gone:
            discard(self.root / "releases" / release)
        unneeded = self._unneeded(Path(data_dir), kept, is_busy)
        if unneeded is None:
            return gone
        for path in unneeded:
            discard(path)
        for half in [] if is_busy else Path(data_dir).glob(".part-*"):
            if time.time() - half.stat().st_mtime > FORGOTTEN:
                discard(half)
        self.save()
        return gone

    def unfinished(self, data_dir: str | Path, live: str, is_busy: bool = False) -> list[Path]:
        """Return what interrupted runs left: half-built entries, releases that never started, and what only those need.

        A release that failed is kept: its files may show why. One that was built before the live one went live is kept too:
        after a loss of the history, a good release looks the same.
        """
        since = str(self.entries.get(live, {}).get("live", ""))
        releases, never = self.releases(), []
        for release in releases:
            record = read_json(self.root / "releases" / release / "release.json") or {}
            if (
                since
                and release != live
                and release not in self.entries
                and str(record.get("built", "")) > since
            ):
                never.append(release)
        paths = [self.root / "releases" / release for release in never]
        needed = set(releases) - set(never)
        return sorted([*paths, *(self._unneeded(Path(data_dir), needed, is_busy) or [])])

    def _unneeded(self, data: Path, kept: set[str], is_busy: bool) -> list[Path] | None:
        """Return half-built entries, and those to which no kept release refers; None when a release does not say."""
        parts = [
            (read_json(self.root / "releases" / release / "release.json") or {}).get("components")
            for release in kept
        ]
        if None in parts:
            return None  # nothing is safe to remove
        codes = {part["code"] for part in parts if part}
        virtualenvs = {part["virtualenv"] for part in parts if part}
        secrets = {part.get("secrets", "") for part in parts if part}
        artifacts = {artifact["digest"] for part in parts if part for artifact in part["artifacts"]}
        unneeded = [path for path in entries(self.root / "code") if path.name not in codes]
        unneeded += [path for path in entries(self.root / "secrets") if path.name not in secrets]
        stores = [self.root / name for name in ("code", "releases", "venvs", "state/app")]
        if not is_busy:
            unneeded += [
                path for path in entries(self.root / "venvs") if path.name not in virtualenvs
            ]
            unneeded += [
                path
                for path in entries(data)
                if path.name not in artifacts and (path / "artifact.json").exists()
            ]
            stores.append(data)
            unneeded += (self.root / "work").glob("*")
        for store in stores:
            unneeded += store.glob(f"{BUILDING}*")
        return unneeded


def entries(store: Path) -> list[Path]:
    """Return the entries of a store: what has a digest for its name."""
    return (
        [path for path in store.iterdir() if ENTRY.fullmatch(path.name)] if store.is_dir() else []
    )


def discard(path: Path) -> None:
    """Remove a file or folder, first from sight and then from the disk, so that no half of it has its name."""
    if path.name.startswith(BUILDING):
        aside = path
    else:
        aside = path.with_name(f"{BUILDING}{path.name}-{os.getpid()}")
        path.rename(aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink(missing_ok=True)
