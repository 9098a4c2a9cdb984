"""Breaking something under load, until the API answers every request again."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from load import Result, load, report
from outcomes import Answer, Api, assert_json_error

STEADY = 20  # answers in a row after which the API counts as repaired
LONGEST = 300  # seconds until then; only a broken product needs them
THREADS = 4  # of each of the two workers, as in vars.yml


@dataclass
class Fault:
    """What a fault meant for the clients."""

    what: str
    load: Result = field(default_factory=Result)
    errors: list[Answer] = field(
        default_factory=list
    )  # of a client that sent one request after the other
    note: str = ""

    @property
    def kinds(self) -> set[str]:
        """The kinds of failures of the load."""
        return {failure["kind"] for failure in self.load.failures}

    @property
    def seen(self) -> str:
        """What the failed requests of the load got."""
        kinds = ", ".join(
            f"{failure['count']} x {failure['kind']}" for failure in self.load.failures
        )
        return kinds or f"{self.load.failed:,}"

    def count(self, kind: str) -> int:
        """Return how many requests of the load failed in this way."""
        return sum(failure["count"] for failure in self.load.failures if failure["kind"] == kind)

    def __str__(self) -> str:
        """Say it in a line of the table."""
        return (
            f"| {self.what} | {self.load.requests:,} | {self.seen} | {self.load.gap_ms / 1000:.1f} s "
            f"| {self.load.slowest_ms / 1000:.1f} s | {self.note} |"
        )


FAULTS: list[Fault] = []


class Onlooker:
    """A client that sends one request after the other, and keeps every answer but those of 200."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.errors: list[Answer] = []
        self.result = Result(host=api.container)
        self.last_success = time.monotonic()
        self.in_a_row = 0
        self.has_ended = False
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self) -> None:
        while not self.has_ended:
            try:
                answer = self.api.get("/", timeout=LONGEST)
                is_good = answer.status == 200
                if not is_good:
                    self.errors.append(answer)
            except Exception:  # no connection, or no answer
                is_good = False
            now = time.monotonic()
            self.result.requests += 1
            if is_good:
                self.result.gap_ms = max(self.result.gap_ms, 1000 * (now - self.last_success))
                self.last_success = now
                self.in_a_row += 1
            else:
                self.result.failed += 1
                self.in_a_row = 0
            time.sleep(0.05)

    def wait_until_steady(self) -> None:
        """Wait for a number of answers in a row."""
        self.in_a_row = 0
        deadline = time.monotonic() + LONGEST
        while self.in_a_row < STEADY:
            if time.monotonic() > deadline:
                # Prints the logs.
                self.api.wait_until_it_answers("/", 0)
                pytest.fail(
                    f"The API does not answer {STEADY} requests in a row after {LONGEST} s."
                )
            time.sleep(0.05)


@contextlib.contextmanager
def nothing(onlooker: Onlooker, what: str) -> Iterator[Result]:
    """Report the requests of an onlooker, in place of a load."""
    yield onlooker.result
    onlooker.result.step = what
    report(onlooker.result)


@contextlib.contextmanager
def fault(api: Api, what: str, rate: float = 25, **plan) -> Iterator[Fault]:
    """Do something bad under load, in the block; afterwards the API must answer every request again.

    Meanwhile nginx's errors must be readable by a program on another origin. With a rate of 0 there is no load, only a
    client that sends one request after the other. How long it took stands in the table at the end, and is no verdict.
    """
    found, onlooker = Fault(what), Onlooker(api)
    with (
        load(api, what, rate=rate, timeout=LONGEST, **plan)
        if rate
        else nothing(onlooker, what) as found.load
    ):
        onlooker.thread.start()
        try:
            onlooker.wait_until_steady()
            yield found
            onlooker.wait_until_steady()
        finally:
            onlooker.has_ended = True
            onlooker.thread.join(LONGEST)
    found.errors = onlooker.errors
    FAULTS.append(found)
    for error in found.errors:
        assert_json_error(error, error.status)
