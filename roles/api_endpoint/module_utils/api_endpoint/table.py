# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables for the output of a playbook."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of the same length as text, its columns aligned; the last one is as long as it is."""
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    lines = (
        [*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]
        for row in rows
    )
    # The line's end keeps Ansible from folding the text.
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def minutes(time: str) -> str:
    """Return a time in UTC as people read it."""
    return time[:16].replace("T", " ")


def printable(text: str) -> str:
    """Return one line without what a terminal would obey, and without what would keep Ansible from printing lines."""
    return "".join(
        char if char.isprintable() else f"\\x{ord(char):02x}" for char in text.expandtabs()
    ).rstrip()
