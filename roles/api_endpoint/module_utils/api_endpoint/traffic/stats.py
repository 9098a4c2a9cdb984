# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the requests of an access log: by time, status, endpoint and referrer, with their durations."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ansible.module_utils.api_endpoint.traffic.access_log import (
    Request,
    is_health,
    is_of_audit,
    parse,
    percentile,
)

HOUR = 3600
STEPS = (HOUR, 6 * HOUR, 24 * HOUR)  # what one bar of a plot may stand for
MOST_BARS = 14 * 24
MOST_NAMES = 4000  # endpoints or referrers that are counted one by one; the least frequent go into `(others)`
LONGEST = 200  # characters of a name
OTHERS = "(others)"
NONE = "(none)"


@dataclass
class Figures:
    """What there is to say of some requests."""

    statuses: Counter[int] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)  # milliseconds

    def add(self, request: Request) -> None:
        """Count a request."""
        self.statuses[request.status] += 1
        self.durations[request.duration] += 1

    def merge(self, other: Figures) -> None:
        """Count what another one has counted."""
        self.statuses.update(other.statuses)
        self.durations.update(other.durations)

    @property
    def requests(self) -> int:
        """The number of requests."""
        return self.statuses.total()

    def of_class(self, first: int) -> int:
        """Return the number of requests whose status begins with a digit."""
        return sum(count for status, count in self.statuses.items() if status // 100 == first)

    def took(self, percent: int) -> int | None:
        """Return the milliseconds that so many percent of the requests did not exceed."""
        return percentile(self.durations, percent)


class Names:
    """Figures by name, the names bounded in number."""

    def __init__(self) -> None:
        self.figures: defaultdict[str, Figures] = defaultdict(Figures)

    def add(self, name: str, request: Request) -> None:
        """Count a request under a name."""
        self.figures[name[:LONGEST]].add(request)
        if len(self.figures) > 2 * MOST_NAMES:
            others = self.figures.pop(OTHERS, Figures())
            for rare, figures in self.top()[MOST_NAMES:]:
                others.merge(figures)
                del self.figures[rare]
            self.figures[OTHERS] = others

    def top(self) -> list[tuple[str, Figures]]:
        """Return the names with their figures, what was asked most first."""
        return sorted(self.figures.items(), key=lambda item: (-item[1].requests, item[0]))


def endpoint_of(request: Request) -> str:
    """Return what was asked, without the query, which may hold what somebody asked it for."""
    return f"{request.method} {request.path}" if request.method else "(no request)"


def referrer_of(request: Request) -> str:
    """Return the page that a request came from, without its query."""
    referrer = request.referrer.partition("?")[0].partition("#")[0]
    return NONE if referrer in ("", "-") else referrer


class Traffic:
    """The requests of a log, without those for the health path and without the times of privacy audits."""

    def __init__(self, health_path: str, audited: list[tuple[float, float]] | None = None) -> None:
        self.health_path = health_path
        self.audited = audited or []
        self.all = Figures()
        self.hours: defaultdict[int, Figures] = defaultdict(Figures)
        self.endpoints = Names()
        self.referrers = Names()
        self.bytes = 0
        self.unread = 0  # lines that are none of nginx's

    def count(self, lines: Iterable[bytes]) -> Traffic:
        """Count the requests of lines of the log."""
        for line in lines:
            if request := parse(line):
                self._add(request)
            else:
                self.unread += 1
        for figures in self.hours.values():
            self.all.merge(figures)
        return self

    def _add(self, request: Request) -> None:
        if not is_health(request, self.health_path) and not is_of_audit(request, self.audited):
            self.hours[request.time // HOUR].add(request)
            self.endpoints.add(endpoint_of(request), request)
            self.referrers.add(referrer_of(request), request)
            self.bytes += request.size

    @property
    def step(self) -> int:
        """The seconds that one bar stands for: as few as there is room for."""
        hours = max(self.hours, default=0) - min(self.hours, default=0) + 1
        return next((step for step in STEPS if hours * HOUR <= MOST_BARS * step), STEPS[-1])

    def bars(self) -> list[tuple[int, Figures]]:
        """Return the figures over time, without gaps, each with the time (epoch) at which it begins."""
        if not self.hours:
            return []
        step = self.step
        found: defaultdict[int, Figures] = defaultdict(Figures)
        for hour, figures in self.hours.items():
            found[hour * HOUR // step].merge(figures)
        # A wrong clock long ago: the newest count.
        first = max(min(found), max(found) - MOST_BARS + 1)
        return [(number * step, found[number]) for number in range(first, max(found) + 1)]
