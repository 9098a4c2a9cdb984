"""The table of all hosts."""

import importlib.util

from helpers import ROLE

spec = importlib.util.spec_from_file_location(
    "table", ROLE / "action_plugins" / "api_endpoint_status_table.py"
)
table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(table)

GOOD = {
    "release": "0123456789ab", "live_since": "2026-11-25T13:20:07.123Z", "healthy": True, "answer": "",
    "memory": 123_400_000, "disk_free": 12_340_000_000, "requests": 46, "server_errors": 5, "client_errors": 7,
    "p50": 10, "p95": 1500, "note": "",
}  # fmt: skip


def test_a_healthy_host():
    assert table.row("a", GOOD) == [
        "a", "0123456789ab", "2026-11-25 13:20", "yes", "123 MB", "12.3 GB", "46", "5", "7", "10 ms", "1.5 s", "",
    ]  # fmt: skip
    assert len(table.row("a", GOOD)) == len(table.HEADS)


def test_a_host_that_is_not_healthy_says_what_it_answered():
    found = table.row(
        "a",
        {
            **GOOD,
            "healthy": False,
            "answer": "status 500: 'a\x1b'",
            "note": "the log is long",
            "p50": None,
        },
    )
    assert (found[3], found[9], found[-1]) == ("NO", "-", "status 500: 'a\\x1b'; the log is long")


def test_hosts_without_a_release_say_why():
    def words(found):
        row = table.row("a", found)
        assert row[1:-1] == ["-"] * 10
        return row[-1]

    assert words({"release": "", "note": "never set up"}) == "never set up"
    reason = "Task failed: Failed to connect to the host via ssh: ssh: Connection\n refused"
    assert (
        words({"unreachable": True, "msg": reason}) == "cannot be reached: ssh: Connection refused"
    )
    assert (
        words({"unreachable": True, "msg": "No such container"})
        == "cannot be reached: No such container"
    )
    assert words({"failed": True, "msg": "Missing sudo password"}) == "Missing sudo password"
    assert words({}) == "nothing came back"
    assert len(words({"msg": "x" * 1000})) == 120
