"""The requests of the audit and of the tests, how they are sent, what may be where, and whether the audit proves itself."""

import functools
import gzip
import ipaddress
import random
import re
import socket
import threading
from collections import Counter
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace

import pytest
import request_corpus
import yaml
from ansible.module_utils.api_endpoint.privacy import audit, scope, source_address
from ansible.module_utils.api_endpoint.privacy import corpus as api_endpoint_corpus
from ansible.module_utils.api_endpoint.privacy.corpus import Marks, Request, send, send_all
from ansible.module_utils.api_endpoint.privacy.scope import Policy, places, searched
from ansible.module_utils.api_endpoint.privacy.search import Find, Search
from helpers import Clock, load

MODULE = load("api_endpoint_privacy_audit")
MARKS = Marks.new(random.Random(1))


CORPORA = {"audit": api_endpoint_corpus, "tests": request_corpus}


@functools.cache
def made(corpus="tests", count=2000, seed=1, **more):
    return list(CORPORA[corpus].requests(MARKS, "api.example", count, seed, **more))


@functools.cache
def text(corpus="tests"):
    return b"\n".join(request.data for request in made(corpus, 500))


def headers(requests):
    """How often each header is in the requests."""
    data = b"\n".join(request.data for request in requests)
    return Counter(name.lower() for name in re.findall(rb"(?m)^([\w-]+):", data))


class TestRequests:
    def test_the_audit_sends_ten_kinds_and_the_tests_all_of_them(self):
        assert len(api_endpoint_corpus.KINDS) == 10
        assert len(request_corpus.KINDS) == 50
        assert api_endpoint_corpus.KINDS.items() <= request_corpus.KINDS.items()

    @pytest.mark.parametrize("corpus", CORPORA)
    def test_two_thousand_are_all_different_and_of_all_kinds(self, corpus):
        kinds = CORPORA[corpus].KINDS
        data = [request.data for request in made(corpus)]
        assert len(set(data)) > 1950, (
            "some have nothing that could vary, such as one mark as the only line"
        )
        counted = Counter(request.name for request in made(corpus))
        assert set(counted) == set(kinds)
        assert min(counted.values()) >= 2000 // len(kinds) - 1

    def test_the_same_seed_makes_the_same_ones_and_another_seed_others(self):
        assert made.__wrapped__(count=200) == made.__wrapped__(count=200)
        assert made(count=200) != made(count=200, seed=2)

    @pytest.mark.parametrize("corpus", CORPORA)
    def test_each_of_the_marks_is_used_again_and_again(self, corpus):
        search = Search(searched(MARKS, []))
        search._look(text(corpus), 0, len(text(corpus)), "requests")
        kinds = {mark.kind for mark in search.marks}
        assert {kind for kind, _place in search.result.counted} == kinds
        assert min(search.result.counted.values()) > 25

    def test_each_header_is_sent_with_a_mark_by_an_audit_as_long_as_usual(self):
        sent = headers(
            made("audit", yaml.safe_load(MODULE.DOCUMENTATION)["options"]["requests"]["default"])
        )
        names = [*api_endpoint_corpus.ADDRESS_HEADERS, *api_endpoint_corpus.AGENT_HEADERS]
        assert [name for name in names if sent[name.lower().encode()] < 3] == []

    def test_the_usual_carriers_of_addresses_and_user_agents_are_among_them(self):
        assert {
            "X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP", "CF-Connecting-IP", "Client-IP", "X-Client-IP",
            "X-Cluster-Client-IP", "Via", "X-Azure-ClientIP", "Fly-Client-IP", "X-Original-Forwarded-For",
        } <= set(api_endpoint_corpus.ADDRESS_HEADERS)  # fmt: skip
        assert {"Sec-CH-UA", "Api-User-Agent", "X-Device-User-Agent"} <= set(
            api_endpoint_corpus.AGENT_HEADERS
        )

    def test_marks_for_callers_are_not_in_lines_that_the_access_log_keeps(self):
        for request in made():
            if re.match(rb"[A-Za-z-]+ \S+ HTTP/[0-9.]+\r?\n", request.data):
                line = request.data.partition(b"\n")[0]
                for mark in (MARKS.agent, MARKS.ipv4, MARKS.ipv6):
                    assert mark.encode() not in line, request

    def test_only_get_and_head_are_sent_to_paths_of_the_app(self):
        for request in made(paths=("/real",)):
            for method, path in re.findall(rb"^([A-Z]+) (\S+) HTTP/1\.1\r$", request.data, re.M):
                assert method in (b"GET", b"HEAD", b"OPTIONS") or not path.startswith(b"/real"), (
                    request
                )

    def test_they_are_bounded(self):
        assert max(len(request.data) for request in made()) < 150_000

    def test_some_kinds_only(self):
        assert {
            request.name for request in made(count=20, kinds=("get", "TLS to the plain port"))
        } == {
            "get",
            "TLS to the plain port",
        }


