"""Downloads: the real curl against a real server with real faults."""

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from ansible.module_utils.api_endpoint.artifacts import download as downloader
from ansible.module_utils.api_endpoint.artifacts.download import Policy, download
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.urls import shown_url
from helpers import PROJECT

spec = importlib.util.spec_from_file_location(
    "fault_server", PROJECT / "molecule" / "artifacts" / "fault_server.py"
)
fault_server = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = fault_server
spec.loader.exec_module(fault_server)

SIZE = 3_000_000
SHA256 = fault_server.digest(SIZE, "a")
OTHER = fault_server.digest(SIZE, "b")


@contextlib.contextmanager
def serving():
    with fault_server.Server(("127.0.0.1", 0)) as running:
        threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
        running.base = f"http://127.0.0.1:{running.server_address[1]}"
        running.url = f"{running.base}/bytes/{SIZE}/a"
        running.heads = []
        yield running
        running.shutdown()


@pytest.fixture
def server(monkeypatch):
    """A fault server that also keeps the headers of each request."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    answer = fault_server.Handler.do_GET

    def keep_headers(handler):
        handler.server.heads.append((handler.path, dict(handler.headers)))
        answer(handler)

    monkeypatch.setattr(fault_server.Handler, "do_GET", keep_headers)
    with serving() as running:
        yield running


class Run:
    """A download with little patience; keeps the waits and what was reported."""

    def __init__(self, tmp_path):
        self.part = tmp_path / "model.bin.part"
        self.side = tmp_path / "model.bin.part.json"
        self.waits, self.notes, self.progress = [], [], []

    def __call__(self, *urls, sha256=SHA256, patience=None, **options):
        self.waits, self.notes, self.progress = [], [], []
        policy = Policy(
            **{
                "tries": 3,
                "stall_timeout": 1,
                "least_progress": 1000,
                "sleep": self.waits.append,
                **(patience or {}),
            }
        )
        return download(
            self.part, urls, sha256=sha256, policy=policy, note=self.notes.append,
            progress=lambda *figures: self.progress.append(figures), **options,
        )  # fmt: skip

    def fails(self, *urls, match, **options):
        with pytest.raises(DeployError, match=match) as caught:
            self(*urls, **options)
        return str(caught.value)

    @property
    def left(self):
        return sorted(os.listdir(self.part.parent))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path)


def test_a_file_arrives(server, run):
    result = run(server.url, size=SIZE)
    assert (result.sha256, result.size, result.transferred, result.url) == (
        SHA256,
        SIZE,
        SIZE,
        server.url,
    )
    assert hashlib.sha256(run.part.read_bytes()).hexdigest() == SHA256
    assert run.left == ["model.bin.part"]
    assert run.progress[-1] == (SIZE, SIZE)
    assert run.waits == run.notes == []
    assert run.part.stat().st_mode & 0o777 == 0o600


def test_an_unknown_digest_is_found_out(server, run):
    assert run(server.url, sha256="").sha256 == SHA256


def test_a_digest_in_capitals_and_an_empty_file(server, run):
    empty = f"{server.base}/bytes/0/a"
    for size in (None, 0):
        assert run(empty, sha256=hashlib.sha256().hexdigest().upper(), size=size).size == 0
        assert run.part.read_bytes() == b""


def test_a_connection_cut_again_and_again_transfers_every_byte_once(server, run):
    result = run(f"{server.url}?cut=700000")
    assert result.sha256 == SHA256
    assert server.stats()["total"] == {"requests": 5, "bytes": SIZE}
    assert run.waits == [1.0] * 4  # progress was made, so the wait does not grow
    assert "closed with 2300000 bytes remaining" in run.notes[0]
    assert server.heads[-1][1]["Range"] == "bytes=2800000-"
    assert server.heads[-1][1]["If-Range"] == f'"{SIZE}-a"'


def test_without_validators_a_wrong_file_is_fetched_twice_and_no_more(server, run):
    run.fails(f"{server.url}?novalidator=1&cut=2000000&flip=5", match="it is not the expected file")
    assert server.stats()["total"]["bytes"] == 2 * SIZE


def test_a_weak_etag_does_not_stand_for_bytes(server, run):
    assert run(f"{server.url}?weak=1&cut=1000000").transferred == SIZE
    assert server.heads[1][1]["If-Range"] == fault_server.MODIFIED


def test_the_next_run_goes_on_where_the_last_one_gave_up(server, run):
    text = run.fails(
        f"{server.url}?cut=1000000&key=k",
        match="1,000,000 bytes are kept in .*model.bin.part",
        patience={"tries": 1},
    )
    assert "closed with 2000000 bytes remaining" in text
    assert "'HTTP/1.1 200 OK'" in text
    assert run.left == ["model.bin.part", "model.bin.part.json"]
    assert run(f"{server.url}?cut=1000000&key=k").transferred == 2_000_000
    assert server.stats()["total"]["bytes"] == SIZE


def test_a_killed_run_leaves_a_half_that_is_continued(server, run):
    url = f"{server.url}?throttle=1500000&times=1"
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            run(url)
        os._exit(0)
    while not run.part.exists() or run.part.stat().st_size < 1_000_000:
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    there = run.part.stat().st_size
    assert run(url).transferred == SIZE - there


def test_a_half_without_notes_is_continued_if_the_digest_can_tell(server, run):
    run.part.write_bytes(
        b"".join(piece for pieces in fault_server.content(1_200_000, "a") for piece in pieces)
    )
    assert run(server.url).transferred == SIZE - 1_200_000
    assert "If-Range" not in server.heads[0][1]


def test_a_half_without_notes_is_not_continued_if_nothing_can_tell(server, run):
    run.part.write_bytes(b"x" * 1_000_000)
    assert run(server.url, sha256="").sha256 == SHA256
    assert server.stats()["total"]["bytes"] == SIZE


def test_a_half_of_something_else_is_replaced_once(server, run):
    run.part.write_bytes(b"x" * 1_000_000)
    assert run(server.url).sha256 == SHA256
    assert server.stats()["total"]["bytes"] == 2 * SIZE - 1_000_000
    assert "joined from several tries" in run.notes[0]
    assert not [
        thread for thread in threading.enumerate() if isinstance(thread, downloader._Digest)
    ]


def test_a_half_that_a_power_cut_damaged_is_replaced(server, run):
    url = f"{server.url}?cut=1000000"
    run.fails(url, match="kept", patience={"tries": 1})
    with open(run.part, "r+b") as file:
        file.seek(500_000)
        file.write(bytes(4096))
    assert run(url).sha256 == SHA256


def test_a_whole_file_is_not_transferred_again(server, run):
    run(server.url)
    for size, requests in (
        (SIZE, 0),
        (None, 1),
    ):  # one request finds out, by its status 416, that nothing is missing
        server.reset()
        assert run(server.url, size=size).transferred == 0
        assert server.stats()["total"] == {"requests": requests, "bytes": 0}


def test_a_longer_file_is_replaced(server, run):
    run.part.write_bytes(b"x" * (SIZE + 1))
    assert run(server.url, size=SIZE).sha256 == SHA256
    run.part.write_bytes(b"x" * (SIZE + 1))
    assert run(server.url).sha256 == SHA256
    assert "no bytes after the first 3,000,001" in run.notes[0]
    assert run.part.stat().st_size == SIZE
    run.part.write_bytes(b"x" * (SIZE + 1))
    assert run(server.url, size=SIZE, sha256="").sha256 == SHA256


def test_a_half_of_the_right_length_is_not_believed_if_nothing_can_tell(server, run):
    run.part.write_bytes(b"x" * SIZE)
    assert run(server.url, size=SIZE, sha256="").sha256 == SHA256


def test_a_server_that_ignores_range_is_not_appended(server, run):
    url = f"{server.url}?norange=1&cut=1000000&times=1"
    second = f"{server.url}?norange=1&throttle=1000000000"
    run.fails(url, match="closed with", patience={"tries": 1})
    assert run(second, sha256="").sha256 == SHA256
    assert server.stats()["total"]["bytes"] == SIZE + 1_000_000


def test_a_server_that_always_starts_again_is_given_up(server, run):
    run.fails(
        f"{server.url}?norange=1&cut=1000000",
        match=r"started again 2 times\).* cannot resume downloads",
    )


def test_a_file_that_changes_all_the_time_is_given_up(server, run, monkeypatch):
    def faults(handler, *_arguments):
        return fault_server.Faults(seed=str(len(server.heads)), noifrange="1", cut="1000000")

    monkeypatch.setattr(fault_server.Handler, "faults", faults)
    run.fails(server.url, match=r"the file on the server has changed .* \(started again 4 times\)")


def test_a_server_that_sends_another_range_is_not_appended(server, run):
    run.part.write_bytes(b"x" * 1_000_000)
    assert run(f"{server.url}?badrange=1&times=1").sha256 == SHA256
    assert "another range than asked for (bytes 0-2999999/3000000)" in run.notes[0]
    run.part.write_bytes(b"x" * 1_000_000)
    server.heads.clear()
    run.fails(f"{server.url}?badrange=1&cut=1000000", match="cannot resume downloads")
    assert ["Range" in head for _path, head in server.heads][:3] == [True, False, False]


@pytest.mark.parametrize(
    "fault", ["", "noifrange=1", "noifrange=1&noetag=1&size=2900000", "noifrange=1&weak=1"]
)
def test_another_file_under_the_same_url_is_not_glued_to_the_old_half(server, run, fault):
    # The first request is cut. From the second on, the file is another one, whether the server minds If-Range or not.
    first, url = f"{server.url}?cut=1000000", server.url
    size = 2_900_000 if "size" in fault else SIZE
    path = f"/bytes/{SIZE}/a"
    original = fault_server.Handler.faults

    def faults(handler, *_arguments):
        number = len(server.heads)
        given = first if number == 1 else f"{url}?seed=b&{fault}"
        if "weak" in fault and number == 1:
            given += "&weak=1"
        handler.path = given.removeprefix(server.base)
        return original(handler, path, handler.path.partition("?")[2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fault_server.Handler, "faults", faults)
        result = run(url, sha256="")
    assert result.sha256 == fault_server.digest(size, "b")
    assert any("changed" in note or "whole file" in note for note in run.notes)


def test_a_stalled_connection_is_left(server, run):
    result = run(f"{server.url}?stall=1000000&times=1")  # the server keeps it open for ever
    assert result.transferred == SIZE
    assert "too slow" in run.notes[0]
    assert any(done == 1_000_000 for done, _total in run.progress)


def test_a_file_that_is_not_there(server, run):
    text = run.fails(f"{server.url}?status=404&token=secret", match="404 Not Found")
    assert text == (
        f"""{server.url}: the server answered 'HTTP/1.1 404 Not Found' and '404 Fault 404 As "ordered".'. """
        "Correct the URL, or publish the file there again."
    )
    assert server.stats()["total"]["requests"] == 1
    assert run.left == []


def test_a_file_that_may_not_be_read(server, run):
    run.fails(f"{server.url}?status=403", match="403 Forbidden.* headers can be given")
    assert run.waits == []


def test_a_passing_fault_is_waited_for_longer_and_longer(server, run):
    assert run(f"{server.url}?status=500&times=3", patience={"tries": 4}).sha256 == SHA256
    assert run.waits == [
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
    ]  # 1 + 2 + 4 s, told progress each second
    run.part.unlink()
    run.fails(
        f"{server.url}?status=500",
        match="500 Internal Server Error.*Run again later",
        patience={"longest_wait": 1.5},
    )
    assert run.waits == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("asked", "waited"), [("7", 7), ("9999", 10), ("Wed, 21 Oct 2015 07:28:00 GMT", 1), ("soon", 1)]
)
def test_retry_after_is_honoured_within_reason(server, run, asked, waited):
    run(
        f"{server.url}?status=503&times=1&retry_after={quote(asked)}",
        patience={"longest_retry_after": 10},
    )
    assert sum(run.waits) == waited


def test_a_server_that_is_not_there(run, server):
    text = run.fails("http://127.0.0.1:9/model.bin", match="Failed to connect|Couldn't connect")
    assert text.startswith("http://127.0.0.1:9/model.bin: ")
    assert len(run.waits) == 3  # 1 and 2 s


@pytest.mark.parametrize("promised", [1_000_000, SIZE + 1000])
def test_a_lying_length_is_refused_before_a_byte_is_written(server, run, promised):
    text = run.fails(
        f"{server.url}?length={promised}",
        size=SIZE,
        match=f"a file of {promised:,} bytes, expected 3,000,000",
    )
    assert "size is out of date" in text
    assert run.left == []


def test_a_lying_length_without_a_known_size(server, run):
    run.fails(
        f"{server.url}?length=1000000", match=f"its SHA-256 is [0-9a-f]{{64}}, expected {SHA256}"
    )
    assert run.left == []
    assert (
        run(f"{server.url}?length={SIZE + 1000}&times=1").sha256 == SHA256
    )  # the second request says that it was all


def test_a_truncated_file_with_the_length_of_what_is_left(server, run):
    cut = fault_server.digest(2_000_000, "a")
    run.fails(
        f"{server.url}?size=2000000",
        match=rf"its SHA-256 is {cut}, expected {SHA256} \(2,000,000 bytes\)",
    )
    assert run.left == []
    run.fails(
        f"{server.url}?size=2000000",
        size=SIZE,
        match="a file of 2,000,000 bytes, expected 3,000,000",
    )


def test_a_refused_answer_leaves_the_half_alone(server, run):
    run.fails(f"{server.url}?cut=1000000", match="kept", patience={"tries": 1})
    run.fails(f"{server.url}?size=5000", size=SIZE, match="1,000,000 bytes are kept")
    run.fails(f"{server.url}?status=404", match="1,000,000 bytes are kept")
    assert run(server.url, size=SIZE).transferred == 2_000_000


def test_never_more_than_the_expected_size(server, run):
    run.fails(
        f"{server.url}?chunked=1",
        size=1_000_000,
        sha256="",
        match="sent more than the expected 1,000,000 bytes",
    )
    assert run.left == []


def test_a_body_without_length(server, run):
    assert run(f"{server.url}?chunked=1&cut=1000000&times=1", size=SIZE).transferred == SIZE
    assert server.stats()["total"]["bytes"] == SIZE


def test_a_body_that_ends_where_the_connection_does(server, run):
    # Whether that was all, only the expected size tells.
    assert run(f"{server.url}?close=1&cut=1000000&times=1", size=SIZE).transferred == SIZE
    assert "the connection ended at 1,000,000 of 3,000,000 bytes" in run.notes[0]
    assert server.stats()["total"]["bytes"] == SIZE


def test_a_flipped_byte_names_both_digests_and_the_url(server, run):
    text = run.fails(f"{server.url}?flip=1500000", match="its SHA-256 is")
    wrong = hashlib.sha256()
    body = bytearray(
        b"".join(piece for pieces in fault_server.content(SIZE, "a") for piece in pieces)
    )
    body[1_500_000] ^= 0xFF
    wrong.update(body)
    assert text.startswith(
        f"{server.url}: it is not the expected file: its SHA-256 is {wrong.hexdigest()}, expected {SHA256} (3,000,000 bytes"
    )
    assert "compare with sha256sum" in text
    assert server.stats()["total"]["requests"] == 1
    assert run.left == []


def test_the_next_mirror_delivers_what_the_first_did_not(server, run):
    for fault in ("status=404", "flip=7", "size=100", "status=500"):
        result = run(
            f"{server.base}/bytes/{SIZE}/a?{fault}",
            f"{server.base}/bytes/{SIZE}/a?throttle=900000000",
        )
        assert result.sha256 == SHA256, fault
        assert any("giving this server up" in note for note in run.notes), fault
        run.part.unlink()


def test_another_mirror_continues_the_half_of_the_first(server, run):
    with serving() as second:
        urls = (f"{server.url}?cut=1000000&times=1", f"{second.url}")
        first = f"{server.url}?cut=1000000"
        with pytest.raises(DeployError, match="kept"):
            run(first, patience={"tries": 1})
        assert run(f"{server.url}?status=403", urls[1]).sha256 == SHA256
        assert second.stats()["total"]["bytes"] == SIZE - 1_000_000


def test_halves_of_two_mirrors_that_do_not_fit_are_fetched_again(server, run):
    # The first mirror's half is damaged; the second one is innocent.
    result = run(f"{server.url}?flip=5&cut=1000000", server.url, patience={"tries": 1})
    assert result.sha256 == SHA256
    assert "joined from several tries" in " ".join(run.notes)


def test_all_mirrors_are_named_when_none_delivers(server, run):
    text = run.fails(f"{server.url}?status=410", f"{server.base}/bytes/{SIZE}/b", match="410 Gone")
    assert (
        f"{server.base}/bytes/{SIZE}/b: it is not the expected file: its SHA-256 is {OTHER}" in text
    )


def test_a_redirect_is_followed_and_the_rest_taken_from_there(server, run):
    target = f"{server.url}?cut=2000000&times=1"
    assert run(f"{server.base}/bytes/1/r?redirect={quote(target, safe='')}").transferred == SIZE
    assert run(f"{server.base}/bytes/1/r?redirect={quote(f'/bytes/{SIZE}/a')}").transferred == 0


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"]
)
def test_a_redirect_out_of_http_is_refused(server, run, target):
    run.fails(
        f"{server.url}?redirect={quote(target)}",
        match=f"a redirect to '{target}', which is neither http nor https",
    )
    assert run.left == []


def test_a_file_url_is_refused_by_curl_too(run, server):
    run.fails("file:///etc/hostname", match=r'(?i)protocol "?file"? .*(disabled|not supported)')
    assert run.waits == []
    assert run.left == []


@pytest.fixture
def redirects(server, monkeypatch):
    """A server that sends from /one/start to `location`, and has the file everywhere else; and the paths asked for."""
    answer, found = fault_server.Handler.do_GET, SimpleNamespace(status=302, location="", paths=[])

    def redirect(handler):
        found.paths.append(handler.path)
        if handler.path != "/one/start":
            handler.path = f"/bytes/{SIZE}/a"
            answer(handler)
            return
        handler.send_response_only(found.status)
        handler._headers_buffer.append(
            b"Location: " + found.location.encode(errors="surrogateescape") + b"\r\n"
        )
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    monkeypatch.setattr(fault_server.Handler, "do_GET", redirect)
    return found


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_every_status_of_a_redirect_is_followed(server, run, redirects, status):
    redirects.status, redirects.location = status, "/files/m"
    assert run(f"{server.base}/one/start").size == SIZE
    assert redirects.paths == ["/one/start", "/files/m"]


@pytest.mark.parametrize(
    ("location", "asked"),
    [
        ("/files/my model.bin", "/files/my%20model.bin"),
        ("/files/Zürich Å.bin", "/files/Z%C3%BCrich%20%C3%85.bin"),
        ("/files/Z\udcfcrich.bin", "/files/Z%FCrich.bin"),
        ("/files/my%20model.bin", "/files/my%20model.bin"),
        ("files/m", "/one/files/m"),
        ("../files/m", "/files/m"),
        ("?key=a b&x=%2F", "/one/start?key=a+b&x=%2F"),
        ("//{server}/files/m", "/files/m"),
        ("http://{server}/files/m#part", "/files/m"),
        ("  /files/m  ", "/files/m"),
        ('/files/"<a>|{{b}}^`', '/files/"<a>|{{b}}^`'),
    ],
)
def test_redirects_as_servers_send_them(server, run, redirects, location, asked):
    redirects.location = location.format(server=server.base.removeprefix("http://"))
    assert run(f"{server.base}/one/start").size == SIZE
    assert redirects.paths == ["/one/start", asked.format()]


def test_a_url_with_letters_beyond_ascii_is_sent_as_a_redirect_to_it_is(server, run):
    run.fails(f"{server.base}/größe und mehr", match="404 Not Found")
    assert server.heads[0][0] == "/gr%C3%B6%C3%9Fe%20und%20mehr"
    assert (
        downloader._as_sent(downloader._in_bytes("https://me@zürich.example/x"))
        == "https://me@xn--zrich-kva.example/x"
    )


def test_a_redirect_that_is_no_url_is_named(server, run):
    run.fails(
        f"{server.url}?redirect={quote('http://[x/')}",
        match=r"a redirect to 'http://\[x/': .*Correct the URL",
    )


def test_from_https_to_http_a_file_is_followed_only_when_its_digest_is_known():
    with_digest, without = (downloader._Download.__new__(downloader._Download) for _ in range(2))
    with_digest.sha256, without.sha256 = SHA256, ""
    head = downloader._Head("HTTP/1.1 302 Found", {"location": "http://a.example/x"})
    assert with_digest.redirected("https://a.example/", head) == "http://a.example/x"
    with pytest.raises(downloader._TryError, match=r"from https to 'http://a\.example/x'"):
        without.redirected("https://a.example/", head)
    assert without.redirected("http://a.example/", head) == "http://a.example/x"


def test_the_size_is_asked_for_as_the_file_is_fetched(server, monkeypatch):
    """Over redirects, and without giving the headers to others."""
    seen = []

    def head(handler):
        seen.append(handler.headers.get("X-Api-Key"))
        handler.send_response(302 if handler.path == "/far" else 200)
        if handler.path == "/far":
            handler.send_header("Location", f"{other.base}/my model")
        handler.send_header("Content-Length", "77")
        handler.end_headers()

    monkeypatch.setattr(fault_server.Handler, "do_HEAD", head)
    with serving() as other:
        assert downloader.asked_size(f"{server.base}/far", {"X-Api-Key": "hunter22"}) == 77
    assert seen == ["hunter22", None]
    assert downloader.asked_size(f"{server.base}/near", {}) == 77
    assert downloader.asked_size("http://127.0.0.1:1/x", {}) is None


INSTEAD = {
    b"<!DOCTYPE html><title>Google Drive - Virus scan warning</title>": "it is a web page, not a file. .*'Google Drive",
    b'{"message": "Not found", "code": 404}': "it is a server's error, not a file: .*Not found",
    b"<Error><Code>AccessDenied</Code></Error>": "it is a web page, not a file. It begins 'AccessDenied'",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 1\n": "it is a pointer of git-lfs.*media.github",
    b"outs:\n- md5: 7\n  path: model.pkl\n": "it is a pointer of DVC.*Run `dvc pull` in a clone",
    b"": "it is empty",
}


@pytest.mark.parametrize(
    ("content", "knows"),
    [
        *(
            (content, knows)
            for content in INSTEAD
            if content
            for knows in ("nothing", "size", "digest")
        ),
        (b"", "nothing"),
    ],
)
def test_what_comes_in_the_place_of_a_file_is_named(server, run, monkeypatch, content, knows):
    """Whatever is known of the file: who has written down the digest of a page has a page."""
    monkeypatch.setattr(
        fault_server.Handler, "do_GET", lambda handler: handler.text(200, content.decode(), "x/y")
    )
    known = {
        "nothing": {"sha256": ""},
        "size": {"sha256": "", "size": len(content)},
        "digest": {"sha256": hashlib.sha256(content).hexdigest()},
    }[knows]
    run.fails(f"{server.base}/download?id=7", match=INSTEAD[content], **known)
    assert run.left == []


def test_a_page_is_a_file_where_its_name_says_so(server, run, monkeypatch):
    monkeypatch.setattr(
        fault_server.Handler,
        "do_GET",
        lambda handler: handler.text(200, "<!doctype html>x", "text/html"),
    )
    assert run(f"{server.base}/x", sha256="", name="pages/index.html").size == 16
    run.part.unlink()
    run.fails(f"{server.base}/x", sha256="", name="model.bin", match="it is a web page")


def test_redirects_in_a_circle(server, run, monkeypatch):
    monkeypatch.setattr(
        fault_server.Handler, "faults", lambda *_a: fault_server.Faults(redirect=server.url)
    )
    run.fails(server.url, match="redirects more than 50 times")
    assert len(server.heads) == 51


def test_headers_go_to_the_mirror_and_to_nobody_else(server, run):
    secret = 'quo"ted \\ secret'
    with serving() as other:
        far = quote(other.url, safe="")
        near = quote(f"/bytes/1/r?redirect={far}", safe="")
        run(f"{server.base}/bytes/1/r?redirect={near}", headers={"X-Api-Key": secret})
        assert [head.get("X-Api-Key") for _path, head in server.heads] == [secret, secret]
        assert [head.get("X-Api-Key") for _path, head in other.heads] == [None]


def test_a_password_in_a_url_goes_to_its_server_and_to_nobody_else(server, run):
    with serving() as other:
        far = quote(other.url, safe="")
        near = quote(f"{server.base}/bytes/1/r?redirect={far}", safe="")
        run(f"{server.base.replace('//', '//me:hunter22@')}/bytes/1/r?redirect={near}")
        sent = [head.get("Authorization") for _path, head in (*server.heads, *other.heads)]
    assert sent == ["Basic bWU6aHVudGVyMjI=", "Basic bWU6aHVudGVyMjI=", None]


def test_headers_and_urls_are_in_no_list_of_processes(server, run):
    seen = []

    def look(_done, _total):
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"\nPPid:\t{os.getpid()}\n" in (process / "status").read_text():
                    seen.append(
                        (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
                    )

    options = {
        "headers": {"Authorization": "Bearer hunter22"},
        "sha256": SHA256,
        "policy": Policy(),
    }
    download(run.part, [f"{server.url}?throttle=2000000&token=sesame"], progress=look, **options)
    curls = [line for line in seen if line.startswith(b"curl\0")]
    assert curls
    assert not any(
        word in line for line in curls for word in (b"hunter22", b"sesame", b"Authorization")
    )
    assert server.heads[0][1]["Authorization"] == "Bearer hunter22"


def test_a_header_that_a_server_repeats_is_hidden(server, run, monkeypatch):
    def repeat(handler):
        handler.text(500, f"No entry for {handler.headers['X-Api-Key']}")

    monkeypatch.setattr(fault_server.Handler, "do_GET", repeat)
    text = run.fails(server.url, match="No entry for", headers={"X-Api-Key": "hunter22"})
    assert "hunter22" not in text + " ".join(run.notes)


def test_a_header_cannot_smuggle_another_one(server, run):
    run.fails(server.url, match="has a line break", headers={"X-Api-Key": "a\r\nHost: b"})
    assert server.heads == []


def test_a_url_is_shown_without_its_secrets():
    assert (
        shown_url("https://me:pass@example.org:8443/a/b?token=x#y")
        == "https://example.org:8443/a/b"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_half(server, run, monkeypatch, number):
    write = os.pwrite

    def full(handle, data, offset):
        if offset + len(data) > 1_000_000:
            if offset < 1_000_000:
                return write(
                    handle, data[: 1_000_000 - offset], offset
                )  # as a disk does, to its last byte
            raise OSError(number, "No space left on device")
        return write(handle, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    run.fails(
        server.url,
        match="is full: 1,000,000 bytes have arrived, 2,000,000 bytes more are needed. Make room",
    )
    monkeypatch.undo()
    assert run(server.url).transferred == 2_000_000


def test_two_runs_do_not_write_one_file(server, run):
    url = f"{server.url}?throttle=1500000"
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            run(url)
        os._exit(0)
    while not run.part.exists() or not run.part.stat().st_size:
        time.sleep(0.01)
    run.fails(url, match="Another run is downloading")
    assert os.waitpid(child, 0)[1] == 0
    assert hashlib.sha256(run.part.read_bytes()).hexdigest() == SHA256


def test_no_curl(run, server, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    run.fails(server.url, match="curl is not installed on the host. Install Debian's package curl")


def test_curl_ends_when_the_caller_is_interrupted(server, run, monkeypatch):
    started = []
    curl = downloader.subprocess.Popen

    def keep(*arguments, **options):
        started.append(curl(*arguments, **options))
        return started[-1]

    monkeypatch.setattr(downloader.subprocess, "Popen", keep)

    def interrupt(_done, _total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(run.part, [f"{server.url}?throttle=100000"], sha256=SHA256, progress=interrupt)
    assert [process.returncode for process in started] == [-9]


def test_what_the_side_file_holds(server, run):
    run.fails(f"{server.url}?cut=1000000&token=sesame", match="kept", patience={"tries": 1})
    state = json.loads(run.side.read_text())
    assert state.pop("source").isalnum()
    assert state == {"etag": f'"{SIZE}-a"', "modified": fault_server.MODIFIED, "total": SIZE}
    assert "sesame" not in run.side.read_text()


def test_a_broken_side_file_is_ignored(server, run):
    run.fails(f"{server.url}?cut=1000000", match="kept", patience={"tries": 1})
    run.side.write_text("{")
    assert run(server.url).transferred == 2_000_000


def test_environment_proxies_are_used(server, run, monkeypatch):
    monkeypatch.setenv("http_proxy", server.base)
    url = f"http://model.invalid/bytes/{SIZE}/a"
    assert run(url).sha256 == SHA256
    assert server.heads[0][0] == url  # the server stands for the proxy
