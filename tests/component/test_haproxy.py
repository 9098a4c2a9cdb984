"""HAProxy itself with the role's configuration: queue, limits, errors, retries, checks, headers, log.

Hosts hold requests until the test releases them, so that counts and order decide, not time.
"""

import json
import re
import signal
import socket
import threading
import time

import pytest
from haproxy import NAME, Balancer, cut, junk, render, running
from outcomes import assert_json_error, assert_readable_by_a_browser, wait_until

PREFLIGHT = {
    "Origin": "https://page.example",
    "Access_Control_Request_Method": "POST",
    "Access_Control_Request_Headers": "content-type, x-token",
}
CLIENT = "203.0.113.77"
AGENT = "marked-user-agent/7.7"
VARIANTS = {
    "usual": {},
    "rate": {"load_balancer_client_rate": 10},
    "impatient": {"load_balancer_queue_timeout": 1},
    "origins": {
        "load_balancer_cors_origins": ["https://a.example", "https://b.example"],
        "load_balancer_cors_credentials": True,
    },
    "caller": {
        "load_balancer_forward_client_address": True,
        "load_balancer_forward_user_agent": True,
    },
    "no proxies": {
        "load_balancer_trusted_proxies": [],
        "load_balancer_forward_client_address": True,
    },
    "no query": {"load_balancer_log_query_string": False},
}


@pytest.fixture
def balancer(request) -> Balancer:
    """Run HAProxy in the variant that the test names, or the usual one."""
    name = getattr(request, "param", "usual")
    with running(render(**VARIANTS[name])) as balancer:
        yield balancer


def variant(name):
    """Run the test with another variant of the configuration."""
    return pytest.mark.parametrize("balancer", [name], indirect=True)


def clients(count):
    """Return addresses of different clients."""
    return [f"198.51.100.{number}" for number in range(1, count + 1)]


def fill(balancer, queued=4):
    """Have clients wait for an answer: the first four at the hosts, then these in the queue."""
    asked = clients(4 + queued)
    pending = [balancer.send("/hold", client=client) for client in asked[:4]]
    balancer.wait_for_held(4)
    pending += [balancer.send("/hold", client=client) for client in asked[4:]]
    balancer.wait_for_queue(queued)
    return pending


# --- sharing


def test_hosts_share_the_requests(balancer):
    for client in clients(20):
        assert balancer.ask(client=client).status == 200
        balancer.wait_for_requests(0)
    assert [len(host.heard) for host in balancer.hosts.values()] == [10, 10]


def test_the_host_with_fewer_requests_gets_the_next(balancer):
    first = balancer.send("/hold")
    balancer.wait_for_held(1)
    for client in clients(6):
        assert balancer.ask(client=client).status == 200
        balancer.wait_for_requests(1)
    busy, idle = sorted(balancer.hosts.values(), key=lambda host: -host.held)
    assert [len(busy.heard), len(idle.heard)] == [1, 6]
    balancer.release()
    assert first.answer().status == 200


def test_answers_come_as_the_hosts_give_them(balancer):
    body = b"x" * 200_000
    for host in balancer.hosts.values():
        host.does["/echo"] = lambda handler: handler.answer(500, b"as it is", X_Own="1")
    answer = balancer.ask("/echo", "POST", body)
    assert (answer.status, answer.body, answer.all("X-Own")) == (500, b"as it is", ["1"])
    assert [heard.body for heard in balancer.heard] == [body]
    answer = balancer.ask()
    assert (answer.status, answer.body) == (200, b"{}")
    assert_readable_by_a_browser(answer)
    assert balancer.ask("/echo", "OPTIONS", **PREFLIGHT).status == 500, "a host answers preflights"


# --- the queue


def test_more_than_the_hosts_can_take_waits_and_more_than_that_is_refused(balancer):
    waiting = fill(balancer)
    for _number in range(3):
        refused = balancer.ask(client="198.51.100.200")
        assert_json_error(refused, 503)
        assert refused.all("Retry-After") == ["2"]
    assert len(balancer.heard) == 4, "a host got more than its places"
    balancer.release()
    assert [pending.answer().status for pending in waiting] == [200] * 8


def test_a_preflight_is_answered_while_the_queue_is_full(balancer):
    waiting = fill(balancer)
    assert_preflight(balancer)
    balancer.release()
    assert [pending.answer().status for pending in waiting] == [200] * 8


@variant("impatient")
def test_a_request_in_the_queue_is_refused_in_the_end(balancer):
    *held, queued = fill(balancer, 1)
    assert_json_error(queued.answer(), 503)
    assert sum(host.held for host in balancer.hosts.values()) == 4
    balancer.release()
    assert [pending.answer().status for pending in held] == [200] * 4
    assert len(balancer.heard) == 4, "a host got the request that was refused"


