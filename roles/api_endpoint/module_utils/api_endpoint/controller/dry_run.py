# SPDX-License-Identifier: GPL-3.0-or-later
"""What a dry run has found, in five lines that a person reads; and how to reach an API before its name leads to it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.api_endpoint.table import aligned, printable

Result = Mapping[str, Any]
MOST = 4  # names of a list
PARTS = {"code": "code", "virtualenv": "requirements", "data": "model data"}
DIFFERS = {
    "code": "code", "virtualenv": "requirements", "artifacts": "model data", "settings": "settings",
    "writable_paths": "settings", "secrets": "secrets", "data_dir": "settings",
}  # fmt: skip


def plan(found: Mapping[str, Any]) -> str:
    """Return a line each about packages, files, the version, its data, and what clients notice.

    `found` has the results of the run's own tasks: `packages`, `code`, `virtualenv`, `data` and `rollout`, an empty one
    for a part that the run's tags leave out, `nginx`, and `files`, a list of the others that write the system's files.
    """
    rows = [
        ("packages", _packages(found.get("packages") or {})),
        (
            "files",
            _files([one for one in (*(found.get("files") or []), found.get("nginx")) if one]),
        ),
        ("version", _version(found)),
        ("data", _data(found.get("data") or {})),
        ("clients", _clients(found)),
    ]
    table = aligned([(name, printable(words)) for name, words in rows if words])
    return f"A dry run: nothing was changed. Without --check the run does this:\n{table}Details: --check --diff.\n"


def _named(names: list[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    more = f" and {len(names) - MOST} more" if names[MOST:] else ""
    return ", ".join(names[:MOST]) + more


def _counted(names: list[str], what: str) -> str:
    return f"{len(names)} {what}{'s' if names[1:] else ''}"


def _packages(result: Result) -> str:
    if not result:
        return ""
    missing = list(result.get("missing") or [])
    if missing:
        return f"Installs {_counted(missing, 'Debian package')}: {_named(missing)}."
    return (
        "Removes what an interrupted installation left."
        if result.get("changed")
        else "All are installed."
    )


def _files(results: list[Result]) -> str:
    if not results:
        return "All are as they should be."
    written = [str(name) for result in results for name in result.get("written") or []]
    if written:
        return f"Writes {_counted(written, 'file')} of the system: {_named(written)}."
    return (
        "Puts files to use that are written."
        if any(one.get("changed") for one in results)
        else "All are as they should be."
    )


def _changed(found: Mapping[str, Any], part: str) -> bool:
    return bool((found.get(part) or {}).get("changed"))


def _release(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the release that would be live, empty when it is not known yet, and the one that is."""
    rollout = found.get("rollout") or {}
    return str(rollout.get("release") or ""), str(rollout.get("previous") or "")


def _version(found: Mapping[str, Any]) -> str:
    if not found.get("rollout"):
        return ""
    release, previous = _release(found)
    if previous and release == previous:
        return f"Release {release} is live already."
    new = [name for part, name in PARTS.items() if _changed(found, part)]
    # Where all parts are known already: those in which it differs from the live one.
    differs = [DIFFERS[name] for name in found["rollout"].get("differs") or [] if name in DIFFERS]
    what = ", ".join(dict.fromkeys(differs or new)) or "settings"
    if not previous:
        return f"Builds the first release; new on this host: {what}."
    return f"Builds release {release or '(a new one)'} in place of {previous}; new: {what}."


def _data(result: Result) -> str:
    if not result:
        return ""
    missing = [str(name) for name in result.get("missing") or []]
    if not missing:
        return "All is on the host." if result.get("artifacts") else "None is wanted."
    # Each line says from where, and how much where that is known.
    lines = str((result.get("diff") or {}).get("after") or "").splitlines() or missing
    return f"Brings {_counted(missing, 'artifact')}: {_named(lines)}."


def _clients(found: Mapping[str, Any]) -> str:
    release, previous = _release(found)
    is_reloaded = _changed(found, "nginx")
    if not previous:
        return (
            "Nothing is live yet, so that nobody notices."
            if found.get("rollout")
            else "They notice nothing."
        )
    if release != previous:
        return (
            "A new version starts beside the live one, and gets the requests once it is proven; no request fails. Where "
            "memory lacks for two, requests wait while it starts."
        )
    return "nginx reloads; no request fails." if is_reloaded else "They notice nothing."


def how_to_ask(url: str, path: str, port: int, ssh: str) -> str:
    """Return how to ask an API from the laptop before its name leads there; `ssh` is the command that reaches the host.

    It is empty for a connection of another kind: then the command is for the host itself.
    """
    name = urlsplit(url).hostname or "localhost"
    curl = shlex.join(["curl", "-H", f"Host:{name}", f"http://127.0.0.1:{port}{path}"])
    way = f"on this computer: {ssh} {shlex.quote(curl)}" if ssh else f"on the host: {curl}"
    rows = [("before DNS", way), ("from outside", f"curl {shlex.quote(url.rstrip('/') + path)}")]
    return f"It was asked on the host, not from outside. To ask it:\n{aligned(rows)}"
