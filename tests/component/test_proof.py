"""A version is proven through nginx, by the socket that is root's on a host; and nginx is known by what it has loaded."""

import concurrent.futures
import contextlib
import http.server
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint import http as prober
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import nginx
from ansible.module_utils.api_endpoint.release.readiness import (
    ReadinessCheck,
    ReleaseRejectedError,
    Request,
)
from endpoint import program as program_path
from endpoint import running
from outcomes import wait_until
from test_readiness import version  # noqa: F401 (a fixture)

OK = b"HTTP/1.1 200 OK\r\n"
NGINX = subprocess.run(
    [program_path("nginx"), "-v"], capture_output=True, text=True, check=True
).stderr
NEWER = ("duplicate", '"Content-Length"', "invalid .Content")  # what older ones let pass
LONG = "x" * 9000  # more than a page, which is what nginx takes of headers, on any machine of today


@pytest.fixture(scope="module")
def api():
    """An endpoint with all that a request of the public may meet."""
    with running(
        api_endpoint_balancers=["lb"], api_endpoint_metrics_listen="127.0.0.1:9113", api_endpoint_cache={"ttl": 60},
        api_endpoint_max_body_size="1k", api_endpoint_proxy_timeout=1, api_endpoint_max_concurrency=1,
    ) as api:  # fmt: skip
        yield api


def proof_socket(api):
    return str(api.folder / "run" / "api-endpoint.sock")


def lead_to(api, path):
    """Turn the candidate's link, as a rollout does."""
    link = api.root / "candidate" / "gunicorn.sock"
    link.parent.mkdir(exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(path)


@pytest.fixture
def candidate(api):
    """A version that is being proven: a socket, and the bytes with which it answers a path; the requests that it got."""
    path, answers, asked = api.root / "candidate-app.sock", {}, []
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen(64)
    lead_to(api, path)

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    request = connection.recv(65536).decode()
                    asked.append(request)
                    answer = answers.get(
                        request.split()[1], OK + b"Content-Length: 9\r\n\r\ncandidate"
                    )
                    if answer is None:
                        wait_until(lambda: not answers, "the test ends")
                    else:
                        connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    yield SimpleNamespace(answers=answers, asked=asked, path=path)
    answers.clear()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    path.unlink()


def proof_of(api, path, pids=(), smoke=(), **plan):
    whole = {
        "server_name": api.name, "health": {"path": "/", "status": [200], "timeout": 20}, "start_timeout": 20,
        "workers": len(pids), "smoke": list(smoke), **plan,
    }  # fmt: skip
    return ReadinessCheck(
        whole,
        str(path),
        lambda: sorted(pids),
        lambda: "",
        proof_socket(api),
        api.folder / "api-endpoint-proof.log",
    )


def ask(api, candidate, path, **request):
    return proof_of(api, candidate.path).ask(Request.from_plan({"path": path, **request}))


def headers(*lines):
    return OK + "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "status", "cause"),
    [
        (
            headers(
                "Content-Length: 0", *(f"X-Header-{number}: some value" for number in range(40))
            ),
            200,
            "",
        ),
        (
            headers("Content-Length: 0", f"Content-Security-Policy: {LONG}"),
            502,
            "too big header.*larger, all together",
        ),
        (
            headers(*(f"Set-Cookie: {number}={'x' * 100}" for number in range(90))),
            502,
            "too big header.*Set-Cookie",
        ),
        (headers("Content-Length: 1", "Content-Length: 1"), 502, "duplicate header line.*twice"),
        (
            headers("Content-Length: 1", "Transfer-Encoding: chunked"),
            502,
            '"Content-Length" and.*both headers',
        ),
        (headers("Content-Length: many"), 502, "invalid .Content-Length.*no number"),
        (headers("A name: value"), 502, "invalid header.*not allow"),
        (b"* OK IMAP4rev1 Service Ready\r\n", None, ""),
        (b"", 502, "prematurely closed.*worker ended"),
        (OK + b"Content-Le", 502, "prematurely closed.*worker ended"),
        (None, 504, "timed out.*api_endpoint_proxy_timeout"),
        (b"HTTP/1.1 502 Own\r\nContent-Length: 3\r\n\r\nown", 502, ""),
    ],
    ids=[
        "many",
        "large",
        "cookies",
        "twice",
        "both",
        "no number",
        "invalid",
        "no HTTP",
        "nothing",
        "half",
        "late",
        "own",
    ],
)
def test_what_nginx_makes_of_an_answer_is_seen_and_said(api, candidate, answer, status, cause):
    if cause.startswith(NEWER) and re.search(r"nginx/1\.(\d|1\d|2[012])\.", NGINX):
        pytest.skip("this nginx lets it pass")
    candidate.answers["/"] = answer
    told = ask(api, candidate, "/")
    assert told.status == status
    assert re.search(f"^nginx's reason: upstream.*{cause}" if cause else "^$", told.cause), (
        told.cause
    )


