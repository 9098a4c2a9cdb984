"""What was measured: kept in a file from one part of `make bench` to the next, printed as a table, drawn as a picture."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[1]
KEPT = PROJECT / os.environ.get("BENCH_FIGURES", ".cache/bench/figures.json")
PAGE = PROJECT / "docs" / "performance.md"
PICTURE = PROJECT / "docs" / "performance.svg"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


@dataclass
class Figure:
    """One thing that was measured, several times."""

    part: str
    what: str
    values: list[float] = field(default_factory=list)
    unit: str = "×"
    goal: float | None = None
    more_is_better: bool = True

    @property
    def median(self) -> float:
        """Return the middle of what was measured."""
        return statistics.median(self.values)

    @property
    def is_reached(self) -> bool | None:
        """Tell whether the median is as good as the goal; None without a goal."""
        if self.goal is None:
            return None
        return self.median >= self.goal if self.more_is_better else self.median <= self.goal

    def show(self, value: float) -> str:
        """Return a value with its unit."""
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:,.{digits}f}{'' if self.unit == '×' else ' '}{self.unit}"

    @property
    def goal_shown(self) -> str:
        """Return the goal, or nothing."""
        return (
            ""
            if self.goal is None
            else f"{'≥' if self.more_is_better else '≤'} {self.show(self.goal)}"
        )


def kept() -> list[Figure]:
    """Return what earlier parts have measured."""
    return [Figure(**one) for one in json.loads(KEPT.read_text())] if KEPT.exists() else []


def keep(figures: list[Figure]) -> None:
    """Keep figures, in place of those of the same part, and print them."""
    figures = [figure for figure in figures if figure.values]
    parts = {figure.part for figure in figures}
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    others = [figure for figure in kept() if figure.part not in parts]
    KEPT.write_text(json.dumps([asdict(figure) for figure in others + figures], indent=1))
    print(lines(figures), flush=True)


def lines(figures: list[Figure]) -> str:
    """Return figures as lines of text."""
    width = max(len(figure.what) for figure in figures)
    return "\n".join(
        f"{figure.what:<{width}}  {figure.show(figure.median):>10}   from {figure.show(min(figure.values))} to "
        f"{figure.show(max(figure.values))}, n={len(figure.values)}   {figure.goal_shown}"
        f"{'' if figure.is_reached is None else ': reached' if figure.is_reached else ': MISSED'}"
        for figure in figures
    )


def table(figures: list[Figure]) -> str:
    """Return figures as a table of Markdown, a part after the other."""
    rows = ["| what | median | from, to | n | goal | |", "|---|---|---|---|---|---|"]
    part = ""
    for figure in figures:
        if figure.part != part:
            part = figure.part
            rows.append(f"| **{part}** | | | | | |")
        verdict = {None: "", True: "reached", False: "**missed**"}[figure.is_reached]
        rows.append(
            f"| {figure.what} | {figure.show(figure.median)} | {figure.show(min(figure.values))}, "
            f"{figure.show(max(figure.values))} | {len(figure.values)} | {figure.goal_shown} | {verdict} |"
        )
    return "\n".join(rows)


def picture(figures: list[Figure]) -> str:
    """Draw those figures that have a goal: how many times better than the goal each is, on a logarithmic axis."""
    rows: list[Figure | str] = []
    for figure in figures:
        if figure.goal:
            rows += [figure.part] * (figure.part not in rows) + [figure]
    left, width, row, top = 640, 420, 26, 46
    height = top + row * len(rows) + 20

    def better(figure: Figure, value: float) -> float:
        ratio = max(value, 1e-9) / figure.goal
        return ratio if figure.more_is_better else 1 / ratio

    def x(ratio: float) -> float:
        return left + width * (math.log2(min(max(ratio, 0.25), 16)) + 2) / 6

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 50} {height}" role="img" '
        'aria-label="Each figure against its goal">',
        "<style>text{font:13px system-ui,sans-serif;fill:#222}.p{font-weight:600}"
        ".s{font-size:11px;fill:#666}.g{stroke:#999;stroke-width:1}"
        ".w{stroke-width:2}.y{stroke:#00696b;fill:#00696b}.n{stroke:#b3261e;fill:#b3261e}.bg{fill:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#eee}.s{fill:#aaa}.bg{fill:#151515}.g{stroke:#666}"
        ".y{stroke:#5cc6c8;fill:#5cc6c8}.n{stroke:#ff8a80;fill:#ff8a80}}</style>",
        f'<rect class="bg" width="{left + width + 50}" height="{height}"/>',
    ]
    for ratio, label in (
        (0.25, "¼"),
        (0.5, "½"),
        (1, "goal"),
        (2, "2×"),
        (4, "4×"),
        (8, "8×"),
        (16, "16× better"),
    ):
        dash = "" if ratio == 1 else ' stroke-dasharray="2 4"'
        out.append(
            f'<line class="g" x1="{x(ratio):.0f}" x2="{x(ratio):.0f}" y1="{top - 12}" y2="{height - 14}"{dash}/>'
        )
        out.append(
            f'<text class="s" x="{x(ratio):.0f}" y="{top - 20}" text-anchor="middle">{label}</text>'
        )
    for index, figure in enumerate(rows):
        y = top + row * index + 8
        if isinstance(figure, str):
            out.append(f'<text class="p" x="10" y="{y + 4}">{escape(figure)}</text>')
            continue
        kind = "y" if figure.is_reached else "n"
        ratios = sorted(better(figure, value) for value in figure.values)
        out.append(f'<text x="26" y="{y + 4}">{escape(figure.what)}</text>')
        out.append(
            f'<text class="s" x="{left - 14}" y="{y + 4}" text-anchor="end">{figure.show(figure.median)}'
            f" ({figure.goal_shown})</text>"
        )
        out.append(
            f'<line class="{kind} w" x1="{x(ratios[0]):.1f}" x2="{x(ratios[-1]):.1f}" y1="{y}" y2="{y}"/>'
        )
        out.append(
            f'<circle class="{kind}" cx="{x(better(figure, figure.median)):.1f}" cy="{y}" r="5"/>'
        )
    return "\n".join([*out, "</svg>", ""])


def publish(figures: list[Figure]) -> None:
    """Write the table and the picture of all that was measured into the documentation."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(figures)}\n\n{END}{rest.partition(END)[2]}")
    PICTURE.write_text(picture(figures))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        ElementTree.fromstring(picture(kept()))
        print(f"bench: {len(kept())} figures, in {len({figure.part for figure in kept()})} parts")
    else:
        publish(kept())
        print(f"Written: {PAGE.relative_to(PROJECT)}, {PICTURE.relative_to(PROJECT)}")
