"""Reading the access log: its format, backwards from its end, rotated files, bounds."""

import gzip
import io
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from ansible.module_utils.api_endpoint.diagnosis import logs, status
from ansible.module_utils.api_endpoint.table import aligned, printable
from ansible.module_utils.api_endpoint.traffic import access_log
from ansible.module_utils.api_endpoint.traffic.access_log import (
    BLOCK,
    Budget,
    Request,
    backwards,
    files_of,
    in_seconds,
    is_health,
    lines_of,
    open_log,
    parse,
    percentile,
    recent,
)
from helpers import ROLE

NOW = 1_764_076_800  # 2025-11-25 13:20 UTC
PLENTY = 10**9


def line(
    seconds: float = NOW,
    request: str = "GET /a HTTP/1.1",
    code: int = 200,
    took: str = "0.010",
    referrer="-",
) -> bytes:
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds))
    return f'[{when}] "{request}" {code} 12 "{referrer}" {took}\n'.encode()


@pytest.fixture
def log(tmp_path) -> Path:
    return tmp_path / "access.log"


def write(path: Path, lines: list[bytes], modified: float | None = None) -> None:
    content = b"".join(lines)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    if modified:
        os.utime(path, (modified, modified))


def read(
    log: Path, since: float, size: int = PLENTY, seconds: float = 60
) -> tuple[list[Request], bool]:
    budget = Budget(size, seconds)
    return list(recent(log, since, budget)), budget.is_spent


# --- lines


def test_a_line():
    found = parse(
        b'[25/Nov/2025:14:20:07 +0100] "POST /a/b?x=1 HTTP/1.1" 503 42 "https://en.wikipedia.org/" 12.345\n'
    )
    assert found == Request(
        NOW + 7, "POST", "/a/b?x=1", 503, 42, "https://en.wikipedia.org/", 12_345
    )
    assert found.path == "/a/b"


def test_the_format_is_that_of_the_site():
    site = (ROLE / "templates" / "site.conf.j2").read_text()
    assert (
        """'[$time_local] "{{ logged_line }}" $status $body_bytes_sent "{{ logged_referrer }}" $request_time'"""
        in site
    )


@pytest.mark.parametrize(
    ("request_line", "method", "target"),
    [
        ("GET / HTTP/1.1", "GET", "/"),
        ("GET /a b HTTP/1.1", "GET", "/a b"),
        ("-", "", ""),
        ("GET", "", ""),
        ("GET /\\x22><script> HTTP/1.1", "GET", "/\\x22><script>"),
    ],
)
def test_the_request_of_a_line(request_line, method, target):
    found = parse(line(request=request_line))
    assert (found.method, found.target) == (method, target)


def test_bytes_that_are_no_text_are_replaced():
    assert (
        parse(b'[25/Nov/2025:13:20:00 +0000] "GET /\xff\xfe HTTP/1.1" 200 1 "\xc3" 0.001').target
        == "/��"
    )


@pytest.mark.parametrize(
    "other",
    [
        b"", b"\n", b"words\n", b"[] \"\" 200 1 \"\" 0.001",
        b'[99/Foo/2025:13:20:00 +0000] "GET / HTTP/1.1" 200 1 "-" 0.001',
        b'[31/Xyz/2025:13:20:00 +0000] "GET / HTTP/1.1" 200 1 "-" 0.001',
        b'[25/Nov/2025:13:20:00 +0000] "GET / HTTP/1.1" 200 1 "-" 0.001 more',
        b'192.0.2.1 - - [25/Nov/2025:13:20:00 +0000] "GET / HTTP/1.1" 200 1 "-" "agent"',
    ],
)  # fmt: skip
def test_a_line_of_another_kind_is_none(other):
    assert parse(other) is None


def test_the_health_path_is_known_with_and_without_its_query():
    def target(path):
        return parse(line(request=f"GET {path} HTTP/1.1"))

    assert is_health(target("/readyz"), "/readyz")
    assert is_health(target("/ready"), "/ready?deep=1")
    assert is_health(target("/ready?deep=1"), "/ready?deep=1")
    assert not is_health(target("/ready?deep=2"), "/ready?deep=1")
    assert not is_health(target("/readyz/x"), "/readyz")
    assert not is_health(target("/?text=a"), "/")


# --- backwards


@pytest.mark.parametrize("end", [b"\n", b""])
def test_lines_come_backwards_whatever_the_blocks_cut(log, end):
    lines = [b"%d %s" % (number, b"x" * (number % 997)) for number in range(3000)]
    assert sum(map(len, lines)) > 4 * BLOCK
    log.write_bytes(b"\n".join(lines) + end)
    with open_log(log) as file:
        assert list(backwards(file, Budget(PLENTY, 60))) == lines[::-1]


