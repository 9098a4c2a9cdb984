"""Follow a guide word by word: write its files, run its commands, and compare the answers that it shows.

    python tools/follow.py PAGE CLONE [SHOWN REAL]...

In the page, `<!-- file: path -->` stands before a block that is a whole file, `<!-- line in: path -->` before a line
that takes the place of the one that begins alike. Blocks of `sh` run as they are, each from CLONE, in bash. A block of
`json` is the answer of the last command before it. What is a reader's own, such as a host, is given as SHOWN and REAL,
and replaced in files and commands.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"(?:^<!-- (?P<what>file|line in): (?P<path>\S+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$",
    re.M | re.S,
)


class FollowError(Exception):
    """The page cannot be followed."""


@dataclass(frozen=True)
class Step:
    """A block of the page."""

    kind: str  # the block's language
    text: str
    what: str = ""  # file, or line in
    path: str = ""  # of the file, relative to the clone


def steps_of(page: str) -> list[Step]:
    """Return the blocks of a page in their order; raise FollowError for one that says not what it is."""
    steps = []
    for found in BLOCK.finditer(page):
        step = Step(found["kind"], found["text"], found["what"] or "", found["path"] or "")
        if step.kind not in ("sh", "json") and not step.what:
            raise FollowError(
                f"A block of {step.kind} says not which file it is: {step.text[:60]!r}"
            )
        steps.append(step)
    if not steps:
        raise FollowError("The page has no blocks.")
    return steps


def with_line(text: str, line: str) -> str:
    """Return a text in which a line has replaced the one that begins alike, up to its equals sign."""
    begin = line.partition("=")[0]
    lines = text.splitlines(keepends=True)
    fitting = [number for number, one in enumerate(lines) if one.startswith(f"{begin}=")]
    if len(fitting) != 1:
        raise FollowError(f"{len(fitting)} lines begin with {begin!r}, not one.")
    lines[fitting[0]] = line
    return "".join(lines)


def replaced(text: str, real: dict[str, str]) -> str:
    """Return a text with what is a reader's own."""
    for shown, value in real.items():
        text = text.replace(shown, value)
    return text


def run(command: str, folder: Path) -> str:
    """Run a block of commands, show what it says, and return its output; raise FollowError when it fails."""
    print(f"\n$ {command.rstrip()}", flush=True)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command], cwd=folder, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )  # fmt: skip
    print(done.stdout, flush=True)
    if done.returncode != 0:
        raise FollowError(f"It ended with {done.returncode}: {command}")
    return done.stdout


def follow(page: str, folder: Path, real: dict[str, str]) -> None:
    """Do what a page says."""
    said = ""
    for step in steps_of(page):
        text, path = replaced(step.text, real), folder / step.path
        if step.what == "file":
            path.write_text(text, encoding="utf-8")
        elif step.what:
            path.write_text(with_line(path.read_text(encoding="utf-8"), text), encoding="utf-8")
        elif step.kind == "sh":
            said = run(text, folder)
        elif json.loads(said) != json.loads(text):
            raise FollowError(f"The page has {text.strip()}, and the answer is {said.strip()}")


def main(page: str, folder: str, *real: str) -> None:
    """Follow a page; end with its problem when there is one."""
    try:
        follow(
            Path(page).read_text(encoding="utf-8"),
            Path(folder),
            dict(zip(real[::2], real[1::2], strict=True)),
        )
    except (FollowError, OSError, ValueError) as error:
        sys.exit(f"{page}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
