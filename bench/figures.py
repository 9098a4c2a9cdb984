"""What was measured: kept in a file from one part of `make bench` to the next, printed as a table, drawn as a picture."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from dataclasses import asdict, dataclass, field, replace
from html import escape
from pathlib import Path
from xml.etree import ElementTree

PROJECT = Path(__file__).resolve().parents[1]
KEPT = PROJECT / os.environ.get("BENCH_FIGURES", ".cache/bench/figures.json")
PAGE = PROJECT / "docs" / "performance.md"
PICTURE = PROJECT / "docs" / "performance.svg"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"
SHORT_BEGIN, SHORT_END = (
    "<!-- ten figures: written by make bench -->",
    "<!-- end of ten figures -->",
)
# The figures that the page begins with, in words that need no table around them.
TEN = {
    ("A small model (the example app)", "requests a second, against the old configuration"):
        "Small model: requests a second, against the old template",
    ("An app that waits for others", "requests a second that wait 100 ms, against the old configuration"):
        "App that waits 100 ms: requests a second, against the old template",
    ("An app that waits for others", "median while 20 others wait 2 s, against alone"):
        "Median while 20 others wait 2 s, against alone",
    (
        "Too much for a heavy model (50 ms of a processor)",
        "99th percentile of the served at 10 times capacity, against unloaded",
    ): "10 times too many requests: slowest 1 %, against unloaded",
    ("Answers from the cache", "requests a second, against the old configuration, uncached"):
        "From the cache: requests a second, against the old template",
    ("Memory", "4 workers with a model of 1 GB in Python objects, against the model"):
        "Memory of 4 workers with a model of 1 GB, against the model",
    ("Data", "download, verified, against curl alone, server unthrottled"):
        "Verified download from a fast server, against curl alone",
    ("First deployment", "a clean host to a live API, against the old template's setup script"):
        "Clean host to live API: time, against the old template",
    ("Deployments", "no-op site.yml"):
        "Run with nothing to do, against `ansible -m setup`",
    ("Deployments", "new code, beyond the app's start"):
        "New code, beyond the app's start, against `ansible -m setup`",
}  # fmt: skip


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


def ten(figures: list[Figure]) -> list[Figure]:
    """Return the figures that the page begins with, under their names there."""
    found = {(figure.part, figure.what): figure for figure in figures}
    return [replace(found[key], what=what) for key, what in TEN.items() if key in found]


def short_table(figures: list[Figure]) -> str:
    """Return a few figures as a table of Markdown."""
    rows = ["| figure | median | goal |", "|---|---|---|"]
    for figure in figures:
        goal = figure.goal_shown.replace(" ", "&nbsp;")
        missed = "<br>**missed**" if figure.is_reached is False else ""
        rows.append(f"| {figure.what} | {figure.show(figure.median)} | {goal}{missed} |")
    return "\n".join(rows)


def summary(figures: list[Figure]) -> str:
    """Return what the page begins with: how many goals were missed, and ten figures."""
    reached = [figure.is_reached for figure in figures if figure.goal]
    return (
        f"{reached.count(False)} of the {len(reached)} goals were missed ([why](#what-the-figures-mean)).\n\n"
        + short_table(ten(figures))
    )


def picture(figures: list[Figure]) -> str:
    """Draw the figures that have a goal, for a phone: how many times better than the goal, on a logarithmic axis."""
    figures = [figure for figure in figures if figure.goal]
    left, width, row, top = 16, 338, 46, 34
    height = top + row * len(figures) + 4

    def better(figure: Figure, value: float) -> float:
        ratio = max(value, 1e-9) / figure.goal
        return ratio if figure.more_is_better else 1 / ratio

    def x(ratio: float) -> float:
        return left + width * (math.log2(min(max(ratio, 0.25), 4)) + 2) / 4

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="460" viewBox="0 0 370 {height}" role="img" '
        'aria-label="Each figure against its goal">',
        "<style>text{font:11px system-ui,sans-serif;fill:#222}.s{fill:#666}.g{stroke:#999;stroke-width:1}"
        ".w{stroke-width:2}.y{stroke:#00696b;fill:#00696b}.n{stroke:#b3261e;fill:#b3261e}.bg{fill:#fff}"
        "@media(prefers-color-scheme:dark){text{fill:#eee}.s{fill:#aaa}.bg{fill:#151515}.g{stroke:#666}"
        ".y{stroke:#5cc6c8;fill:#5cc6c8}.n{stroke:#ff8a80;fill:#ff8a80}}</style>",
        f'<rect class="bg" width="370" height="{height}"/>',
    ]
    for ratio, label in ((0.25, "¼"), (0.5, "½"), (1, "goal"), (2, "2×"), (4, "4× better")):
        dash = "" if ratio == 1 else ' stroke-dasharray="2 4"'
        end = "end" if ratio == 4 else "middle"
        out += [
            f'<line class="g" x1="{x(ratio):.0f}" x2="{x(ratio):.0f}" y1="{top - 10}" y2="{height}"{dash}/>',
            f'<text class="s" x="{x(ratio):.0f}" y="{top - 18}" text-anchor="{end}">{label}</text>',
        ]
    for index, figure in enumerate(figures):
        y = top + row * index + 30
        kind = "y" if figure.is_reached else "n"
        ratios = sorted(better(figure, value) for value in figure.values)
        said = figure.what.replace("`", "")
        out += [
            f'<rect class="bg" x="0" y="{y - 26}" width="370" height="17"/>',
            f'<text x="4" y="{y - 14}">{escape(said)}</text>',
            f'<line class="{kind} w" x1="{x(ratios[0]):.1f}" x2="{x(ratios[-1]):.1f}" y1="{y}" y2="{y}"/>',
            f'<circle class="{kind}" cx="{x(better(figure, figure.median)):.1f}" cy="{y}" r="5"/>',
        ]
    return "\n".join([*out, "</svg>", ""])


def put(page: str, begin: str, end: str, text: str) -> str:
    """Return a page with a text between two marks, in place of the one that is there."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def publish(figures: list[Figure]) -> None:
    """Write the tables and the picture of all that was measured into the documentation."""
    page = put(PAGE.read_text(), SHORT_BEGIN, SHORT_END, summary(figures))
    PAGE.write_text(put(page, BEGIN, END, table(figures)))
    PICTURE.write_text(picture(ten(figures)))


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        ElementTree.fromstring(picture(ten(kept())))
        put(PAGE.read_text(), SHORT_BEGIN, SHORT_END, summary(kept()))
        print(f"bench: {len(kept())} figures, in {len({figure.part for figure in kept()})} parts")
    else:
        publish(kept())
        print(f"Written: {PAGE.relative_to(PROJECT)}, {PICTURE.relative_to(PROJECT)}")
