"""The metrics for Prometheus: which message counts where, who may ask, and the expressions of dashboard and alerts."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import PROJECT, ROLE
from outcomes import wait_until
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

PROGRAM = ROLE / "files" / "metrics.py"
spec = importlib.util.spec_from_file_location("metrics", PROGRAM)
metrics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(metrics)

LOCAL = "127.0.0.1"
UNIT = (ROLE / "templates" / "api-endpoint-metrics.service.j2").read_text()
ENVIRONMENT = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.M))


def message(
    method="GET", status=200, seconds="0.010", cache="-", app_status="200", shed="-"
) -> bytes:
    """What nginx logs of a request."""
    text = (
        f'<190>Nov 25 14:14:51 nginx: {method} {status} {seconds} {cache} "{app_status}" "{shed}"'
    )
    return text.encode()


@pytest.fixture
def app(tmp_path):
    """An endpoint of which nothing runs."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(
        "0::/container/system.slice/api-endpoint-metrics.service\n"
    )
    return metrics.App(
        "api-endpoint", tmp_path, tmp_path / "data", tmp_path / "proc", tmp_path / "cgroups"
    )


def values(*messages, app=None) -> dict[str, float]:
    """The series and their values when these messages were counted; with an app, its own too."""
    registry = CollectorRegistry()
    requests = metrics.Requests(registry)
    for given in messages:
        requests.count(given)
    if app:
        registry.register(app)
    # The unit has the library leave out the times when counters began; see the program's test below.
    lines = [
        line for line in generate_latest(registry).decode().splitlines() if "_created" not in line
    ]
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in lines
        if not line.startswith("#")
    }


def counted(*messages) -> dict[str, float]:
    """The series that these messages changed."""
    return {name: value for name, value in values(*messages).items() if value}


def test_requests_are_counted_by_method_and_status():
    found = counted(
        message(), message(), message("POST", 404), message("PROPFIND", 405), message(status=999)
    )
    assert {name: value for name, value in found.items() if "requests_total" in name} == {
        'api_endpoint_requests_total{method="GET",status="200"}': 2,
        'api_endpoint_requests_total{method="POST",status="404"}': 1,
        'api_endpoint_requests_total{method="other",status="405"}': 1,
        'api_endpoint_requests_total{method="GET",status="other"}': 1,
    }


def test_durations_are_a_histogram():
    given = [message(seconds=seconds) for seconds in ("0.005", "0.006", "31.000")]
    found = counted(*given, message(status=500, seconds="1.000"))
    name = "api_endpoint_request_duration_seconds"
    assert [
        found.get(f'{name}_bucket{{class="2xx",le="{most}"}}')
        for most in ("0.005", "0.01", "30.0", "+Inf")
    ] == [
        1,
        2,
        2,
        3,
    ]
    assert found[f'{name}_count{{class="2xx"}}'] == 3
    assert found[f'{name}_sum{{class="2xx"}}'] == pytest.approx(31.011)
    assert found[f'{name}_count{{class="5xx"}}'] == 1


@pytest.mark.parametrize(
    ("status", "app_status", "shed", "by"),
    [
        (503, "503", "yes", "workers"),
        (503, "-", "-", "nginx"),  # one client had half of the places
        (503, "502", "-", "nginx"),  # no place was free
        (503, "502 : 503", "-", None),  # the app's own
        (503, "503", "-", None),
        (200, "503", "yes", None),  # answered from the cache all the same
        (502, "502", "-", None),
    ],
)
def test_shed_requests_are_distinguished_from_other_errors(status, app_status, shed, by):
    found = counted(message(status=status, app_status=app_status, shed=shed))
    expected = {f'api_endpoint_requests_shed_total{{by="{by}"}}': 1} if by else {}
    assert {name: value for name, value in found.items() if "shed" in name} == expected


def test_the_cache():
    found = counted(
        message(cache="HIT"),
        message(cache="HIT"),
        message(cache="MISS"),
        message(),
        message(cache="SOMETHING"),
    )
    assert {name: value for name, value in found.items() if "cache" in name} == {
        'api_endpoint_cache_requests_total{result="hit"}': 2,
        'api_endpoint_cache_requests_total{result="miss"}': 1,
    }


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"\xff\xfe",
        message(method="A B"),
        message(status="2"),
        message(app_status='"'),
        message()[:40],
    ],
)
def test_a_malformed_message_counts_nothing(malformed):
    assert counted(malformed) == {}


