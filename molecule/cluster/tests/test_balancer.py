"""The balancer: who gets a request, what it answers itself, what it tells nobody."""

import concurrent.futures
import contextlib
import http.client
import re
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest
from conftest import all_gone
from load import KEEP_ALIVE, NEW, assert_nothing_failed, load
from outcomes import Answer, assert_json_error, assert_readable_by_a_browser, wait_until

# A server that answers with the head of the request that it got.
HEARS = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"heard {self.requestline}\\n{self.headers}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type, x-token"}


def raw(api, sent: bytes, seconds: float = 15) -> bytes:
    """Send bytes and return what comes until the connection ends."""
    with socket.create_connection(("127.0.0.1", api.port), seconds) as client:
        client.sendall(sent)
        received = b""
        while more := client.recv(65536):
            received += more
    return received


def at_once(api, path: str, clients: list[str]) -> Iterator[Answer]:
    """GET a path for clients with these addresses at the same moment; yield the answers in the order in which they come."""
    port = api.port
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=30) for _ in clients]
    with contextlib.ExitStack() as opened, selectors.DefaultSelector() as waiting:
        for connection in connections:
            connection.connect()
            opened.callback(connection.close)
        for connection, client in zip(connections, clients, strict=True):
            connection.request("GET", path, headers={"Host": api.name, "X-Forwarded-For": client})
            waiting.register(connection.sock, selectors.EVENT_READ, connection)
        while waiting.get_map():
            come = waiting.select(30)
            assert come, "no answer"
            for key, _ in come:
                waiting.unregister(key.fileobj)
                answer = key.data.getresponse()
                yield Answer(answer.status, answer.getheaders(), answer.read())


def test_every_host_gets_its_part_through_each_balancer(cluster):
    for balancer in cluster.balancers:
        before = {name: int(row["stot"]) for name, row in balancer.figures.items()}
        with load(balancer) as result:
            time.sleep(3)
        assert_nothing_failed(result)
        parts = [int(row["stot"]) - before[name] for name, row in balancer.figures.items()]
        assert len(parts) == 3
        assert min(parts) > max(parts) / 2, parts


def test_answers_come_as_the_hosts_give_them(balancer):
    for answer in (balancer.get("/"), balancer.get("/status/404"), balancer.get("/status/500"), balancer.get("/nowhere")):
        assert_readable_by_a_browser(answer)
    assert balancer.ask("POST", "/echo", b"x" * 200_000).body == b"x" * 200_000
    assert_json_error(balancer.ask("POST", "/echo", b"x" * 1_500_000), 413)
    assert_json_error(balancer.ask("TRACE", "/"), 405)
    preflight = balancer.ask("OPTIONS", "/echo", headers=PREFLIGHT)
    assert preflight.status == 204
    assert "POST" in preflight.all("Access-Control-Allow-Methods")[0]


def test_heads_that_are_too_much_for_nginx_get_its_errors(balancer):
    assert_json_error(balancer.get("/" + "x" * 20_000), 414)
    assert_json_error(balancer.get("/", headers={"X-Large": "x" * 20_000}), 431)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
    ],
    ids=["no HTTP", "a broken header", "a head without end"],
)
def test_what_is_no_http_never_reaches_a_host(cluster, balancer, sent):
    def logged() -> list[str]:
        return [endpoint.host.check_output("grep -vc /readyz /var/log/nginx/access.log") for endpoint in cluster.endpoints]

    before = logged()
    assert raw(balancer, sent).startswith(b"HTTP/1.1 400 ")
    assert logged() == before


def test_without_any_host_there_are_errors_that_a_browser_can_read(cluster):
    with all_gone(cluster):
        for balancer in cluster.balancers:
            answer = balancer.get("/")
            assert_json_error(answer, 503)
            assert answer.all("Retry-After") == ["2"]
            preflight = balancer.ask("OPTIONS", "/echo", headers=PREFLIGHT)
            assert preflight.status == 204
            assert_readable_by_a_browser(preflight)
            assert preflight.all("Access-Control-Allow-Methods") == ["POST"]
            assert preflight.all("Access-Control-Allow-Headers") == ["content-type, x-token"]


def test_more_than_the_hosts_can_take_waits_and_more_than_that_is_sent_away(balancer):
    """18 places at each of three hosts, and as many may wait: of 150, at least 42 are told at once to try again."""
    answers = list(at_once(balancer, "/sleep?seconds=1", [f"198.51.100.{number}" for number in range(150)]))
    away = [answer for answer in answers if answer.status != 200]
    assert 42 <= len(away) < 140, len(away)
    for answer in away:
        assert_json_error(answer, 503)
        assert answer.all("Retry-After") == ["2"]
    assert [answer.status for answer in answers[:42]] == [503] * 42, "they were told when others had been served"
    assert all(state["status"] == "UP" for state in balancer.figures.values()), "a host that is busy was thrown out"