def test_a_body_that_is_slow_to_arrive_takes_no_place(balancer):
    head = f"POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", balancer.port), 60) as slow:
        slow.sendall(head.encode() + b"a")
        assert balancer.ask("/other", client=CLIENT).status == 200
        assert [heard.path for heard in balancer.heard] == ["/other"]
        slow.sendall(b"b")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert [heard.body for heard in balancer.heard] == [b"", b"ab"]


# --- limits for one client


def test_one_client_gets_half_of_the_places(balancer):
    held = [balancer.send("/hold", client=CLIENT) for _number in range(2)]
    balancer.wait_for_held(2)
    refused = balancer.ask("/hold", client=CLIENT)
    assert_json_error(refused, 503)
    assert refused.all("Retry-After") == ["2"]
    assert balancer.ask(client="203.0.113.78").status == 200
    balancer.release()
    assert [pending.answer().status for pending in held] == [200] * 2
    # A client that is not busy any more is not limited any more.
    assert balancer.ask(client=CLIENT).status == 200


def test_a_proxy_that_names_no_client_is_not_limited(balancer):
    held = [balancer.send("/hold") for _number in range(4)]
    balancer.wait_for_held(4)
    balancer.release()
    assert [pending.answer().status for pending in held] == [200] * 4


@variant("no proxies")
def test_without_proxies_the_connection_tells_who_is_a_client(balancer):
    held = [balancer.send("/hold", client=client) for client in clients(2)]
    balancer.wait_for_held(2)
    assert balancer.ask(client="203.0.113.78").status == 503
    balancer.release()
    assert [pending.answer().status for pending in held] == [200] * 2
    assert {heard.headers["x-forwarded-for"] for heard in balancer.heard} == {"127.0.0.1"}


@variant("rate")
def test_one_client_gets_no_more_than_its_rate(balancer):
    """Ten requests a second, and 20 at once; a busy machine may need seconds for the 300."""

    def burst(client, count):
        head = f"GET / HTTP/1.1\r\nHost: {NAME}\r\nX-Forwarded-For: {client}\r\n"
        last = f"{head}Connection: close\r\n\r\n"
        received = balancer.raw(f"{head}\r\n".encode() * (count - 1) + last.encode())
        return re.findall(
            rb"HTTP/1\.1 (\d{3}).*?\r\n\r\n(?:({.*?})(?=HTTP/|$))?", received, re.S
        ), received.lower()

    answers, received = burst(CLIENT, 300)
    statuses = [status for status, _body in answers]
    assert statuses[:20] == [b"200"] * 20
    assert set(statuses[20:]) == {b"200", b"429"}
    limited = statuses.count(b"429")
    assert limited > 150
    assert len(balancer.heard) == 300 - limited
    assert {
        json.loads(body)["error"]["status"] for status, body in answers if status == b"429"
    } == {429}
    assert received.count(b"retry-after: 1\r\n") == limited
    assert received.count(b"access-control-allow-origin: *\r\n") == 300
    others, _received = burst("203.0.113.78", 20)
    assert [status for status, _body in others] == [b"200"] * 20, "others are refused for it"
    preflights = [balancer.ask("/", "OPTIONS", client=CLIENT, **PREFLIGHT) for _number in range(5)]
    assert [answer.status for answer in preflights] == [200] * 5


# --- errors of its own


def assert_preflight(balancer):
    """HAProxy answers a preflight itself."""
    before = len(balancer.heard)
    answer = balancer.ask("/echo", "OPTIONS", client="198.51.100.200", **PREFLIGHT)
    assert answer.status == 204
    assert_readable_by_a_browser(answer)
    assert answer.all("Access-Control-Allow-Methods") == ["POST"]
    assert answer.all("Access-Control-Allow-Headers") == ["content-type, x-token"]
    assert len(balancer.heard) == before


def test_without_any_host_there_are_errors_that_a_browser_can_read(balancer):
    for name, host in balancer.hosts.items():
        host.stop()
        balancer.wait_for_state(name, "DOWN")
    answer = balancer.ask()
    assert_json_error(answer, 503)
    assert answer.all("Retry-After") == ["2"]
    assert_preflight(balancer)


