"""Every worker is asked, and only what answers as expected gets through."""

import concurrent.futures
import itertools
import json
import multiprocessing
import os
import socket
import time

import pytest
from ansible.module_utils.api_endpoint.http import Answer, healthy
from ansible.module_utils.api_endpoint.release import readiness
from ansible.module_utils.api_endpoint.release.failures import Failure
from ansible.module_utils.api_endpoint.release.readiness import (
    ReadinessCheck,
    ReleaseRejectedError,
    Request,
    _state,
    explain,
    resume,
    suspend,
)
from helpers import ROLE, Clock
from outcomes import wait_until


def serve(listening, faults):
    """Answer every request with this process's id, or as its faults say."""
    while True:
        connection, _ = listening.accept()
        request = connection.recv(65536).decode()
        while "\r\n\r\n" not in request or (
            "Content-Length: 8" in request and '"a": 1}' not in request
        ):
            request += connection.recv(65536).decode()
        path = request.split()[1]
        fault = faults.get(path)
        if fault == "hang":
            time.sleep(600)
        if isinstance(fault, tuple):  # (says that it began, waits until it may go on)
            fault[0].set()
            fault[1].wait(600)
        if fault == "trickle":
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            for _ in range(1000):
                connection.sendall(b".")
                time.sleep(0.05)
        body = json.dumps({"pid": os.getpid(), "request": request}).encode()
        status = fault if isinstance(fault, int) else 200
        connection.sendall(
            b"HTTP/1.1 %d Word\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
        )
        connection.close()


