"""One prober: every health check sends the same request and judges alike; and nobody else's answer counts."""

import http.server
import os
import socket
import threading
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint import http as prober
from ansible.module_utils.api_endpoint.diagnosis import status
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import health
from ansible.module_utils.api_endpoint.release.readiness import ReadinessCheck
from ansible.module_utils.api_endpoint.release.slots import (
    Endpoint,
    accepted,
    lines_since,
    listening,
)
from helpers import ROLE

HEALTH = {"path": "/readyz", "status": [200], "timeout": 5}


class Handler(http.server.BaseHTTPRequestHandler):
    """An app that sends to HTTPS whoever comes by plain HTTP."""

    def do_GET(self):
        self.server.asked.append(
            (self.path, self.headers["Host"], self.headers["X-Forwarded-Proto"])
        )
        self.send_response(200 if self.headers["X-Forwarded-Proto"] == "https" else 302)
        self.end_headers()

    def address_string(self):
        return ""

    def log_message(self, *_):
        pass


class Unix(http.server.HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The app on a port and on a unix socket; what it was asked."""
    asked: list[tuple[str, str, str]] = []
    servers = [
        http.server.HTTPServer(("127.0.0.1", 0), Handler),
        Unix(str(tmp_path / "socket"), Handler),
    ]
    for server in servers:
        server.asked = asked
        threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Endpoint, "socket_of", lambda *_: str(tmp_path / "socket"))
    (tmp_path / "slots/blue").mkdir(parents=True)
    (tmp_path / "slots/blue/release").symlink_to("../../releases/none")
    (tmp_path / "live").symlink_to("slots/blue")
    monkeypatch.setattr(prober, "programs_on", lambda _port: [])
    yield SimpleNamespace(
        asked=asked, port=servers[0].server_port, root=tmp_path, socket=tmp_path / "socket"
    )
    for server in servers:
        server.shutdown()
        server.server_close()


def given(served, **more):
    return {
        "name": "no-such-endpoint", "root": str(served.root), "data_dir": str(served.root), "server_name": "api.example",
        "port": served.port, "error_log": str(served.root / "error.log"), "user": "any", "health": HEALTH, **HEALTH, **more,
    }  # fmt: skip


def endpoint(served):
    return Endpoint("no-such-endpoint", served.root)


@pytest.mark.parametrize(
    "is_healthy",
    [
        lambda served: proof(served).wait_until_healthy() is None,
        lambda served: proof(served).final_check() is None,
        lambda served: health.ask_through_nginx(endpoint(served), given(served))["status"] == 200,
        lambda served: status.state(endpoint(served), "none", given(served))["healthy"],
        lambda served: EndpointState(given(served)).answers,
        lambda served: EndpointState(given(served)).is_healthy,
    ],
    ids=["proof", "before the switch", "after it", "status", "diagnose: nginx", "diagnose: app"],
)
def test_every_check_asks_as_the_web_proxy_does(served, is_healthy):
    assert is_healthy(served)
    assert set(served.asked) == {("/readyz", "api.example", "https")}


def proof(served):
    plan = {"server_name": "api.example", "health": HEALTH, "start_timeout": 5, "workers": 1}
    return ReadinessCheck(plan, str(served.socket), list, lambda: "")


def test_the_balancers_check_asks_like_them():
    config = (ROLE.parent / "load_balancer" / "templates" / "haproxy.cfg.j2").read_text()
    line = next(line for line in config.splitlines() if "http-check send" in line)
    assert "hdr X-Forwarded-Proto https" in line


@pytest.mark.parametrize("check", ["after the switch", "status", "diagnose"])
def test_the_answer_of_another_program_is_no_health(served, monkeypatch, check):
    """It answers 200, as the app does; only nginx knows which configuration it has loaded."""
    monkeypatch.setattr(prober, "loaded_configuration", lambda _socket: "a" * 32)
    monkeypatch.setattr(health, "SHORTEST_SECONDS", 0)
    if check == "after the switch":
        with pytest.raises(
            DeployError, match=f"answers on port {served.port} of 127.0.0.1, where nginx belongs"
        ):
            health.ask_through_nginx(endpoint(served), given(served, timeout=0))
    elif check == "status":
        told = status.state(endpoint(served), "none", given(served))
        assert not told["healthy"]
        assert "where nginx belongs" in told["answer"]
    else:
        assert "where nginx belongs" in str(EndpointState(given(served)).through_nginx)
    assert "/readyz" not in [path for path, *_ in served.asked]


@pytest.mark.parametrize(
    ("programs", "is_told"),
    [
        (["python3 (process 1)"], True),
        (["nginx (process 1)"], False),
        (["nginx (process 2)", "python3 (process 1)"], True),
        ([], False),
    ],
)
def test_where_nginx_does_not_run_or_says_nothing_the_programs_on_the_port_tell(
    served, monkeypatch, programs, is_told
):
    monkeypatch.setattr(prober, "programs_on", lambda _port: programs)
    told = status.state(endpoint(served), "none", given(served, status=[]))
    assert told["healthy"] is not is_told
    assert ("python3 (process 1) listens on port" in told["answer"]) is is_told


@pytest.mark.parametrize(
    ("check_mode", "would_change", "is_refused"),
    [(False, False, True), (False, True, True), (True, False, True), (True, True, False)],
)
def test_a_dry_run_does_not_fail_for_what_a_run_changes_first(
    served, monkeypatch, check_mode, would_change, is_refused
):
    """nginx does not run, the app crashes and its next version is at hand: a run starts the one, and replaces the other."""
    monkeypatch.setattr(Endpoint, "release_of", lambda *_: "r1")
    unhealthy = given(served, status=[204], timeout=0, would_change=would_change)
    monkeypatch.setattr(health, "SHORTEST_SECONDS", 0)
    if is_refused:
        with pytest.raises(DeployError):
            health.ask(endpoint(served), unhealthy, check_mode)
    else:
        told = health.ask(endpoint(served), unhealthy, check_mode)
        assert told == {"status": "nothing healthy now", "release": "r1"}


def test_what_failed_is_said_with_the_logs(served, monkeypatch):
    monkeypatch.setattr(health, "SHORTEST_SECONDS", 0)
    (served.root / "error.log").write_text("of this start\n")
    with pytest.raises(
        DeployError, match=r"expected: \[204\](?s:.*)of this start(?s:.*)/var/log/nginx/error.log"
    ):
        health.ask_through_nginx(endpoint(served), given(served, status=[204], timeout=0))


# --- the lines of this start alone

LOG = """\
[2026-12-01 10:00:00 +0000] [10] [INFO] Starting gunicorn
[2026-12-01 10:00:01 +0000] [11] [ERROR] Exception in worker process
Traceback (most recent call last):
ImportError: of an earlier release
[2026-12-01 12:00:00 +0200] [20] [ERROR] in another time zone
[2026-12-01 10:00:05 +0000] [30] [INFO] Starting gunicorn
[2026-12-01 10:00:06 +0000] [21] [ERROR] of the version that is live
Traceback (most recent call last):
ValueError: of the version that is live
[2026-12-01 10:00:07 +0000] [31] [ERROR] of this start
ImportError: of this start
[2026-12-01 10:00:08 +0000] [ERROR] without a process
[2026-12-01 10:00:09 +0000] [10] [INFO] Worker exiting, of an earlier release
with a second line
[2026-12-01 10:00:09 +0000] [10] [INFO] Shutting down: Master
[2026-12-01 10:00:10,123] ERROR in app: a request to this start
"""


@pytest.mark.parametrize(
    ("since", "others", "lines"),
    [
        (0, set(), list(range(16))),
        (1796119205.9, {20, 21}, [5, 9, 10, 11, 15]),
        (1796119205.0, set(), [5, 6, 7, 8, 9, 10, 11, 15]),
        (1796119300.0, set(), []),
        (0, {11, 20, 21, 30, 31}, [0, 11, 12, 13, 14, 15]),
    ],
)
def test_lines_of_earlier_releases_and_of_the_other_slot_are_left_out(since, others, lines):
    all_lines = LOG.splitlines()
    assert lines_since(all_lines, since, others) == [all_lines[number] for number in lines]


def test_the_other_slots_lines_are_known_by_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Endpoint, "main_process", lambda _self, slot: os.getpid() if slot == "green" else 0
    )
    monkeypatch.setattr(Endpoint, "started_at", lambda *_: 0.0)
    log = tmp_path / "error.log"
    log.write_text(
        f"[2026-12-01 10:00:00 +0000] [{os.getpid()}] [INFO] of green\n[2026-12-01 10:00:00 +0000] [1] [INFO] of blue\n"
    )
    words = Endpoint("no-such-endpoint", tmp_path).log_tail("blue", str(log))
    assert "of blue" in words
    assert "of green" not in words


def test_a_connection_counts_once_it_is_accepted(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(path)
        server.listen()
        client.connect(path)
        assert accepted(path, os.getpid()) == set()
        connection, _ = server.accept()
        with connection:
            assert len(accepted(path, os.getpid())) == 1
        assert accepted(path, os.getpid()) == set()
        assert len(listening(path, os.getpid())) == 1