@variant("origins")
def test_errors_can_be_read_by_the_pages_that_may_read_them(balancer):
    for host in balancer.hosts.values():
        host.does["/cut"] = cut
    for origin, allowed in {
        "https://b.example": ["https://b.example"],
        "https://c.example": [],
    }.items():
        refused = balancer.ask("/cut", "POST", Origin=origin)
        assert refused.status == 502
        assert refused.all("Access-Control-Allow-Origin") == allowed
        assert refused.all("Vary") == ["Origin"]
    assert refused.all("Access-Control-Allow-Credentials") == []
    # A host's own header is not doubled.
    assert_readable_by_a_browser(balancer.ask(Origin="https://a.example"))


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "a broken header", "a head without end"],
)
def test_a_malformed_request_never_reaches_a_host(balancer, sent):
    assert balancer.raw(sent).startswith(b"HTTP/1.1 400 ")
    assert balancer.ask("/after").status == 200
    assert [heard.path for heard in balancer.heard] == ["/after"]


def test_heads_that_are_too_large_for_nginx_reach_it(balancer):
    """nginx answers them with errors that a browser can read."""
    assert balancer.ask("/" + "x" * 20_000).status == 200
    assert balancer.ask("/", X_Large="x" * 20_000).status == 200


# --- hosts that fail


@pytest.mark.parametrize("does", [cut, junk])
def test_a_request_that_changes_nothing_is_sent_to_another_host(balancer, does):
    first, second = balancer.hosts.values()
    first.does["/"] = does
    for method in ("GET", "HEAD", "OPTIONS"):
        first.heard.clear()
        # One of the two goes to the first host first.
        for _number in range(2):
            assert balancer.ask(method=method).status == 200
            balancer.wait_for_requests(0)
        assert {heard.method for heard in first.heard} == {method}
    assert len(second.heard) == 6


@pytest.mark.parametrize("does", [cut, junk])
def test_a_request_that_may_change_something_is_sent_once(balancer, does):
    for host in balancer.hosts.values():
        host.does["/"] = does
    assert_json_error(balancer.ask("/", "POST", b"x"), 502)
    assert len(balancer.heard) == 1


def test_a_host_that_refuses_connections_fails_no_request(balancer):
    """Nothing was sent to it, so a POST too is sent to another host."""
    balancer.hosts["one"].stop()
    statuses = [balancer.ask(method=method).status for method in ("POST", "GET") * 5]
    assert statuses == [200] * 10
    balancer.wait_for_state("one", "DOWN")
    balancer.hosts["one"].start()
    balancer.wait_for_state("one", "UP")


def test_a_host_that_drains_gets_nothing_new_and_ends_what_it_has(balancer):
    leaving, other = balancer.hosts["one"], balancer.hosts["two"]
    held = [balancer.send("/hold", client=client) for client in clients(2)]
    balancer.wait_for_held(2)
    leaving.check = 404
    balancer.wait_for_state("one", "NOLB")
    other.released.set()
    statuses = [balancer.ask(client=client).status for client in clients(10)]
    assert statuses == [200] * 10
    assert (leaving.held, len(leaving.heard)) == (1, 1)
    leaving.released.set()
    assert [pending.answer().status for pending in held] == [200] * 2
    leaving.check = 200
    balancer.wait_for_state("one", "UP")


def test_any_status_below_500_says_that_a_host_is_healthy(balancer):
    one, two = balancer.hosts.values()
    one.check, two.check = 499, 500
    balancer.wait_for_state("two", "DOWN")
    begun = one.checks
    # The first may have ended before; two decide.
    wait_until(lambda: one.checks >= begun + 3, "three more checks are answered")
    assert balancer.rows()["one"]["status"] == "UP"
    assert balancer.rows()["one"]["chkfail"] == "0"


def test_one_failed_check_does_not_take_a_host_out(balancer):
    host = balancer.hosts["one"]
    wait_until(lambda: host.checks, "a check is answered")
    host.next_check = 500
    wait_until(lambda: balancer.rows()["one"]["chkfail"] == "1", "a check has failed")
    wait_until(lambda: balancer.rows()["one"]["status"] == "UP", "it is healthy again")
    assert balancer.rows()["one"]["chkdown"] == "0"


# --- what hosts and logs learn


TELLING = {
    name.replace("-", "_"): CLIENT
    for name in (
        "Forwarded", "Via", "X-Real-IP", "X-Forwarded", "True-Client-IP", "X-Client-IP", "Client-IP",
        "CF-Connecting-IP", "X-Balancer-Check",
    )
}  # fmt: skip
PROGRAM = {"User_Agent": AGENT, "Api_User_Agent": AGENT, "Sec_CH_UA_Platform": AGENT}


def test_a_host_learns_nothing_of_the_caller(balancer):
    answer = balancer.ask(client=CLIENT, X_Forwarded_Proto="https", **TELLING, **PROGRAM)
    assert answer.status == 200
    (heard,) = balancer.heard
    assert heard.headers == {
        "host": NAME,
        "accept-encoding": "identity",
        "x-forwarded-proto": "https",
    }


