"""Too many connections, too many requests: others are served, and nothing dies."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults import FAULTS, Fault, fault
from load import NEW, load

pytestmark = pytest.mark.full

SLOW_CONNECTIONS = 1600
FLOOD = 600  # requests a second
FLOOD_SECONDS = 12


def test_slow_connections_that_reconnect(api):
    """On the old template 83 % of the other requests failed."""
    before = api.processes, api.main_pid("nginx.service"), api.workers("nginx.service")
    address = api.host.check_output("hostname --all-ip-addresses").split()[0]
    with fault(api, f"{SLOW_CONNECTIONS:,} slow connections that reconnect", rate=100) as found:
        done = subprocess.run(
            [sys.executable, Path(__file__).with_name("slow.py"), address, api.name, str(SLOW_CONNECTIONS)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    counts = json.loads(done.stdout)
    found.note = f"{counts['opened']:,} slow connections, {counts['most']:,} at once"
    assert counts["most"] > 0.9 * SLOW_CONNECTIONS, counts
    assert counts["opened"] > 1.5 * SLOW_CONNECTIONS, f"they were not cut off: {counts}"
    assert not found.load.failed, str(found)
    assert_nothing_died(api, before)


def assert_nothing_died(api, before):
    assert before == (api.processes, api.main_pid("nginx.service"), api.workers("nginx.service"))


def test_a_flood_of_requests(api):
    """Two cores at 20 ms for each request answer 100 a second at the most, and here they have other things to do as well."""
    before = api.processes, api.main_pid("nginx.service"), api.workers("nginx.service")
    with fault(api, "a flood of requests, seen by one more client", rate=0) as beside:
        with load(
            api, "a flood of requests", path="/burn?ms=20", rate=FLOOD, modes=(NEW,), timeout=30
        ) as flood:
            time.sleep(FLOOD_SECONDS)
        recovered = api.wait_until_it_answers("/")
    found = Fault("a flood of requests, ten times what can be answered", flood)
    FAULTS[-1] = found
    served = flood.requests - flood.failed
    found.note = f"{served / FLOOD_SECONDS:.0f} a second are served; answers all {recovered:.1f} s after the flood"
    assert_nothing_died(api, before)
    assert found.kinds == {"status 503"}, flood.failures
    assert flood.failed > 0.5 * flood.requests, f"was it a flood? {flood}"
    assert served, str(flood)
    shed = [error for error in beside.errors if error.status == 503]
    assert shed, "no request of the client beside the flood was shed"
    for error in shed:
        [seconds] = error.all("Retry-After")
        assert 0 < int(seconds) < 10


def test_a_flood_from_one_client(api):
    before = api.processes, api.main_pid("nginx.service"), api.workers("nginx.service")
    with (
        # Not the client of the flood before: who asked for much a second ago is not one of the others yet.
        fault(
            api, "the same flood from one client, seen by the others", rate=10, client="203.0.113.7"
        ) as found,
        load(
            api,
            "a flood from one client",
            path="/burn?ms=20",
            rate=FLOOD,
            client="198.51.100.1",
            modes=(NEW,),
        ) as flood,
    ):
        time.sleep(FLOOD_SECONDS)
    alone = Fault("", flood)
    found.note = f"the one client: {flood.requests:,} requests, {alone.seen}"
    assert not found.load.failed, str(found)
    assert alone.kinds <= {"status 429", "status 503"}, alone.seen
    assert flood.failed > 0.5 * flood.requests
    assert_nothing_died(api, before)
