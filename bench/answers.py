"""How fast answers are: against the old template's configuration, gunicorn alone and nginx alone, in turn, on one host.

Run by `make bench`. BENCH_REPEATS is the number of rounds (default 5), BENCH_SECONDS how long each load lasts (default 5).
"""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import figures
import host
import open_loop_client
from figures import Figure

REPEATS = int(os.environ.get("BENCH_REPEATS", 5))
SECONDS = int(os.environ.get("BENCH_SECONDS", 5))
OURS, OLD, STATIC, ALONE = 80, 81, 82, 8000
CLIENTS = 8
BURST_SECONDS = 6  # until all workers know an overload


def rounds() -> Iterator[int]:
    """Count the rounds, aloud."""
    for number in range(REPEATS):
        print(f"  round {number + 1} of {REPEATS}", flush=True)
        yield number


def throughput() -> list[Figure]:
    """Ask the example app, with eight clients as fast as they can."""
    rate = Figure(
        "A small model (the example app)",
        "requests a second, against the old configuration",
        goal=1.3,
    )
    slow = Figure(
        rate.part, "99th percentile, against the old configuration", goal=0.8, more_is_better=False
    )
    # One client: without nginx each request is a new TCP connection, on which eight stall now and then.
    behind = Figure(rate.part, "requests a second of one client, against gunicorn alone", goal=0.95)
    overhead = Figure(
        rate.part,
        "median, beyond that of gunicorn alone",
        unit="ms",
        goal=0.5,
        more_is_better=False,
    )
    for _ in rounds():
        old, ours = (host.load(port, host.QUESTION, CLIENTS, SECONDS) for port in (OLD, OURS))
        one, one_alone = (host.load(port, host.QUESTION, 1, SECONDS) for port in (OURS, ALONE))
        rate.values.append(ours.rate / old.rate)
        slow.values.append(ours.p99 / old.p99)
        behind.values.append(one.rate / one_alone.rate)
        overhead.values.append((one.p50 - one_alone.p50) * 1000)
    return [rate, slow, behind, overhead]


@contextmanager
def others(port: int, path: str, clients: int) -> Iterator[None]:
    """Let others ask meanwhile."""
    work = threading.Thread(target=host.load, args=(port, path, clients, SECONDS + 4))
    work.start()
    threading.Event().wait(2)
    yield
    work.join()


def waiting() -> list[Figure]:
    """Ask an app that waits for another API: something fast while 20 others wait 2 s, and how many get through."""
    fast = Figure(
        "An app that waits for others",
        "median while 20 others wait 2 s, against alone",
        goal=2,
        more_is_better=False,
    )
    rate = Figure(fast.part, "requests a second that wait 100 ms, against the old configuration")
    for _ in rounds():
        alone = host.load(OURS, "/healthz", 1, SECONDS)
        with others(OURS, "/wait?seconds=2", 20):
            among = host.load(OURS, "/healthz", 1, SECONDS)
        fast.values.append(among.p50 / alone.p50)
        rate.values.append(
            host.load(OURS, "/wait?seconds=0.1", 64, SECONDS).rate
            / host.load(OLD, "/wait?seconds=0.1", 64, SECONDS).rate
        )
    return [fast, rate]


def heavy() -> list[Figure]:
    """Ask a model that keeps a processor busy for 50 ms."""
    rate = Figure(
        "A heavy model (50 ms of a processor)", "requests a second, against the old configuration"
    )
    slow = Figure(rate.part, "99th percentile, against the old configuration", more_is_better=False)
    for _ in rounds():
        old, ours = (
            host.load(port, "/compute?seconds=0.05", CLIENTS, SECONDS) for port in (OLD, OURS)
        )
        rate.values.append(ours.rate / old.rate)
        slow.values.append(ours.p99 / old.p99)
    return [rate, slow]


def percentile(values: list[float], of_a_hundred: int) -> float:
    """Return a percentile."""
    return statistics.quantiles(values, n=100, method="inclusive")[of_a_hundred - 1]


