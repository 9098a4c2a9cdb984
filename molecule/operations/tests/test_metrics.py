"""The metrics for Prometheus, against traffic that is known."""

import concurrent.futures
import time
from collections import Counter

import pytest
from conftest import PORT, address, asked
from outcomes import MARKED_ADDRESS, MARKED_AGENT, ROOT, wait_until

STATE = f"{ROOT}/state/home"  # where the app can write
REQUESTS = "api_endpoint_requests_total"
DURATIONS = "api_endpoint_request_duration_seconds"


@pytest.fixture(scope="module", autouse=True)
def _on_one_host(api):
    if api.is_terse:
        pytest.skip("the other host counts, see molecule.yml")


class Metrics:
    """The metrics that Prometheus gets from the host."""

    def __init__(self, host) -> None:
        self.host = host

    @property
    def text(self) -> str:
        return self.host.check_output(
            f"curl --silent --fail --max-time 10 localhost:{PORT}/metrics"
        )

    def __call__(self) -> Counter:
        """Return all metrics by their names and labels."""
        lines = [line for line in self.text.splitlines() if not line.startswith("#")]
        return Counter({line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines})

    def since(self, before: Counter, *names: str) -> dict[str, float]:
        """Return what the counters of these names have grown by."""
        now = self()
        grown = {name: now[name] - before[name] for name in now if name.startswith(names)}
        assert min(grown.values()) >= 0
        return {name: by for name, by in grown.items() if by}

    def grow(self, before: Counter, expected: dict[str, float], *names: str) -> None:
        """The counters of these names grow as expected: nginx's messages are counted a moment after its answers."""
        wait_until(
            lambda: sum(self.since(before, *names).values()) >= sum(expected.values()),
            f"{names} have grown",
        )
        assert self.since(before, *names) == expected


@pytest.fixture
def metrics(api) -> Metrics:
    return Metrics(api.host)


def count(method: str, status: int) -> str:
    return f'{REQUESTS}{{method="{method}",status="{status}"}}'


def test_requests_are_counted_excluding_health_checks(api, metrics):
    before = metrics()
    for path, times in (
        ("/environ?text=secret", 20),
        ("/status/404", 3),
        ("/status/500", 2),
        ("/readyz", 5),
        ("/sleep?seconds=0.6", 1),
    ):
        for _ in range(times):
            api.get(path)
    api.ask("POST", "/echo", body=b"x" * 2_000_000)  # nginx's own answer
    api.ask("OPTIONS", "/environ")
    expected = {
        count("GET", 200): 21, count("GET", 404): 3, count("GET", 500): 2, count("POST", 413): 1, count("OPTIONS", 204): 1,
    }  # fmt: skip
    metrics.grow(before, expected, REQUESTS)
    grown = metrics.since(before, DURATIONS)
    assert [grown[f'{DURATIONS}_count{{class="{name}"}}'] for name in ("2xx", "4xx", "5xx")] == [
        22,
        4,
        2,
    ]
    assert 0 < grown[f'{DURATIONS}_bucket{{class="2xx",le="0.5"}}'] <= 21  # not the slow one
    assert grown[f'{DURATIONS}_sum{{class="2xx"}}'] >= 0.6


def test_the_cache_is_counted(api, metrics):
    before, path = metrics(), f"/headers?X-Metrics={time.time()}"
    for _ in range(4):
        assert api.get(path).status == 200
    names = [
        f'api_endpoint_cache_requests_total{{result="{result}"}}' for result in ("miss", "hit")
    ]
    metrics.grow(before, dict(zip(names, (1, 3), strict=True)), "api_endpoint_cache")


def test_metrics_of_the_service(api, metrics):
    found = metrics()
    assert found["api_endpoint_workers"] == len(api.workers()) == 2
    assert found[f'api_endpoint_release_info{{release="{api.release}"}}'] == 1
    pids = [api.main_pid(), *api.workers()]
    # The test's hosts count no memory for control groups.
    shown = api.host.check_output(
        "getconf PAGE_SIZE; cat " + " ".join(f"/proc/{pid}/statm" for pid in pids)
    ).splitlines()
    pages = [[int(number) for number in line.split()[1:3]] for line in shown[1:]]
    own, shared = (
        sum(resident - shared for resident, shared in pages),
        max(shared for _resident, shared in pages),
    )
    expected = int(shown[0]) * (own + shared)
    assert found["api_endpoint_memory_bytes"] == pytest.approx(expected, rel=0.05)
    assert 0 < time.time() - found["api_endpoint_start_time_seconds"] < 3600


