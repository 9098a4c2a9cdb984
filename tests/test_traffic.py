"""The traffic report: its figures, its bounds, and a page on which what callers wrote stays text."""

import gzip
import re
import time
from html.parser import HTMLParser

import pytest
from ansible.module_utils.api_endpoint.traffic import stats
from ansible.module_utils.api_endpoint.traffic.access_log import lines_of
from ansible.module_utils.api_endpoint.traffic.report import report, round_up, size
from ansible.module_utils.api_endpoint.traffic.stats import NONE, OTHERS, Traffic
from rendering import render

HOUR = 3600
BEGIN = 1_764_072_000  # 2025-11-25 12:00 UTC


def line(
    seconds: float, request="GET /a HTTP/1.1", status=200, took="0.010", referrer="-"
) -> bytes:
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(seconds))
    return f'[{when}] "{request}" {status} 100 "{referrer}" {took}\n'.encode(
        errors="surrogateescape"
    )


def test_the_times_of_audits_are_left_out():
    lines = [line(BEGIN), line(BEGIN + 60), line(BEGIN + 90)]
    assert Traffic("/").count(lines).all.requests == 3
    assert Traffic("/", [(BEGIN + 50, BEGIN + 61)]).count(lines).all.requests == 2


class Page(HTMLParser):
    """The elements of a page, its tables and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.in_cell = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        self.in_cell = tag in ("td", "th")
        if self.in_cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.in_cell = False

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += data

    def row(self, name: str) -> list[str]:
        """Return the cells after the first one of the row that begins with a name."""
        found = [row[1:] for row in self.rows if row[:1] == [name]]
        assert len(found) == 1, (name, self.rows)
        return found[0]


def page(traffic: Traffic, name: str = "a.example") -> str:
    return render(
        "traffic.html.j2",
        registered={
            "__api_endpoint_traffic": {"report": report(traffic)},
            "api_endpoint_server_names": [name],
        },
    )


def made(lines: list[bytes]) -> Page:
    return Page(page(Traffic("/readyz").count(lines)))


def test_the_figures_are_those_of_the_log():
    lines = [
        line(BEGIN + number, "GET /a?text=secret HTTP/1.1", took=f"0.{number:03d}")
        for number in range(1, 101)
    ]
    lines += [
        line(BEGIN + HOUR, "POST /b HTTP/1.1", 500, "2.000", "https://x.example/p?q=secret#f")
    ] * 3
    lines += (
        [line(BEGIN + HOUR, "GET /c HTTP/1.1", 404)] * 2
        + [line(BEGIN, "GET /readyz HTTP/1.1")] * 9
        + [b"words\n"]
    )
    found = made(lines)
    assert found.row("GET /a") == ["100", "0", "0", "50 ms", "95 ms", "99 ms"]
    assert found.row("POST /b") == ["3", "0", "3", "2.0 s", "2.0 s", "2.0 s"]
    assert found.row("GET /c") == ["2", "2", "0", "10 ms", "10 ms", "10 ms"]
    assert found.row("https://x.example/p")[0] == "3"
    assert found.row(NONE)[0] == "102"
    assert found.row("200") == ["100", "95.2 %"]
    assert found.row("2025-11-25 12:00") == ["100", "0", "0", "50 ms", "95 ms", "99 ms"]
    assert found.row("2025-11-25 13:00") == ["5", "2", "3", "2.0 s", "2.0 s", "2.0 s"]
    assert "2025-11-25 12:00 to 2025-11-25 14:00" in found.text
    assert "1 lines of another form" in found.text
    assert "secret" not in found.text
    assert "readyz" not in found.text


def test_an_empty_log_has_a_page():
    found = made([])
    assert "no requests yet" in found.text
    assert "svg" not in dict(found.elements)


def test_logs_without_query_strings_and_referrers():
    found = made([line(BEGIN, "GET /a HTTP/1.1"), line(BEGIN, "-", 400)])
    assert (found.row("GET /a")[0], found.row("(no request)")[0], found.row(NONE)[0]) == (
        "1",
        "1",
        "2",
    )


HOSTILE = [
    '<script>document.title="x"</script>', '"><img src=x onerror=alert(1)>',
    "</title></style><script src=//e.example></script>", "{{ 7*7 }}", "&lt;b&gt;", "\udcff\udcfe", "a" * 9000,
    "' onmouseover='x",
]  # fmt: skip


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_what_callers_wrote_stays_text(words):
    plain = made([line(BEGIN)])
    written = words.replace('"', r"\x22")
    found = made([line(BEGIN, f"GET /{written} HTTP/1.1"), line(BEGIN, referrer=written)])
    kinds = [{tag for tag, _ in read.elements} for read in (plain, found)]
    assert kinds[0] == kinds[1]
    names = [
        {name for _, attributes in read.elements for name in attributes} for read in (plain, found)
    ]
    assert names[0] == names[1]
    shown = written.encode(errors="surrogateescape").decode(errors="replace")
    assert shown.partition("?")[0].partition("#")[0][:190] in found.text


def test_a_title_stays_text():
    text = page(Traffic("/").count([]), "<i>&")
    assert "<i>" not in text
    assert "&lt;i&gt;&amp;" in text


def test_the_page_loads_and_runs_nothing():
    text = page(Traffic("/").count([line(BEGIN, referrer="https://e.example/x.js")]))
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in text
    tags = {tag for tag, _ in Page(text).elements}
    assert tags.isdisjoint(
        {"script", "link", "img", "iframe", "object", "embed", "form", "a", "base"}
    )
    assert not re.search(r"url\(|@import|\s(src|href|on\w+)=", text)


@pytest.mark.parametrize(
    ("hours", "step", "bars"),
    [(1, 1, 1), (24, 1, 24), (336, 1, 336), (337, 6, 57), (90 * 24, 24, 90), (3000 * 24, 24, 336)],
)
def test_the_plots_have_room_for_any_span(hours, step, bars):
    begin = BEGIN - BEGIN % (24 * HOUR)
    traffic = Traffic("/readyz").count([line(begin), line(begin + (hours - 1) * HOUR)])
    assert traffic.step == step * HOUR
    assert len(traffic.bars()) == bars
    assert (
        Page(page(traffic)).row(
            time.strftime("%Y-%m-%d %H:%M", time.gmtime(traffic.bars()[-1][0]))
        )[0]
        in "12"
    )


def test_names_without_end_are_bounded_and_counted(monkeypatch):
    monkeypatch.setattr(stats, "MOST_NAMES", 10)
    lines = [
        line(BEGIN, f"GET /{number if number % 2 else 'often'} HTTP/1.1") for number in range(1000)
    ]
    traffic = Traffic("/readyz").count(lines)
    top = dict(traffic.endpoints.top())
    assert len(top) <= 20 + 1
    assert top["GET /often"].requests == 500
    assert top[OTHERS].requests + 500 + len(top) - 2 == 1000
    assert sum(figures.requests for figures in top.values()) == traffic.all.requests == 1000


def test_scales_end_at_round_numbers():
    assert [round_up(value) for value in (1, 1.5, 3, 7, 10, 11, 4621)] == [
        1,
        2,
        5,
        10,
        10,
        20,
        5000,
    ]
    assert [size(count) for count in (0, 999, 1000, 12_345_678, 9.9e9)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "12.3 MB",
        "9.9 GB",
    ]


def test_a_packed_log_is_read_like_any(tmp_path):
    (tmp_path / "access.log.2.gz").write_bytes(gzip.compress(line(BEGIN) * 5))
    (tmp_path / "access.log").write_bytes(line(BEGIN) * 2)
    assert Traffic("/readyz").count(lines_of(tmp_path / "access.log")).all.requests == 7
