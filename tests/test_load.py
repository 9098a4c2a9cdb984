"""The client that puts the scenarios under load sees what goes wrong, and nothing that does not."""

import asyncio
import json
import subprocess
import threading
import time
from types import SimpleNamespace

import load as client_process
import pytest
from helpers import Clock
from load import (
    KEEP_ALIVE,
    NEW,
    POOL,
    REPORTS,
    Client,
    Plan,
    Request,
    assert_nothing_failed,
    load,
    longest_gap,
    raise_limit,
    summarise,
)
from outcomes import wait_until


class Server:
    """A small HTTP server whose manners can be chosen while it runs."""

    def __init__(self) -> None:
        self.release = "aaaa"
        self.manners = "good"
        self.connections = 0
        self.seen = 0
        self.held = 0
        self.loop = asyncio.new_event_loop()
        self.released = asyncio.Event()
        self.released.set()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self.serve, "127.0.0.1", 0, backlog=1000), self.loop
        ).result()
        self.port = server.sockets[0].getsockname()[1]
        self.name = "test.example"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self.hang_up(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    async def hang_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def hold(self) -> None:
        """Let requests wait for `release_all`."""
        self.loop.call_soon_threadsafe(self.released.clear)

    def release_all(self) -> None:
        self.loop.call_soon_threadsafe(self.released.set)

    async def serve(self, reader, writer) -> None:
        self.connections += 1
        answered = 0
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self.answer(
                writer, answered
            ):
                answered += 1
                if b"Connection: close" in head:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def answer(self, writer, answered: int) -> bool:
        """Answer a request, as the first one of its connection or after others; tell whether to go on."""
        self.seen += 1
        release, status, body = self.release, 200, None
        self.held += 1
        await self.released.wait()
        self.held -= 1
        if self.manners == "closes" and self.seen % 5 == 0:
            return False
        if self.manners == "closes idle connections" and answered and self.seen % 5 == 0:
            return False
        if self.manners == "fails" and self.seen % 5 == 0:
            status, body = 502, b'{"error": {"status": 502}}'
        if self.manners == "says 404":
            status = 404
        body = body or json.dumps({"release": release}).encode()
        writer.write(
            f"HTTP/1.1 {status} Some words\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        if self.manners == "stops in the middle" and self.seen % 5 == 0:
            writer.write(body[:5])
            return False
        writer.write(body)
        return True


@pytest.fixture
def server():
    raise_limit()
    server = Server()
    yield server
    server.stop()


def kinds(result):
    return {failure["kind"] for failure in result.failures}


def send(server, count, before=lambda _number: None, **plan):
    """Send so many requests, each when the one before it has its answer; return the result."""
    client = Client(Plan(port=server.port, name="test.example", **plan))

    async def run():
        for number in range(count):
            before(number)
            await client.send(client.plan.modes[number % len(client.plan.modes)])
        for connection in client.idle:
            connection.close()

    asyncio.run(run())
    return summarise(client.requests, client.late)


def test_a_good_server_fails_nobody(server):
    with load(server, "a step") as result:
        wait_until(lambda: server.seen >= 50, "50 requests")
    assert_nothing_failed(result)
    assert result.requests == server.seen
    assert result.retries == 0
    assert result.releases == ["aaaa"]
    assert result.slowest_ms > 0
    assert result.gap_ms > 0
    assert "a step: " in str(result)
    assert REPORTS[-1] is result


def test_the_rate_is_kept_and_what_was_held_up_is_made_up_for(monkeypatch):
    clock, sent = Clock(), []

    async def send(_mode):
        sent.append(clock.now - client.begun)
        if len(sent) == 20:
            clock.now += 0.5  # the machine was busy with something else
        client.stopped = len(sent) == 100

    async def sleep(seconds):
        clock.sleep(seconds)
        await real_sleep(0)

    real_sleep = asyncio.sleep
    monkeypatch.setattr(client_process, "time", clock)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    client = Client(Plan(port=0, name="x", rate=128))
    client.send = send
    asyncio.run(client.run())
    due = [number / 128 for number in range(100)]
    assert sent[:20] == due[:20]
    assert sent[20:84] == [due[19] + 0.5] * 64, "all that was due in the meantime, at once"
    assert sent[84:] == due[84:], "then each when it is due again"
    assert client.late == 0.5 - 1 / 128


@pytest.mark.parametrize("mode", [NEW, KEEP_ALIVE])
def test_connections_are_new_or_kept(server, mode):
    assert_nothing_failed(send(server, 60, modes=(mode,)))
    assert server.connections == (60 if mode == NEW else POOL)


@pytest.mark.parametrize(
    ("manners", "kind"),
    [
        ("fails", "status 502"),
        ("says 404", "status 404"),
        ("closes", "closed before the answer"),
        ("stops in the middle", "closed within the answer"),
    ],
)
def test_each_kind_of_failure_is_told(server, manners, kind):
    server.manners = manners
    result = send(server, 10, retry_once=True, modes=(NEW,))
    assert kinds(result) == {kind}
    assert result.failed == result.failures[0]["count"] == (10 if "404" in manners else 2)
    with pytest.raises(AssertionError, match=kind):
        assert_nothing_failed(result)


def test_a_server_that_is_not_there():
    result = send(SimpleNamespace(port=1), 6)
    assert kinds(result) == {"connection refused"}
    assert result.failed == result.requests == 6
    assert result.releases == []


def test_an_answer_that_does_not_come_in_time(server):
    server.hold()
    server.loop.call_soon_threadsafe(server.loop.call_later, 60, server.released.set)
    assert kinds(send(server, 2, timeout=0.1)) == {"time-out"}


def test_a_closed_idle_connection_is_a_failure_unless_the_client_may_try_once_more(server):
    server.manners = "closes idle connections"
    strict = send(server, 60, modes=(KEEP_ALIVE,))
    lenient = send(server, 60, modes=(KEEP_ALIVE,), retry_once=True)
    assert kinds(strict) == {"closed before the answer"}
    assert strict.retries == 0
    assert_nothing_failed(lenient)
    assert lenient.retries > 0


def test_a_retry_that_fails_too_is_a_failure(server):
    def breaks(number):
        if number == 30:
            server.answer = lambda *_arguments: asyncio.sleep(0, False)

    result = send(server, 31, breaks, modes=(KEEP_ALIVE,), retry_once=True)
    assert kinds(result) == {"closed before the answer"}
    assert result.retries == result.failed == 1


def test_more_than_a_thousand_requests_wait_at_once(server):
    server.hold()
    with load(server, rate=900) as result:
        begun = time.monotonic()
        wait_until(lambda: server.held > 1200, "1,200 requests that wait")
        held_ms = (time.monotonic() - begun) * 1000
        server.release_all()
    assert_nothing_failed(result)
    assert result.requests > 1200
    assert result.slowest_ms >= held_ms
    assert result.gap_ms >= held_ms


def test_a_switch_is_seen(server, tmp_path, monkeypatch):
    monkeypatch.setenv("API_ENDPOINT_FIGURES", str(tmp_path / "figures.jsonl"))
    with load(server) as result:
        wait_until(lambda: server.seen >= 10, "10 requests")
        server.release, before = "bbbb", server.seen
        wait_until(lambda: server.seen >= before + 10, "10 more requests")
    assert result.releases == ["aaaa", "bbbb"]
    assert result.first_answer["aaaa"] < result.first_answer["bbbb"]
    assert result.step == "a switch is seen"
    written = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert [line["releases"] for line in written] == [["aaaa", "bbbb"]]


def test_the_load_stops_when_the_block_fails(server, monkeypatch):
    started, start = [], subprocess.Popen
    monkeypatch.setattr(
        client_process.subprocess,
        "Popen",
        lambda *call, **more: started.append(start(*call, **more)) or started[0],
    )
    with pytest.raises(ZeroDivisionError), load(server) as result:
        _ = 1 / 0
    assert [child.poll() for child in started] == [0]
    assert result.requests == server.seen > 0


def answer(sent, done, release):
    return Request(sent, done, release)


def test_requests_may_overtake_each_other_but_a_switch_does_not_go_back():
    overtaken = [answer(0, 1, "a"), answer(1, 4, "b"), answer(2, 3, "a"), answer(5, 6, "b")]
    assert summarise(overtaken).releases == ["a", "b"]
    back = [answer(0, 1, "a"), answer(1, 2, "b"), answer(3, 4, "a"), answer(5, 6, "b")]
    assert summarise(back).releases == ["a", "b", "a", "b"]
    there_and_back = [
        answer(0, 1, "a"),
        answer(2, 3, "b"),
        answer(4, 5, "a"),
        answer(4.5, 4.9, "b"),
        answer(6, 7, "a"),
    ]
    assert summarise(there_and_back).releases == ["a", "b", "a"]


def test_failures_are_told_by_the_time_of_this_computer():
    failed = Request(sent=1, done=3, failure="time-out")
    assert summarise([answer(0, 1, "a"), failed], begun=100.0).failed_between == [(101.0, 103.0)]


def test_a_gap_at_either_end_counts():
    assert longest_gap([answer(0, 3, "a"), answer(3, 4, "a")]) == 3
    assert longest_gap([answer(0, 1, "a"), Request(1, 9, failure="time-out")]) == 8
    assert longest_gap([]) == 0
