# SPDX-License-Identifier: GPL-3.0-or-later
"""What is noted of nginx's files as they were written last, to tell an edit by hand from what the role wrote once."""

from __future__ import annotations

from ansible.module_utils.api_endpoint.digests import value_digest

NOTE = ".api-endpoint.json"  # name of the note in nginx's folder
PUT_AWAY = "put away: "  # with a link's name: where one led that the role has removed


def stand_in(target: str) -> str:
    """Return what stands for a link to `target` where contents are compared."""
    return f"-> {target}\n"


def digests_of(files: dict[str, str], links: dict[str, str]) -> dict[str, str]:
    """Return the digests that are noted of files and links.

    Links are noted too: where a file has come in the place of one, that was by hand.
    """
    wanted = {**files, **{name: stand_in(target) for name, target in links.items()}}
    return {name: value_digest(content) for name, content in wanted.items()}


def put_away(absent: list[str], before: dict[str, str | None]) -> dict[str, str]:
    """Return what is noted of links that are removed: a removal of the last endpoint makes Debian's default site anew."""
    return {
        f"{PUT_AWAY}{name}": found.removeprefix("-> ").strip()
        for name in absent
        if (found := before[name]) is not None and found.startswith("-> ")
    }
