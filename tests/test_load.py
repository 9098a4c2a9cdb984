"""The client that puts the scenarios under load sees what goes wrong, and nothing that does not."""

import asyncio
import json
import threading
import time
from types import SimpleNamespace

import pytest
from load import KEEP_ALIVE, NEW, REPORTS, Request, assert_nothing_failed, load, longest_gap, raise_limit, summarise


class Server:
    """A small HTTP server whose manners can be chosen while it runs."""

    def __init__(self) -> None:
        self.release = "aaaa"
        self.manners = "good"
        self.wait = 0.0
        self.seen = 0
        self.open = 0
        self.most_open = 0
        self.loop = asyncio.new_event_loop()
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

    async def serve(self, reader, writer) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        answered = 0
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")) and await self.answer(writer, answered):
                answered += 1
                if b"Connection: close" in head:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, writer, answered: int) -> bool:
        """Answer a request, as the first one of its connection or after others; tell whether to go on."""
        self.seen += 1
        release, status, body = self.release, 200, None
        if self.wait:
            await asyncio.sleep(self.wait)
        if self.manners == "closes" and self.seen % 5 == 0:
            return False
        if self.manners == "closes idle connections" and answered and self.seen % 5 == 0:
            return False
        if self.manners == "fails" and self.seen % 5 == 0:
            status, body = 502, b'{"error": {"status": 502}}'
        if self.manners == "says 404":
            status = 404
        body = body or json.dumps({"release": release}).encode()
        writer.write(f"HTTP/1.1 {status} Some words\r\nContent-Length: {len(body)}\r\n\r\n".encode())
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


def test_a_good_server_fails_nobody_and_the_rate_is_kept(server):
    with load(server, "a step") as result:
        time.sleep(1)
    assert_nothing_failed(result)
    assert 90 <= result.requests <= 125
    assert result.requests == server.seen
    assert result.retries == 0
    assert result.releases == ["aaaa"]
    assert 0 < result.slowest_ms < 500
    assert 5 < result.gap_ms < 500
    assert "a step: " in str(result)
    assert REPORTS[-1] is result


@pytest.mark.parametrize("mode", [NEW, KEEP_ALIVE])
def test_connections_are_new_or_kept(server, mode):
    connections = []
    serve = server.serve

    async def counted(reader, writer):
        connections.append(reader)
        await serve(reader, writer)

    second = asyncio.run_coroutine_threadsafe(asyncio.start_server(counted, "127.0.0.1", 0), server.loop).result()
    with load(SimpleNamespace(port=second.sockets[0].getsockname()[1], name="x"), modes=(mode,), rate=200) as result:
        time.sleep(0.3)
    assert_nothing_failed(result)
    assert len(connections) == (result.requests if mode == NEW else 20)


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
    with load(server, retry_once=True, modes=(NEW,)) as result:
        time.sleep(0.3)
    assert kinds(result) == {kind}
    assert result.failed == result.failures[0]["count"] > 0
    with pytest.raises(AssertionError, match=kind):
        assert_nothing_failed(result)


def test_a_server_that_is_not_there(server):
    with load(SimpleNamespace(port=1, name="x")) as result:
        time.sleep(0.2)
    assert kinds(result) == {"connection refused"}
    assert result.failed == result.requests > 5
    assert result.releases == []


def test_an_answer_that_does_not_come_in_time(server):
    server.wait = 5
    with load(server, timeout=0.3) as result:
        time.sleep(0.2)
    assert kinds(result) == {"time-out"}


def test_a_closed_idle_connection_is_a_failure_unless_the_client_may_try_once_more(server):
    server.manners = "closes idle connections"
    with load(server, rate=200, modes=(KEEP_ALIVE,)) as strict:
        time.sleep(0.3)
    with load(server, rate=200, modes=(KEEP_ALIVE,), retry_once=True) as lenient:
        time.sleep(0.3)
    assert kinds(strict) == {"closed before the answer"}
    assert strict.retries == 0
    assert_nothing_failed(lenient)
    assert lenient.retries > 0


def test_a_retry_that_fails_too_is_a_failure(server):
    with load(server, rate=200, modes=(KEEP_ALIVE,), retry_once=True) as result:
        time.sleep(0.3)
        server.answer = lambda *_arguments: asyncio.sleep(0, False)
        time.sleep(0.1)
    assert "closed before the answer" in kinds(result)
    assert result.retries > 0


def test_more_than_a_thousand_requests_wait_at_once_and_the_rate_holds(server):
    server.wait = 4  # so that a busy machine may take its time to send them
    with load(server, rate=900) as result:
        time.sleep(1.5)
    assert_nothing_failed(result)
    assert server.most_open > 1200
    assert result.requests >= 900 * 1.4
    assert result.late_ms < 500
    assert 4000 <= result.slowest_ms < 6000
    assert result.gap_ms >= 4000


def test_a_switch_is_seen(server, tmp_path, monkeypatch):
    monkeypatch.setenv("API_ENDPOINT_FIGURES", str(tmp_path / "figures.jsonl"))
    with load(server) as result:
        time.sleep(0.2)
        server.release = "bbbb"
        time.sleep(0.2)
    assert result.releases == ["aaaa", "bbbb"]
    assert result.first_answer["aaaa"] < 0.2 < result.first_answer["bbbb"] < 0.6
    assert result.step == "a switch is seen"
    written = [json.loads(line) for line in (tmp_path / "figures.jsonl").read_text().splitlines()]
    assert [line["releases"] for line in written] == [["aaaa", "bbbb"]]


def test_the_load_stops_when_the_block_fails(server):
    with pytest.raises(ZeroDivisionError), load(server) as result:
        _ = 1 / 0
    assert result.requests > 0
    before = server.seen
    time.sleep(0.1)
    assert server.seen == before


def answer(sent, done, release):
    return Request(sent, done, release)


def test_requests_may_overtake_each_other_but_a_switch_does_not_go_back():
    overtaken = [answer(0, 1, "a"), answer(1, 4, "b"), answer(2, 3, "a"), answer(5, 6, "b")]
    assert summarise(overtaken).releases == ["a", "b"]
    back = [answer(0, 1, "a"), answer(1, 2, "b"), answer(3, 4, "a"), answer(5, 6, "b")]
    assert summarise(back).releases == ["a", "b", "a", "b"]
    there_and_back = [answer(0, 1, "a"), answer(2, 3, "b"), answer(4, 5, "a"), answer(4.5, 4.9, "b"), answer(6, 7, "a")]
    assert summarise(there_and_back).releases == ["a", "b", "a"]


def test_a_gap_at_either_end_counts():
    assert longest_gap([answer(0, 3, "a"), answer(3, 4, "a")]) == 3
    assert longest_gap([answer(0, 1, "a"), Request(1, 9, failure="time-out")]) == 8
    assert longest_gap([]) == 0
