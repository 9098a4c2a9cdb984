"""What nginx keeps: only what it may, of the live release, in memory, and nobody's but its own."""

import itertools
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from outcomes import ROOT, wait_until

FOLDER = "/run/nginx-cache"
UNIT = r"run-nginx\x2dcache-api\x2dendpoint.mount"
CACHE = {"ttl": 600, "key": ["Accept-Language"], "stale": True, "size": "8m"}
RUN = uuid.uuid4().hex  # so that no earlier run has asked the same
NEW_URL = (f"/told?{RUN}={number}" for number in itertools.count())


@pytest.fixture(scope="module", autouse=True)
def cached(api, deploy):
    """Turn the cache on while the app runs; the last test turns it off again."""
    run = deploy(deploy.last, "--tags", "nginx", cache=CACHE)
    assert run.status == 0, run.output
    yield
    if api.host.run(f"test -e {FOLDER}/api-endpoint").rc == 0:
        deploy(deploy.last, "--tags", "nginx")


def said(answer):
    """What nginx says about where an answer is from."""
    return answer.all("Cache-Status")


def same(api, *urls, **more):
    """Whether two requests get one and the same answer of the app's."""
    first, second = (api.get(url, **more) for url in (urls * 2)[:2])
    assert first.status == second.status == 200
    return first.json["at"] == second.json["at"]


def asked(api, url):
    """How often the app was asked for a URL."""
    return int(api.host.run(f"grep --fixed-strings --count '{url} ' /var/log/gunicorn/access.log").stdout)


def test_the_second_who_asks_is_answered_from_memory(api):
    url = next(NEW_URL)
    first, second = api.get(url), api.get(url)
    assert (said(first), said(second)) == (["nginx; fwd=uri-miss"], ["nginx; hit"])
    assert first.body == second.body
    assert second.all("Access-Control-Allow-Origin") == ["*"]
    head = api.ask("HEAD", url)
    assert (head.status, said(head), head.body) == (200, ["nginx; hit"], b"")
    wait_until(lambda: asked(api, url) == 1, "one line in gunicorn's log", 5)


def test_head_first(api):
    url = next(NEW_URL)
    assert said(api.ask("HEAD", url)) == ["nginx; fwd=uri-miss"]
    assert said(api.get(url)) == ["nginx; hit"]
    assert api.get(url).json["release"] == api.release


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
)
def test_who_is_known_is_neither_answered_from_it_nor_kept(api, headers):
    url = next(NEW_URL)
    assert not same(api, url, headers=headers)
    assert said(api.get(url)) == ["nginx; fwd=uri-miss"]
    known = api.get(url, headers=headers)
    assert said(known) == []
    assert headers.items() <= known.json["headers"].items()


def test_bodies_go_to_the_app(api):
    url = next(NEW_URL)
    assert api.ask("GET", url, body=b"question").json["body"] == "question"
    chunked = api.ask("GET", url, body=iter([b"in ", b"chunks"]))
    assert (said(chunked), chunked.json["body"]) == ([], "in chunks")
    for _ in range(2):
        posted = api.ask("POST", url, body=b"posted")
        assert (said(posted), posted.json["body"]) == ([], "posted")
    assert said(api.get(url)) == ["nginx; fwd=uri-miss"]


def test_what_the_app_does_not_get_cannot_change_an_answer(api):
    url = next(NEW_URL)
    poison = {
        "X-CSRF-Token": "t",
        "Accept": "text/evil",
        "Range": "bytes=0-1",
        "If-None-Match": '"x"',
        "Referer": "http://evil/",
    }
    first = api.get(url, headers={"Accept-Language": "fr", **poison})
    assert first.status == 200
    got = first.json["headers"]
    assert got.pop("X-Forwarded-Proto") == "http"
    assert got == {"Host": api.name, "Connection": "close", "Accept-Language": "fr"}
    assert said(api.get(url, headers={"Accept-Language": "fr"})) == ["nginx; hit"]
    assert said(api.get(url, headers={"Accept-Language": "de"})) == ["nginx; fwd=uri-miss"]
    assert said(api.get(url)) == ["nginx; fwd=uri-miss"]
    assert said(api.get(url, headers={"Host": f"{api.name}:8080"})) == ["nginx; fwd=uri-miss"]
    assert said(api.get(url, headers={"X-Forwarded-Proto": "https"})) == ["nginx; fwd=uri-miss"]


def test_ranges_and_conditions_are_nginxs_to_answer(api):
    url = '/told?Accept-Ranges=bytes&ETag="v1"'
    assert api.get(url, headers={"Range": "bytes=0-1"}).status in (200, 206)
    part = api.get(url, headers={"Range": "bytes=0-1"})
    assert (part.status, part.body, said(part)) == (206, api.get(url).body[:2], ["nginx; hit"])
    for method in ("GET", "HEAD"):
        unchanged = api.ask(method, url, headers={"If-None-Match": '"v1"'})
        assert (unchanged.status, unchanged.body, said(unchanged)) == (304, b"", ["nginx; hit"])
        assert api.ask(method, url, headers={"If-None-Match": '"v2"'}).status == 200


