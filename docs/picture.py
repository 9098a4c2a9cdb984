"""Draw what a run prints, as a narrow window shows it: python docs/picture.py docs/_static/run.svg < output.

The output has colours (ANSIBLE_FORCE_COLOR=1), and each command before it in a line that begins
with `$ `. Left out are tasks that changed nothing and say nothing, plays in which nothing is left,
progress, empty lines and columns of spaces. The target `-` prints the lines.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 66
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def is_shown(block: str) -> bool:
    """Tell whether a block of lines is worth a look."""
    if block.startswith(("TASK", "RUNNING HANDLER")):
        return bool(re.search(r"^changed: |^ +msg: ", block, re.M))
    return "skipping: no hosts matched" not in block


def lines(printed: str) -> list[str]:
    """Return the lines that are worth a look."""
    printed = re.sub(r"(?m)^\.\.\. .*\n", "\n", printed)
    blocks = [block.strip("\n") for block in re.split(r"\n\s*\n", printed) if block.strip()]
    kept = [block for block in blocks if is_shown(COLOURS.sub("", block))]
    found = []
    for block, after in zip(kept, [*kept[1:], ""], strict=True):
        if re.match(r"PLAY (?!RECAP)", block) and not after.startswith(("TASK", "RUNNING")):
            continue
        if block.startswith("PLAY RECAP"):
            block = re.sub(r" {2,}", " ", block)
        block = re.sub(r"\n(?:\x1b\[[0-9;]*m)* +changed: false(?:\x1b\[[0-9;]*m)*(?=\n)", "", block)
        found += [re.sub(r" \*+$", "", line) for line in block.split("\n")]
    return found


def main(target: str = "-") -> None:
    """Draw what comes on standard input, or print it without colours."""
    shown = lines(sys.stdin.read())
    if target == "-":
        print(COLOURS.sub("", "\n".join(shown)))
        return
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        for line in shown:
            console.print(Text.from_ansi(line), overflow="fold")
        drawn = console.export_svg(title=COLOURS.sub("", shown[0]).removeprefix("$ "))
    # Fonts of the reader's own machine, instead of somebody else's server.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S).replace(
        "Fira Code", "ui-monospace"
    )
    Path(target).write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
