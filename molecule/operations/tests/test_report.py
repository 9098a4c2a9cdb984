"""The traffic report, against traffic that is known; tests/component/test_traffic_page.py opens it in a browser."""

import html
import re
from pathlib import Path

import pytest
from conftest import HOSTILE_REFERRERS, LOG, PAGE, SLOW, seconds
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
    """Lines that callers have written to do harm stay text."""
    _path, page = report_of(operator)
    assert row_of(page, "GET /environ")[:3] == ["30", "0", "0"]
    assert row_of(page, "GET /status/404")[:3] == ["7", "7", "0"]
    assert row_of(page, "GET /status/500")[:3] == ["5", "0", "5"]
    assert row_of(page, "GET /sleep")[:3] == ["4", "0", "0"]
    assert all(seconds(took) >= SLOW for took in row_of(page, "GET /sleep")[3:])
    assert row_of(page, "GET /old") == ["125", "0", "20", "10 ms", "10 ms", "10 ms"]
    assert row_of(page, "404")[0] == "7"
    if api.is_terse:
        assert api.host.run(f"grep -q 'secret\\|{PAGE}' {LOG}").rc == 1
        assert PAGE not in page
    else:
        assert api.host.run(f"grep -q secret {LOG}").rc == 0
        assert row_of(page, PAGE)[0] == "46"
    for referrer in HOSTILE_REFERRERS:
        words = referrer.encode(errors="surrogateescape").decode(errors="replace")
        assert row_of(page, words) == ["1", "0", "0", "10 ms", "10 ms", "10 ms"]
    assert row_of(page, "(no request)")[0] == "1"
    assert all(tag not in page for tag in ("<script", "<img", "<iframe"))
    assert "readyz" not in page
    assert "secret" not in page
    assert "marked-user-agent" not in page
    assert not re.search(r"\b\d{1,3}(\.\d{1,3}){3}\b", page)


def test_the_status_of_a_host_that_is_down_and_has_an_empty_log(operator, api, traffic):
    """The traffic is gone after it."""
    api.host.check_output(f"systemctl stop {api.unit}; rm -f {LOG}.*; truncate --size=0 {LOG}")
    try:
        run = operator("status")
    finally:
        api.host.check_output(f"systemctl start {api.unit}")
        api.wait_until_it_answers("/readyz")
    line = next(
        line for line in run.output.splitlines() if re.match(rf"\s*{api.container}  ", line)
    )
    row = re.split(r" {2,}", line.strip())
    assert row[3:5] == ["NO", "0 MB"]
    assert row[6:11] == ["0", "0", "0", "-", "-"]
    assert "status 502" in row[-1]


@pytest.mark.full
def test_an_empty_log_has_a_report(operator, api):
    api.host.check_output(f"rm -f {LOG}.*; truncate --size=0 {LOG}")
    _path, page = report_of(operator)
    assert "no requests yet" in page


@pytest.mark.full
def test_a_dry_run_writes_nothing(operator):
    path, _page = report_of(operator)
    path.unlink()
    run = operator("traffic_report", "--check")
    assert run.status == 0, run.output
    assert not path.exists()
