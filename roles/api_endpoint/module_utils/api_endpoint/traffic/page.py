# SPDX-License-Identifier: GPL-3.0-or-later
"""One page about the traffic of an endpoint, with plots: self-contained, without scripts.

The plots are stretched to the page's width, so that they have no text in them: labels are HTML, and stay
readable on a phone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from html import escape

from ansible.module_utils.api_endpoint.traffic.access_log import in_seconds
from ansible.module_utils.api_endpoint.traffic.stats import HOUR, Figures, Traffic

ROWS = 30  # endpoints and referrers that are shown
HEIGHT = 100  # of a plot, in units of its own
PERCENTS = (50, 95, 99)
COLOURS = ("good", "bad", "worst")

# Whatever a caller has written into a log, the page runs and loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --ink: #202124; --soft: #5f6368; --line: #dadce0; --card: #fff; --page: #f6f7f8;
  --good: #2a78b8; --bad: #d98a00; --worst: #c5221f }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3a8ae; --line: #3c4043; --card: #1f2124;
  --page: #151618; --good: #6cb0e8; --bad: #e8c14a; --worst: #ff6b60 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 16px; max-width: 1100px; font: 15px/1.45 system-ui, sans-serif; color: var(--ink);
  background: var(--page) }
h1 { font-size: 1.3rem; margin: .2em 0; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .5em }
p { margin: .3em 0 1em }
.soft, th, figcaption { color: var(--soft) }
section, .tile { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px }
section { margin: 0 0 16px }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: 12px; margin-bottom: 16px }
.tile b { display: block; font-size: 1.2rem; font-weight: 600; white-space: nowrap }
figure { margin: 0 }
figcaption { font-size: .85rem }
figcaption i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin: 0 5px 0 12px }
.plot { position: relative; height: 180px; margin: 6px 0 0 56px }
.plot svg { position: absolute; width: 100%; height: 100%; overflow: visible }
.plot span { position: absolute; right: 100%; margin-right: 8px; transform: translateY(50%); white-space: nowrap }
.times { display: flex; justify-content: space-between; margin: 4px 0 0 56px }
.plot span, .times { font-size: .75rem; color: var(--soft) }
path, line { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke; stroke-linejoin: round; stroke-linecap: round }
line { stroke: var(--line); stroke-width: 1 }
.good { fill: var(--good); background: var(--good) }
.bad { fill: var(--bad); background: var(--bad) }
.worst { fill: var(--worst); background: var(--worst) }
path.good { fill: none; stroke: var(--good) }
path.bad { fill: none; stroke: var(--bad) }
path.worst { fill: none; stroke: var(--worst) }
.hover { fill: transparent }
.hover:hover { fill: var(--soft); fill-opacity: .2 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: .85rem }
th, td { padding: 4px 8px; border-top: 1px solid var(--line); text-align: right; white-space: nowrap; font-weight: 400 }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 150px; padding-left: 0 }
summary { cursor: pointer; font-weight: 600 }
details[open] summary { margin-bottom: 8px }
@media (max-width: 500px) { body { padding: 10px } .times span:nth-child(2) { display: none } }
"""

Bars = list[tuple[int, Figures]]