def test_one_client_gets_no_more_than_its_part(balancer):
    """100 requests a second, and 200 for a moment."""

    def statuses(client: str, count: int) -> list[int]:
        asked = f"GET / HTTP/1.1\r\nHost: {balancer.name}\r\nX-Forwarded-For: {client}\r\n"
        received = raw(balancer, f"{asked}\r\n".encode() * (count - 1) + f"{asked}Connection: close\r\n\r\n".encode(), 30)
        heads = re.findall(rb"HTTP/1\.1 (\d{3}).*?\r\n\r\n", received, re.S)
        assert received.lower().count(b"access-control-allow-origin: *") == len(heads) == count
        return [int(status) for status in heads]

    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        greedy = [status for some in pool.map(lambda _: statuses("198.51.100.200", 150), range(6)) for status in some]
    seconds = time.monotonic() - begun
    assert 100 <= greedy.count(200) <= 200 + 100 * seconds + 50, f"{greedy.count(200)} of 900 in {seconds:.1f} s"
    assert greedy.count(429) == 900 - greedy.count(200) > 0
    assert set(statuses("198.51.100.201", 50)) == {200}, "others are sent away for what one client does"


def test_a_client_with_all_the_places_leaves_half_to_others(balancer):
    """27 of 54 places."""
    answers = at_once(balancer, "/sleep?seconds=2", ["198.51.100.202"] * 60)
    away = [next(answers).status for _ in range(20)]
    assert away == [503] * 20, "those who are too many are sent away"
    other = balancer.get("/", headers={"X-Forwarded-For": "198.51.100.203"})
    assert other.status == 200
    away += [answer.status for answer in answers if answer.status == 503]
    assert 20 <= len(away) <= 34, len(away)


@contextlib.contextmanager
def hearing(node):
    """In nginx's place, something tells what it hears."""
    subprocess.run(
        ["docker", "exec", "-i", node.container, "sh", "-c", "cat > /root/hears.py"], input=HEARS, text=True, check=True
    )
    node.host.check_output("systemctl stop nginx && systemd-run --quiet --unit=hears python3 /root/hears.py")
    try:
        yield
    finally:
        node.host.check_output("systemctl stop hears; rm /root/hears.py; systemctl start nginx")


def test_a_host_hears_nothing_of_the_caller(cluster, balancer):
    """Nor of a check that is none: a host answers the balancer's own without a line in its log."""
    telling = ("Via", "True-Client-IP", "X-Client-IP", "CF-Connecting-IP", "X-Balancer-Check", "Api-User-Agent")
    headers = {**dict.fromkeys(telling, "203.0.113.77"), "X-Forwarded-Proto": "https"}
    heard = ""

    def is_heard() -> bool:
        nonlocal heard
        heard = balancer.get("/heard", headers=headers).body.decode()
        return heard.startswith("heard ")

    with hearing(cluster.endpoints[0]):
        wait_until(is_heard, "the host that tells gets a request", 30)
    names = {line.partition(":")[0].lower() for line in heard.splitlines()[1:]}
    assert names == {"", "host", "accept-encoding", "origin", "x-forwarded-proto"}, heard
    assert f"host: {balancer.name}" in heard.lower()
    assert "x-forwarded-proto: https" in heard.lower()


def test_the_app_knows_how_it_was_called_and_not_by_whom(balancer):
    known = balancer.get("/environ", headers={"X-Forwarded-Proto": "https"}).json
    assert known["wsgi.url_scheme"] == "https"
    assert known["HTTP_HOST"] == balancer.name
    assert balancer.host.check_output("ip route show default").split()[2] not in str(known)


def test_the_log_says_what_was_asked_and_not_by_whom(balancer):
    marker = f"/status/404?marker={time.time_ns()}"
    balancer.get(marker)
    wait_until(lambda: any(marker in line for line in balancer.log), "the request is logged")
    line = next(line for line in balancer.log if marker in line)
    assert re.fullmatch(
        rf'\[\d\d/\w{{3}}/\d{{4}}:[\d:]{{8}} \+0000\] "GET {re.escape(marker)} HTTP/1\.1" 404 \d+ \d+ \S+-(one|two|three)',
        line,
    )
    raw(balancer, b"secret nonsense 203.0.113.77\r\n\r\n")
    everything = balancer.host.check_output("cat /var/log/haproxy/*.log")
    assert "203.0.113.77" not in everything
    assert "marked-user-agent" not in everything
    # Debian's own file has what HAProxy says when it starts.
    assert balancer.host.run("grep -c 'GET ' /var/log/haproxy.log").stdout.strip() in ("", "0")


def test_figures_are_for_the_balancer_itself(cluster):
    for balancer in cluster.balancers:
        page = balancer.host.check_output(
            "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8404/metrics\").read().decode())'"
        )
        for endpoint in cluster.endpoints:
            assert f'haproxy_server_status{{proxy="api",server="{endpoint.container}",state="UP"}} 1' in page
        listening = balancer.host.check_output("ss -ltnH 'sport = :8404'")
        assert "127.0.0.1:8404" in listening
        other = cluster.endpoints[0].host.run(f"curl -s -m 3 http://{balancer.address}:8404/metrics")
        assert other.rc == 7, "somebody else can connect"


