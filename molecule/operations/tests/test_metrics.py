"""The figures for Prometheus, against traffic that is known."""

import concurrent.futures
import re
import subprocess
import time
from collections import Counter

import pytest
from outcomes import MARKED_ADDRESS, MARKED_AGENT, wait_until

PORT = 9113
REQUESTS = "api_endpoint_requests_total"
DURATIONS = "api_endpoint_request_duration_seconds"


@pytest.fixture(scope="module", autouse=True)
def _on_one_host(api):
    if api.is_terse:
        pytest.skip("the other host counts, see molecule.yml")


class Figures:
    """What the host shows Prometheus."""

    def __init__(self, host) -> None:
        self.host = host

    @property
    def text(self) -> str:
        time.sleep(0.1)  # messages are looked at every few milliseconds
        return self.host.check_output(f"curl --silent --fail --max-time 10 localhost:{PORT}/metrics")

    def __call__(self) -> Counter:
        """Return all figures by their names and labels."""
        lines = [line for line in self.text.splitlines() if not line.startswith("#")]
        return Counter({line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines})

    def since(self, before: Counter, *names: str) -> dict[str, float]:
        """Return what the counters of these names have grown by."""
        now = self()
        grown = {name: now[name] - before[name] for name in now if name.startswith(names)}
        assert min(grown.values()) >= 0
        return {name: by for name, by in grown.items() if by}


@pytest.fixture
def figures(api) -> Figures:
    return Figures(api.host)


def count(method: str, status: int) -> str:
    return f'{REQUESTS}{{method="{method}",status="{status}"}}'


def test_requests_are_counted_but_those_for_the_health_path(api, figures):
    before = figures()
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
    assert figures.since(before, REQUESTS) == {
        count("GET", 200): 21, count("GET", 404): 3, count("GET", 500): 2, count("POST", 413): 1, count("OPTIONS", 204): 1,
    }  # fmt: skip
    grown = figures.since(before, DURATIONS)
    assert [grown[f'{DURATIONS}_count{{class="{name}"}}'] for name in ("2xx", "4xx", "5xx")] == [22, 4, 2]
    assert grown[f'{DURATIONS}_bucket{{class="2xx",le="0.5"}}'] == 21
    assert 0.6 <= grown[f'{DURATIONS}_sum{{class="2xx"}}'] < 5


def test_the_cache_is_counted(api, figures):
    before, path = figures(), f"/headers?X-Metrics={time.time()}"
    for _ in range(4):
        assert api.get(path).status == 200
    assert figures.since(before, "api_endpoint_cache") == {
        'api_endpoint_cache_requests_total{result="miss"}': 1, 'api_endpoint_cache_requests_total{result="hit"}': 3,
    }  # fmt: skip


def test_figures_of_the_service(api, figures):
    found = figures()
    assert found["api_endpoint_workers"] == len(api.workers()) == 2
    assert found[f'api_endpoint_release_info{{release="{api.release}"}}'] == 1
    pids = [api.main_pid(), *api.workers()]
    shown = api.host.check_output("cat " + " ".join(f"/proc/{pid}/smaps_rollup" for pid in pids))
    expected = 1024 * sum(int(kilobytes) for kilobytes in re.findall(r"^Pss:\s+(\d+)", shown, re.M))
    assert found["api_endpoint_memory_bytes"] == pytest.approx(expected, rel=0.05)
    assert 0 < time.time() - found["api_endpoint_start_time_seconds"] < 3600


def test_requests_under_way_and_those_sent_away(api, figures):
    """32 are answered at a time, and 16 of one client."""
    before = figures()
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(api.get, "/sleep?seconds=2") for _ in range(24)]
        wait_until(lambda: figures()['api_endpoint_requests_in_progress{state="answering"}'] == 16, "16 are answered", 2)
        statuses = Counter(one.result().status for one in asked)
    assert statuses == {200: 16, 503: 8}
    assert figures.since(before, "api_endpoint_requests_sent_away") == {
        'api_endpoint_requests_sent_away_total{by="nginx"}': 8
    }


