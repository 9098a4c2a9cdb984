"""The clock jumps. It is the app's alone that does: no test touches the machine's."""

import time

import pytest
from faults import fault
from outcomes import wait_until

pytestmark = pytest.mark.full

DAY = 86400
CLOCK = "/etc/faketimerc"  # where the library reads how far the app's clock is off, once a second


def set_clock(api, days: int) -> None:
    """Make the app's clock jump."""
    api.host.check_output(f"echo '{days:+}d' > {CLOCK}.new && mv {CLOCK}.new {CLOCK}")


@pytest.fixture(scope="module")
def _false_clock(api, deploy):
    """Give the app a clock that can be turned."""
    set_clock(api, 0)
    run = deploy(
        "--tags", "app",
        environment={
            # The loader knows what $LIB is on this kind of computer.
            "LD_PRELOAD": "/usr/$LIB/faketime/libfaketimeMT.so.1",
            "FAKETIME_TIMESTAMP_FILE": CLOCK,
            "FAKETIME_CACHE_DURATION": "1",
            # When a clock is set, these stay as they are.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        },
    )  # fmt: skip
    assert run.status == 0, run.output
    yield
    back = deploy("--tags", "app")
    assert back.status == 0, back.output


def clock_is(api, days: int) -> bool:
    """Tell whether the clocks of all workers are off by some days."""
    return all(
        abs((api.get("/time").json["time"] - time.time()) / DAY - days) < 0.1 for _ in range(10)
    )


@pytest.mark.usefixtures("_false_clock")
@pytest.mark.parametrize("days", [3, -3])
def test_the_clock_jumps(api, days):
    before = api.processes
    assert clock_is(api, 0)
    with fault(api, f"the app's clock jumps by {days:+} days") as found:
        set_clock(api, days)
        wait_until(lambda: clock_is(api, days), "the clock jumps")
        time.sleep(
            6
        )  # longer than the time-out, after which gunicorn replaces workers that it takes for hung
    with fault(api, "and back") as back:
        set_clock(api, 0)
        wait_until(lambda: clock_is(api, 0), "the clock jumps back")
        time.sleep(6)
    assert not found.load.failed, str(found)
    assert not back.load.failed, str(back)
    assert api.processes == before, "a process was killed for it"
