"""nginx's cache: which answers it keeps, for whom, and of which release."""

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
from endpoint import running
from outcomes import wait_until

SIZE = 8 * 1024 * 1024  # the least that the role takes
MISS, HIT, STALE = ["nginx; fwd=uri-miss"], ["nginx; hit"], ["nginx; hit; detail=stale"]
NEW_URL = (f"/told?{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def api():
    cache = {"ttl": 600, "key": ["Accept-Language"], "stale": True, "size": str(SIZE)}
    with running(api_endpoint_cache=cache) as api:
        yield api


def from_cache(answer):
    """Return what nginx says about where an answer is from."""
    assert answer.status == 200, answer
    return answer.all("Cache-Status")


def is_kept(api, url, headers=None):
    """Whether the second of two requests gets the first one's answer."""
    first, second = (api.get(url, headers) for _ in range(2))
    assert first.status == second.status == 200
    return first.json["at"] == second.json["at"]


def test_the_second_request_is_a_hit(api):
    url = next(NEW_URL)
    first, second = api.get(url), api.get(url)
    assert (from_cache(first), from_cache(second)) == (MISS, HIT)
    assert first.body == second.body
    assert second.all("Access-Control-Allow-Origin") == ["*"]
    head = api.ask("HEAD", url)
    assert (from_cache(head), head.body) == (HIT, b"")
    wait_until(lambda: api.asked(url) == 1, "a line in gunicorn's log")


def test_a_head_request_keeps_a_whole_answer(api):
    url = next(NEW_URL)
    assert from_cache(api.ask("HEAD", url)) == MISS
    whole = api.get(url)
    assert from_cache(whole) == HIT
    assert whole.json["at"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer x"},
        {"Cookie": "a=b"},
        {"X-Api-Key": "k"},
        {"If-Match": '"x"'},
        {"Content-Length": "0"},
        {"Authorization": "1GET/", "Cookie": "1"},
    ],
    ids=lambda headers: " and ".join(headers),
)
def test_a_request_that_is_not_anonymous_bypasses_the_cache(api, headers):
    url = next(NEW_URL)
    assert not is_kept(api, url, headers)
    assert from_cache(api.get(url)) == MISS
    known = api.get(url, headers)
    assert from_cache(known) == []
    assert headers.items() <= known.json["headers"].items()


def test_bodies_go_to_the_app(api):
    url = next(NEW_URL)
    assert api.ask("GET", url, body=b"question").json["body"] == "question"
    chunked = api.ask("GET", url, body=iter([b"in ", b"chunks"]))
    assert (from_cache(chunked), chunked.json["body"]) == ([], "in chunks")
    for _ in range(2):
        posted = api.ask("POST", url, body=b"posted")
        assert (from_cache(posted), posted.json["body"]) == ([], "posted")
    assert from_cache(api.get(url)) == MISS


def test_headers_that_are_not_in_the_key_do_not_reach_the_app(api):
    url = next(NEW_URL)
    poison = {
        "X-CSRF-Token": "t",
        "Accept": "text/evil",
        "Range": "bytes=0-1",
        "If-None-Match": '"x"',
        "Referer": "http://evil/",
    }
    got = api.get(url, {"Accept-Language": "fr", **poison}).json["headers"]
    assert got == {
        "Host": api.name,
        "Connection": "close",
        "Accept-Language": "fr",
        "X-Forwarded-Proto": "http",
    }
    assert from_cache(api.get(url, {"Accept-Language": "fr"})) == HIT
    for other in (
        {"Accept-Language": "de"},
        {},
        {"Host": f"{api.name}:8080"},
        {"X-Forwarded-Proto": "https"},
    ):
        assert from_cache(api.get(url, other)) == MISS, other


def test_nginx_answers_ranges_and_conditions_from_the_cache(api):
    url = '/told?Accept-Ranges=bytes&ETag="v1"'
    whole = api.get(url)
    part = api.get(url, {"Range": "bytes=0-1"})
    assert (part.status, part.body) == (206, whole.body[:2])
    assert part.all("Cache-Status") == HIT
    for method in ("GET", "HEAD"):
        unchanged = api.ask(method, url, headers={"If-None-Match": '"v1"'})
        assert (unchanged.status, unchanged.body) == (304, b"")
        assert unchanged.all("Cache-Status") == HIT
        assert api.ask(method, url, headers={"If-None-Match": '"v2"'}).status == 200


@pytest.mark.parametrize("condition", ["Range", "If-None-Match"])
def test_a_range_or_condition_that_comes_first_keeps_a_whole_answer(api, condition):
    url = f'{next(NEW_URL)}&Accept-Ranges=bytes&ETag="v1"'
    value, status = {"Range": ("bytes=0-1", 206), "If-None-Match": ('"v1"', 304)}[condition]
    assert api.get(url, {condition: value}).status == status
    whole = api.get(url)
    assert from_cache(whole) == HIT
    assert whole.json["at"]


@pytest.mark.parametrize(
    "header",
    [{"If-Match": '"v2"'}, {"If-Unmodified-Since": "Thu, 01 Jan 2020 00:00:00 GMT"}],
    ids=list,
)
def test_a_condition_that_may_fail_goes_to_the_app_and_logs_no_alert(api, header):
    url = f'{next(NEW_URL)}&ETag="v1"&Last-Modified=Fri,+01+Jan+2021+00:00:00+GMT'
    assert api.get(url, header).all("Cache-Status") == []
    assert from_cache(api.get(url)) == MISS
    assert "stalled cache" not in api.errors()


def test_urls_are_compared_letter_by_letter(api):
    url = next(NEW_URL)
    for more in ("&x=1&y=2", "&y=2&x=1", "&x=1", "&x=%31", "&X=1", ""):
        assert from_cache(api.get(f"{url}{more}")) == MISS, more