@pytest.mark.parametrize("header", [{"If-Match": '"v2"'}, {"If-Unmodified-Since": "Thu, 01 Jan 2020 00:00:00 GMT"}])
def test_a_condition_that_may_fail_is_the_apps_and_alarms_nobody(api, header):
    url = f'{next(NEW_URL)}&ETag="v1"&Last-Modified=Fri,+01+Jan+2021+00:00:00+GMT'
    assert said(api.get(url, headers=header)) == []
    assert said(api.get(url)) == ["nginx; fwd=uri-miss"]
    assert api.host.run("grep 'stalled cache' /var/log/nginx/error.log").stdout == ""


def test_a_condition_that_comes_first_leaves_a_whole_answer(api):
    url = f'{next(NEW_URL)}&ETag="v1"'
    assert api.get(url, headers={"If-None-Match": '"v1"'}).status == 304
    whole = api.get(url)
    assert (whole.status, whole.json["release"], said(whole)) == (200, api.release, ["nginx; hit"])


def test_urls_are_the_same_letter_by_letter(api):
    url = next(NEW_URL)
    answers = [api.get(f"{url}{more}") for more in ("&x=1&y=2", "&y=2&x=1", "&x=1", "&x=%31", "&X=1", "")]
    assert [said(answer) for answer in answers] == [["nginx; fwd=uri-miss"]] * 6


def test_vary_tells_answers_apart_by_headers_that_are_not_in_the_key(api):
    url = f"{next(NEW_URL)}&Vary=X-Requested-With"
    one, another = {"X-Requested-With": "one"}, {"X-Requested-With": "another"}
    assert same(api, url, headers=one)
    assert said(api.get(url, headers=another)) == ["nginx; fwd=uri-miss"]
    assert same(api, url, headers=another)
    assert said(api.get(url, headers=one)) == ["nginx; hit"]


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("", True),
        ("Cache-Control=no-store", False),
        ("Cache-Control=private", False),
        ("Cache-Control=no-cache", False),
        ("Cache-Control=max-age=0", False),
        ("Cache-Control=max-age=60", True),
        ("Expires=Thu,+01+Jan+1970+00:00:00+GMT", False),
        ("Set-Cookie=a=b", False),
        ("Vary=*", False),
    ],
)
def test_the_apps_word_counts(api, words, kept):
    assert same(api, f"{next(NEW_URL)}&{words}") is kept


def test_only_answers_with_200_are_kept_and_the_health_path_never(api):
    for path, status in (("/nope", 404), ("/healthz", 200)):
        answers = [api.get(path) for _ in range(2)]
        assert [answer.status for answer in answers] == [status] * 2
        assert ["nginx; hit"] not in [said(answer) for answer in answers]
    assert said(api.get("/healthz")) == said(api.get("/%68ealthz?x")) == []


def test_a_large_answer(api):
    url = f"/large?bytes=64000&{RUN}"
    first, second = api.get(url), api.get(url)
    assert (said(first), said(second)) == (["nginx; fwd=uri-miss"], ["nginx; hit"])
    assert len(first.body) == 64_000
    assert first.body == second.body


def test_one_that_is_too_large_is_not_kept(api):
    answers = [api.get(f"/large?bytes=64020&{RUN}") for _ in range(2)]
    assert [said(answer) for answer in answers] == [["nginx; fwd=uri-miss"]] * 2


def used(api):
    """How many kilobytes the cache's memory has, and how many are taken."""
    return [int(word) for word in api.host.check_output(f"df --output=size,used {FOLDER}/api-endpoint").split()[2:]]


def test_a_flood_of_different_questions_finds_room_and_soon_no_more_is_taken_than_may_be(api):
    urls = [f"/large?bytes=64000&{RUN}={number}" for number in range(500)]

    def size_of(url):
        time.sleep(0.1)  # together less than one client may
        return len(api.get(url).body)

    with ThreadPoolExecutor(8) as pool:
        sizes = Counter(pool.map(size_of, urls))
    assert sizes == {64_000: 500}, "answers were cut off"
    size, taken = used(api)
    assert size == (2 * 8 + 16) * 1024
    assert taken <= 2 * 8 * 1024
    # nginx looks every ten seconds, or more often when there is something to do.
    wait_until(lambda: used(api)[1] <= 8 * 1024, "it holds no more than it may", 20)
    assert said(api.get(urls[0])) == ["nginx; fwd=uri-miss"], "what was not asked for the longest goes first"


def test_many_who_ask_the_same_at_once_are_one_to_the_app(api):
    url = f"/slow?seconds=1&at-once={RUN}"
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(api.get, [url] * 20))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    wait_until(lambda: asked(api, url) >= 1, "a line in gunicorn's log", 5)
    assert asked(api, url) == 1


