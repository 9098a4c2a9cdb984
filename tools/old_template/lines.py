# SPDX-License-Identifier: GPL-3.0-or-later
"""Tells the commands of a shell script apart: quotes, continued lines, loops over plain words, conditions."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from old_template.notes import Notes

DOLLAR = "\ue000"  # a dollar sign that starts no variable
HERE = re.compile(r"(?<!<)<<(-?)\s*([\"']?)(\w+)\2")  # a text within the script, up to this word
DOUBLED = re.compile(r"\s\d?>&\d\b")  # one output sent after another


@dataclass(frozen=True)
class Line:
    """A command with the place where it stands; words still have their variables."""

    file: str
    number: int
    text: str
    words: tuple[str, ...]
    conditional: bool = False
    body: str = ""  # a text within the script, <<EOF


def split(text: str, file: str, notes: Notes) -> Iterator[Line]:
    """Return the commands of a script, one by one."""
    number, held, started = 0, "", 1
    lines = iter(text.splitlines())
    for raw in lines:
        number += 1
        started = started if held else number
        held += raw
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            held = held[:-1] + " "
            continue
        lexer = shlex.shlex(sealed(DOUBLED.sub(" ", held)), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        lexer.commenters = ""
        try:
            words = list(without_comment(list(lexer)))
        except ValueError:
            # Perhaps a text that goes on in the next line.
            if held.count("\n") < 20 and not re.match(r"\s*#", held):
                held += "\n"
                continue
            words = []
        body = []
        if (here := HERE.search(held)) and words:
            for raw_body in lines:
                number += 1
                if (raw_body.strip() if here[1] else raw_body.rstrip()) == here[3]:
                    break
                body.append(raw_body)
        for command in between(words, {";", "&&", "\n", ";;"}):
            yield Line(file, started, " ".join(held.split()), tuple(command), body="\n".join(body))
        held = ""
    if held.strip():
        notes.add(file, started, held[:200], "A quote that has no end: what follows was not read.")


def sealed(text: str) -> str:
    """Return a text whose dollar signs in single quotes are no variables; shlex does not tell which quotes a word had."""
    quote, done = "", []
    for letter in text:
        if letter in "\"'" and quote in ("", letter):
            quote = "" if quote else letter
        done.append(DOLLAR if letter == "$" and quote == "'" else letter)
    return "".join(done)


def without_comment(words: list[str]) -> Iterator[str]:
    """Return the words before a comment."""
    return itertools.takewhile(lambda word: not word.startswith("#"), words)


def between(words: list[str], separators: set[str]) -> Iterator[list[str]]:
    """Return the parts between separators, but for empty ones."""
    part: list[str] = []
    for word in [*words, ";"]:
        if word in separators:
            if part:
                yield part
            part = []
        else:
            part.append(word)


def unrolled(lines: list[Line], notes: Notes) -> list[Line]:
    """Return the commands with loops over plain words written out, and those marked that depend on a condition."""
    done: list[Line] = []
    depth = 0
    index = 0
    while index < len(lines):
        line = lines[index]
        word = line.words[0]
        if word == "for" and line.words[2:3] == ("in",):
            end = closing(lines, index, "for", "done")
            body = [strip(inner, "do") for inner in lines[index + 1 : end]]
            body = [inner for inner in body if inner.words]
            for value in line.words[3:]:
                setting = Line(
                    line.file, line.number, line.text, (f"{line.words[1]}={value}",), depth > 0
                )
                done += [setting, *unrolled(body, notes)]
            index = end
        elif word in ("while", "until", "case", "function", "for", "select") or line.words[1:2] == (
            "()",
        ):
            ends = (
                "}"
                if word == "function" or line.words[1:2] == ("()",)
                else {"case": "esac"}.get(word, "done")
            )
            end = closing(lines, index, word, ends)
            notes.add(
                line.file,
                line.number,
                line.text,
                "This is not followed. Translate what it does by hand.",
            )
            index = end
        elif word in ("if", "elif", "else", "then", "fi", "[[", "["):
            depth += {"if": 1, "fi": -1}.get(word, 0)
            rest = strip(line, "then", "else")
            if word in ("then", "else") and rest.words:
                done.append(replace(rest, conditional=True))
        else:
            done.append(replace(line, conditional=depth > 0))
        index += 1
    return done


def strip(line: Line, *leading: str) -> Line:
    """Return a command without a word of the grammar before it."""
    return replace(line, words=line.words[1:]) if line.words[0] in leading else line


def closing(lines: list[Line], index: int, opening: str, end: str) -> int:
    """Return where a block ends; the last line when it does not."""
    depth = 0
    for number in range(index, len(lines)):
        words = lines[number].words
        depth += (words[0] == opening) + (words[:2] == ("do", opening))
        if words[0] == end:
            depth -= 1
            if depth == 0:
                return number
    return len(lines) - 1