def test_a_version_that_takes_no_connections(api, candidate):
    lead_to(api, "nowhere")
    assert "nothing takes connections" in ask(api, candidate, "/").cause


def test_a_live_version_without_uwsgi_never_answers_for_the_one_that_is_proven(api, candidate):
    mark, away = api.root / "live" / "uwsgi", api.root / "live" / "unknown"
    lead_to(api, "nowhere")
    mark.rename(away)
    try:
        assert api.get("/readyz").status == 200
        assert ask(api, candidate, "/readyz").status == 502
    finally:
        away.rename(mark)


def test_an_earlier_proofs_reason_is_not_this_ones(api, candidate):
    candidate.answers |= {
        "/large": headers(f"X: {LONG}"),
        "/own": b"HTTP/1.1 502 Own\r\nContent-Length: 0\r\n\r\n",
    }
    assert ask(api, candidate, "/large").cause
    assert not ask(api, candidate, "/own").cause


@pytest.mark.parametrize(
    ("request_", "status", "cause"),
    [
        ({"method": "PURGE"}, 405, "api_endpoint_methods"),
        ({"method": "POST", "body": "x" * 2000}, 413, "api_endpoint_max_body_size"),
        ({"headers": {"X-Large": "x" * 40000}}, 431, "too large"),
        ({"path": "/" + "x" * 40000}, 414, "too long"),
    ],
)  # fmt: skip
def test_what_nginx_refuses_is_seen_and_said(api, candidate, request_, status, cause):
    told = ask(api, candidate, **{"path": "/", **request_})
    assert (told.status, candidate.asked) == (status, [])
    assert cause in told.cause


def test_headers_that_do_not_reach_the_app_are_named(api, candidate):
    smoke = Request.from_plan(
        {"path": "/", "headers": {"X-Model": "b", "Accept": "text/plain"}, "text": "model b"}
    )
    mismatch = smoke.mismatch(ask(api, candidate, "/", headers=smoke.headers))
    assert "X-Model" not in candidate.asked[0]
    assert "nginx passes on X-Model only if api_endpoint_request_headers has it" in mismatch


def test_a_version_is_asked_as_by_the_web_proxy(api, candidate):
    assert ask(api, candidate, "/a?b=%20c").text == "candidate"
    head = candidate.asked[0].splitlines()
    assert head[0] == "GET /a?b=%20c HTTP/1.1"
    assert {f"Host: {api.name}", "X-Forwarded-Proto: https", "Connection: close"} < set(head)


