"""Ask a URL 50 times a second until told to end (SIGTERM), each time on a new connection, and say how many requests failed.

For the demo of a cluster; the tests have a client of their own that looks closer (molecule/shared/load.py).
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

RATE = 50


def ask(url: str, outcomes: Counter[str]) -> None:
    """Ask once, and count what became of it."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            outcome = str(answer.status)
    except urllib.error.HTTPError as error:
        outcome = str(error.code)
    except OSError as error:
        outcome = type(error).__name__
    outcomes[outcome] += 1


def main() -> None:
    """Ask when it is due, whether earlier requests have been answered or not."""
    url = sys.argv[1]
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    outcomes: Counter[str] = Counter()
    begun = time.monotonic()
    with ThreadPoolExecutor(max_workers=10 * RATE) as pool:
        number = 0
        while not ended.wait(max(0.0, begun + number / RATE - time.monotonic())):
            pool.submit(ask, url, outcomes)
            number += 1
    good = outcomes.pop("200", 0)
    failed = ", ".join(f"{count} times {outcome}" for outcome, count in outcomes.items())
    print(f"  {good + outcomes.total():,} requests in {time.monotonic() - begun:.0f} s, {outcomes.total()} failed"
          f"{': ' + failed if failed else ''}")  # fmt: skip


if __name__ == "__main__":
    main()
