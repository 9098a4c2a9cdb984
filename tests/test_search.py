"""The search for marks: it finds what is there, in every wrapping, and nothing else."""

import bz2
import gzip
import io
import lzma
import os
import subprocess
import threading
import time

import pytest
from ansible.module_utils.api_endpoint.privacy import search as api_endpoint_search
from ansible.module_utils.api_endpoint.privacy.search import (
    Search,
    SearchError,
    address_mark,
    text_mark,
)

WORD = "audit-0123456789abcdef"
FOUR = "203.0.113.77"
SIX = "2001:db8:1111:2222:aaaa:bbbb:cccc:dddd"
NOW = 1_000_000_000


def found(text, *marks, place="here"):
    search = Search(
        marks or [text_mark("word", WORD), address_mark("four", FOUR), address_mark("six", SIX)]
    )
    search.stream(io.BytesIO(text if isinstance(text, bytes) else text.encode()), place)
    return [find.kind for find in search.result.found]


def files_found(folder, since=0.0):
    search = Search([text_mark("word", WORD)])
    search.folder(folder, since)
    assert search.result.failed == []
    return sorted(os.path.relpath(find.place, folder) for find in search.result.found)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"x {WORD}/1.0 y", "word"),
        (WORD.upper(), "word"),
        (f"client: {FOUR}, server", "four"),
        (f"{FOUR}:4711", "four"),
        ("203%2E0%2e113%2E77", "four"),
        (r"203\x2E0\x2e113\x2E77", "four"),
        ("ip-203-0-113-77.example", "four"),
        ("77.113.0.203.in-addr.arpa", "four"),
        ("::ffff:cb00:714d", "four"),
        (SIX, "six"),
        (SIX.upper(), "six"),
        ("2001:0db8:9999:8888:aaaa:bbbb:cccc:dddd", "six"),
        (SIX.replace(":", "%3A"), "six"),
        (SIX.replace(":", r"\x3A"), "six"),
    ],
)
def test_a_mark_is_found_however_it_is_written(text, kind):
    assert found(text) == [kind]
    assert found(f"\0\xff{text}\n") == [kind]


@pytest.mark.parametrize(
    "text",
    ["", "audit-0123456789abcde", "203.0.113.7", "203.0.113.777", "1203.0.113.77", "203.0.114.77"],
)
def test_what_only_looks_like_a_mark_is_not_found(text):
    assert found(text) == []


def test_escaped_addresses_are_told_apart_from_plain_ones():
    search = Search([address_mark("four", FOUR)])
    search.stream(io.BytesIO(b"203%2e0%2e113%2e77 203.0.113.77"), "here")
    assert sorted(find.plain for find in search.result.found) == [False, True]


@pytest.mark.parametrize("at", [*range(0, 9), *range(20, 40), 55, 63, 64, 65, 127, 128])
def test_marks_at_the_edges_of_chunks_are_found_once(monkeypatch, at):
    monkeypatch.setattr(api_endpoint_search, "CHUNK_BYTES", 32)
    for mark in (WORD, FOUR, SIX):
        text = "-" * at + mark + "-" * 100 + mark + "-" * at
        assert len(found(text)) == 2, mark
    assert found("-" * at + "203.0.113.779") == []
    assert found("-" * at + "1203.0.113.77") == []


def test_an_excerpt_shows_what_is_around(monkeypatch):
    monkeypatch.setattr(api_endpoint_search, "CHUNK_BYTES", 32)
    search = Search([text_mark("word", WORD)])
    search.stream(
        io.BytesIO(b"a" * 200 + b"before\xff" + WORD.encode() + b"\nafter" + b"b" * 200), "here"
    )
    (find,) = search.result.found
    assert f"before.{WORD}.after" in find.excerpt


def test_many_finds_are_counted_and_some_kept_of_each_kind_in_each_place():
    search = Search([text_mark("word", WORD), address_mark("four", FOUR)])
    search.stream(io.BytesIO(f"{WORD} ".encode() * 5000 + FOUR.encode()), "here")
    assert search.result.counted == {("word", "here"): 5000, ("four", "here"): 1}
    assert [find.kind for find in search.result.found] == ["word"] * api_endpoint_search.MOST + [
        "four"
    ]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress, bz2.compress, "zstd"])
