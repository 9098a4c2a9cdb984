"""Long work goes on by itself, is found again, and says how it ended."""

import os
import time

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.lock import Lock
from outcomes import wait_until


@pytest.fixture
def background(tmp_path):
    background = Background("data", str(tmp_path))
    yield background
    background.end()


def until(path):
    def work(say):
        say("half way")
        while not path.exists():
            time.sleep(0.02)
        return {"done": True}

    return work


def begin_and_see(background, path):
    """Begin work that goes on until there is such a file; return its process when it is at work."""
    assert background.begin("a", until(path))
    wait_until(lambda: background.state().get("text") == "half way", "the work says how far it is")
    return background.state()["pid"]


def test_it_says_how_far_it_is_and_then_its_result(background, tmp_path):
    begin_and_see(background, tmp_path / "go")
    assert background.wait("a", 0) == {"text": "half way"}
    (tmp_path / "go").touch()
    assert background.wait("a", 60) == {"result": {"done": True}}
    assert background.wait("a", 60) == {"result": {"done": True}}


def test_the_same_task_is_found_again_and_goes_on(background, tmp_path):
    pid = begin_and_see(background, tmp_path / "go")
    assert not background.begin("a", until(tmp_path / "never"))
    assert background.state()["pid"] == pid
    (tmp_path / "go").touch()
    assert "result" in background.wait("a", 60)


def test_another_task_takes_its_place(background, tmp_path):
    pid = begin_and_see(background, tmp_path / "never")
    assert background.begin("b", lambda _say: {"b": 1})
    assert background.wait("b", 60) == {"result": {"b": 1}}
    os.waitpid(pid, 0)
    with pytest.raises(DeployError, match="Another run has started other work"):
        background.wait("a", 0)


def test_an_error_arrives_in_its_words(background):
    def fail(_say):
        raise DeployError("the server answered 404")

    background.begin("a", fail)
    with pytest.raises(DeployError, match=r"^the server answered 404$"):
        background.wait("a", 60)


def test_a_process_that_was_killed_is_no_result(background, tmp_path):
    os.kill(begin_and_see(background, tmp_path / "never"), 9)
    with pytest.raises(DeployError, match=r"was killed, or the host was restarted. Run again"):
        background.wait("a", 60)
    assert background.begin("a", lambda _say: {})


def test_it_does_not_keep_the_lock_of_the_run_that_began_it(background, tmp_path):
    lock = Lock("api-endpoint", str(tmp_path))
    lock.take({"token": "a"})
    with lock.held("a"):
        begin_and_see(background, tmp_path / "never")
    assert background.is_alive()
    assert not lock.is_busy()


def test_it_keeps_the_lock_where_it_is_told_to(background, tmp_path):
    """What changes the live version must have ended before another run may begin."""
    lock = Lock("api-endpoint", str(tmp_path))
    lock.take({"token": "a"})
    with lock.held("a"):
        background.begin("a", until(tmp_path / "go"), keeps_lock=True)
    assert lock.is_busy()
    (tmp_path / "go").touch()
    assert background.wait("a", 60) == {"result": {"done": True}}
    wait_until(lambda: not lock.is_busy(), "the lock ends with the work")


def test_it_is_in_a_session_of_its_own(background):
    background.begin("a", lambda _say: {"session": os.getsid(0), "pid": os.getpid()})
    result = background.wait("a", 60)["result"]
    assert result["session"] == result["pid"] != os.getsid(0)