def test_it_runs_confined_without_root(cluster):
    for balancer in cluster.balancers:
        owners = set(balancer.host.check_output("ps -o user= -C haproxy").split())
        assert owners == {"haproxy"}
        score = balancer.host.check_output("systemd-analyze security haproxy --no-pager | tail -n 1")
        assert float(re.search(r": ([0-9.]+) ", score)[1]) < 2.0, score


@pytest.mark.parametrize("whom", ["master", "worker"])
@pytest.mark.parametrize("which", [0, 1], ids=["Debian 13", "Debian 12"])
def test_it_comes_back_when_it_is_killed(cluster, whom, which):
    balancer = cluster.balancers[which]
    main = balancer.main_pid("haproxy")
    balancer.kill(main if whom == "master" else balancer.workers("haproxy")[0])
    wait_until(lambda: balancer.main_pid("haproxy") not in (0, main), "HAProxy was started anew", 10)
    balancer.wait_until_it_answers("/readyz", 10)


def test_a_reload_under_load_fails_no_request(cluster, balancer):
    worker = balancer.workers("haproxy")
    with load(balancer, modes=(NEW, KEEP_ALIVE), retry_once=False) as result:
        for rate in (90, 100):
            run = cluster.play("-e", f"load_balancer_client_rate={rate}", "--limit", balancer.container,
                               name="playbooks/load_balancers.yml")  # fmt: skip
            assert run.status == 0, run.output
            # The file, that HAProxy has not read it, and the reload.
            assert run.changed == [3], run.output
    assert_nothing_failed(result)
    assert balancer.workers("haproxy") != worker


def test_a_second_run_changes_nothing_and_makes_up_for_one_that_was_cut_off(cluster, balancer):
    run = cluster.play(name="playbooks/load_balancers.yml")
    assert run.status == 0, run.output
    assert run.changed == [0, 0], run.output
    # The file is there, and HAProxy was never told to read it.
    balancer.host.check_output(f"echo {'0' * 64}  /etc/haproxy/haproxy.cfg > /run/haproxy/loaded")
    try:
        dry = cluster.play("--check", "--diff", name="playbooks/load_balancers.yml")
    finally:
        balancer.host.check_output("systemctl reload haproxy")
    assert dry.status == 0, dry.output
    assert sorted(dry.changed) == [0, 1], dry.output
    assert "RUNNING HANDLER [load_balancer : Reload HAProxy]" in dry.output


def test_a_configuration_that_haproxy_rejects_replaces_nothing(cluster, balancer):
    before = balancer.host.check_output("sha256sum /etc/haproxy/haproxy.cfg")
    servers = '{"load_balancer_servers": [{"name": "x", "address": "10.0.0.1"}], "load_balancer_health_path": "/{"}'
    # HAProxy knows no such format of a header, and the preflight does not look for that.
    run = cluster.play(
        "-e", servers, "-e", '{"__load_balancer_errors": {"999": "no such error"}}', "--limit", balancer.container,
        name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status != 0
    assert "999" in run.said
    assert balancer.host.check_output("sha256sum /etc/haproxy/haproxy.cfg") == before
    assert balancer.get("/").status == 200


def test_what_makes_no_sense_is_refused_before_anything_is_touched(cluster, balancer):
    run = cluster.play(
        "-e", "load_balancer_prot=81", "-e", "load_balancer_queue_timeout=0", "-e", '{"load_balancer_servers": []}',
        "--limit", balancer.container, name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status != 0
    assert "Nothing was touched" in run.said
    for said in ("Did you mean load_balancer_port?", "load_balancer_queue_timeout is '0'", "load_balancer_servers is []"):
        assert said in run.said
    assert run.changed == [0]


def test_balancers_share_an_address_that_moves(cluster):
    address = ".".join([*cluster.balancer.address.split(".")[:2], "250", "250"])
    caller = cluster.endpoints[0].host

    def owners() -> list[str]:
        return [node.container for node in cluster.balancers if f" {address}/" in node.host.check_output("ip -br address")]

    def answers() -> bool:
        return caller.run(f"curl -s -f -m 2 -H 'Host: {cluster.balancer.name}' http://{address}/readyz").rc == 0

    run = cluster.play(
        "-e", f"load_balancer_floating_address={address}/16", "-e", "load_balancer_floating_interface=eth0",
        name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status == 0, run.output
    try:
        wait_until(lambda: len(owners()) == 1 and answers(), "one of them has it", 20)
        first = next(node for node in cluster.balancers if node.container in owners())
        other = next(node for node in cluster.balancers if node is not first)
        begun = time.monotonic()
        first.host.check_output("systemctl stop haproxy")
        wait_until(lambda: owners() == [other.container] and answers(), "the other has it", 20)
        assert time.monotonic() - begun < 10
        first.host.check_output("systemctl start haproxy")
        first.wait_until_it_answers("/readyz", 10)
        time.sleep(4)  # the time in which it would take the address back
        assert owners() == [other.container]
    finally:
        for node in cluster.balancers:
            node.host.check_output("systemctl disable --now keepalived; systemctl start haproxy")