def test_a_version_that_takes_uwsgi_is_proven_in_it(api, tmp_path):
    with (
        socket.socket(socket.AF_UNIX) as listening,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        lead_to(api, tmp_path / "socket")
        mark = api.root / "candidate" / "uwsgi"  # as the version leaves it beside its socket
        mark.touch()
        answer = pool.submit(ask, api, SimpleNamespace(path=tmp_path / "socket"), "/")
        connection, _ = listening.accept()
        with connection:
            assert connection.recv(65536).startswith(b"\0")
            connection.sendall(OK + b"Content-Length: 5\r\n\r\nuwsgi")
            assert answer.result().text == "uwsgi"
        mark.unlink()


def test_a_proof_counts_for_nothing(api, candidate):
    """Neither for a limit, nor in a log, nor in a cache; and nothing that diverts a request of the public diverts it."""
    metrics = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    metrics.bind(str(api.folder / "run" / "metrics.sock"))
    metrics.setblocking(False)
    diverting = [api.folder / "run" / name for name in ("waiting", "draining")]
    before = api.lines()
    try:
        for path in diverting:
            path.touch()
        answers = [
            ask(api, candidate, "/told", headers={"X-Balancer-Check": "1"}) for _ in range(20)
        ]
        answers.append(ask(api, candidate, "/", method="PURGE"))
    finally:
        for path in diverting:
            path.unlink()
    assert [answer.status for answer in answers] == [200] * 20 + [405]
    assert len(candidate.asked) == 20
    public = api.get("/told", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (public.status, public.all("Cache-Status")) == (200, ["nginx; fwd=uri-miss"])
    assert "candidate" not in public.body.decode()
    wait_until(lambda: len(api.lines()) > len(before), "nginx logs the request of the public")
    assert len(api.lines()) == len(before) + 1
    assert metrics.recv(1000).endswith(b'"200" "-"')
    with pytest.raises(BlockingIOError):
        metrics.recv(1000)
    metrics.close()


def test_the_public_does_not_reach_it(api, candidate):
    for answer in (
        api.get("/.api-endpoint-candidate"),
        api.get("/told", headers={"X-Forwarded-For": "unix:"}),
        api.get("/told", headers={"Host": prober.LOADED}),
    ):
        assert b"candidate" not in answer.body
        assert prober.loaded_configuration(proof_socket(api)).encode() not in answer.body
    assert candidate.asked == []


def test_through_nginx_each_worker_is_asked(api, tmp_path, version):  # noqa: F811
    """The others stay held until the worker has the connection, which nginx makes after it has read the request."""
    pids = version({}, {}, {})
    lead_to(api, tmp_path / "socket")
    proof = proof_of(api, tmp_path / "socket", pids)
    for pid in pids * 5:
        assert (
            f'"pid": {pid},'
            in proof.ask_worker(pid, pids, Request("/", "GET", None, {}, [], "")).text
        )


@pytest.mark.parametrize("position", [0, 1, 2])
def test_through_nginx_one_bad_worker_of_three_is_found(api, tmp_path, version, position):  # noqa: F811
    pids = version(*({"/data": 500} if number == position else {} for number in range(3)))
    lead_to(api, tmp_path / "socket")
    proof = proof_of(api, tmp_path / "socket", pids, [{"path": "/data"}])
    with pytest.raises(
        ReleaseRejectedError,
        match=f"GET /data put to worker {pids[position]} through nginx: status 500",
    ):
        proof.every_worker_answers()


# --- what nginx has loaded, and who answers


@contextlib.contextmanager
def program(port, address="127.0.0.1"):
    """Another program on a port, which answers everything with 200."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    class Server(http.server.HTTPServer):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    with Server((address, port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield
        server.shutdown()


def test_nginx_is_known_by_what_it_has_loaded(api):
    loaded = prober.loaded_configuration(proof_socket(api))
    assert (
        f"return 200 {loaded};" in (api.folder / "api-endpoint" / "api-endpoint.loaded").read_text()
    )
    assert prober.stranger_on(api.port, api.name, loaded) == ""
    assert prober.loaded_configuration(str(api.folder / "nothing")) == ""
    assert api.get(f"/{loaded}").body.decode() == loaded
    assert loaded not in "".join(api.lines())


@pytest.mark.parametrize(
    ("is_there", "host"), [(True, "api.wmcloud.org"), (False, "new-name.wmcloud.org")]
)
def test_another_site_of_nginx_is_no_health(is_there, host, monkeypatch):
    """One that has the name already, or the one for unknown names: before nginx knows a new name of the endpoint's."""
    monkeypatch.setattr(
        prober, "programs_on", lambda _port: ["nginx (process 1)"]
    )  # only root sees whose it is
    with running() as api:
        site = api.folder / "sites-enabled" / "a-site"
        if is_there:
            site.write_text(
                f"server {{ listen 127.0.0.1:{api.port}; server_name {host}; return 200 other; }}\n"
            )
            os.kill(api.process.pid, signal.SIGHUP)
            wait_until(lambda: api.get("/").body == b"other", "nginx has loaded the site")
        told = prober.ask_through_port(
            "/", host, proof_socket=proof_socket(api), port=api.port, timeout=5
        )
        assert f"another site of nginx answers for {host} on port {api.port}" in str(told)


@pytest.mark.parametrize("address", prober.LOOPBACK)
def test_another_program_on_the_port_is_no_health(api, address):
    """nginx has one port of the two families here; whichever the other program has, it is found."""
    with contextlib.ExitStack() as stack:
        port = api.port
        if address == "127.0.0.1":
            port = next(
                number for number in range(30_100, 30_200) if not prober.programs_on(number)
            )
        try:
            stack.enter_context(program(port, address))
        except OSError as error:
            pytest.skip(f"no {address} here: {error}")
        told = prober.ask_through_port(
            "/", api.name, proof_socket=proof_socket(api), port=port, timeout=5
        )
        assert told.status is None
        assert f"answers on port {port} of {address}, where nginx belongs" in str(told)


@pytest.fixture
def reloading(monkeypatch):
    """An endpoint whose nginx is reloaded by the role's code, without systemd."""
    with running() as api:

        def systemctl(verb, *_):
            if verb == "reload":
                os.kill(api.process.pid, signal.SIGHUP)
            return SimpleNamespace(returncode=0, stderr="")

        monkeypatch.setattr(nginx, "ERROR_LOG", api.folder / "error.log")
        monkeypatch.setattr(nginx, "LOAD_SECONDS", 300)
        monkeypatch.setattr(nginx, "systemctl", systemctl)
        monkeypatch.setattr(nginx, "main_process", lambda _unit: api.process.pid)
        yield api


def write_new_name(api) -> Path:
    """Write another name of the configuration; return the file that has it."""
    for name, text in nginx.new_name("api-endpoint/api-endpoint.loaded").items():
        (api.folder / name).write_text(text)
    return api.folder / name


def test_a_port_that_is_taken_fails_the_reload_and_the_next_one_does_it_again(reloading):
    api, old, new = reloading, reloading.port, reloading.port + 1
    path = Path(proof_socket(api))
    assert not nginx.is_pending(api.folder / "api-endpoint" / "api-endpoint.loaded", path)
    loaded = write_new_name(api)
    for site in (api.folder / "sites-enabled").iterdir():
        site.write_text(site.read_text().replace(str(old), str(new)))
    with program(new):
        assert nginx.is_pending(loaded, path)
        with pytest.raises(
            DeployError,
            match=f"goes on with the one before.\nPort {new} is taken by (?s:.*)bind\\(\\)",
        ):
            nginx.load(loaded, path)
        assert nginx.is_pending(loaded, path)
        assert api.get("/readyz").status == 200
    nginx.load(loaded, path)
    assert not nginx.is_pending(loaded, path)
    assert prober.stranger_on(new, api.name, prober.loaded_configuration(str(path))) == ""


def test_a_reload_lasts_until_the_workers_of_before_take_no_connections(reloading):
    """They are held, so that they cannot end; the new ones answer meanwhile."""
    api, returned = reloading, threading.Event()
    path, loaded, before = Path(proof_socket(api)), write_new_name(api), nginx.accepting_workers()
    assert before
    for pid in before:
        os.kill(pid, signal.SIGSTOP)

    def load():
        nginx.load(loaded, path)
        returned.set()

    thread = threading.Thread(target=load)
    thread.start()
    try:
        wait_until(lambda: not nginx.is_pending(loaded, path), "the new workers answer")
        assert not returned.wait(1)
    finally:
        for pid in before:
            os.kill(pid, signal.SIGCONT)
        thread.join()
    assert returned.is_set()
    assert nginx.accepting_workers().isdisjoint(before)