def test_requests_that_wait_are_seen(api, figures):
    with api.held_still(), concurrent.futures.ThreadPoolExecutor(3) as pool:
        for _ in range(3):
            pool.submit(api.get, "/environ")
        wait_until(lambda: figures()['api_endpoint_requests_in_progress{state="waiting"}'] == 3, "three wait", 5)
        api.host.check_output(f"systemctl kill --signal=CONT {api.unit}")


def test_figures_survive_a_workers_death_and_a_release(api, figures, operator):
    before = figures()
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
    assert figures.since(before, REQUESTS) == {count("GET", 200): 10}
    assert figures()[f'api_endpoint_release_info{{release="{api.release}"}}'] == 1
    assert figures()["api_endpoint_workers"] == 2


def test_what_nginx_tells_while_the_program_restarts_is_counted(api, figures):
    """And the figures start at nothing, which Prometheus knows what to make of."""
    api.host.check_output("systemctl stop api-endpoint-metrics.service")
    for _ in range(7):
        api.get("/status/404")
    assert figures.since(Counter(), REQUESTS) == {count("GET", 404): 7}
    assert "syslog" not in api.host.check_output("tail -n 5 /var/log/nginx/error.log")


def test_the_app_is_seen_to_be_down(api, figures):
    api.host.check_output(f"systemctl stop {api.unit}")
    try:
        before = figures()
        assert api.get("/environ").status == 502
        assert before["api_endpoint_workers"] == before["api_endpoint_memory_bytes"] == 0
        assert figures.since(before, REQUESTS) == {count("GET", 502): 1}
    finally:
        api.host.check_output(f"systemctl start {api.unit}")
        api.wait_until_it_answers("/readyz")


def test_nobodys_address_and_user_agent_are_in_it(api, figures):
    shown = figures.text + api.host.check_output("journalctl --unit='api-endpoint-metrics*' --no-pager")
    for mark in (MARKED_ADDRESS, MARKED_AGENT, "secret", "/environ"):
        assert mark not in shown


# --- who may ask, on and off


def address(container: str, name: str) -> str:
    """Return an address of a container's network."""
    form = f"{{{{.NetworkSettings.Networks.bridge.{name}}}}}"
    shown = subprocess.run(["docker", "inspect", "--format", form, container], capture_output=True, text=True, check=True)
    return shown.stdout.strip()


def asked(container: str, *through: str) -> str:
    """Return what another host gets: the figures, or how it was refused."""
    url = f"http://{address(container, 'IPAddress')}:{PORT}/metrics"
    command = [*through, "curl", "--silent", "--show-error", "--max-time", "5", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def test_others_may_ask_when_they_are_named_and_it_can_be_turned_off(api, figures, operator):
    """The last test: nobody counts any more after it."""
    this, other = api.container, ("docker", "exec", "operations-debian13")
    assert "Failed to connect" in asked(this)

    def set_to(listen: str, *options: str, clients: tuple = ()) -> list[int]:
        run = operator("deploy", "--tags", "nginx", *options, metrics_listen=listen, metrics_clients=list(clients))
        assert run.status == 0, run.output
        return run.changed

    assert set_to(f"127.0.0.1:{PORT}") == [0]
    set_to(f"0.0.0.0:{PORT}", clients=(address(this, "Gateway"),))
    assert "api_endpoint_workers 2" in asked(this)
    assert "Empty reply" in asked(this, *other)

    assert set_to("", "--check") != [0]
    assert "api_endpoint_workers 2" in asked(this)
    set_to("")
    assert "Failed to connect" in asked(this)
    assert api.host.run("find /etc/systemd /run/api-endpoint /usr/local/lib -name '*metrics*'").stdout == ""
    assert "metrics" not in api.host.check_output("nginx -T 2>/dev/null")
    assert api.get("/environ").status == 200
