"""Draw a run of the demo: ANSIBLE_FORCE_COLOR=1 make demo | python docs/picture.py docs/_static/demo.svg.

What had nothing to do is left out, and so are empty lines and rows of asterisks.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = f"{Path(__file__).resolve().parents[1]}/"
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def lines(said: str) -> list[str]:
    """Return the lines that are worth to be looked at."""
    blocks = re.split(r"\n\s*\n", said[said.index("Starting the instance") :])
    kept = []
    for block in blocks:
        plain = COLOURS.sub("", block)
        if plain.startswith(("TASK", "RUNNING HANDLER")) and not re.search(
            r"^(changed|ok): ", plain, re.M
        ):
            continue
        kept += [
            re.sub(r" \*+$", "", line).replace(HERE, "")
            for line in block.strip().splitlines()
            if "ssh -i" not in line
        ]
    return ["$ make demo", *kept]


def main() -> None:
    """Draw what comes on standard input."""
    with open("/dev/null", "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=112, file=nowhere, force_terminal=True)
        for line in lines(sys.stdin.read()):
            console.print(Text.from_ansi(line), no_wrap=True, overflow="ellipsis")
        drawn = console.export_svg(title="make demo")
    # Fonts of the reader's own machine, instead of somebody else's server.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S).replace(
        "Fira Code", "ui-monospace"
    )
    with open(sys.argv[1], "w", encoding="utf-8") as picture:
        picture.write(drawn)


if __name__ == "__main__":
    main()