def test_a_file_without_lines_is_not_hoarded(log):
    log.write_bytes(b"x" * 3 * 1024 * 1024)
    with open_log(log) as file:
        assert sum(map(len, backwards(file, Budget(PLENTY, 60)))) <= 1024 * 1024 + BLOCK


def test_only_the_time_that_counts_is_read(log):
    write(log, [line(NOW - age) for age in range(7200, 0, -1)])
    found, is_spent = read(log, NOW - 3600)
    assert (len(found), is_spent) == (3600, False)
    assert [found[0].time, found[-1].time] == [NOW - 1, NOW - 3600]


def test_rotated_files_are_read_as_far_as_the_time_reaches(log):
    write(log, [line(NOW - 10)])
    write(log.with_name("access.log.1"), [line(NOW - 5000), line(NOW - 100)], NOW - 100)
    write(log.with_name("access.log.2.gz"), [line(NOW - 200_000)], NOW - 5000)
    assert [request.time for request in read(log, NOW - 3600)[0]] == [NOW - 10, NOW - 100]
    assert len(read(log, NOW - 10_000)[0]) == 3
    assert len(read(log, NOW - 300_000)[0]) == 4


def test_a_packed_file_is_read_when_the_time_reaches_into_it(log):
    write(log, [])
    write(log.with_name("access.log.2.gz"), [line(NOW - 5000), line(NOW - 50)], NOW)
    assert [request.time for request in read(log, NOW - 3600)[0]] == [NOW - 50]


def test_files_in_the_order_of_their_numbers(log):
    for name in (
        "access.log",
        "access.log.1",
        "access.log.2.gz",
        "access.log.10.gz",
        "access.log.old",
        "access.logx",
    ):
        (log.parent / name).touch()
    assert [path.name for path in files_of(log)] == [
        "access.log",
        "access.log.1",
        "access.log.2.gz",
        "access.log.10.gz",
    ]


def test_a_log_that_is_rotated_meanwhile_counts_once(log):
    write(log, [line(NOW - 10)])
    os.link(log, log.with_name("access.log.1"))
    assert len(read(log, 0)[0]) == 1


def test_files_that_are_damaged_or_rotated_away_meanwhile_are_left_out(log, monkeypatch):
    write(log, [line(NOW - 10)])
    log.with_name("access.log.2.gz").write_bytes(gzip.compress(line(NOW - 20) * 1000)[:-20])
    log.with_name("access.log.3.gz").write_bytes(b"no gzip")
    paths = [*access_log.files_of(log), log.with_name("gone")]
    monkeypatch.setattr(access_log, "files_of", lambda _log: [paths[-1], *paths])
    assert [request.time for request in read(log, 0)[0]] == [NOW - 10]
    assert parse(list(lines_of(log))[-1]).time == NOW - 10


@pytest.mark.parametrize(("size", "seconds"), [(3 * BLOCK, 60), (PLENTY, 0)])
def test_the_bounds_hold(log, size, seconds):
    write(log, [line(NOW - age / 100) for age in range(50_000, 0, -1)])
    assert log.stat().st_size > 10 * BLOCK
    found, is_spent = read(log, 0, size, seconds)
    assert is_spent
    assert len(found) * len(line()) <= size
    assert bool(found) == bool(seconds)


def test_a_packed_file_is_bounded_too(log):
    write(log.with_name("access.log.1.gz"), [line()] * 100_000)
    found, is_spent = read(log, 0, BLOCK)
    assert (found, is_spent) == ([], True)


def test_a_link_or_a_pipe_is_no_log(log, tmp_path):
    log.symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"):
        open_log(log)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is no file"):
        open_log(tmp_path / "pipe")


# --- forwards


def test_all_lines_forwards_without_what_is_damaged(log):
    write(log, [line(NOW)])
    write(log.with_name("access.log.1"), [line(NOW - 1)])
    write(log.with_name("access.log.2.gz"), [line(NOW - 2)])
    log.with_name("access.log.3.gz").write_bytes(gzip.compress(line(NOW - 3) * 1000)[:-20])
    log.with_name("access.log.4.gz").write_bytes(b"no gzip")
    times = [parse(found).time for found in lines_of(log)]
    assert times[-3:] == [NOW - 2, NOW - 1, NOW]
    assert set(times[:-3]) <= {NOW - 3}


# --- figures


