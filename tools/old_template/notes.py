# SPDX-License-Identifier: GPL-3.0-or-later
"""What could not be translated, or needs a decision."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Note:
    """A line of the old template that somebody has to look at."""

    file: str
    line: int
    text: str
    why: str


def printable(text: str) -> str:
    """Return a text on one line, without what would steer a terminal."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


@dataclass
class Notes:
    """All of them, each once."""

    found: list[Note] = field(default_factory=list)

    def add(self, file: str, line: int, text: str, why: str) -> None:
        """Note a line; the same line of another script is the same note."""
        text = printable(text)
        if not any((note.text, note.why) == (text, why) for note in self.found):
            self.found.append(Note(file, line, text, why))