def test_counters_exist_from_the_start(app):
    found = values(app=app)
    for name in (
        'api_endpoint_requests_total{method="GET",status="200"}',
        'api_endpoint_request_duration_seconds_count{class="5xx"}',
        'api_endpoint_requests_shed_total{by="nginx"}',
        'api_endpoint_requests_shed_total{by="workers"}',
        'api_endpoint_requests_in_progress{state="waiting"}',
        "api_endpoint_workers",
    ):
        assert found[name] == 0


def control_group(tmp_path, slot) -> Path:
    """Make the control group of a slot."""
    group = (
        tmp_path
        / f"cgroups/container/system.slice/system-api\\x2dendpoint.slice/api-endpoint@{slot}.service"
    )
    group.mkdir(parents=True)
    return group


def test_processes(app, tmp_path):
    """A master and two workers, of which one has a process of its own; a process that has just ended."""
    (control_group(tmp_path, "blue") / "cgroup.procs").write_text("10\n11\n12\n13\n99\n")
    for pid, parent in ((10, 1), (11, 10), (12, 10), (13, 12)):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a ) b) S {parent} " + "0 " * 17 + f"{pid}00 0\n")
        (folder / "statm").write_text(f"9000 {pid + 30} 30 1 0 50 0\n")
    (tmp_path / "proc" / "stat").write_text("cpu 1\nbtime 1000\n")
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "release").symlink_to("/var/lib/api-endpoint/releases/0123456789ab")
    found = values(app=app)
    assert found["api_endpoint_workers"] == 2
    assert found["api_endpoint_memory_bytes"] == (10 + 11 + 12 + 13 + 30) * os.sysconf(
        "SC_PAGE_SIZE"
    )
    assert found["api_endpoint_start_time_seconds"] == 1000 + 1000 / os.sysconf("SC_CLK_TCK")
    assert found['api_endpoint_release_info{release="0123456789ab"}'] == 1


def test_memory_as_the_kernel_counts_it_for_control_groups(app, tmp_path):
    for slot, kilobytes in (("blue", 300), ("green", 20)):
        stat = f"anon {kilobytes * 1024}\nfile 999999999\nfile_mapped 1024\nanon_thp 7\n"
        (control_group(tmp_path, slot) / "memory.stat").write_text(stat)
    assert values(app=app)["api_endpoint_memory_bytes"] == (320 + 2) * 1024


def test_disks_but_missing_ones(app, tmp_path):
    found = values(app=app)
    name = "api_endpoint_disk_free_ratio"
    assert [key for key in found if key.startswith(name)] == [
        f'{name}{{of="logs"}}',
        f'{name}{{of="releases"}}',
    ]
    usage = shutil.disk_usage(tmp_path)
    assert found[f'{name}{{of="releases"}}'] == pytest.approx(usage.free / usage.total, abs=0.02)


