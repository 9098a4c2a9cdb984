"""The figures for Prometheus: what is counted of which message, who may ask, and what dashboard and alerts ask for."""

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

PROGRAM = ROLE / "files" / "metrics.py"
spec = importlib.util.spec_from_file_location("metrics", PROGRAM)
metrics = importlib.util.module_from_spec(spec)
spec.loader.exec_module(metrics)

LOCAL = "127.0.0.1"


def told(method="GET", status=200, took="0.010", cache="-", app_status="200", sent_away="-") -> bytes:
    """What nginx tells of a request."""
    text = f'<190>Nov 25 14:14:51 nginx: {method} {status} {took} {cache} "{app_status}" "{sent_away}"'
    return text.encode()


@pytest.fixture
def service(tmp_path):
    """An endpoint of which nothing runs."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/container/system.slice/api-endpoint-metrics.service\n")
    return metrics.Service("api-endpoint", tmp_path, tmp_path / "data", tmp_path / "proc", tmp_path / "cgroups")


def figures(counts, service) -> dict[str, float]:
    """All figures by their names and labels."""
    lines = metrics.show(counts, service).splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def counted(service, *messages) -> dict[str, float]:
    """What differs from nothing when these messages were counted."""
    counts = metrics.Counts()
    for message in messages:
        counts.add(message)
    return {name: value for name, value in figures(counts, service).items() if value and "disk" not in name}


def test_requests_are_counted_by_method_and_status(service):
    found = counted(service, told(), told(), told("POST", 404), told("PROPFIND", 405), told(status=999))
    assert {name: value for name, value in found.items() if "requests_total" in name} == {
        'api_endpoint_requests_total{method="GET",status="200"}': 2,
        'api_endpoint_requests_total{method="POST",status="404"}': 1,
        'api_endpoint_requests_total{method="other",status="405"}': 1,
        'api_endpoint_requests_total{method="GET",status="other"}': 1,
    }


def test_durations_are_a_histogram(service):
    found = counted(service, told(took="0.005"), told(took="0.006"), told(took="31.000"), told(status=500, took="1.000"))
    name = "api_endpoint_request_duration_seconds"
    assert [found.get(f'{name}_bucket{{class="2xx",le="{most}"}}') for most in ("0.005", "0.01", "30.0", "+Inf")] == [
        1,
        2,
        2,
        3,
    ]
    assert found[f'{name}_count{{class="2xx"}}'] == 3
    assert found[f'{name}_sum{{class="2xx"}}'] == 31.011
    assert found[f'{name}_count{{class="5xx"}}'] == 1


@pytest.mark.parametrize(
    ("status", "app_status", "sent_away", "by"),
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
def test_those_sent_away_are_told_from_other_errors(service, status, app_status, sent_away, by):
    found = counted(service, told(status=status, app_status=app_status, sent_away=sent_away))
    expected = {f'api_endpoint_requests_sent_away_total{{by="{by}"}}': 1} if by else {}
    assert {name: value for name, value in found.items() if "sent_away" in name} == expected


def test_the_cache(service):
    found = counted(service, told(cache="HIT"), told(cache="HIT"), told(cache="MISS"), told(), told(cache="SOMETHING"))
    assert {name: value for name, value in found.items() if "cache" in name} == {
        'api_endpoint_cache_requests_total{result="hit"}': 2,
        'api_endpoint_cache_requests_total{result="miss"}': 1,
    }


@pytest.mark.parametrize(
    "message", [b"", b"\xff\xfe", told(method="A B"), told(status="2"), told(app_status='"'), told()[:40]]
)
def test_what_is_no_message_counts_nothing(service, message):
    assert counted(service, message) == {}


def test_what_starts_at_nothing_is_there_from_the_start(service):
    found = figures(metrics.Counts(), service)
    for name in (
        'api_endpoint_requests_total{method="GET",status="200"}',
        'api_endpoint_request_duration_seconds_count{class="5xx"}',
        'api_endpoint_requests_sent_away_total{by="nginx"}',
        'api_endpoint_requests_sent_away_total{by="workers"}',
        'api_endpoint_requests_in_progress{state="waiting"}',
        "api_endpoint_workers",
    ):
        assert found[name] == 0


def test_the_service(service, tmp_path):
    """A master and two workers, of which one has a process of its own; a second slot that has just gone."""
    group = tmp_path / "cgroups/container/system.slice/system-api\\x2dendpoint.slice/api-endpoint@blue.service"
    group.mkdir(parents=True)
    (group / "cgroup.procs").write_text("10\n11\n12\n13\n99\n")
    for pid, parent in ((10, 1), (11, 10), (12, 10), (13, 12)):
        folder = tmp_path / "proc" / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (a ) b) S {parent} " + "0 " * 17 + f"{pid}00 0\n")
        (folder / "statm").write_text(f"9000 {pid + 30} 30 1 0 50 0\n")
    (tmp_path / "proc" / "stat").write_text("cpu 1\nbtime 1000\n")
    (tmp_path / "live").mkdir()
    (tmp_path / "live" / "release").symlink_to("/var/lib/api-endpoint/releases/0123456789ab")
    found = figures(metrics.Counts(), service)
    assert found["api_endpoint_workers"] == 2
    assert found["api_endpoint_memory_bytes"] == (10 + 11 + 12 + 13 + 30) * os.sysconf("SC_PAGE_SIZE")
    assert found["api_endpoint_start_time_seconds"] == 1000 + 1000 / os.sysconf("SC_CLK_TCK")
    assert found['api_endpoint_release_info{release="0123456789ab"}'] == 1


def test_memory_as_the_kernel_counts_it_for_control_groups(service, tmp_path):
    for slot, kilobytes in (("blue", 300), ("green", 20)):
        group = tmp_path / f"cgroups/container/system.slice/system-api\\x2dendpoint.slice/api-endpoint@{slot}.service"
        group.mkdir(parents=True)
        (group / "memory.stat").write_text(f"anon {kilobytes * 1024}\nfile 999999999\nfile_mapped 1024\nanon_thp 7\n")
    assert figures(metrics.Counts(), service)["api_endpoint_memory_bytes"] == (320 + 2) * 1024


def test_the_disks_but_those_that_are_not_there(service, tmp_path):
    found = figures(metrics.Counts(), service)
    name = "api_endpoint_disk_free_ratio"
    assert [key for key in found if key.startswith(name)] == [f'{name}{{of="logs"}}', f'{name}{{of="releases"}}']
    usage = shutil.disk_usage(tmp_path)
    assert found[f'{name}{{of="releases"}}'] == pytest.approx(usage.free / usage.total, abs=0.02)


def test_requests_under_way_are_connections_to_the_app(tmp_path):
    """Counted in the kernel's own table, by the state in which a connection is before and after it is accepted."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:
            client.connect(str(path))
        accepted, _ = listener.accept()
        text = Path("/proc/net/unix").read_text().replace(str(path), "/run/api-endpoint/blue/gunicorn.sock")
        (tmp_path / "net").mkdir()
        (tmp_path / "net" / "unix").write_text(text)
        found = metrics.Service("api-endpoint", tmp_path, tmp_path, tmp_path).connections()
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
        sockets = ["bash", "-c", 'exec 3<&"$1" 4<&"$2"; shift 2; exec "$@"', "-", str(given), str(own)]
        self.process = subprocess.Popen(
            [*sockets, sys.executable, PROGRAM, "api-endpoint", folder, folder, *clients],
            pass_fds=(own, given), stderr=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, path="/metrics", source=LOCAL) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*self.listener.getsockname(), timeout=60, source_address=(source, 0))
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def end(self) -> str:
        """End it; return what it has written."""
        self.process.terminate()
        for open_one in (self.listener, self.messages, self.nginx):
            open_one.close()
        return self.process.communicate()[1].decode()


