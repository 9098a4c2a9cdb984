# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page about an endpoint's traffic shows, in words and in the units of its plots: templates/traffic.html.j2."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ansible.module_utils.api_endpoint.traffic.access_log import (
    ACCESS_LOG,
    audits,
    in_seconds,
    lines_of,
)
from ansible.module_utils.api_endpoint.traffic.stats import HOUR, Figures, Traffic
from ansible.module_utils.basic import AnsibleModule

ROWS = 30  # endpoints and referrers that are shown
HEIGHT = 100  # of a plot, in units of its own; a bar is one wide
PERCENTS = (50, 95, 99)
COLOURS = ("good", "bad", "worst")
HEADS = ["requests", "4xx", "5xx", "p50", "p95", "p99"]

Bars = list[tuple[int, Figures]]
Count = Callable[[Figures], int]


def timestamp(seconds: float) -> str:
    """Return a time as the page has it (UTC)."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def cells(figures: Figures) -> list[str]:
    """Return requests, 4xx, 5xx and percentiles as text."""
    counts = (figures.requests, figures.of_class(4), figures.of_class(5))
    return [*(f"{count:,}" for count in counts), *durations(figures)]


def durations(figures: Figures) -> list[str]:
    """Return the percentiles as text."""
    return [in_seconds(figures.took(percent)) for percent in PERCENTS]


def round_up(value: float) -> float:
    """Return the next round number."""
    power = 10 ** math.floor(math.log10(value))
    return next(round_one * power for round_one in (1, 2, 5, 10) if round_one * power >= value)


def chart(title: str, bars: Bars, tip: Callable[[Figures], str], **drawn: Any) -> dict[str, Any]:
    """Return a plot of something over time. Its labels stand at heights from 0 to 100."""
    step = bars[1][0] - bars[0][0] if len(bars) > 1 else HOUR
    first, last = bars[0][0], bars[-1][0] + step
    return {
        "title": title,
        "tips": [f"{timestamp(start)}: {tip(figures)}" for start, figures in bars],
        "times": [timestamp(when) for when in (first, (first + last) / 2, last)],
        "remark": "", "rectangles": [], "lines": [],
        **drawn,
    }  # fmt: skip


def stacked(title: str, bars: Bars, kinds: list[tuple[str, str, Count]]) -> dict[str, Any]:
    """Return a plot of counts, one upon the other."""
    counted = [[count(figures) for _kind, _text, count in kinds] for _start, figures in bars]
    top = round_up(max(1, *(sum(counts) for counts in counted)))
    rectangles = []
    for number, counts in enumerate(counted):
        below = 0.0
        for (kind, _text, _count), count in zip(kinds, counts, strict=True):
            high = HEIGHT * count / top
            below += high
            if count:
                rectangles.append([kind, number + 0.08, round(HEIGHT - below, 3), round(high, 3)])
    heights = (0, 50, 100) if top > 1 else (0, 100)
    return chart(
        title, bars,
        lambda figures: ", ".join(f"{count(figures):,} {text}" for _kind, text, count in kinds),
        rectangles=rectangles,
        labels=[[height, f"{height * top / HEIGHT:,.10g}"] for height in heights],
        legend=[[kind, text] for kind, text, _count in kinds],
    )  # fmt: skip


def percentiles(title: str, bars: Bars) -> dict[str, Any]:
    """Return a plot of the durations, on a scale on which each line is ten times the one below."""
    took = [[figures.took(percent) for percent in PERCENTS] for _start, figures in bars]
    highest = max((value for values in took for value in values if value is not None), default=1)
    tens = max(1, math.ceil(math.log10(max(highest, 2))))

    def line(values: list[int | None]) -> str:
        pieces, pen = [], "M"
        for place, value in enumerate(values):
            if value is None:
                pen = "M"  # no requests: no line
                continue
            y = HEIGHT * (1 - math.log10(max(value, 1)) / tens)
            # Flat over its bar, so that one bar alone is seen too.
            pieces.append(f"{pen}{place + 0.08} {y:.2f}H{place + 0.92}")
            pen = "L"
        return "".join(pieces)

    names = [f"p{percent}" for percent in PERCENTS]
    return chart(
        title, bars,
        lambda figures: ", ".join(f"{name} {took}" for name, took in zip(names, durations(figures), strict=True)),
        remark="Half of the requests took no longer than p50, 99 of 100 no longer than p99.",
        lines=[[colour, line(list(values))] for colour, values in zip(COLOURS, zip(*took, strict=True), strict=True)],
        labels=[[round(HEIGHT * ten / tens, 2), in_seconds(10**ten).replace(".0", "")] for ten in range(tens + 1)],
        legend=[list(pair) for pair in zip(COLOURS, names, strict=True)],
    )  # fmt: skip


def charts(traffic: Traffic) -> list[dict[str, Any]]:
    """Return the plots: requests, errors, durations."""
    bars = traffic.bars()
    each = "hour" if traffic.step == HOUR else f"{traffic.step // HOUR} hours"
    errors: list[tuple[str, str, Count]] = [
        ("bad", "4xx", lambda figures: figures.of_class(4)),
        ("worst", "5xx", lambda figures: figures.of_class(5)),
    ]
    fine = (
        "good",
        "2xx, 3xx",
        lambda figures: figures.requests - figures.of_class(4) - figures.of_class(5),
    )
    return [
        stacked(f"Requests, by {each}", bars, [fine, *errors]),
        stacked(f"Errors, by {each}", bars, errors),
        percentiles(f"Durations, by {each}", bars),
    ]


def tables(traffic: Traffic) -> list[dict[str, Any]]:
    """Return the tables: statuses, endpoints, referrers."""
    statuses = sorted(traffic.all.statuses.items())
    shares = [
        [str(status), f"{count:,}", f"{100 * count / traffic.all.requests:.1f} %"]
        for status, count in statuses
    ]

    def rows(names: list[tuple[str, Figures]]) -> list[list[str]]:
        return [[name, *cells(figures)] for name, figures in names[:ROWS]]

    without = "Without query strings."
    endpoints, referrers = rows(traffic.endpoints.top()), rows(traffic.referrers.top())
    return [
        {
            "title": "Statuses",
            "heads": ["status", "requests", "share"],
            "rows": shares,
            "remark": "",
        },
        {
            "title": "Endpoints",
            "heads": ["method and path", *HEADS],
            "rows": endpoints,
            "remark": without,
        },
        {"title": "Referrers", "heads": ["page", *HEADS], "rows": referrers, "remark": without},
    ]


def report(traffic: Traffic) -> dict[str, Any]:
    """Return all that the page shows."""
    figures, hours = traffic.all, sorted(traffic.hours)
    counts = {"requests": figures.requests, "5xx": figures.of_class(5), "4xx": figures.of_class(4)}
    by_time = [
        [timestamp(start), *cells(counted)]
        for start, counted in reversed(traffic.bars())
        if counted.requests
    ]
    return {
        "span": f"{timestamp(hours[0] * HOUR)} to {timestamp((hours[-1] + 1) * HOUR)}"
        if hours
        else "no requests yet",
        "unread": f"{traffic.unread:,}" if traffic.unread else "",
        "sums": [
            *([name, f"{count:,}"] for name, count in counts.items()),
            *(
                [f"p{percent}", took]
                for percent, took in zip(PERCENTS, durations(figures), strict=True)
            ),
            ["sent", size(traffic.bytes)],
        ],
        "charts": charts(traffic) if hours else [],
        "tables": tables(traffic) if hours else [],
        "by_time": {"heads": ["from (UTC)", *HEADS], "rows": by_time},
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    given = module.params
    traffic = Traffic(given["path"], audits(given["name"])).count(lines_of(ACCESS_LOG))
    module.exit_json(changed=False, report=report(traffic), requests=traffic.all.requests)
