"""After all the requests of the other tests: nobody's address or user agent is written anywhere. Runs last."""

import time

from outcomes import MARKED_ADDRESS, MARKED_AGENT

# Requests that nginx logs errors about, from IPv4 and IPv6, with an address in the request line and the referrer too.
HOSTILE = r"""
import socket
for family, address in ((socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")):
    for host in ("language.wmcloud.org", "unknown.example", ""):
        for head in ("GET /?a=203.0.113.77 HTTP/1.1", "POST / HTTP/1.1\r\nContent-Length: 9999999", "BROKEN", "GET /%00"):
            with socket.socket(family) as client:
                if family == socket.AF_INET:
                    client.bind((address, 0))
                client.settimeout(5)
                client.connect((address, 80))
                client.sendall(
                    f"{head}\r\nHost: {host}\r\nUser-Agent: marked-user-agent/7.7\r\n"
                    "Referer: http://203.0.113.77/\r\nX-Forwarded-For: 203.0.113.77\r\nConnection: close\r\n\r\n".encode()
                )
                try:
                    client.recv(1000)
                except OSError:
                    pass
"""


def callers(host):
    """The addresses from which the tests call: this machine's end of the container's network, and the host itself."""
    return [host.check_output("ip route show default").split()[2], "127.0.0.2"]


def search(host, word):
    """Return what holds a word, of all files under /var/log (packed ones too) and the journal."""
    files = host.run(f"find /var/log -type f -print0 | xargs -0 zgrep --fixed-strings --files-with-matches -e '{word}'")
    journal = host.run(f"journalctl --no-pager --output=export | grep --text --fixed-strings -e '{word}'")
    return files.stdout.split() + journal.stdout.splitlines()


def test_nobody_is_named_in_any_log(api):
    host = api.host
    host.check_output("python3 -c '{}'".format(HOSTILE.replace("'", "'\\''")))
    api.ask("POST", "/api/v1/language", b"x" * 2_000_000)
    time.sleep(2)
    written = host.check_output("cat /var/log/nginx/error.log")
    assert "too large body" in written, "the requests that nginx complains about arrived"
    assert "client: 0.0.0.0" in written
    for mark in (MARKED_AGENT, *callers(host)):
        assert search(host, mark) == [], f"{mark} is in a log"
    # In request lines and referrers the access log keeps what clients wrote there; as a caller's it is nowhere.
    assert MARKED_ADDRESS not in written
    headers = host.run(
        f"grep -rhF '{MARKED_ADDRESS}' /var/log/nginx/ /var/log/gunicorn/ | grep -vE '\\?a=|//{MARKED_ADDRESS}/'"
    )
    assert headers.stdout == ""


def test_the_search_finds_a_planted_leak(api):
    api.host.check_output("echo 'client: 198.51.100.250' > /var/log/nginx/planted.log")
    try:
        assert search(api.host, "198.51.100.250") == ["/var/log/nginx/planted.log"]
    finally:
        api.host.check_output("rm /var/log/nginx/planted.log")