@pytest.fixture
def program(tmp_path):
    running = Program(tmp_path)
    running.ask()
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
            program.nginx.send(told())
            client.send(b"x")  # or the connection would be given up
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    line = 'api_endpoint_requests_total{method="GET",status="200"} 300\n'
    wait_until(lambda: line in program.ask()[1], "the last few messages are counted, too")


def test_only_one_path_has_figures_and_no_log_names_who_asked(program):
    assert program.ask("/")[0] == 404
    with socket.create_connection(program.listener.getsockname()) as rude:
        rude.sendall(b"\x16\x03\x01 /\r\n\r\n")
        rude.recv(1000)
    assert program.ask("/metrics?name[]=a")[0] == 200
    assert LOCAL not in program.end()


def test_who_may_ask(service):
    with socket.create_server((LOCAL, 0)) as listener:
        server = metrics.Server(listener, metrics.Counts(), service, ["192.0.2.7", "2001:db8::/32"])
        allowed = {
            address: server.verify_request(None, (address, 1))
            for address in (
                "127.0.0.1", "::1", "192.0.2.7", "::ffff:192.0.2.7", "2001:db8::5",
                "192.0.2.8", "::ffff:192.0.2.8", "fe80::1%2",
            )
        }  # fmt: skip
    assert [address for address, may in allowed.items() if not may] == ["192.0.2.8", "::ffff:192.0.2.8", "fe80::1%2"]


def test_a_failed_answer_names_nobody(service, capsys):
    with socket.create_server((LOCAL, 0)) as listener:
        server = metrics.Server(listener, metrics.Counts(), service, [])
        try:
            raise BrokenPipeError("192.0.2.7")
        except BrokenPipeError:
            server.handle_error(None, ("192.0.2.7", 1))
    assert capsys.readouterr().err == "An answer failed: BrokenPipeError\n"


# --- the dashboard and the alerts


def expressions() -> list[str]:
    """All that the dashboard and the alerts ask Prometheus."""
    dashboard = json.loads((PROJECT / "docs/metrics/grafana-dashboard.json").read_text())
    alerts = yaml.safe_load((PROJECT / "docs/metrics/alerts.yml").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    asked += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    assert len(asked) > 15
    return asked


def test_every_figure_that_is_asked_for_exists(service):
    shown = metrics.show(metrics.Counts(), service)
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
    assert [variable["type"] for variable in dashboard["templating"]["list"]] == ["datasource", "query", "query"]
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert all('job="$job"' in target["expr"] for target in panel["targets"])
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_says_what_to_do():
    alerts = yaml.safe_load((PROJECT / "docs/metrics/alerts.yml").read_text())
    for rule in (rule for group in alerts["groups"] for rule in group["rules"]):
        assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description"}, rule["alert"]