def test_requests_in_progress_and_shed_requests(api, metrics):
    """32 are answered at a time, and 16 of one client."""
    before = metrics()
    end = f"{STATE}/end-of-the-wait"
    api.host.check_output(f"rm -f {end}")
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        requests = [pool.submit(api.get, f"/wait?path={end}", timeout=600) for _ in range(24)]
        try:
            shed = {'api_endpoint_requests_shed_total{by="nginx"}': 8}
            metrics.grow(before, shed, "api_endpoint_requests_shed")
            in_progress = 'api_endpoint_requests_in_progress{state="answering"}'
            wait_until(lambda: metrics()[in_progress] == 16, "16 are answered")
        finally:
            api.host.check_output(f"touch {end}")
        statuses = Counter(request.result().status for request in requests)
    assert statuses == {200: 16, 503: 8}


def test_requests_that_wait_are_seen(api, metrics):
    with api.held_still(), concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(api.get, "/environ")
        try:
            waiting = 'api_endpoint_requests_in_progress{state="waiting"}'
            wait_until(lambda: metrics()[waiting] == 3, "three wait")
        finally:
            api.host.check_output(f"systemctl kill --signal=CONT {api.unit}")


def test_metrics_survive_a_workers_death_and_a_release(api, metrics, operator):
    before = metrics()
    for _ in range(5):
        api.get("/environ")
    api.kill(api.workers()[0])
    api.wait_until_it_answers("/readyz")
    released = api.release
    run = operator("deploy", "--tags", "app", environment={"NEW": str(time.time())})
    assert run.status == 0, run.output
    assert api.release != released
    for _ in range(5):
        api.get("/environ")
    metrics.grow(before, {count("GET", 200): 10}, REQUESTS)
    assert metrics()[f'api_endpoint_release_info{{release="{api.release}"}}'] == 1
    assert metrics()["api_endpoint_workers"] == 2


def test_messages_are_counted_that_nginx_sends_while_the_program_restarts(api, metrics):
    """The counters start at zero then, which Prometheus takes for a restart."""
    api.host.check_output("systemctl stop api-endpoint-metrics.service")
    for _ in range(7):
        api.get("/status/404")
    metrics.grow(Counter(), {count("GET", 404): 7}, REQUESTS)
    assert "syslog" not in api.host.check_output("tail -n 5 /var/log/nginx/error.log")


def test_the_app_is_seen_to_be_down(api, metrics):
    api.host.check_output(f"systemctl stop {api.unit}")
    try:
        before = metrics()
        assert api.get("/environ").status == 502
        assert before["api_endpoint_workers"] == before["api_endpoint_memory_bytes"] == 0
        metrics.grow(before, {count("GET", 502): 1}, REQUESTS)
    finally:
        api.host.check_output(f"systemctl start {api.unit}")
        api.wait_until_it_answers("/readyz")


def test_no_address_and_no_user_agent_is_in_it(api, metrics):
    shown = metrics.text + api.host.check_output(
        "journalctl --unit='api-endpoint-metrics*' --no-pager"
    )
    for mark in (MARKED_ADDRESS, MARKED_AGENT, "secret", "/environ"):
        assert mark not in shown


# --- allowed clients


@pytest.mark.full
def test_a_dry_run_turns_nothing_off(set_to, metrics):
    assert set_to(f"127.0.0.1:{PORT}") == [0]
    assert set_to("", "--check") != [0]
    assert metrics()["api_endpoint_workers"] == 2


def test_other_hosts_are_served_when_they_are_named(api, set_to):
    this, other = api.container, ("docker", "run", "--rm", api.image)
    assert "Failed to connect" in asked(this)
    set_to(f"0.0.0.0:{PORT}", metrics_clients=[address(this, "Gateway")])
    assert "api_endpoint_workers 2" in asked(this)
    assert "Empty reply" in asked(this, *other)