def test_marks_are_new_each_time_and_of_networks_that_nobody_uses():
    other = Marks.new(random.SystemRandom())
    assert not set(vars(MARKS).values()) & (set(vars(other).values()) - {other.ipv4})
    assert ipaddress.ip_address(other.ipv4) in ipaddress.ip_network("203.0.113.0/24")
    assert ipaddress.ip_address(other.query_ipv4) in ipaddress.ip_network("198.18.0.0/16")
    assert ipaddress.ip_address(other.referrer_ipv4) in ipaddress.ip_network("198.19.0.0/16")
    for address in (other.ipv6, other.query_ipv6, other.referrer_ipv6):
        assert ipaddress.ip_address(address) in ipaddress.ip_network("2001:db8::/32")
        assert str(ipaddress.ip_address(address)) == address, "nobody writes it in another way"


@contextmanager
def server(answer):
    """A server that reads a while, answers and closes; yields how to connect, and what it received."""
    received: list[bytes] = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve():
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                with client:
                    client.settimeout(60)
                    data = b""
                    try:
                        while more := client.recv(65536):
                            data += more
                            if data.endswith(b"\r\n\r\n"):
                                break
                        client.sendall(answer)
                    except ConnectionResetError:
                        data += b"(reset)"
                    except OSError:
                        pass
                    received.append(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield (lambda: socket.create_connection(("127.0.0.1", port), 2)), received
        # A thread that still waits on the closed socket would take connections of whoever gets its number next.
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


class TestSending:
    DATA = b"GET / HTTP/1.1\r\n\r\n"

    def test_the_outcome_is_the_status_or_says_what_happened(self):
        for answer, outcome in (
            (b"HTTP/1.1 414 Too Long\r\n\r\n", "414"),
            (b"", "closed without an answer"),
            (b"{}", "an answer without a status"),
        ):
            with server(answer) as (connect, _received):
                assert send(Request("x", self.DATA), connect) == outcome

    def test_behaviours(self):
        with server(b"HTTP/1.1 200 OK\r\n\r\n") as (connect, received):
            assert send(Request("x", self.DATA, "pause"), connect) == "200"
            assert send(Request("x", b"half", "half_close"), connect) == "200"
            assert send(Request("x", b"x" * 100, "abort"), connect) == "aborted by us"
            assert send(Request("x", b"never", answer_seconds=0.1), connect) == "no answer in time"
            assert received[:2] == [self.DATA, b"half"]
            assert received[2].endswith(b"(reset)")

    def test_the_end_of_a_connection_that_stays_open_is_not_waited_for(self):
        has_answer, seen = threading.Event(), []
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:

            def serve():
                client, _ = listener.accept()
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                seen.append(has_answer.wait(60))
                client.close()

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            request = Request("x", self.DATA, answer_seconds=600)
            assert send(request, lambda: socket.create_connection(listener.getsockname())) == "200"
            has_answer.set()
            thread.join()
        assert seen == [True], "the client waited until the connection was closed"

    def test_nobody_there(self):
        with closing(socket.create_server(("127.0.0.1", 0))) as gone:
            port = gone.getsockname()[1]
        counted = send_all(
            [Request("x", b"")] * 3,
            lambda: socket.create_connection(("127.0.0.1", port)),
            rate=1000,
            seconds=5,
        )
        assert counted == {("x", "no connection"): 3}

    def test_all_are_sent(self):
        with server(b"HTTP/1.1 200 OK\r\n\r\n") as (connect, _received):
            assert send_all([Request("x", self.DATA)] * 50, connect, rate=1000, seconds=600) == {
                ("x", "200"): 50
            }

    def test_they_are_sent_not_faster_than_said_and_not_for_longer(self, monkeypatch):
        monkeypatch.setattr(api_endpoint_corpus, "time", Clock())
        monkeypatch.setattr(api_endpoint_corpus, "send", lambda *_: "200")
        some = send_all([Request("x", self.DATA)] * 1000, None, rate=64, seconds=0.5, workers=1)
        assert some == {("x", "200"): 33}


class TestSourceAddresses:
    """Addresses to send from; what iproute2 is told."""

    SHOWN = (
        "local ::1 dev lo proto kernel metric 0 pref medium\n"
        f"local {source_address.NETWORK}:1:2:3:4:5 dev lo metric 1024 pref medium\n"
        "local fd5e:1::1 dev lo proto kernel metric 0 pref medium\n"
    )

    @pytest.fixture
    def told(self, monkeypatch):
        """What iproute2 was told by standard input; it succeeds."""
        told: list[str] = []

        def run(call, **more):
            assert not any(source_address.NETWORK in word for word in call), (
                "process lists and audit logs show this"
            )
            told.extend(filter(None, [more.get("input")]))
            return SimpleNamespace(
                returncode=0, stdout="" if "input" in more else self.SHOWN, stderr=""
            )

        monkeypatch.setattr(source_address.subprocess, "run", run)
        return told

    def test_leftovers_of_killed_runs_go_and_nobody_elses(self, told):
        source_address.remove_leftovers()
        assert told == [f"route del local {source_address.NETWORK}:1:2:3:4:5 dev lo\n"]

    def test_what_was_added_goes_whatever_happens(self, told, monkeypatch):
        monkeypatch.setattr(source_address, "connect", lambda *_arguments: socket.socket())
        with (
            suppress(KeyboardInterrupt),
            source_address.source_addresses(random.Random(1), 80) as ours,
        ):
            assert (
                ipaddress.ip_address(ours.ipv4) in ipaddress.ip_network("127.64.0.0/10")
                or ours.ipv4 > "127.128"
            )
            assert ours.all == [ours.ipv4, ours.ipv6]
            raise KeyboardInterrupt
        assert told[-2:] == [
            f"route add local {ours.ipv6} dev lo\n",
            f"route del local {ours.ipv6} dev lo\n",
        ]

    def test_a_host_without_ipv6(self, monkeypatch):
        broken = SimpleNamespace(
            returncode=1, stdout="", stderr="RTNETLINK answers: Permission denied\n"
        )
        monkeypatch.setattr(source_address.subprocess, "run", lambda *_call, **_more: broken)
        with source_address.source_addresses(random.Random(1), 80) as ours:
            assert (ours.ipv6, ours.why) == ("", "RTNETLINK answers: Permission denied")
            assert ours.all == [ours.ipv4]

    def test_nginx_does_not_listen_on_ipv6(self, told, monkeypatch):
        def refuse(*_arguments):
            raise ConnectionRefusedError("Connection refused")

        monkeypatch.setattr(source_address, "connect", refuse)
        with source_address.source_addresses(random.Random(1), 80) as ours:
            assert (ours.ipv6, ours.why) == ("", "Connection refused")
        assert told[-1].startswith("route del local ")


class TestPolicy:
    ACCESS = (
        "/var/log/nginx/access.log",
        "/var/log/nginx/access.log.2.gz",
        "/var/log/gunicorn/access.log",
    )
    ERRORS = ("/var/log/nginx/error.log", "/var/log/gunicorn/error.log.1")
    ELSEWHERE = (
        "journal",
        "/var/log/syslog",
        "/var/lib/nginx/body/1",
        "/tmp/x",
        "/var/log/api-endpoint/access.log",
    )

    def judge(self, kind, plain=True, **policy):
        given = Policy(**policy)
        return [
            any(given.allows(Find(kind, place, "", plain)) for place in places)
            for places in (self.ACCESS, self.ERRORS, self.ELSEWHERE)
        ]

    @pytest.mark.parametrize("kind", ["user agent", "address in a header", "caller's address"])
    def test_who_called_may_be_nowhere(self, kind):
        assert self.judge(kind) == self.judge(kind, plain=False) == [False, False, False]

    @pytest.mark.parametrize(
        ("kind", "variable"), [("query string", "query_string"), ("referrer", "referrer")]
    )
    def test_what_a_client_wrote_is_kept_unless_the_owner_says_no(self, kind, variable):
        assert self.judge(kind) == [True, True, False]
        assert self.judge(f"address in a {kind}") == [True, False, False]
        assert self.judge(f"address in a {kind}", plain=False) == [True, True, False]
        for what in (kind, f"address in a {kind}"):
            assert self.judge(what, **{variable: False}) == [False, False, False]
            other = {"query_string": "referrer", "referrer": "query_string"}[variable]
            assert self.judge(what, **{other: False})[0]

    def test_each_folder_is_searched_once(self):
        assert places("/var/lib/x", "/srv/x/data", "/var/log/gunicorn") == [
            "/var", "/tmp", "/run", "/etc", "/dev/shm", "/srv/x/data",
        ]  # fmt: skip


class TestAudit:
    """The module's judgement, on a host that is a folder."""

    @pytest.fixture
    def host(self, tmp_path, monkeypatch):
        """A host whose search looks into a folder, and whose requests leave what a test says."""
        leaves: list[tuple[str, str]] = [("nginx/access.log", MARKS.path)]
        journal: list[str] = []
        monkeypatch.setattr(audit, "SETTLE_SECONDS", 0)
        monkeypatch.setattr(scope, "NGINX_LOGS", str(tmp_path / "nginx"))
        monkeypatch.setattr(audit, "places", lambda *_folders: [str(tmp_path)])
        monkeypatch.setattr(audit, "main_processes", lambda _name: [])
        monkeypatch.setattr(Marks, "new", lambda _rng: MARKS)
        monkeypatch.setattr(audit.subprocess, "run", lambda *_call, **_more: None)

        @contextmanager
        def sources(_rng, _port):
            yield source_address.SourceAddresses("127.99.1.2", "", "switched off")

        @contextmanager
        def plant(canary, _name):
            (tmp_path / "plain").write_text(canary)
            (tmp_path / "packed").write_bytes(gzip.compress(canary.encode()))
            journal.append(canary)
            yield [str(tmp_path / "plain"), str(tmp_path / "packed"), "journal"]

        def sent(given, *_connect, **_limits):
            for path, text in leaves:
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).write_text(text)
            return Counter({(request.name, "200"): 1 for request in given})

        monkeypatch.setattr(audit, "source_addresses", sources)
        monkeypatch.setattr(audit, "planted", plant)
        monkeypatch.setattr(audit, "send_all", sent)
        monkeypatch.setattr(
            Search,
            "journal",
            lambda search, _since: search._look(" ".join(journal).encode(), 0, 1000, "journal"),
        )
        return SimpleNamespace(leaves=leaves, journal=journal, folder=tmp_path)

    def given(self, host, **more):
        return {
            "access_log": str(host.folder / "nginx" / "access.log"),
            "name": "x", "root": "/x", "data_dir": "/y", "log_dir": "/z", "port": 80, "server_name": "a.example",
            "path": "/", "requests": 60, "rate": 50, "seconds": 1, "search_seconds": 60,
            "query_string": True, "referrer": True, **more,
        }  # fmt: skip

    def run(self, host, **more):
        done = audit.Audit(self.given(host, **more))
        done.run()
        return done

    def test_all_is_well(self, host):
        done = self.run(host)
        assert (done.leaks, done.doubts) == ([], [])
        assert "nobody is named anywhere" in done.report
        assert "over IPv6: none, this host cannot (switched off)" in done.report

    @pytest.mark.parametrize(
        "what", [MARKS.agent, MARKS.ipv4, MARKS.ipv6, "127.99.1.2", MARKS.query]
    )
    def test_a_leak(self, host, what):
        host.leaves.append(("syslog", f"client {what} called"))
        done = self.run(host)
        assert [find.place for find in done.leaks] == [str(host.folder / "syslog")]
        assert "CALLERS ARE NAMED" in done.report
        assert f"{host.folder}/syslog" in done.remedy

    @pytest.mark.parametrize(
        ("mark", "variable"), [(MARKS.query, "query_string"), (MARKS.referrer, "referrer")]
    )
    def test_what_the_logs_keep_is_a_leak_when_the_owner_says_no(self, host, mark, variable):
        host.leaves[0] = ("nginx/access.log", f"{MARKS.path} {mark}")
        assert self.run(host).leaks == []
        assert [find.place for find in self.run(host, **{variable: False}).leaks] == [
            str(host.folder / "nginx/access.log")
        ]

    def test_a_leak_in_the_journal(self, host):
        host.journal.append(MARKS.agent)
        assert [find.place for find in self.run(host).leaks] == ["journal"]

    def test_requests_that_are_not_logged_where_they_should_be(self, host):
        host.leaves.clear()
        done = self.run(host)
        assert ["none of the requests is in" in doubt for doubt in done.doubts] == [True]
        assert "NOT PROVEN" in done.report

    @pytest.mark.parametrize("blind", ["plain", "packed", "journal"])
    def test_a_search_that_misses_what_was_planted(self, host, monkeypatch, blind):
        note = Search._note
        monkeypatch.setattr(
            Search,
            "_note",
            lambda self, find: None if find.place.endswith(blind) else note(self, find),
        )
        (doubt,) = self.run(host).doubts
        assert blind in doubt

    def test_what_could_not_be_searched(self, host):
        host.leaves.append(("broken.gz", "\x1f\x8b\x08 is no packed file"))
        (host.folder / "broken.gz").write_bytes(b"\x1f\x8b\x08 is no packed file")
        host.leaves.pop()
        (doubt,) = self.run(host).doubts
        assert "broken.gz" in doubt

    @pytest.fixture
    def status(self, monkeypatch):
        """The status of the endpoint's health path, to be changed by a test."""
        status = [200]
        monkeypatch.setattr(
            audit, "ask", lambda *_place, **_more: SimpleNamespace(status=status[0])
        )
        return status

    def test_the_answer_of_the_module_when_all_is_well(self, host, status):
        answer = audit.audit(self.given(host), is_dry_run=False)
        assert "msg" not in answer
        assert answer["sent"]["IPv4"]["wrong host"] == {"200": 1}
        assert answer["files"][str(host.folder)] == 3

    def test_the_answer_of_the_module_about_a_leak(self, host, status):
        host.leaves.append(("syslog", f"client {MARKS.agent} called"))
        answer = audit.audit(self.given(host), is_dry_run=False)
        assert answer["msg"].startswith("Privacy audit of x")
        assert "Run site.yml" in answer["msg"]
        assert [found["place"] for found in answer["found"]] == [str(host.folder / "syslog")]

    @pytest.mark.parametrize("broken", [502, None])
    def test_nothing_is_sent_while_nothing_answers(self, host, status, broken):
        status[0] = broken
        assert audit.audit(self.given(host), is_dry_run=False)["msg"].startswith(
            "Nothing was audited: GET / "
        )
        assert list(host.folder.iterdir()) == []

    def test_nothing_is_sent_in_a_dry_run(self, host, status):
        assert audit.audit(self.given(host), is_dry_run=True)["report"].startswith(
            "Would send 60 marked requests"
        )
        assert list(host.folder.iterdir()) == []


def test_the_planted_word_is_in_files_of_its_own_that_go_again(tmp_path, monkeypatch):
    real = audit.Path
    monkeypatch.setattr(
        audit, "Path", lambda path: real(str(path).replace("/var/log", str(tmp_path)))
    )
    monkeypatch.setattr(audit, "JOURNAL", str(tmp_path / "journal"))
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "privacy-audit-dead.log").write_text("of a run that was killed")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as journal:
        journal.bind(str(tmp_path / "journal"))
        with suppress(KeyboardInterrupt), audit.planted("word", "x") as placed:
            assert b"MESSAGE=word\n" in journal.recv(1000)
            assert real(placed[0]).read_text() == "word"
            assert gzip.decompress(real(placed[1]).read_bytes()) == b"word"
            assert len(list(folder.iterdir())) == 2
            raise KeyboardInterrupt
    assert list(folder.iterdir()) == []
