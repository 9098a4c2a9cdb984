# SPDX-License-Identifier: GPL-3.0-or-later
"""An audit of a live host: send marked requests, search for the marks, and judge whether the search can be relied on."""

from __future__ import annotations

import gzip
import os
import random
import secrets
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.http import ask
from ansible.module_utils.api_endpoint.privacy.corpus import Marks, requests, send_all
from ansible.module_utils.api_endpoint.privacy.scope import (
    PATH,
    Policy,
    places,
    search_folders,
    searched,
    views,
)
from ansible.module_utils.api_endpoint.privacy.search import Find, Search, SearchError, text_mark
from ansible.module_utils.api_endpoint.privacy.source_address import (
    SourceAddresses,
    connect,
    source_addresses,
)
from ansible.module_utils.api_endpoint.release.slots import SLOTS
from ansible.module_utils.api_endpoint.systemd import systemctl
from ansible.module_utils.api_endpoint.traffic.access_log import note_audit

JOURNAL = "/run/systemd/journal/socket"
SETTLE_SECONDS = 2.0  # in which logs are written after the last request
SHOWN = 2  # excerpts that a report has of a kind of mark in a place


@dataclass
class Audit:
    """An audit, step by step."""

    given: dict[str, Any]
    begun: float = field(default_factory=time.time)
    sources: SourceAddresses = field(default_factory=lambda: SourceAddresses(""))
    sent: dict[str, Counter[tuple[str, str]]] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    search: Search = field(default_factory=lambda: Search([]))
    leaks: list[Find] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # why the audit proves nothing
    seconds: float = 0.0  # that the search took

    @property
    def since(self) -> float:
        """What was changed after this time is searched; clocks of filesystems may lag a little."""
        return self.begun - 1

    def run(self) -> None:
        """Send, wait, search, judge."""
        rng = random.SystemRandom()
        marks = Marks.new(rng)
        canary = f"canary-{secrets.token_hex(12)}"
        with (
            planted(canary, self.given["name"]) as canaries,
            source_addresses(rng, self.given["port"]) as self.sources,
        ):
            begun = time.time()
            try:
                self._send(marks, rng.getrandbits(32))
            finally:
                note_audit(self.given["name"], begun, time.time())
            time.sleep(SETTLE_SECONDS)
            subprocess.run(["journalctl", "--sync"], check=False, capture_output=True)
            self._search(marks, canary)
            self._prove(canaries)

    def _send(self, marks: Marks, seed: int) -> None:
        given = self.given
        for family, source in (("IPv4", self.sources.ipv4), ("IPv6", self.sources.ipv6)):
            if source:
                made = requests(
                    marks, given["server_name"], given["requests"], seed, (given["path"],)
                )
                self.sent[family] = send_all(
                    made,
                    lambda address=source: connect(address, given["port"], 3),
                    rate=given["rate"],
                    seconds=given["seconds"],
                )

    def _search(self, marks: Marks, canary: str) -> None:
        begun = time.monotonic()
        given = self.given
        wanted = [*searched(marks, self.sources.all), text_mark("canary", canary)]
        self.search = Search(wanted, begun + given["search_seconds"])
        folders = places(given["root"], given["data_dir"], given["log_dir"])
        self.files = search_folders(self.search, folders, self.since)
        private = search_folders(self.search, views(main_processes(given["name"])), self.since)
        self.files["private temporary folders of the service, nginx and rsyslog"] = sum(
            private.values()
        )
        self.search.deleted(
            (int(name) for name in os.listdir("/proc") if name.isdigit()), self.since
        )
        try:
            self.search.journal(self.since)
        except SearchError as error:
            self.search.result.failed.append(str(error))
        self.seconds = time.monotonic() - begun

    def _prove(self, canaries: list[str]) -> None:
        """Judge the finds, and whether they can be relied on."""
        result, given = self.search.result, self.given
        policy = Policy(given["log_dir"], given["query_string"], given["referrer"])
        self.leaks = policy.leaks(find for find in result.found if find.kind != "canary")
        met = {find.place for find in result.found if find.kind == "canary"}
        self.doubts += [
            f"the search missed what was put into {place} for it to find"
            for place in canaries
            if place not in met
        ]
        log = given["access_log"]
        if not any(find.kind == PATH and find.place.startswith(log) for find in result.found):
            self.doubts.append(f"none of the requests is in {log}, where they should be logged")
        self.doubts += [f"it could not be searched: {what}" for what in result.failed]
        answered = sum(
            count
            for sent in self.sent.values()
            for (_kind, end), count in sent.items()
            if end.isdigit()
        )
        if answered < sum(sum(sent.values()) for sent in self.sent.values()) / 2:
            self.doubts.append("less than half of the requests were answered")

    # --- the report

    def lines(self) -> Iterator[str]:
        """Say what was done and found."""
        given, result = self.given, self.search.result
        yield f"Privacy audit of {given['name']}, nginx on port {given['port']}: {self.verdict}"
        total = sum(sum(sent.values()) for sent in self.sent.values())
        yield f"Sent: {total:,} requests, marked in their headers, URLs and referrers."
        for family, sent in self.sent.items():
            yield f"  over {family}: {sum(sent.values()):,} ({outcomes(sent)})"
        if not self.sources.ipv6:
            yield f"  over IPv6: none, this host cannot ({self.sources.why})"
        yield from self._kinds()
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since))
        yield f"Searched: what was written since {when} UTC, in {self.seconds:.1f} s."
        for folder, files in self.files.items():
            yield f"  {folder}: {files:,} changed files"
        yield f"  together with deleted files still in use: {result.files:,} files, {result.bytes:,} bytes unpacked"
        yield f"  the journal: {result.entries:,} entries"
        yield f"Found: {'marks where none may be' if self.leaks else 'no mark where none may be'}."
        for (kind, place), count in result.counted.items():
            leaks = [find for find in self.leaks if (find.kind, find.place) == (kind, place)]
            if leaks:
                yield f"  {kind} in {place}, {count:,} times in all, such as:"
                yield from (f"    {find.excerpt}" for find in leaks[:SHOWN])
        for doubt in self.doubts:
            yield f"Not proven: {doubt}."

    def _kinds(self) -> Iterator[str]:
        both: Counter[tuple[str, str]] = Counter()
        for sent in self.sent.values():
            both.update(sent)
        for kind in sorted({kind for kind, _outcome in both}):
            of_kind = Counter({key: count for key, count in both.items() if key[0] == kind})
            yield f"  {kind}: {sum(of_kind.values()):,} ({outcomes(of_kind)})"

    @property
    def verdict(self) -> str:
        """The outcome in a few words."""
        if self.leaks:
            return "CALLERS ARE NAMED."
        return "NOT PROVEN." if self.doubts else "nobody is named anywhere."

    @property
    def report(self) -> str:
        """The report as text; each line has its end, which keeps Ansible from folding the text."""
        return "".join(f"{line}\n" for line in self.lines())

    @property
    def remedy(self) -> str:
        """What to do about a failure."""
        if not self.leaks:
            return "The audit proves nothing this time. Remove what the lines `Not proven` name, and run it again."
        named = ", ".join(sorted({find.place for find in self.leaks}))
        return (
            f"Callers are named in: {named}. Run site.yml, which puts the role's settings back, and audit again. If they "
            "are named still, look for what else writes there: further settings of nginx (grep -r _log /etc/nginx), the app "
            "itself, other software. Turn that off, and delete what it has written."
        )