@variant("caller")
def test_a_host_learns_of_the_caller_what_its_owner_asks_for(balancer):
    balancer.ask(client=CLIENT, **TELLING, **PROGRAM)
    (heard,) = balancer.heard
    program = dict.fromkeys(("user-agent", "api-user-agent", "sec-ch-ua-platform"), AGENT)
    assert heard.headers == {
        "host": NAME,
        "accept-encoding": "identity",
        "x-forwarded-for": CLIENT,
        **program,
    }


def test_a_header_whose_name_is_none_is_dropped(balancer):
    """Programs behind HAProxy read X_Real_IP as X-Real-IP."""
    balancer.raw(f"GET / HTTP/1.0\r\nHost: {NAME}\r\nX_Real_IP: {CLIENT}\r\n\r\n".encode())
    (heard,) = balancer.heard
    assert CLIENT not in str(heard)


LINE = r'\[\d\d/\w{3}/\d{4}:[\d:]{8} [+-]\d{4}\] "%s" %s \d+ %s %s'


def test_the_log_says_what_was_asked_and_not_by_whom(balancer):
    balancer.ask("/a?b=c", client=CLIENT, **TELLING, **PROGRAM)
    for host in balancer.hosts.values():
        host.does["/cut"] = cut
    balancer.ask("/cut", "POST", b"x", client=CLIENT, **PROGRAM)
    balancer.raw(f"secret {CLIENT} {AGENT}\r\n\r\n".encode())
    lines = balancer.wait_for_lines(3)
    expected = [
        LINE % (r"GET /a\?b=c HTTP/1\.1", 200, r"\d+", "(one|two)"),
        LINE % (r"POST /cut HTTP/1\.1", 502, r"-?\d+", "(one|two)"),
        r'\[.*\] "(-|<BADREQ>)" .*',
    ]
    # HAProxy's threads write in the order in which they come to it.
    assert [sum(bool(re.fullmatch(pattern, line)) for line in lines) for pattern in expected] == [
        1,
        1,
        1,
    ], lines
    everything = str(balancer._lines)
    assert not [mark for mark in (CLIENT, AGENT, "127.0.0.1", "secret") if mark in everything]


def test_a_connection_without_a_request_is_not_logged(balancer):
    socket.create_connection(("127.0.0.1", balancer.port), 60).close()
    balancer.ask("/after")
    (line,) = balancer.wait_for_lines(1)
    assert "/after" in line


@variant("no query")
def test_the_log_keeps_no_query_string_when_it_should_not(balancer):
    balancer.ask("/a?secret=1")
    (line,) = balancer.wait_for_lines(1)
    assert re.fullmatch(LINE % (r"GET /a HTTP/1\.1", 200, r"\d+", "(one|two)"), line), line


def test_metrics_are_for_this_machine(balancer):
    def ask(address, path):
        with socket.create_connection((address, balancer.metrics_port), 60) as client:
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            return b"".join(iter(lambda: client.recv(65536), b"")).decode()

    shown = ask("127.0.0.1", "/metrics")
    for name in balancer.hosts:
        assert f'haproxy_server_status{{proxy="api",server="{name}",state="UP"}} 1' in shown
    assert "HTTP/1.1 200" in ask("127.0.0.1", "/")
    assert balancer.lines() == []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but the loopback's")
        other = probe.getsockname()[0]
    for path in ("/metrics", "/"):
        assert ask(other, path).startswith("HTTP/1.1 403 ")


# --- a reload


def test_a_reload_closes_no_connection_under_a_client(balancer):
    """New connections get the new process; idle ones are closed with their next answer."""

    def loaded():
        return (balancer.folder / "output").read_text().count("Loading success.")

    idle = balancer.send("/before")
    assert idle.connection.getresponse().read() == b"{}"
    held = balancer.send("/hold")
    balancer.wait_for_held(1)
    assert loaded() == 1
    balancer.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: loaded() == 2, "a new process has read the configuration")
    assert balancer.ask("/new").status == 200
    idle.connection.request("GET", "/after", headers={"Host": NAME})
    answer = idle.connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "close")
    balancer.release()
    assert held.answer().status == 200


def test_a_stream_comes_as_it_is_made_and_may_be_silent_for_longer_than_a_client():
    """The client's time-out is one of clients: one that only listens has nothing to say."""
    go_on = threading.Event()

    def events(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"5\r\nfirst\r\n")
        go_on.wait()
        handler.wfile.write(b"4\r\nlast\r\n0\r\n\r\n")

    with running(render(load_balancer_client_timeout=1)) as balancer:
        for host in balancer.hosts.values():
            host.does["/events"] = events
        pending = balancer.send("/events")
        answer = pending.connection.getresponse()
        assert answer.read(5) == b"first"
        time.sleep(2.5)
        go_on.set()
        assert answer.read() == b"last"
