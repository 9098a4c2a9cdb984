"""What is read of processes, sockets and logs, on this machine itself."""

import multiprocessing
import os
import socket
import subprocess
import time

import pytest
from ansible.module_utils.api_endpoint.release.slots import (
    Endpoint,
    _open_files,
    available_memory,
    listening,
    queued,
)


@pytest.fixture
def bound(tmp_path):
    path = str(tmp_path / "gunicorn.sock")
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(path)
        found.listen(8)
        yield path, found


def test_workers_are_the_children_that_can_accept(bound, monkeypatch):
    path, accepting = bound
    fork = multiprocessing.get_context("fork")
    worker = fork.Process(target=time.sleep, args=(600,), daemon=True)
    worker.start()
    is_without = fork.Event()
    keep = os.dup(accepting.fileno())
    os.set_inheritable(keep, False)

    def without_the_socket():
        accepting.close()
        os.close(keep)
        is_without.set()
        time.sleep(600)

    helper = fork.Process(target=without_the_socket, daemon=True)
    helper.start()
    assert is_without.wait(60)
    monkeypatch.setattr(Endpoint, "properties", lambda *_: {"MainPID": str(os.getpid())})
    monkeypatch.setattr(Endpoint, "socket_of", lambda *_: path)
    try:
        assert Endpoint("x", "/x").workers("blue") == [worker.pid]
        assert Endpoint("x", "/x").memory("blue") > 1_000_000
    finally:
        worker.kill()
        helper.kill()
        os.close(keep)


def test_where_open_files_cannot_be_seen_copies_of_the_main_process_are_its_workers(
    bound, monkeypatch
):
    path, _accepting = bound
    worker = multiprocessing.get_context("fork").Process(
        target=time.sleep, args=(600,), daemon=True
    )
    worker.start()
    with subprocess.Popen(["sleep", "600"]) as other:
        monkeypatch.setattr(Endpoint, "properties", lambda *_: {"MainPID": str(os.getpid())})
        monkeypatch.setattr(Endpoint, "socket_of", lambda *_: path)
        monkeypatch.setattr(os, "readlink", lambda *_: (_ for _ in ()).throw(PermissionError()))
        try:
            assert Endpoint("x", "/x").workers("blue") == [worker.pid]
        finally:
            worker.kill()
            other.kill()


def test_connections_are_told_from_the_socket_that_listens(bound):
    path, accepting = bound
    with socket.socket(socket.AF_UNIX) as client:
        assert queued(path) == 0
        client.connect(path)
        assert queued(path) == 1
        connection, _ = accepting.accept()
        with connection:
            assert queued(path) == 0
            assert len(listening(path, os.getpid())) == 1
            assert listening(path, os.getpid()) <= _open_files(os.getpid())
    assert listening("/nowhere", os.getpid()) == set()


@pytest.mark.parametrize(
    ("blue", "green", "serving"),
    [
        (("active", "enabled"), ("inactive", "disabled"), "blue"),
        (("inactive", "disabled"), ("active", "enabled"), "green"),
        (("inactive", "enabled"), ("active", "enabled"), "green"),
        (("failed", "enabled"), ("active", "disabled"), "blue"),
        (("active", "disabled"), ("inactive", "disabled"), ""),
    ],
)
def test_where_the_link_live_is_missing_the_slot_that_was_proven_serves(
    tmp_path, monkeypatch, blue, green, serving
):
    states = {"blue": blue, "green": green}
    monkeypatch.setattr(
        Endpoint,
        "properties",
        lambda _self, slot, *names: dict(zip(names, states[slot], strict=True)),
    )
    for slot in states:
        (tmp_path / "slots" / slot).mkdir(parents=True)
        (tmp_path / "slots" / slot / "release").symlink_to("../../releases/x")
    endpoint = Endpoint("x", tmp_path)
    assert (endpoint.live_slot, endpoint.serving_slot) == ("", serving)
    (tmp_path / "live").symlink_to("slots/blue")
    assert endpoint.serving_slot == "blue"


def test_memory():
    assert 10**7 < available_memory() < 10**14


def test_last_words_are_the_last_and_not_those_before_the_start(tmp_path):
    log = tmp_path / "error.log"
    log.write_text("before\n")
    offset = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {number}\n" for number in range(100))
    words = Endpoint("no-such-endpoint", tmp_path).log_tail("blue", str(log), offset, lines=5)
    assert words.startswith(f"--- {log}\nline 95\n")
    assert "line 99\n--- journal of no-such-endpoint@blue.service\n" in words
    log.write_text("rotated\n")
    assert "rotated" in Endpoint("no-such-endpoint", tmp_path).log_tail("blue", str(log), 10**6)


def test_what_an_earlier_release_writes_at_its_end_is_not_of_this_start(tmp_path):
    """Both slots have one log. The processes of the other release may be gone by the time that it is read."""
    log = tmp_path / "error.log"
    now = "[2026-12-01 10:00:00 +0000]"
    log.write_text(f"{now} [10] [INFO] Starting\n{now} [11] [INFO] Booting\n")
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write(
            f"{now} [20] [INFO] new\n{now} [11] [ERROR] old\nTraceback of old\n{now} [21] [ERROR] new\n"
        )
    words = Endpoint("no-such-endpoint", tmp_path).log_tail("blue", str(log), offset)
    assert words.startswith(
        f"--- {log}\n{now} [20] [INFO] new\n{now} [21] [ERROR] new\n--- journal"
    )


@pytest.mark.parametrize("kind", ["gone", "link", "pipe"])
def test_a_log_that_is_none_does_not_stop_anybody(tmp_path, kind):
    log = tmp_path / "error.log"
    if kind == "link":
        log.symlink_to("/etc/passwd")
    if kind == "pipe":
        os.mkfifo(log)
    assert "(not readable: " in Endpoint("no-such-endpoint", tmp_path).log_tail("blue", str(log))