def overload(part: str, path: str) -> list[Figure]:
    """Ask more than can be answered: see how long the served wait, those that are shed, and those that come afterwards."""
    address = host.address()
    found: dict[int, list[Figure]] = {}
    after = Figure(
        part,
        "slowest answer in the 3rd second after 10 times capacity, against unloaded",
        more_is_better=False,
    )
    for times in (2, 5, 10):
        found[times] = [
            Figure(
                part,
                f"99th percentile of the served at {times} times capacity, against unloaded",
                goal=3,
                more_is_better=False,
            ),
            Figure(part, f"answers at {times} times capacity, against capacity"),
            Figure(
                part,
                f"99th percentile of those shed at {times} times capacity",
                unit="ms",
                more_is_better=False,
            ),
        ]
    for _ in rounds():
        unloaded = percentile(
            [
                one.seconds
                for one in open_loop_client.ask_at_rate(address, path, 3, max(10, 2 * SECONDS))
            ],
            99,
        )
        capacity = host.load(OURS, path, 16, SECONDS).rate
        for times, (served, answers, shed) in found.items():
            asked = open_loop_client.ask_at_rate(
                address, path, times * capacity, SECONDS + BURST_SECONDS
            )
            steady = [one for one in asked if one.sent > BURST_SECONDS]
            good = [one.seconds for one in steady if one.status == 200]
            served.values.append(percentile(good, 99) / unloaded)
            answers.values.append(len(good) / SECONDS / capacity)
            refused = [one.seconds for one in steady if one.status == 503]
            if len(refused) > 1:
                shed.values.append(percentile(refused, 99) * 1000)
            if broken := [one for one in asked if one.status not in (200, 503)]:
                raise SystemExit(
                    f"{path} at {times} times capacity: {len(broken)} requests got neither 200 nor 503."
                )
        threading.Event().wait(2)
        after.values.append(
            max(one.seconds for one in open_loop_client.ask_at_rate(address, path, 3, 3)) / unloaded
        )
    return [figure for group in found.values() for figure in group] + [after]


def cache() -> list[Figure]:
    """Answers that nginx has kept."""
    old = Figure(
        "Answers from the cache",
        "requests a second, against the old configuration, uncached",
        goal=15,
    )
    static = Figure(
        old.part,
        "requests a second, against an answer that stands in nginx's configuration",
        goal=0.5,
    )
    host.load(OURS, host.QUESTION, 1, 1)
    for _ in rounds():
        hits, answer = (host.load(port, host.QUESTION, 32, SECONDS).rate for port in (OURS, STATIC))
        old.values.append(hits / host.load(OLD, host.QUESTION, CLIENTS, SECONDS).rate)
        static.values.append(hits / answer)
    return [old, static]


def measure(title: str, settings: dict[str, object], *parts: Callable[[], list[Figure]]) -> None:
    """Deploy with certain settings, and measure."""
    print(f"{title}: deploying", flush=True)
    host.playbook("site.yml", **host.settings(**settings))
    host.start_rivals()
    for part in parts:
        figures.keep(part())


def main() -> None:
    """Measure all kinds of apps, each with the settings that README.md recommends for it."""
    host.start()
    measure("The defaults", {}, throughput, waiting)
    processors = len(os.sched_getaffinity(0))
    measure(
        "A heavy model", {"api_endpoint_workers": processors, "api_endpoint_threads": 1}, heavy,
        lambda: overload("Too much for a heavy model (50 ms of a processor)", "/compute?seconds=0.05"),
    )  # fmt: skip
    # As many threads as let this machine's client come ten times as often as can be answered.
    measure(
        "An app that waits", {"api_endpoint_workers": 2, "api_endpoint_threads": 4, "api_endpoint_max_concurrency": 16},
        lambda: overload("Too much for an app that waits (100 ms)", "/wait?seconds=0.1"),
    )  # fmt: skip
    measure("The cache", {"api_endpoint_cache": {"paths": ["/api/"], "ttl": 600}}, cache)


if __name__ == "__main__":
    main()