def test_requests_in_progress_are_connections_to_the_app(tmp_path):
    """Counted in the kernel's own table, by the state in which a connection is before and after it is accepted."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect(str(path))
        accepted, _ = listener.accept()
        text = (
            Path("/proc/net/unix")
            .read_text()
            .replace(str(path), "/run/api-endpoint/blue/gunicorn.sock")
        )
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "unix").write_text(text)
        found = metrics.App("api-endpoint", tmp_path, tmp_path, tmp_path).connections()
        for open_one in (accepted, *clients):
            open_one.close()
    assert found == {"waiting": 2, "answering": 1}


# --- the program itself, with sockets as systemd gives them


class Program:
    """The program, as it runs on a host."""

    def __init__(self, folder: Path, *clients: str) -> None:
        self.listener = socket.create_server((LOCAL, 0))
        self.messages = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.messages.bind(str(folder / "messages"))
        self.nginx = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.nginx.connect(str(folder / "messages"))
        own, given = self.listener.fileno(), self.messages.fileno()
        sockets = [
            "bash",
            "-c",
            'exec 3<&"$1" 4<&"$2"; shift 2; exec "$@"',
            "-",
            str(given),
            str(own),
        ]
        self.process = subprocess.Popen(
            [*sockets, sys.executable, PROGRAM, "api-endpoint", folder, folder, *clients],
            pass_fds=(own, given), stderr=subprocess.PIPE, env={**os.environ, **ENVIRONMENT},
        )  # fmt: skip

    def get(self, accept="*/*") -> tuple[str, str]:
        """Scrape it; return the format and the metrics."""
        connection = http.client.HTTPConnection(*self.listener.getsockname(), timeout=60)
        connection.request("GET", "/metrics", headers={"Accept": accept})
        response = connection.getresponse()
        assert response.status == 200
        return response.headers.get_content_type(), response.read().decode()

    def end(self) -> str:
        """End it; return what it has written."""
        self.process.terminate()
        for open_one in (self.listener, self.messages, self.nginx):
            open_one.close()
        return self.process.communicate()[1].decode()


@pytest.fixture
def program(tmp_path):
    running = Program(tmp_path)
    running.get()
    yield running
    if running.process.poll() is None:
        running.end()


def test_messages_are_counted_while_somebody_holds_a_connection(program):
    def sockets():
        """Return its sockets by their inodes: their number would not grow while an earlier connection is being closed."""
        found = set()
        for file in Path(f"/proc/{program.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(file))
        return {name for name in found if name.startswith("socket:")}

    before = sockets()
    with socket.create_connection(program.listener.getsockname()) as client:
        wait_until(lambda: sockets() - before, "it has taken the connection")
        # The socket holds a few messages; the next one is sent when they have been read.
        program.nginx.settimeout(60)
        for _ in range(300):
            program.nginx.send(message())
            client.send(b"x")  # or the connection would be given up
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    line = 'api_endpoint_requests_total{method="GET",status="200"} 300.0\n'
    wait_until(lambda: line in program.get()[1], "the last few messages are counted, too")


def test_prometheus_gets_the_format_that_it_asks_for(program):
    program.nginx.send(message())
    counter = 'api_endpoint_requests_total{method="GET",status="200"} 1.0\n'
    wait_until(lambda: counter in program.get()[1], "the message is counted")
    kind, text = program.get()
    assert kind == "text/plain"
    assert "_created" not in text, "each counter would be there twice"
    kind, text = program.get("application/openmetrics-text; version=1.0.0, text/plain; q=0.5")
    assert kind == "application/openmetrics-text"
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert [sample.value for sample in families["api_endpoint_requests"].samples] == [1]


def test_no_log_names_a_client(program):
    with socket.create_connection(program.listener.getsockname()) as client:
        client.sendall(b"\x16\x03\x01 /\r\n\r\n")
        client.recv(1000)
    with socket.create_connection(program.listener.getsockname()) as client:
        client.sendall(b"GET http://[ HTTP/1.1\r\n\r\n")
        assert client.recv(1000) == b""
    program.get()
    assert program.end() == "An answer failed: ValueError\n"


def test_clients_that_are_allowed():
    with socket.create_server((LOCAL, 0)) as listener:
        server = metrics.Server(listener, CollectorRegistry(), ["192.0.2.7", "2001:db8::/32"])
        allowed = {
            address: server.verify_request(None, (address, 1))
            for address in (
                "127.0.0.1", "::1", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::5",
                "192.0.2.8", "::ffff:192.0.2.8", "fe80::1%2",
            )
        }  # fmt: skip
    assert [address for address, may in allowed.items() if not may] == [
        "192.0.2.8",
        "::ffff:192.0.2.8",
        "fe80::1%2",
    ]


# --- the dashboard and the alerts


def expressions() -> list[str]:
    """All expressions of the dashboard and the alerts."""
    dashboard = json.loads((PROJECT / "docs/metrics/grafana-dashboard.json").read_text())
    alerts = yaml.safe_load((PROJECT / "docs/metrics/alerts.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(asked) > 15
    return asked


def test_every_metric_in_an_expression_exists(app):
    registry = CollectorRegistry()
    metrics.Requests(registry)
    registry.register(app)
    shown = generate_latest(registry).decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.M))
    names = {
        name + end
        for name, kind in kinds.items()
        for end in (("_bucket", "_sum", "_count") if kind == "histogram" else ("",))
    }
    asked = {name for text in expressions() for name in re.findall(r"\bapi_endpoint_\w+", text)}
    assert asked - names == set()
    assert {name for name in asked if kinds.get(name) == "counter"} == {
        name for name, kind in kinds.items() if kind == "counter"
    }


def test_the_dashboard_asks_the_datasource_that_is_chosen():
    text = (PROJECT / "docs/metrics/grafana-dashboard.json").read_text()
    assert set(re.findall(r'"uid": "(.*)"', text)) == {"api-endpoint", "${datasource}"}
    dashboard = json.loads(text)
    assert [variable["type"] for variable in dashboard["templating"]["list"]] == [
        "datasource",
        "query",
        "query",
    ]
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all('job="$job"' in target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_says_what_to_do():
    alerts = yaml.safe_load((PROJECT / "docs/metrics/alerts.yml").read_text())
    for rule in (rule for group in alerts["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
