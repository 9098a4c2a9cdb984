"""Breaking something under load, and how long it took until the API answered again."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from load import Result, load, report
from outcomes import Answer, Api, assert_json_error

STEADY = 1.0  # seconds without a failure after which the API counts as well again
SETTLED = 0.3  # seconds of load before the fault


@dataclass
class Fault:
    """What a fault meant for the clients."""

    what: str
    load: Result = field(default_factory=Result)
    errors: list[Answer] = field(default_factory=list)  # of a client that asked one request after the other
    note: str = ""

    @property
    def seen(self) -> str:
        """What the failed requests of the load got."""
        kinds = ", ".join(f"{failure['count']} x {failure['kind']}" for failure in self.load.failures)
        return kinds or f"{self.load.failed:,}"

    def __str__(self) -> str:
        """Say it in a line of the table."""
        return (
            f"| {self.what} | {self.load.requests:,} | {self.seen} | {self.load.gap_ms / 1000:.1f} s "
            f"| {self.load.slowest_ms / 1000:.1f} s | {self.note} |"
        )


FAULTS: list[Fault] = []


class Onlooker:
    """A client that asks one request after the other, and keeps every answer that is no 200."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.errors: list[Answer] = []
        self.result = Result(host=api.container)
        self.last_success = self.last_failure = time.monotonic()
        self.has_ended = False
        self.thread = threading.Thread(target=self.look, daemon=True)

    def look(self) -> None:
        while not self.has_ended:
            try:
                answer = self.api.get("/", timeout=5)
                is_well = answer.status == 200
                if not is_well:
                    self.errors.append(answer)
            except Exception:  # nobody is there, or nobody answers
                is_well = False
            now = time.monotonic()
            self.result.requests += 1
            if is_well:
                self.result.gap_ms = max(self.result.gap_ms, 1000 * (now - self.last_success))
                self.last_success = now
            else:
                self.result.failed += 1
                self.last_failure = now
            time.sleep(0.05)

    def wait_until_steady(self, seconds: float) -> None:
        """Wait until nothing has failed for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() - self.last_failure < STEADY:
            if time.monotonic() > deadline:
                # Says what there is to say.
                self.api.wait_until_it_answers("/", 0)
                pytest.fail(f"The API answers, but still not every request after {seconds} s.")
            time.sleep(0.05)


@contextlib.contextmanager
def nothing(onlooker: Onlooker, what: str) -> Iterator[Result]:
    """Report what an onlooker saw, in place of a load."""
    yield onlooker.result
    onlooker.result.step = what
    report(onlooker.result)


@contextlib.contextmanager
def fault(api: Api, what: str, within: float, rate: float = 25, **plan) -> Iterator[Fault]:
    """Do something bad under load, in the block; afterwards the API must answer again, `within` seconds at most.

    What nginx answers meanwhile must be errors that a program on another origin can read. With a rate of 0 there is no
    load, only a client that asks one request after the other.
    """
    found, onlooker = Fault(what), Onlooker(api)
    with load(api, what, rate=rate, timeout=within + 10, **plan) if rate else nothing(onlooker, what) as found.load:
        onlooker.thread.start()
        try:
            time.sleep(SETTLED)
            yield found
            onlooker.last_failure = time.monotonic()
            onlooker.wait_until_steady(within + STEADY)
        finally:
            onlooker.has_ended = True
            onlooker.thread.join(10)
    found.errors = onlooker.errors
    FAULTS.append(found)
    for error in found.errors:
        assert_json_error(error, error.status)
    assert found.load.gap_ms < within * 1000, str(found)


def kinds(found: Fault) -> set[str]:
    """The kinds of failures that the load saw."""
    return {failure["kind"] for failure in found.load.failures}