def test_vary_tells_answers_apart_by_headers_that_are_not_in_the_key(api):
    url = f"{next(NEW_URL)}&Vary=X-Requested-With"
    one, another = {"X-Requested-With": "one"}, {"X-Requested-With": "another"}
    assert is_kept(api, url, one)
    assert from_cache(api.get(url, another)) == MISS
    assert is_kept(api, url, another)
    assert from_cache(api.get(url, one)) == HIT


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ("", True),
        ("Cache-Control=no-store", False),
        ("Cache-Control=private", False),
        ("Cache-Control=no-cache", False),
        ("Cache-Control=max-age=0", False),
        ("Cache-Control=max-age=600", True),
        ("Expires=Thu,+01+Jan+1970+00:00:00+GMT", False),
        ("Set-Cookie=a=b", False),
        ("Vary=*", False),
    ],
)
def test_the_apps_headers_decide(api, headers, kept):
    assert is_kept(api, f"{next(NEW_URL)}&{headers}") is kept


def test_errors_and_the_health_path_are_never_kept(api):
    for path, status in (("/nope", 404), ("/status/500", 500), ("/readyz", 200)):
        answers = [api.get(path) for _ in range(2)]
        assert [answer.status for answer in answers] == [status] * 2
        assert HIT not in [answer.all("Cache-Status") for answer in answers]
    for path in ("/readyz", "/%72eadyz?x"):
        assert from_cache(api.get(path)) == []


def test_64_000_bytes_are_kept_and_more_are_not(api):
    first, second = (api.get("/large?bytes=64000") for _ in range(2))
    assert (from_cache(first), from_cache(second)) == (MISS, HIT)
    assert len(first.body) == 64_000
    assert first.body == second.body
    for _ in range(2):
        assert from_cache(api.get("/large?bytes=64020")) == MISS


def test_a_flood_of_urls_takes_twice_the_size_at_the_most_and_then_the_size(api):
    def used():
        sizes = []
        for path in (api.folder / "cache").rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                sizes.append(path.stat().st_size if path.is_file() else 0)
        return sum(sizes)

    urls = [f"/large?bytes=64000&flood={number}" for number in range(500)]
    with ThreadPoolExecutor(8) as pool:
        sizes = {len(answer.body) for answer in pool.map(api.get, urls)}
    assert sizes == {64_000}, "answers were cut off"
    assert used() <= 2 * SIZE
    # nginx looks every ten seconds.
    wait_until(lambda: used() <= SIZE, "the cache holds no more than its size", 120)
    assert from_cache(api.get(urls[0])) == MISS, (
        "the answer that was not asked for the longest goes first"
    )


def test_requests_for_the_same_url_at_once_are_one_to_the_app(api):
    with api.held() as held, ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(api.get, held.path) for _ in range(12)]
        held.wait_for(1)
        # nginx has read more than one of them by the time that it has answered all of these.
        for _ in range(50):
            api.get("/readyz")
        held.release()
        assert {from_cache(answer.result())[0] for answer in answers} == {*MISS, *HIT}
        assert held.count == 1


def test_a_stale_answer_is_given_while_the_app_is_down(api):
    url = f"{next(NEW_URL)}&Cache-Control=max-age=1"
    fresh = api.get(url)

    def is_stale():
        return from_cache(api.get(url)) == STALE

    wait_until(is_stale, "the answer is stale")
    wait_until(lambda: api.get(url).json["at"] != fresh.json["at"], "nginx has a new one")
    with api.stopped_app():
        wait_until(is_stale, "the new answer is stale too")
        assert api.get(url).json["at"]
        assert api.get(next(NEW_URL)).status == 502


def test_a_release_does_not_get_the_answers_of_another(api):
    url = next(NEW_URL)
    kept = api.get(url)
    with api.live_slot("green"):
        assert from_cache(api.get(url)) == MISS
        assert api.get(url).json["at"] != kept.json["at"]
    again = api.get(url)
    assert (from_cache(again), again.body) == (HIT, kept.body)


def test_an_answer_that_a_release_overtakes_is_not_kept(api):
    with api.held() as held, ThreadPoolExecutor(1) as pool:
        before = pool.submit(api.get, held.path)
        held.wait_for(1)
        with api.live_slot("green"):
            held.release()
            assert from_cache(before.result()) == MISS
        assert [from_cache(api.get(held.path)) for _ in range(2)] == [MISS, HIT]


def test_without_a_cache_each_request_goes_to_the_app(api):
    url = next(NEW_URL)
    with api.beside() as plain:
        assert not is_kept(plain, url)
        assert from_cache(plain.get(url)) == []


def test_streams_are_not_kept_and_nobody_waits_for_anothers(api, tmp_path):
    url = f"/parts?in={tmp_path}"
    raw = f"GET {url} HTTP/1.1\r\nHost: {api.name}\r\nAccept: text/event-stream\r\n\r\n"
    with contextlib.ExitStack() as connections:
        streams = []
        for _ in range(2):
            client = connections.enter_context(api.connect())
            client.sendall(raw.encode())
            streams.append(client.makefile("rb"))
        # The first part of each is there before any of them ends.
        for stream in streams:
            assert b"first\r\n" in iter(stream.readline, b"")
        (tmp_path / "release").touch()
        for stream in streams:
            assert b"last\r\n" in iter(stream.readline, b"")
    assert [from_cache(api.get(url)) for _ in range(2)] == [MISS, MISS]
    # Not even its lock is waited for, where a client says that it wants events.
    assert from_cache(api.get(url, {"Accept": "text/html, text/event-stream"})) == []
    wait_until(lambda: api.asked(url) == 5, "the app is asked each time")