def moment(seconds: float) -> str:
    """Return a time as the page has it (UTC)."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def words(figures: Figures) -> list[str]:
    """Return requests, 4xx, 5xx and percentiles as text."""
    counts = (figures.requests, figures.of_class(4), figures.of_class(5))
    return [*(f"{count:,}" for count in counts), *(in_seconds(figures.took(percent)) for percent in PERCENTS)]


HEADS = ("requests", "4xx", "5xx", "p50", "p95", "p99")


def table(first: str, rows: Iterable[tuple[str, list[str]]], heads: tuple[str, ...] = HEADS) -> str:
    """Return a table; the first column is text of any kind."""
    lines = [
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>" for name, cells in rows
    ]
    if not lines:
        return '<p class="soft">None.</p>'
    head = "".join(f"<th>{escape(text)}</th>" for text in (first, *heads))
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


# --- plots


def round_up(value: float) -> float:
    """Return the next round number."""
    power = 10 ** math.floor(math.log10(value))
    return next(round_one * power for round_one in (1, 2, 5, 10) if round_one * power >= value)


def plot(
    bars: Bars, drawn: str, labels: list[tuple[float, str]], legend: list[tuple[str, str]], tip: Callable[[Figures], str]
) -> str:
    """Return a plot of something over time; labels stand at heights from 0 to 1."""
    step = bars[1][0] - bars[0][0] if len(bars) > 1 else HOUR
    grid = "".join(
        f'<line x1="0" x2="{len(bars)}" y1="{HEIGHT * (1 - height):g}" y2="{HEIGHT * (1 - height):g}"/>'
        for height, _text in labels
    )
    hover = "".join(
        f'<rect class="hover" x="{number}" y="0" width="1" height="{HEIGHT}">'
        f"<title>{escape(f'{moment(begun)}: {tip(figures)}')}</title></rect>"
        for number, (begun, figures) in enumerate(bars)
    )
    scale = "".join(f'<span style="bottom:{100 * height:g}%">{escape(text)}</span>' for height, text in labels)
    key = "".join(f'<i class="{kind}"></i>{escape(text)}' for kind, text in legend)
    first, last = bars[0][0], bars[-1][0] + step
    times = "".join(f"<span>{moment(when)}</span>" for when in (first, (first + last) / 2, last))
    return (
        f'<figure><figcaption>{key}</figcaption><div class="plot">{scale}'
        f'<svg viewBox="0 0 {len(bars)} {HEIGHT}" preserveAspectRatio="none">{grid}{drawn}{hover}</svg></div>'
        f'<div class="times">{times}</div></figure>'
    )


def stacks(bars: Bars, kinds: list[tuple[str, str, Callable[[Figures], int]]]) -> str:
    """Return a plot of counts, one upon the other."""
    counted = [[count(figures) for _kind, _text, count in kinds] for _begun, figures in bars]
    top = round_up(max(1, *(sum(counts) for counts in counted)))
    drawn = []
    for number, counts in enumerate(counted):
        below = 0.0
        for (kind, _text, _count), count in zip(kinds, counts, strict=True):
            high = HEIGHT * count / top
            if count:
                y = HEIGHT - below - high
                drawn.append(f'<rect class="{kind}" x="{number + 0.08}" y="{y:.3f}" width="0.84" height="{high:.3f}"/>')
            below += high
    labels = [(height, f"{height * top:,.10g}") for height in ((0.0, 0.5, 1.0) if top > 1 else (0.0, 1.0))]
    legend = [(kind, text) for kind, text, _count in kinds]

    def tip(figures: Figures) -> str:
        return ", ".join(f"{count(figures):,} {text}" for _kind, text, count in kinds)

    return plot(bars, "".join(drawn), labels, legend, tip)


def percentiles(bars: Bars) -> str:
    """Return a plot of the durations, on a scale on which each line is ten times the one below."""
    took = [[figures.took(percent) for percent in PERCENTS] for _begun, figures in bars]
    highest = max((value for values in took for value in values if value is not None), default=1)
    tens = max(1, math.ceil(math.log10(max(highest, 2))))

    def height(milliseconds: int) -> float:
        return HEIGHT * (1 - math.log10(max(milliseconds, 1)) / tens)

    drawn = []
    for number, colour in enumerate(COLOURS):
        pieces, pen = [], "M"
        for place, values in enumerate(took):
            value = values[number]
            if value is None:
                pen = "M"  # nobody asked: no line
                continue
            # Flat over its bar, so that one bar alone is seen too.
            pieces.append(f"{pen}{place + 0.08} {height(value):.2f}H{place + 0.92}")
            pen = "L"
        drawn.append(f'<path class="{colour}" d="{"".join(pieces)}"/>')
    labels = [(ten / tens, in_seconds(10**ten).replace(".0", "")) for ten in range(tens + 1)]
    legend = [(colour, f"p{percent}") for colour, percent in zip(COLOURS, PERCENTS, strict=True)]

    def tip(figures: Figures) -> str:
        return ", ".join(f"p{percent} {in_seconds(figures.took(percent))}" for percent in PERCENTS)

    return plot(bars, "".join(drawn), labels, legend, tip)


# --- the page


def section(title: str, content: str, remark: str = "") -> str:
    """Return a part of the page."""
    return f"<section><h2>{escape(title)}</h2>{f'<p class=soft>{escape(remark)}</p>' if remark else ''}{content}</section>"


def tiles(traffic: Traffic) -> str:
    """Return the sums."""
    figures = traffic.all
    shown = [
        ("requests", f"{figures.requests:,}"), ("5xx", f"{figures.of_class(5):,}"), ("4xx", f"{figures.of_class(4):,}"),
        *((f"p{percent}", in_seconds(figures.took(percent))) for percent in PERCENTS), ("sent", size(traffic.bytes)),
    ]  # fmt: skip
    inner = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span class="soft">{name}</span></div>' for name, value in shown
    )
    return f'<div class="tiles">{inner}</div>'


def plots(traffic: Traffic) -> str:
    """Return what has a place in time."""
    bars = traffic.bars()
    step = traffic.step // HOUR
    each = "hour" if step == 1 else f"{step} hours"
    fine = ("good", "2xx, 3xx", lambda figures: figures.requests - figures.of_class(4) - figures.of_class(5))
    errors = [
        ("bad", "4xx", lambda figures: figures.of_class(4)),
        ("worst", "5xx", lambda figures: figures.of_class(5)),
    ]
    return (
        section(f"Requests, by {each}", stacks(bars, [fine, *errors]))
        + section(f"Errors, by {each}", stacks(bars, errors))
        + section(
            f"Durations, by {each}",
            percentiles(bars),
            "Half of the requests took no longer than p50, 99 of 100 no longer than p99.",
        )
    )


def tables(traffic: Traffic) -> str:
    """Return what was asked, from where, and with what outcome."""
    statuses = sorted(traffic.all.statuses.items())
    share = [(str(status), [f"{count:,}", f"{100 * count / traffic.all.requests:.1f} %"]) for status, count in statuses]

    def rows(names: list[tuple[str, Figures]]) -> list[tuple[str, list[str]]]:
        return [(name, words(figures)) for name, figures in names[:ROWS]]

    by_time = [(moment(begun), words(figures)) for begun, figures in reversed(traffic.bars()) if figures.requests]
    return (
        section("Statuses", table("status", share, ("requests", "share")))
        + section("Endpoints", table("method and path", rows(traffic.endpoints.top())), "Without query strings.")
        + section("Referrers", table("page", rows(traffic.referrers.top())), "Without query strings.")
        + f"<section><details><summary>The plots as a table</summary>{table('from (UTC)', by_time)}</details></section>"
    )


def page(title: str, traffic: Traffic) -> str:
    """Return the page."""
    hours = sorted(traffic.hours)
    unread = f" {traffic.unread:,} lines of another form were left out." if traffic.unread else ""
    span = f"{moment(hours[0] * HOUR)} to {moment((hours[-1] + 1) * HOUR)}" if hours else "no requests yet"
    content = plots(traffic) + tables(traffic) if hours else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Traffic of {escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Traffic of {escape(title)}</h1>"
        f'<p class="soft">{escape(span)}, UTC. From nginx\'s access log, without health requests and without anything that '
        f"tells who called. Made {moment(time.time())}.{unread}</p>{tiles(traffic)}{content}</body></html>\n"
    )
