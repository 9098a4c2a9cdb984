# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be written where, of what callers bring along, and where to look for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.api_endpoint.privacy.corpus import Marks
from ansible.module_utils.api_endpoint.privacy.search import (
    Find,
    Mark,
    Search,
    address_mark,
    text_mark,
)

AGENT = "user agent"
ADDRESS = "address in a header"
CALLER = "caller's address"
QUERY = "query string"
QUERY_ADDRESS = "address in a query string"
REFERRER = "referrer"
REFERRER_ADDRESS = "address in a referrer"
PATH = "path"

NGINX_LOGS = "/var/log/nginx"


def searched(marks: Marks, callers: Iterable[str]) -> list[Mark]:
    """Return what to search for."""
    return [
        text_mark(AGENT, marks.agent.partition("/")[0]),
        address_mark(ADDRESS, marks.ipv4),
        address_mark(ADDRESS, marks.ipv6),
        *(address_mark(CALLER, address) for address in callers),
        text_mark(QUERY, marks.query),
        address_mark(QUERY_ADDRESS, marks.query_ipv4),
        address_mark(QUERY_ADDRESS, marks.query_ipv6),
        text_mark(REFERRER, marks.referrer),
        address_mark(REFERRER_ADDRESS, marks.referrer_ipv4),
        address_mark(REFERRER_ADDRESS, marks.referrer_ipv6),
        text_mark(PATH, marks.path),
    ]


@dataclass(frozen=True)
class Policy:
    """What the logs keep of what a client wrote: URLs and referrers, unless its owner says no. Nothing of who it was."""

    log_dir: str = "/var/log/gunicorn"
    query_string: bool = True
    referrer: bool = True

    def allows(self, find: Find) -> bool:
        """Tell whether a mark may be where it was found."""
        if find.kind == PATH:
            return True
        if find.kind in (QUERY, QUERY_ADDRESS):
            kept = self.query_string
        elif find.kind in (REFERRER, REFERRER_ADDRESS):
            kept = self.referrer
        else:
            return False
        if find.place.startswith((f"{NGINX_LOGS}/access.log", f"{self.log_dir}/access.log")):
            return kept
        # Errors may quote what was asked. Addresses are blanked out there, but for those that a client itself has disguised.
        is_address = find.kind in (QUERY_ADDRESS, REFERRER_ADDRESS) and find.plain
        return (
            kept
            and find.place.startswith((f"{NGINX_LOGS}/error.log", f"{self.log_dir}/error.log"))
            and not is_address
        )

    def leaks(self, found: Iterable[Find]) -> list[Find]:
        """Return the finds that should not be."""
        return [find for find in found if not self.allows(find)]


def places(root: str, data_dir: str, log_dir: str) -> list[str]:
    """Return the folders to search: where logs are, and where anything that serves requests can write."""
    given = ["/var", "/tmp", "/run", "/etc", "/dev/shm", root, data_dir, log_dir]  # noqa: S108 - only searched
    kept: list[str] = []
    for folder in given:
        if not any(Path(folder).is_relative_to(other) for other in kept):
            kept.append(folder)
    return kept


def search_folders(search: Search, folders: Iterable[str], since: float) -> dict[str, int]:
    """Search folders and return how many files of each were looked into."""
    counted = {}
    for folder in folders:
        before = search.result.files
        search.folder(folder, since)
        counted[folder] = search.result.files - before
    return counted


def views(processes: Iterable[int]) -> list[str]:
    """Return the folders that only some processes see: their private temporary ones."""
    inner = ("tmp", "var/tmp", "dev/shm")
    return [f"/proc/{process}/root/{folder}" for process in processes for folder in inner]