def outcomes(sent: Counter[tuple[str, str]]) -> str:
    """Say how often which outcome was."""
    counted: Counter[str] = Counter()
    for (_kind, outcome), count in sent.items():
        counted[outcome] += count
    return ", ".join(f"{outcome}: {counted[outcome]:,}" for outcome in sorted(counted))


def main_processes(name: str) -> list[int]:
    """Return the main processes of those who handle requests."""
    units = [
        *(f"{name}@{slot}.service" for slot in SLOTS),
        "nginx.service",
        "haproxy.service",
        "rsyslog.service",
    ]
    shown = (
        systemctl("show", "--property=MainPID", "--value", unit).stdout.strip() for unit in units
    )
    return [int(pid) for pid in shown if pid.isdigit() and pid != "0"]


@contextmanager
def planted(canary: str, name: str) -> Iterator[list[str]]:
    """Put a random word where a search that works finds it; remove it afterwards. Return the places."""
    folder = Path("/var/log") / name
    for old in folder.glob("privacy-audit-*"):  # of runs that were killed
        old.unlink()
    stem = folder / f"privacy-audit-{secrets.token_hex(4)}"
    plain, packed = stem.with_suffix(".log"), stem.with_suffix(".log.gz")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.sendto(
            f"SYSLOG_IDENTIFIER=api-endpoint-privacy-audit\nMESSAGE={canary}\nPRIORITY=7\n".encode(),
            JOURNAL,
        )
    try:
        for path, content in ((plain, canary.encode()), (packed, gzip.compress(canary.encode()))):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        yield [str(plain), str(packed), "journal"]
    finally:
        for path in (plain, packed):
            with suppress(FileNotFoundError):
                path.unlink()


def audit(given: dict[str, Any], is_dry_run: bool) -> dict[str, Any]:
    """Audit the host; return the module's answer, which has a message (`msg`) when the audit failed."""
    if is_dry_run:
        would = f"Would send {given['requests']:,} marked requests over IPv4, as many over IPv6, and search for the marks.\n"
        return {"report": would}
    answer = ask(given["path"], given["server_name"], port=given["port"], timeout=10)
    if answer.status is None or answer.status >= 500:
        return {
            "msg": f"Nothing was audited: GET {given['path']} through nginx on port {given['port']}: {answer}. "
            "Bring the endpoint live first (site.yml)."
        }
    done = Audit(given)
    try:
        done.run()
    except OSError as error:
        return {"msg": f"The audit could not be done: {error}"}
    if done.leaks or done.doubts:
        found = [
            {"kind": find.kind, "place": find.place, "excerpt": find.excerpt} for find in done.leaks
        ]
        return {"msg": f"{done.report}{done.remedy}", "found": found}
    sent: dict[str, dict[str, dict[str, int]]] = {}
    for family, counted in done.sent.items():
        for (kind, outcome), count in counted.items():
            sent.setdefault(family, {}).setdefault(kind, {})[outcome] = count
    result = done.search.result
    return {
        "report": done.report,
        "sent": sent,
        "files": done.files,
        "bytes": result.bytes,
        "entries": result.entries,
    }
