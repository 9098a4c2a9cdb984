"""No log of either Debian names a caller, after all other tests; what the scenario `privacy` asks runs on one. Runs last."""

import secrets

from outcomes import MARKED_ADDRESS, MARKED_AGENT, assert_json_error, wait_until

MARKED_IPV6 = "2001:db8::77:77"


def found(host, word):
    """Return what holds a word: files below /var/log, packed ones too, and entries of the journal.

    Whole words only: the host itself may be 172.17.0.11, and its clients' gateway 172.17.0.1.
    """
    options = f"--fixed-strings --word-regexp -e '{word}'"
    files = host.run(
        f"find /var/log -type f -print0 | xargs -0 zgrep --files-with-matches {options}"
    )
    journal = host.run(f"journalctl --no-pager --output=export | grep --text {options}")
    return set(files.stdout.split() + journal.stdout.splitlines())


def test_no_log_names_a_caller(api):
    host = api.host
    url, logs = (
        f"/{secrets.token_hex(8)}",
        {f"/var/log/nginx/{name}.log" for name in ("access", "error")},
    )
    # nginx logs an error that names the client, over IPv4 from outside and over IPv6 from inside.
    length = {"Content-Length": "9999999"}
    assert_json_error(api.ask("POST", url, headers=length), 413)
    host.check_output(
        f"curl --silent --request POST --header 'Host: {api.name}' --header 'Content-Length: 9999999' "
        f"--header 'X-Forwarded-For: {MARKED_IPV6}' --user-agent {MARKED_AGENT} 'http://[::1]{url}'"
    )
    errors = "/var/log/nginx/error.log"
    wait_until(
        lambda: host.run(f"grep -cF {url} {errors}").stdout.strip() == "2",
        "rsyslog writes both errors",
    )
    assert found(host, url) == logs, "the search does not find what was logged"
    written = host.check_output(f"grep -F {url} {errors}")
    assert "client: 0.0.0.0" in written
    assert "client: 0:0:0:0:0:0:0:0" in written
    gateway = host.check_output("ip route show default").split()[2]
    for mark in (MARKED_AGENT, MARKED_ADDRESS, MARKED_IPV6, gateway):
        assert found(host, mark) == set(), f"{mark} is in a log"
