"""The hosts of an endpoint give each other model data, whole and right, and to nobody else."""

import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible.module_utils import api_endpoint_fetch, api_endpoint_peers
from ansible.module_utils.api_endpoint_data import Artifact, Store, key_of
from ansible.module_utils.api_endpoint_download import Policy
from ansible.module_utils.api_endpoint_fetch import Fetch, Peers
from ansible.module_utils.api_endpoint_peers import HEADER, PLACE, Door, Offer, addresses, closing, pack
from ansible.module_utils.api_endpoint_store import StoreError, tree_digest
from helpers import Clock

TOKEN = "7" * 64
MODEL = os.urandom(300_000)
SHA = hashlib.sha256(MODEL).hexdigest()
NAME = "cluster.example"
NOWHERE = "ftp://nowhere/model"  # which is given up at once


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch):
    """The timer that closes a door is systemd's: tested on a host, by Molecule. A peer that is silent is not waited for."""
    monkeypatch.setattr(api_endpoint_peers, "close_later", lambda *_: None)
    monkeypatch.setattr(api_endpoint_fetch, "time", Clock())  # so that everything took 0 s
    quick = Policy(tries=2, first_wait=0, connect_timeout=20, stall_timeout=1, stall_rate=1000, sleep=lambda _: None)
    monkeypatch.setattr(api_endpoint_peers, "PATIENCE", quick)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


