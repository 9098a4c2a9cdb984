"""The traffic report, in a browser, against traffic that is known."""

import html
import re
from pathlib import Path

from browser import opened
from conftest import HOSTILE, HOSTILE_REFERRERS, LOG, PAGE, SLOW
from outcomes import PROJECT


def report_of(operator, *options: str) -> tuple[Path, str]:
    """Make a report; return where it is and what it says."""
    run = operator("traffic_report", *options)
    assert run.status == 0, run.output
    assert run.changed == [0]
    path = PROJECT / "reports" / f"traffic-{operator.api.container}.html"
    assert str(path) in run.said
    return path, path.read_text()


def row_of(page: str, name: str) -> list[str]:
    """Return the cells after the first one of a row that is there once."""
    found = re.findall(rf"<tr><td>{re.escape(html.escape(name))}</td>(.*?)</tr>", page)
    assert len(found) == 1, (name, page)
    return re.findall("<td>(.*?)</td>", found[0])


def test_the_report_tells_what_was_asked(operator, api, traffic):
    _path, page = report_of(operator)
    assert row_of(page, "GET /environ")[:3] == ["30", "0", "0"]
    assert row_of(page, "GET /status/404")[:3] == ["7", "7", "0"]
    assert row_of(page, "GET /status/500")[:3] == ["5", "0", "5"]
    assert row_of(page, "GET /sleep")[:3] == ["4", "0", "0"]
    assert all(re.fullmatch(SLOW, took) for took in row_of(page, "GET /sleep")[3:])
    assert row_of(page, "GET /old") == ["125", "0", "20", "10 ms", "10 ms", "10 ms"]
    assert row_of(page, "404")[0] == "7"
    if api.is_terse:
        assert api.host.run(f"grep -q 'secret\\|{PAGE}' {LOG}").rc == 1
        assert PAGE not in page
    else:
        assert api.host.run(f"grep -q secret {LOG}").rc == 0
        assert row_of(page, PAGE)[0] == "46"
    assert "readyz" not in page
    assert "secret" not in page
    assert "marked-user-agent" not in page
    assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b", page)


def test_hostile_lines_stay_text_in_a_browser(operator, traffic, on_one_host):
    path, page = report_of(operator)
    shown, noise = opened(path)
    assert noise == []
    assert f"<title>Traffic of {operator.api.name}" in shown
    elements = {name.lower() for name in re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", shown)}
    assert elements <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "span", "section", "figure",
        "figcaption", "i", "svg", "line", "path", "rect", "table", "tbody", "tr", "th", "td", "details", "summary",
    }  # fmt: skip
    text = html.unescape(shown)
    for request in HOSTILE[:-1]:
        words = request.removesuffix(" HTTP/1.1").encode(errors="surrogateescape").decode(errors="replace")
        assert words[:200] in text or row_of(page, words[:200])
    for referrer in HOSTILE_REFERRERS:
        words = referrer.encode(errors="surrogateescape").decode(errors="replace")
        assert row_of(page, words) == ["1", "0", "0", "10 ms", "10 ms", "10 ms"]
    assert row_of(page, "(no request)")[0] == "1"


def test_a_dry_run_writes_nothing(operator, traffic, on_one_host):
    path, _page = report_of(operator)
    path.unlink()
    run = operator("traffic_report", "--check")
    assert run.status == 0, run.output
    assert not path.exists()


def test_an_empty_log_has_a_report_and_a_status(operator, api, traffic, on_one_host):
    api.host.check_output(f"rm -f {LOG}.*; truncate --size=0 {LOG}")
    path, page = report_of(operator)
    assert "no requests yet" in page
    assert opened(path)[1] == []
    run = operator("status")
    assert re.search(r"GB +0 +0 +0 +- +-\n", run.output), run.output