def test_packed_files_are_unpacked_whatever_their_names(tmp_path, pack, monkeypatch):
    # Hexadecimal digits, so that nothing remains readable in any of the packed forms.
    monkeypatch.setattr(api_endpoint_search, "CHUNK_BYTES", 65536)
    content = os.urandom(200_000).hex().encode() + WORD.encode() + os.urandom(10_000).hex().encode()
    if pack == "zstd":
        packed = subprocess.run(
            ["zstd", "-cq"], input=content, capture_output=True, check=True
        ).stdout
    else:
        packed = pack(content)
    (tmp_path / "log.1").write_bytes(packed)
    assert files_found(tmp_path) == ["log.1"]


def test_a_broken_packed_file_is_reported_not_passed_over(tmp_path):
    (tmp_path / "log.gz").write_bytes(gzip.compress(os.urandom(10_000))[:5000])
    search = Search([text_mark("word", WORD)])
    search.folder(tmp_path, 0)
    assert len(search.result.failed) == 1
    assert "log.gz" in search.result.failed[0]


def test_only_what_was_changed_since_is_searched(tmp_path):
    for name, when in (("old", time.time() - 100), ("new", time.time() + 100)):
        (tmp_path / name).write_text(WORD)
        os.utime(tmp_path / name, (when, when))
    # The time of the last change of an inode cannot be set: everything is new by that, until later.
    assert files_found(tmp_path, since=time.time() - 50) == ["new", "old"]
    assert files_found(tmp_path, since=time.time() + 50) == ["new"]


def test_links_pipes_and_folders_of_others_are_left_alone(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    (inside / "deep" / "deeper").mkdir(parents=True)
    (outside / "log").write_text(WORD)
    (inside / "deep" / "deeper" / "log").write_text(WORD)
    (inside / "link").symlink_to(outside)
    (inside / "log").symlink_to(outside / "log")
    os.mkfifo(inside / "pipe")
    finder = threading.Thread(target=lambda: names.extend(files_found(inside)), daemon=True)
    names: list[str] = []
    finder.start()
    finder.join(10)
    assert not finder.is_alive(), "it waits for somebody to write into the pipe"
    assert names == ["deep/deeper/log"]


def test_a_file_with_two_names_is_searched_once(tmp_path):
    (tmp_path / "a").write_text(WORD)
    os.link(tmp_path / "a", tmp_path / "b")
    assert len(files_found(tmp_path)) == 1


def test_a_deleted_file_that_is_still_open_is_searched(tmp_path):
    path = tmp_path / "log"
    with path.open("w+") as file:
        file.write(WORD)
        file.flush()
        path.unlink()
        search = Search([text_mark("word", WORD)])
        search.deleted([os.getpid()], time.time() - 10)
    assert [find.place for find in search.result.found] == [
        f"{path} (deleted), open in process {os.getpid()}"
    ]


def test_a_search_that_runs_out_of_time_says_so(tmp_path):
    (tmp_path / "log").write_text(WORD)
    search = Search([text_mark("word", WORD)], deadline=time.monotonic() - 1)
    search.folder(tmp_path, 0)
    assert "no time left" in search.result.failed[0]
    with pytest.raises(SearchError):
        search.stream(io.BytesIO(b"x"), "here")


def test_the_journal_is_searched_and_its_entries_are_counted(tmp_path, monkeypatch):
    fake = tmp_path / "journalctl"
    fake.write_text(
        "#!/bin/sh\nprintf '__CURSOR=a\\nMESSAGE=x\\n\\n__CURSOR=b\\nMESSAGE=%s\\n' "
        + WORD
        + '\necho "$*" > "$0.said"\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    search = Search([text_mark("word", WORD)])
    search.journal(NOW)
    assert search.result.entries == 2
    assert [find.place for find in search.result.found] == ["journal"]
    assert (tmp_path / "journalctl.said").read_text() == f"--output=export --all --since=@{NOW}\n"
    fake.write_text("#!/bin/sh\necho no rights >&2\nexit 1\n")
    with pytest.raises(SearchError, match="no rights"):
        search.journal(NOW)