class Host:
    """A host with a store and a door, and a server that looks for files as nginx is told to."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        (folder / name / "data").mkdir(parents=True)
        (folder / name / "run" / "api").mkdir(parents=True)
        self.store = Store(folder / name / "data", "any")
        self.door = Door(self.store, "api", str(folder / name / "run"))
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.spoil = lambda body: body  # what becomes of a file on its way
        self.cut = 0  # bytes after which the connection is closed

    def has(self, content, key="", **stamp):
        """Put a file, or a folder from {name: content}, into the store."""
        made = self.store.folder / "made"
        if isinstance(content, dict):
            for name, text in content.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(text)
            digest = tree_digest(made)
        else:
            made.write_bytes(content)
            digest = hashlib.sha256(content).hexdigest()
        key = key or digest
        self.store.add(
            key, made, **{"sha256": digest, "content": digest, "source": "outside", "unverified": False, **stamp}
        )  # fmt: skip
        return key

    def lets_read(self, **keys):
        return {name: Offer(**offer) for name, offer in self.door.open(keys, ["127.0.0.1"], TOKEN).items()}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append(request.path)
        self.ranges.append(request.headers["Range"])
        digest = request.path.removeprefix(PLACE)
        path = self.door.shared / str(request.headers[HEADER]) / request.client_address[0] / digest
        if request.headers["Host"] != NAME or not path.is_file():
            request.send_error(404)
            return
        body = self.spoil(path.read_bytes())
        start = int((request.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        request.wfile.write(body[start : start + self.cut if self.cut else None])


@pytest.fixture
def hosts(tmp_path, without_systemd):
    """Return a function that makes a host; its `giver` is its name and URL."""
    with contextlib.ExitStack() as stack:

        def make(name):
            host = Host(tmp_path, name)

            class Handler(BaseHTTPRequestHandler):
                def do_GET(self):
                    host.answer(self)

                def log_message(self, *_arguments):
                    pass

            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            host.giver = (name, f"http://127.0.0.1:{server.server_address[1]}")
            return host

        yield make


def fetch_with(host, offers, givers, token=TOKEN):
    peers = Peers(offers, {name: [giver.giver for giver in givers] for name in offers}, NAME, token)
    return Fetch(host.store, "api", str(host.store.folder), "any", 5, {}, peers)


def run(fetch, *artifacts):
    return fetch.run(list(artifacts), "/usr", False, lambda _text: None)


def artifact(url=NOWHERE, **more):
    unpack, mode = more.get("unpack", False), more.get("mode", "")
    return Artifact(dest="model", key=key_of(SHA, unpack, mode), sha256=SHA, urls=[url], **more)


def test_a_file_comes_from_the_host_that_has_it(hosts):
    one, two = hosts("one"), hosts("two")
    offers = one.lets_read(**{SHA: one.has(MODEL)})
    result = run(fetch_with(two, offers, [one]), artifact())
    assert result["fetched"] == ["model"]
    assert two.store.place(SHA).read_bytes() == MODEL
    assert two.store.has(SHA)
    stamps = [{**host.store.stamp(SHA), "fingerprint": ""} for host in (one, two)]
    assert stamps[0] == stamps[1]
    assert result["came"] == ["model: 300.0 kB from one in 0 s"]
    assert [path.name for path in two.store.folder.glob(".*")] == []


def test_a_host_that_got_it_gives_it_on(hosts):
    one, two, three = hosts("one"), hosts("two"), hosts("three")
    run(fetch_with(two, one.lets_read(**{SHA: one.has(MODEL)}), [one]), artifact())
    run(fetch_with(three, two.lets_read(**{SHA: SHA}), [two]), artifact())
    assert three.store.place(SHA).read_bytes() == MODEL
    assert len(one.asked) == 1


def test_an_unpacked_folder_is_given_as_it_is_and_the_same_from_every_host(hosts):
    content = {"a/words.txt": b"words", "b.sh": b"#!/bin/sh\n", "empty": b"", "node_modules/x": b"no code, but data"}
    one, two, three = hosts("one"), hosts("two"), hosts("three")
    key = key_of(SHA, True, "")
    one.has(content, key=key, sha256=SHA)
    (one.store.place(key) / "b.sh").chmod(0o755)
    one.store.restamp(key)
    stamp = one.store.folder / key / "artifact.json"
    stamp.write_text(stamp.read_text().replace(one.store.stamp(key)["content"], tree_digest(one.store.place(key))))
    first = one.lets_read(**{key: key})
    run(fetch_with(two, first, [one]), artifact(unpack=True))
    place = two.store.place(key)
    assert tree_digest(place) == tree_digest(one.store.place(key))
    assert (place / "node_modules" / "x").read_bytes() == b"no code, but data"
    assert os.access(place / "b.sh", os.X_OK)
    second = two.lets_read(**{key: key})
    assert second == first
    run(fetch_with(three, second, [two]), artifact(unpack=True))
    assert three.store.stamp(key)["sha256"] == SHA


def test_what_is_packed_depends_on_the_content_alone(tmp_path):
    digests = set()
    for name, order in (("a", (1, 2, 3)), ("b", (3, 2, 1))):
        for number in order:
            (tmp_path / name / f"sub{number}").mkdir(parents=True)
            (tmp_path / name / f"sub{number}" / "file").write_text(f"{number}")
        (tmp_path / name / "link").symlink_to("sub1/file")
        if name == "a":
            os.link(tmp_path / name / "sub1" / "file", tmp_path / name / "twin")
            os.utime(tmp_path / name / "sub2" / "file", (1, 1))
            (tmp_path / name / "sub3" / "file").chmod(0o600)
        else:
            (tmp_path / name / "twin").write_text("1")
        digests.add(pack(tmp_path / name, tmp_path / f"{name}.tar"))
    assert len(digests) == 1
    (tmp_path / "b" / "sub1" / "file").chmod(0o755)
    assert pack(tmp_path / "b", tmp_path / "b.tar") not in digests


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_wrong_byte_is_not_believed_and_the_next_host_asked(hosts, is_folder):
    one, two, three = hosts("one"), hosts("two"), hosts("three")
    content, more = ({"words": MODEL}, {"unpack": True}) if is_folder else (MODEL, {})
    key = key_of(SHA, is_folder, "")
    for host in (one, two):
        host.has(content, key=key, sha256=SHA)
        offers = host.lets_read(**{key: key})
    one.spoil = lambda body: body[:1000] + bytes([body[1000] ^ 255]) + body[1001:]
    result = run(fetch_with(three, offers, [one, two]), artifact(**more))
    assert len(one.asked) == len(two.asked) == 1
    assert three.store.stamp(key)["content"] == two.store.stamp(key)["content"]
    assert "model: one: it is not the expected file" in result["came"][0]
    assert "from two in 0 s" in result["came"][1]


def test_a_folder_that_is_another_one_than_was_told_is_not_believed(hosts):
    one, two = hosts("one"), hosts("two")
    key = key_of(SHA, True, "")
    one.has({"words": b"x"}, key=key, sha256=SHA)
    offers = {name: Offer(**{**vars(offer), "content": "0" * 64}) for name, offer in one.lets_read(**{key: key}).items()}
    fetch = fetch_with(two, offers, [one])
    with pytest.raises(StoreError, match="ftp://nowhere/model"):
        run(fetch, artifact(unpack=True))
    assert "is not what the other hosts have" in fetch.came[0]
    assert not two.store.has(key)


def test_a_host_that_dies_in_the_middle_is_left_and_what_it_gave_is_kept(hosts):
    one, two, three = hosts("one"), hosts("two"), hosts("three")
    for host in (one, two):
        offers = host.lets_read(**{SHA: host.has(MODEL)})
    one.cut, first = 200_000, one.answer

    def once(request):
        first(request)
        one.answer = lambda _later: None  # and says nothing any more

    one.answer = once
    result = run(fetch_with(three, offers, [one, two]), artifact())
    assert three.store.place(SHA).read_bytes() == MODEL
    assert two.ranges == ["bytes=200000-"]
    assert result["came"][-1].startswith("model: 300.0 kB from two in ")


def test_the_source_is_asked_when_no_host_gives_it(hosts):
    """And goes on with the half that one gave."""
    one, two, outside = hosts("one"), hosts("two"), hosts("outside")
    offers = one.lets_read(**{SHA: one.has(MODEL)})
    outside.has(MODEL)
    outside.lets_read(**{SHA: SHA})
    one.cut, first = 100_000, one.answer

    def once(request):
        first(request)
        one.answer = lambda later: later.send_error(404)

    one.answer = once
    headers = {HEADER: TOKEN, "Host": NAME}
    result = run(
        fetch_with(two, offers, [one]), artifact(url=f"{outside.giver[1]}{PLACE}{SHA}", headers=headers)
    )  # fmt: skip
    assert two.store.place(SHA).read_bytes() == MODEL
    assert "no other host gave it" in result["came"][-2]
    assert "model: 300.0 kB from http://127.0.0.1" in result["came"][-1]
    assert outside.ranges == ["bytes=100000-"]


def test_nobody_reads_without_the_token_or_from_another_address(hosts):
    one, two = hosts("one"), hosts("two")
    offers = one.lets_read(**{SHA: one.has(MODEL)})
    with pytest.raises(StoreError):
        run(fetch_with(two, offers, [one], token="8" * 64), artifact())
    os.rename(one.door.shared / TOKEN / "127.0.0.1", one.door.shared / TOKEN / "127.0.0.2")
    with pytest.raises(StoreError):
        run(fetch_with(two, offers, [one]), artifact())
    assert not two.store.has(SHA)


def test_proxies_of_the_environment_are_not_asked_for_another_host(hosts, monkeypatch):
    one, two = hosts("one"), hosts("two")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    run(fetch_with(two, one.lets_read(**{SHA: one.has(MODEL)}), [one]), artifact())
    assert two.store.has(SHA)


def test_what_is_damaged_or_not_there_is_not_offered(hosts):
    one = hosts("one")
    one.has(MODEL)
    one.store.place(SHA).write_bytes(b"damaged")
    assert one.lets_read(**{SHA: SHA, "other": "f" * 64}) == {}
    assert not one.door.shared.exists()


def test_a_folder_without_room_to_pack_it_is_not_offered(hosts, monkeypatch):
    one = hosts("one")
    key = one.has({"words": b"x"})

    def full(*_arguments):
        raise StoreError("The disk is full.")

    monkeypatch.setattr(one.store, "check_room", full)
    assert one.lets_read(**{key: key, SHA: one.has(MODEL)}).keys() == {SHA}


def test_a_host_with_several_addresses_may_come_from_any(monkeypatch):
    def getaddrinfo(name, *_arguments, **_options):
        if name == "gone":
            raise socket.gaierror("no such name")
        return [(0, 0, 0, "", (address, 0)) for address in ("10.0.0.1", "fd00::1", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    assert addresses(["gone", "two"]) == ["10.0.0.1", "fd00::1"]


def test_closing_leaves_nothing(hosts, monkeypatch):
    one = hosts("one")
    monkeypatch.setattr(api_endpoint_peers, "FOLDER", str(one.door.shared.parents[1]))
    key = one.has({"words": b"x"})
    one.lets_read(**{key: key})
    assert list(one.store.folder.glob(".building-*"))
    subprocess.run(closing("api", str(one.store.folder)), shell=True, check=True)
    assert not one.door.shared.exists()
    assert not list(one.store.folder.glob(".building-*"))
    assert one.store.has(key)
    subprocess.run(closing("api", str(one.store.folder)), shell=True, check=True)


# Without a checksum.


def without(url=NOWHERE):
    return Artifact(dest="model", key="", urls=[url])


def test_without_a_checksum_all_have_what_the_first_one_got(hosts):
    one, two = hosts("one"), hosts("two")
    url = without().urls[0]
    offers = one.lets_read(**{without().common: one.has(MODEL, unverified=True, source=url)})
    # What this host once got for itself was something else.
    old = two.has(b"old", unverified=True, source=url)
    assert run(fetch_with(two, offers, [one]), without())["keys"] == {"model": SHA}
    assert two.store.unverified([url]) == SHA
    assert (two.store.stamp(old)["unverified"], two.store.has(old)) == (False, True)


def test_without_a_checksum_what_is_there_already_counts_from_then_on(hosts):
    one, two = hosts("one"), hosts("two")
    url = without().urls[0]
    offers = one.lets_read(**{without().common: one.has(MODEL, unverified=True, source=url)})
    two.has(MODEL, source="elsewhere")
    assert run(fetch_with(two, offers, [one]), without())["fetched"] == []
    assert two.store.unverified([url]) == SHA


def test_without_a_checksum_what_the_source_has_now_must_be_what_the_others_have(hosts):
    one, two, outside = hosts("one"), hosts("two"), hosts("outside")
    outside.has(b"something else")
    other = hashlib.sha256(b"something else").hexdigest()
    outside.lets_read(**{other: other})
    artifact = Artifact(
        dest="model", key="", urls=[f"{outside.giver[1]}{PLACE}{other}"], headers={HEADER: TOKEN, "Host": NAME}
    )  # fmt: skip
    offers = one.lets_read(**{artifact.common: one.has(MODEL, unverified=True)})
    one.answer = lambda request: request.send_error(404)
    with pytest.raises(StoreError, match=f"expected {SHA}"):
        run(fetch_with(two, offers, [one]), artifact)


def test_a_common_name_is_the_key_or_what_it_is_made_of():
    assert Artifact(dest="m", key="", sha256=SHA).common == SHA
    assert Artifact(dest="m", key="", sha256=SHA, unpack=True).common == key_of(SHA, True, "")
    names = {
        without("http://a/").common,
        without("http://b/").common,
        Artifact("m", "", urls=["http://a/"], unpack=True).common,
    }
    assert len(names) == 3
    assert Artifact(dest="m", key="", command="make m").common == ""


def test_a_stalled_host_is_left_within_the_patience(hosts):
    one, two, three = hosts("one"), hosts("two"), hosts("three")
    for host in (one, two):
        offers = host.lets_read(**{SHA: host.has(MODEL)})
    is_done, ended = threading.Event(), []
    one.answer = lambda request: ended.append(is_done.wait(60))
    try:
        run(fetch_with(three, offers, [one, two]), artifact())
        assert ended == [], "it waited until the host had given up"
    finally:
        is_done.set()
    assert two.asked
    assert three.store.has(SHA)