@pytest.fixture
def version(tmp_path):
    """Return a function that starts workers on one socket, with their faults by path."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket"))
    listening.listen(64)
    processes = []

    def start(*workers):
        for faults in workers:
            process = multiprocessing.get_context("fork").Process(
                target=serve, args=(listening, faults), daemon=True
            )
            process.start()
            processes.append(process)
        return [process.pid for process in processes]

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def clock(monkeypatch):
    """Let the proof wait without taking time; not for a test in which workers are asked."""
    clock = Clock()
    monkeypatch.setattr(readiness, "time", clock)
    return clock


def proof(tmp_path, pids, smoke=(), workers=None, died="", health_timeout=30, **plan):
    whole = {
        "server_name": "api.example",
        "health": {"path": "/", "status": [], "timeout": health_timeout},
        "start_timeout": 30,
        "workers": len(pids) if workers is None else workers,
        "smoke": list(smoke),
        **plan,
    }
    return ReadinessCheck(whole, str(tmp_path / "socket"), lambda: sorted(pids), lambda: died)


def test_a_version_that_answers_is_proven_and_all_its_workers_run_on(tmp_path, version):
    pids = version({}, {}, {})
    subject = proof(tmp_path, pids, [{"path": "/x", "text": "/x"}])
    subject.wait_until_healthy()
    subject.every_worker_answers()
    assert all(_state(pid) in ("S", "R") for pid in pids)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_bad_worker_of_three_is_found(tmp_path, version, position):
    pids = version(*({"/data": 500} if number == position else {} for number in range(3)))
    subject = proof(tmp_path, pids, [{"path": "/data"}])
    with pytest.raises(
        ReleaseRejectedError,
        match=rf"GET /data put to worker {pids[position]} over its socket: status 500",
    ) as told:
        subject.every_worker_answers()
    assert told.value.step == "smoke"


def test_a_worker_that_hangs_on_its_data_is_found(tmp_path, version):
    pids = version({"/data": "hang"})
    # Its health request is repeated when a busy machine does not answer that soon.
    subject = proof(tmp_path, pids, [{"path": "/data"}], health_timeout=0.5)
    with pytest.raises(
        ReleaseRejectedError, match=rf"worker {pids[0]} over its socket: no answer \(timed out\)"
    ):
        subject.every_worker_answers()


def test_a_worker_whose_health_fails_is_found(tmp_path, version, monkeypatch):
    monkeypatch.setattr(readiness, "SETTLE", 0.1)
    pids = version({}, {"/": 503})
    subject = proof(tmp_path, pids, start_timeout=0)
    with pytest.raises(
        ReleaseRejectedError, match=rf"GET / put to worker {pids[1]} over its socket: status 503"
    ):
        subject.every_worker_answers()


@pytest.mark.parametrize("planned", [3, 2])
def test_workers_that_are_missing_are_waited_for_and_then_refused(
    tmp_path, version, clock, planned
):
    begun, pids = clock.now, version({})
    with pytest.raises(ReleaseRejectedError, match=f"1 of {planned} workers were running"):
        proof(tmp_path, pids, workers=planned, start_timeout=0).every_worker_answers()
    assert clock.now - begun == pytest.approx(readiness.SETTLE, abs=2 * readiness.POLL)


def test_no_worker_at_all_is_no_proof(tmp_path, version, clock):
    version({})
    with pytest.raises(ReleaseRejectedError, match="0 of 1 workers"):
        proof(tmp_path, [], workers=1, start_timeout=0).every_worker_answers()


def test_a_version_that_dies_says_how(tmp_path):
    with pytest.raises(ReleaseRejectedError, match="it stopped with status 3") as told:
        proof(tmp_path, [], died="it stopped with status 3").wait_until_healthy()
    assert told.value.step == "start"


@pytest.mark.parametrize(("status", "is_told"), [(404, True), (503, False)])
def test_a_health_path_that_is_not_there_is_named(tmp_path, monkeypatch, status, is_told):
    subject = proof(tmp_path, [1], start_timeout=0)
    subject.plan["health"]["status"] = [200]
    (tmp_path / "socket").touch()
    monkeypatch.setattr(subject, "health", lambda *_: Answer(status, "no"))
    with pytest.raises(ReleaseRejectedError, match=f"status {status}") as rejected:
        subject.wait_until_healthy()
    assert ("Correct api_endpoint_health_path, or add" in str(rejected.value)) == is_told


def test_a_version_that_is_too_slow_is_refused_in_time(tmp_path, clock):
    begun = clock.now
    with pytest.raises(
        ReleaseRejectedError, match="not healthy within api_endpoint_start_timeout = 20 s"
    ):
        proof(tmp_path, [], start_timeout=20).wait_until_healthy()
    assert clock.now - begun == pytest.approx(20, abs=2 * readiness.POLL)


def test_processes_are_held_still_and_let_run(version):
    pids = version({}, {})
    suspend(pids[1:])
    assert _state(pids[1]) in ("T", "t")
    assert _state(pids[0]) not in ("T", "t")
    resume(pids)
    wait_until_running(pids[1])


def wait_until_running(pid):
    wait_until(lambda: _state(pid) not in ("T", "t"), f"process {pid} runs on", seconds=20)


def test_the_others_run_on_while_the_answer_takes_its_time(tmp_path, version):
    begun, may_end = (multiprocessing.get_context("fork").Event() for _ in range(2))
    pids = version({"/slow": (begun, may_end)}, {})
    subject = proof(tmp_path, pids)
    request = Request("/slow", "GET", None, {}, [], "")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(subject.ask_worker, pids[0], pids, request)
        try:
            assert begun.wait(20), "the worker that was asked got nothing"
            wait_until_running(pids[1])
            assert not answer.done()
        finally:
            may_end.set()
        assert answer.result().status == 200


def test_a_worker_that_does_not_take_the_connection_is_not_waited_for_with_the_others_held(
    tmp_path, version
):
    pids = version({}, {})
    suspend(pids[:1])
    subject = proof(tmp_path, pids, timeout=1)
    answer = subject.ask_worker(pids[0], pids, Request("/", "GET", None, {}, [], ""))
    assert (answer.status, answer.text) == (None, "timed out")
    wait_until_running(pids[1])
    resume(pids)


def test_an_answer_that_never_ends_is_given_up(tmp_path, version):
    version({"/": "trickle"})  # for 50 s
    said = "no answer (timed out: status 200, but its body did not end)"
    assert str(proof(tmp_path, [], health_timeout=0.3).health()) == said


def test_a_worker_that_came_meanwhile_makes_the_answer_uncertain(tmp_path, version, monkeypatch):
    pids = version({}, {})
    subject = proof(tmp_path, pids, workers=2, start_timeout=0)
    changing = iter([pids, [*pids, 1], pids, pids, pids, pids, pids])
    counted = []
    subject.workers = lambda: next(changing)
    real = subject.put_to
    subject.put_to = lambda pid, *more: counted.append(pid) or real(pid, *more)
    subject.every_worker_answers()
    assert counted == [pids[0], pids[0], pids[1]]


def test_the_last_look(tmp_path, version):
    version({})
    proof(tmp_path, []).final_check()
    with pytest.raises(ReleaseRejectedError, match="it stopped"):
        proof(tmp_path, [], died="it stopped").final_check()
    proof_of_bad = proof(tmp_path, [])
    proof_of_bad.plan["health"]["status"] = [204]
    with pytest.raises(ReleaseRejectedError, match="just before the switch: status 200"):
        proof_of_bad.final_check()


@pytest.mark.parametrize(
    ("given", "body", "content_type"),
    [
        ({"path": "/"}, None, None),
        ({"path": "/", "body": "text"}, b"text", None),
        ({"path": "/", "body": {"text": "ü"}}, '{"text": "ü"}'.encode(), "application/json"),
        ({"path": "/", "body": [1]}, b"[1]", "application/json"),
        ({"path": "/", "body": 42}, b"42", "application/json"),
        ({"path": "/", "body": 0}, b"0", "application/json"),
        ({"path": "/", "body": {}, "headers": {"content-type": "text/x"}}, b"{}", None),
    ],
)
def test_bodies(given, body, content_type):
    request = Request.from_plan(given)
    assert request.body == body
    assert request.headers.get("Content-Type") == content_type


def test_expectations():
    request = Request.from_plan({"path": "/", "status": ["201"], "text": 42})
    assert request.mismatch(Answer(201, "it is 42")) == ""
    assert "expected: status 201" in request.mismatch(Answer(200, "42"))
    assert "expected: a text with '42'" in request.mismatch(Answer(201, "41"))
    assert "no answer" in request.mismatch(Answer(None, "refused"))


def test_headers_and_method_arrive(tmp_path, version):
    pids = version({})
    smoke = {"path": "/x", "method": "post", "body": {"a": 1}, "headers": {"X-Key": "k"}}
    for text in ("X-Key: k", "POST /x HTTP/1.1", "Host: api.example", "Content-Length: 8"):
        proof(tmp_path, pids, [{**smoke, "text": text}]).every_worker_answers()


# As nginx 1.26 writes them; older ones let some of it pass (tests/component/test_proof.py has a real one).
@pytest.mark.parametrize(
    ("status", "said", "told"),
    [
        (
            502,
            'sent duplicate header line: "Content-Length: 1", previous value: "Content-Length: 2" while reading',
            "twice",
        ),
        (
            502,
            'sent "Content-Length" and "Transfer-Encoding" headers at the same time while reading',
            "both headers",
        ),
        (
            502,
            'sent invalid "Content-Length" header: "Content-Length: many" while reading',
            "is no number",
        ),
        (502, 'sent invalid header: "A\\x20..." while reading', "does not allow"),
        (502, 'sent unknown "Transfer-Encoding": "gzip" while reading', "chunked alone"),
        (502, "sent too big header while reading", "larger, all together"),
        (504, "timed out (110: Connection timed out) while reading", "api_endpoint_proxy_timeout"),
        (502, "said something new while reading", "nginx's reason: upstream said something new"),
    ],
)
def test_nginx_reasons_are_explained(status, said, told):
    line = "2026/12/01 09:43:09 [{}] 20#20: *146 upstream {} response header from upstream, client: unix:, server: x"
    log = f"{line.format('error', said)}\n{line.format('warn', 'sent duplicate header line, ignored')}\n"
    explained = explain(log, Answer(status, "nginx's own"))
    assert f"nginx's reason: upstream {said} response header from upstream" in explained
    assert told in explained
    assert "client" not in explained
    assert explain(log, Answer(200, "the app's own")) == ""
    assert explain("", Answer(status, "the app's own")) == ""


def test_what_nginx_says_in_the_apps_place_is_no_health():
    """It would be, by its status: any below 500."""
    text = '{"error": {"status": 405, "message": "That method is not allowed here."}}'
    cause = explain("", Answer(405, text))
    assert "api_endpoint_methods" in cause
    assert healthy(Answer(405, text), [])
    assert not healthy(Answer(405, text, cause), [])
    assert healthy(Answer(405, text, cause), [405])


def test_what_nginx_refuses_is_known_by_its_own_words():
    conf = (ROLE / "templates" / "nginx.conf.j2").read_text()
    assert [words for words in readiness.REFUSALS if f' "{words}";' not in conf] == []


LASTING = Failure(
    "model.py line 2: No module named 'six'. Add it to requirements.txt.", [], is_lasting=True
)
PASSING = Failure("model.py line 2: ConnectionRefusedError.", [])


@pytest.mark.parametrize(
    ("status", "failures", "is_refused_early"),
    [
        (500, [LASTING], True),
        (500, [PASSING], False),  # a database that comes back
        (500, [None], False),
        (503, [LASTING], False),  # by its status it is not ready yet
        (500, [LASTING, PASSING], False),  # not the same in a row
    ],
    ids=["lasting", "passing", "without a traceback", "not ready yet", "in turn"],
)
def test_the_same_lasting_exception_ends_the_wait_early(
    tmp_path, clock, monkeypatch, status, failures, is_refused_early
):
    told = itertools.cycle(failures)
    subject = proof(tmp_path, [1])
    subject.failure = lambda: next(told)
    (tmp_path / "socket").touch()
    monkeypatch.setattr(subject, "health", lambda *_: Answer(status, "no"))
    begun = clock.now
    with pytest.raises(ReleaseRejectedError, match=f"status {status}") as rejected:
        subject.wait_until_healthy()
    assert rejected.value.step == "health"
    assert ("the same exception 3 times" in str(rejected.value)) == is_refused_early
    if is_refused_early:
        assert clock.now - begun < 5
    else:
        assert clock.now - begun >= 30


def test_while_a_version_is_not_ready_it_says_what_was_answered_last(tmp_path, clock, monkeypatch):
    told = []
    subject = proof(tmp_path, [1], start_timeout=120)

    def say(text):
        told.append(text)
        (tmp_path / "socket").touch()

    subject.say = say
    answers = iter([Answer(503, "loading the model"), Answer(None, "timed out"), Answer(200, "")])
    monkeypatch.setattr(subject, "health", lambda *_: next(answers))
    subject.wait_until_healthy()
    assert [line.partition(": ")[2] for line in told] == [
        "no answer yet: importing", "status 503: 'loading the model'", "no answer (timed out)",
    ]  # fmt: skip
    assert told[0].startswith("not ready after 0 of 120 s (api_endpoint_start_timeout)")
