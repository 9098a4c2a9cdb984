# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells which repository and branch a clone is, and whether the name in its nginx site can be its own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from old_template.clone import USUAL_BRANCHES, Clone
from old_template.notes import Notes
from old_template.shell import Found

SHORTEST = 4  # letters that a word must have to tell something
COMMON = {
    "wiki",
    "wikipedia",
    "wikimedia",
    "research",
    "endpoint",
    "template",
    "model",
    "repo",
    "main",
    "master",
    "test",
}


def source(clone: Clone, found: Found, notes: Notes) -> tuple[str, str]:
    """Return the URL and the branch of what was read; where the scripts name others, that is noted.

    A clone of the usual branch, whose scripts deploy another one, was made without naming a branch.
    """
    scripted, cloned = found.repository, clone.remote
    url, branch = cloned or scripted, clone.branch or found.branch
    if scripted and cloned and plain_url(scripted) != plain_url(cloned):
        notes.add(
            "",
            0,
            scripted,
            f"The set-up script clones this. The code was read, and is taken, from {cloned}.",
        )
    if found.branch and found.branch != branch:
        if branch in USUAL_BRANCHES and clone.has_branch(found.branch):
            why = f"The set-up script deploys this branch, which was taken. The code was read from {branch}. Clone it anew."
            notes.add("", 0, found.branch, why)
            branch = found.branch
        else:
            why = f"The set-up script deploys this branch. The code was read, and is taken, from {branch}."
            notes.add("", 0, found.branch, why)
    return url, branch or "HEAD"


def ask_for_names(names: list[str], words: Iterable[str], notes: Notes) -> None:
    """Ask whether a public name is this app's, when no word of it is one of the app's own."""
    if not names:
        notes.add(
            "",
            0,
            "api_endpoint_server_names",
            "No name was found. Give the public name of the API.",
        )
        return
    own = {part for word in words for part in parts(word)}
    for name in names:
        if not any(is_same(part, other) for part in parts(name.partition(".")[0]) for other in own):
            why = "Is this its public name? Nothing in the app is called so: it may be that of the API it was copied from."
            notes.add("", 0, name, why)


def parts(text: str) -> set[str]:
    """Return the words of a name, but for those that many names have."""
    words = re.findall(r"[a-z]{3,}", urlsplit(text).path.removesuffix(".git").lower())
    return {word for word in words if len(word) >= SHORTEST} - COMMON


def is_same(first: str, second: str) -> bool:
    """Tell whether two words begin with the same letters, or one is in the other."""
    return first[:SHORTEST] == second[:SHORTEST] or first in second or second in first


def plain_url(url: str) -> str:
    """Return a repository's URL as it is compared with another."""
    return (
        re.sub(r"^(https?://|ssh://|git://|[\w.-]+@)", "", url)
        .removesuffix("/")
        .removesuffix(".git")
        .replace(":", "/")
        .lower()
    )
