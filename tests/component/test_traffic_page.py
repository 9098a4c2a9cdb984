"""The page of the traffic report in a real browser: log lines written to do harm stay text, and nothing is loaded."""

import html
import re
import time

import pytest
from ansible.module_utils.api_endpoint.traffic.report import report
from ansible.module_utils.api_endpoint.traffic.stats import Traffic
from browser import opened
from rendering import render

REQUESTS = [
    r"GET /\x22><script>document.title=\x22hacked\x22</script> HTTP/1.1",
    "GET /%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E HTTP/1.1",
    "GET /{{ 7*7 }}</iframe></script><script>alert(1)</script> HTTP/1.1",
    "GET /\udcff\udcfe\u202e HTTP/1.1",
    "GET /" + "a" * 8000 + " HTTP/1.1",
]
REFERRERS = [
    "javascript:alert(1)", r"https://evil.example/\x22onmouseover=\x22alert(1)", "<script src=http://evil.example/x.js></script>",
    "https://evil.example/\udcff", "&lt;b&gt;",
]  # fmt: skip
ELEMENTS = {
    "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "div", "b", "span", "section", "figure",
    "figcaption", "i", "svg", "line", "path", "rect", "table", "tbody", "tr", "th", "td", "details", "summary",
}  # fmt: skip


def logged(request: str, referrer: str = "-") -> bytes:
    """Return a line of nginx's log."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(1_764_072_000))
    return f'[{when}] "{request}" 200 12 "{referrer}" 0.010\n'.encode(errors="surrogateescape")


def shown(words: str) -> str:
    """Return words as a page shows them."""
    return words.encode(errors="surrogateescape").decode(errors="replace")


@pytest.mark.parametrize("is_empty", [False, True])
def test_nothing_runs_and_nothing_is_loaded(tmp_path, is_empty):
    lines = [logged(request) for request in REQUESTS] + [
        logged("GET / HTTP/1.1", referrer) for referrer in REFERRERS
    ]
    path = tmp_path / "traffic.html"
    counted = {"report": report(Traffic("/readyz").count([] if is_empty else lines))}
    registered = {"__api_endpoint_traffic": counted, "api_endpoint_server_names": ["api.example"]}
    path.write_text(render("traffic.html.j2", registered=registered))
    dom, noise = opened(path)
    assert noise == []
    assert "<title>Traffic of api.example" in dom
    assert {name.lower() for name in re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", dom)} <= ELEMENTS
    text = html.unescape(dom)
    for words in (
        []
        if is_empty
        else [*(request.removesuffix(" HTTP/1.1") for request in REQUESTS), *REFERRERS]
    ):
        assert shown(words)[:190] in text