def test_an_answer_that_is_too_old_is_given_while_the_app_is_down(api):
    url = f"{next(NEW_URL)}&Cache-Control=max-age=1"
    fresh = api.get(url)
    wait_until(lambda: said(api.get(url)) == ["nginx; hit; detail=stale"], "the answer is too old", 5)
    wait_until(lambda: api.get(url).json["at"] != fresh.json["at"], "it was made anew meanwhile", 5)
    last, way = api.get(url), f"{ROOT}/slots/{api.slot}/gunicorn.sock"
    api.host.check_output(f"mv {way} {way}.away")  # as if it was stopped, without the time that it takes to start
    try:
        wait_until(lambda: said(api.get(url)) == ["nginx; hit; detail=stale"], "the answer is too old again", 5)
        old = api.get(url)
        assert (old.status, old.json["release"]) == (200, last.json["release"])
        assert api.get(next(NEW_URL)).status == 502
    finally:
        api.host.check_output(f"mv {way}.away {way}")


def test_it_lies_in_memory_and_is_nginxs_alone(api):
    api.get(next(NEW_URL))
    mount = api.host.check_output(f"findmnt --noheadings --output FSTYPE,OPTIONS --mountpoint {FOLDER}/api-endpoint")
    assert mount.split()[0] == "tmpfs"
    assert {"nosuid", "nodev", "noexec"} < set(mount.split()[1].split(","))
    assert api.host.check_output(f"stat --format '%U %a' {FOLDER} {FOLDER}/api-endpoint").split() == [
        "root", "755", "www-data", "700",
    ]  # fmt: skip
    kept = api.host.check_output(f"find {FOLDER} -type f").split()
    assert kept
    assert set(api.host.check_output(f"stat --format '%U %a' {' '.join(kept)}").splitlines()) == {"www-data 600"}
    assert api.host.run(f"setpriv --reuid nobody --clear-groups cat {kept[0]}").rc != 0
    # The app, which was running already when it came, has nginx's account and must not see it.
    assert api.host.run(f"setpriv --reuid www-data --clear-groups cat {kept[0]}").rc == 0
    assert api.as_service(f"ls {ROOT}/current/").rc == 0
    assert api.as_service(f"ls {FOLDER}").rc != 0
    assert api.as_service(f"cat {kept[0]}").rc != 0
    api.host.check_output(f"systemctl stop '{UNIT}' && systemctl restart nginx")
    api.wait_until_it_answers("/")
    assert api.host.run(f"systemctl is-active '{UNIT}'").stdout.strip() == "active", "nginx brings it"
    assert api.as_service(f"ls {FOLDER}").rc != 0


def test_an_answer_that_nobody_knows_the_release_of_is_not_kept(api):
    def live(slot):
        api.host.check_output(f"ln -sfnT slots/{slot} {ROOT}/live.new && mv -T {ROOT}/live.new {ROOT}/live")

    url, slot = f"/slow?seconds=1&turned={RUN}", api.slot
    with ThreadPoolExecutor(1) as threads:
        asked_before = threads.submit(api.get, url)
        time.sleep(0.3)
        live("green" if slot == "blue" else "blue")
        try:
            assert said(asked_before.result()) == ["nginx; fwd=uri-miss"]
        finally:
            live(slot)
    assert said(api.get(url)) == ["nginx; fwd=uri-miss"]
    assert said(api.get(url)) == ["nginx; hit"]


def test_what_is_kept_is_the_live_releases(api, deploy, new_app, on_one_host):
    urls = [f"/told?kept={number}" for number in range(50)]
    first, stop = api.release, threading.Event()
    failed = []

    def ask():
        for url in itertools.cycle(urls):
            if stop.is_set():
                return
            answer = api.get(url)
            if answer.status != 200:
                failed.append(answer)
            time.sleep(0.1)  # together less than one client may

    def releases():
        return {api.get(url).json["release"] for url in urls}

    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(ask)
        try:
            assert releases() == {first}
            # With one strategy there, and back with the other.
            run = deploy(new_app("kept", load_seconds=0), "--tags", "app", strategy="restart")
            assert run.status == 0, run.output
            second = api.release
            assert second != first
            assert releases() == {second}
            run = deploy.back(first)
            assert run.status == 0, run.output
            assert releases() == {first}
        finally:
            stop.set()
    assert not failed
    assert said(api.get(urls[0])) == ["nginx; hit"]


def test_turned_off_again(api, deploy):
    run = deploy(deploy.last, "--tags", "nginx")
    assert run.status == 0, run.output
    url = next(NEW_URL)
    assert not same(api, url)
    assert said(api.get(url)) == []
    assert api.host.run(f"find {FOLDER} -mindepth 1").stdout == ""
    assert api.host.run(f"findmnt --mountpoint {FOLDER}/api-endpoint").rc != 0
    assert api.host.run(f"systemctl cat '{UNIT}'").rc != 0