def test_percentiles_are_of_the_nearest_rank():
    durations = Counter(range(1, 101))
    assert [percentile(durations, percent) for percent in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile(Counter({7: 1}), 95) == 7
    assert percentile(Counter(), 50) is None
    assert [in_seconds(value) for value in (None, 0, 999, 1000, 61_250)] == [
        "-",
        "0 ms",
        "999 ms",
        "1.0 s",
        "61.2 s",
    ]


@pytest.fixture
def given():
    return {
        "name": "api",
        "since": 3600,
        "most_bytes": PLENTY,
        "most_seconds": 60,
        "path": "/readyz",
    }


def test_the_figures_of_the_last_hour(log, given):
    now = time.time()
    lines = [line(now - 4000)] * 5
    lines += [line(now - 3000 + number) for number in range(30)]
    lines += (
        [line(now - 60, code=404)] * 7
        + [line(now - 50, code=500)] * 5
        + [line(now - 40, took="1.500")] * 4
    )
    lines += [line(now - 30, "GET /readyz HTTP/1.1", 503, "9.000")] * 50 + [b"no line\n"]
    write(log, lines)
    assert status.traffic(log, given) == {
        "seconds": 3600, "requests": 46, "server_errors": 5, "client_errors": 7, "p50": 10, "p95": 1500, "note": "",
    }  # fmt: skip


def test_the_time_of_an_audit_does_not_count_and_is_told(log, given, tmp_path, monkeypatch):
    """The log does not tell which requests were the audit's: all of its seconds are left out."""
    monkeypatch.setattr(access_log, "LOG_FOLDER", tmp_path)
    (tmp_path / "api").mkdir()
    now = time.time()
    write(log, [*[line(now - 100)] * 3, *[line(now - 60)] * 900, line(now - 40), line(now - 30)])
    assert status.traffic(log, given)["requests"] == 905
    access_log.note_audit("api", now - 70, now - 50)
    access_log.note_audit("api", now - 5000, now - 4990)
    found = status.traffic(log, given)
    assert (found["requests"], found["note"]) == (5, "without the time of a privacy audit")
    access_log.audits_file("api").write_text("{")
    assert status.traffic(log, given)["requests"] == 905


def test_without_a_log_there_are_no_requests(log, given):
    found = status.traffic(log, given)
    assert (found["requests"], found["p50"], found["note"]) == (0, None, "")


def test_figures_that_reach_less_far_say_so(log, given, monkeypatch):
    monkeypatch.setattr(access_log, "BLOCK", 8192)
    now = time.time()
    write(log, [line(now - 3500 + number / 10) for number in range(35_000)])
    found = status.traffic(log, {**given, "most_bytes": log.stat().st_size // 2})
    assert 15_000 < found["requests"] < 17_501
    assert found["seconds"] == pytest.approx(1750, abs=60)
    assert found["note"] == f"the log is long: only the last {found['seconds'] // 60} min"


def test_of_a_log_of_a_gigabyte_no_more_is_read(log, given, monkeypatch):
    class Counted(io.BufferedReader):
        count = 0

        def read(self, size=-1):
            Counted.count += size if size >= 0 else 10**9
            return super().read(size)

    now = time.time()
    with open(log, "wb") as file:
        file.truncate(10**9)  # a hole, which reads as zeros
        file.seek(0, os.SEEK_END)
        file.write(b"\n" + line(now))
    monkeypatch.setattr(access_log, "open_log", lambda path: Counted(io.FileIO(path)))
    most = 64 * 1024 * 1024
    assert status.traffic(log, {**given, "most_bytes": most, "most_seconds": 600})["requests"] == 1
    assert BLOCK <= Counted.count <= most


# --- what is printed


def test_columns_are_aligned():
    assert aligned([("a", "bb", ""), ("long", "b", "end")]) == "a     bb\nlong  b   end\n"


def test_nothing_that_a_terminal_obeys_is_printed():
    assert (
        printable("a\tb \x1b[31m\r\x00é\u202e \n") == "a       b \\x1b[31m\\x0d\\x00é\\x202e \\x0a"
    )


def test_the_last_lines_go_back_into_the_rotated_file(log):
    write(log, [b"4\n", b"5\n"])
    write(log.with_name("access.log.1"), [b"1\n", b"2\n", b"3\n"])
    assert logs.end_of(log, 3) == ["3", "4", "5"]
    assert logs.end_of(log, 100) == ["1", "2", "3", "4", "5"]
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert "not readable" in logs.end_of(log, 3)[0]
    assert logs.end_of(log.with_name("none"), 3) == []
