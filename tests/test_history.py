"""What was live, what failed, what is gone back to, and what is kept."""

import json
import os
import time

import pytest
from ansible.module_utils.api_endpoint.release import history as api_endpoint_history
from ansible.module_utils.api_endpoint.release.history import History, audit

A, B, C, D = (letter * 12 for letter in "abcd")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A host with four releases: A and B share a virtualenv, each has code and data of its own."""
    ticks = iter(range(1000))
    monkeypatch.setattr(
        api_endpoint_history, "now", lambda: f"2026-01-01T00:{next(ticks):02d}:00.000Z"
    )
    for number, release in enumerate((A, B, C, D)):
        code, data = (str(number) * 64, release[0] * 64)
        virtualenv = "e" * 16 if release in (A, B) else release[:8] * 2
        folder = tmp_path / "releases" / release
        folder.mkdir(parents=True)
        record = {
            "id": release,
            "built": f"2026-01-01T00:00:0{number}Z",
            "by": "anna@desk",
            "revision": "0123456789abcdef+changes",
            "differs": ["code"],
            "components": {"code": code, "virtualenv": virtualenv, "artifacts": [{"digest": data}]},
        }
        (folder / "release.json").write_text(json.dumps(record))
        for path in (
            tmp_path / "code" / code,
            tmp_path / "venvs" / virtualenv,
            tmp_path / "data" / data,
        ):
            path.mkdir(parents=True, exist_ok=True)
            (path / "content").write_text("x")
        (tmp_path / "data" / data / "artifact.json").write_text("{}")
    return tmp_path


def deploy(root, *releases):
    history = History(root)
    before = ""
    for release in releases:
        history.went_live(release, before, by_rollback=False)
        before = release
    return history


def test_the_previous_release_is_the_good_one_deployed_before(root):
    history = deploy(root, A, B, C)
    assert history.previous(C) == B
    history.has_failed(D, "health", "no answer")
    assert history.previous(C) == B


def test_rolling_back_twice_goes_back_twice(root):
    history = deploy(root, A, B, C)
    history.went_live(B, C, by_rollback=True)
    assert history.previous(B) == A
    history.went_live(A, B, by_rollback=True)
    assert history.previous(A) == ""


def test_old_code_deployed_again_comes_after_what_it_replaced(root):
    history = deploy(root, A, B, C, A)
    assert history.previous(A) == C


def test_after_a_roll_back_a_deployment_is_rolled_back_to_what_it_replaced(root):
    history = deploy(root, A, B, C)
    history.went_live(B, C, by_rollback=True)
    history.went_live(A, B, by_rollback=True)
    history.went_live(D, A, by_rollback=False)
    assert history.previous(D) == A
    assert history.worth_keeping(D, 1) == {D, A}
    assert history.worth_keeping(D, 3) == {D, A, C, B}


def test_what_a_rollback_left_is_rolled_back_and_nobody_is_led_to_it(root):
    history = deploy(root, A, B, C)
    history.went_live(B, C, by_rollback=True)
    assert [history.state(release, B) for release in (A, B, C)] == ["good", "live", "rolled back"]
    assert history.previous(B) == A
    assert history.previous("") == B, "not the one that was left, though it was deployed last"
    # Forward again by name: it is live, and the older one was not left for being bad.
    history.went_live(C, B, by_rollback=True)
    assert [history.state(release, C) for release in (A, B, C)] == ["good", "good", "live"]
    history.went_live(A, C, by_rollback=True)
    history.went_live(C, A, by_rollback=False)
    assert History(root).state(C, D) == "good", "it was deployed again"


def test_states(root):
    history = deploy(root, A, B)
    history.has_failed(C, "start", "it stopped\nand more")
    assert [history.state(release, B) for release in (A, B, C, D)] == [
        "good",
        "live",
        "failed",
        "built",
    ]
    assert History(root).entries[C]["failed"]["reason"] == "it stopped"


def test_a_good_release_that_failed_to_start_once_stays_good(root):
    history = deploy(root, A, B)
    history.has_failed(A, "start", "no memory")
    assert history.state(A, B) == "good"
    history.went_live(A, B, by_rollback=True)
    assert "failed" not in history.entries[A]


def test_kept_are_the_live_one_the_one_before_it_the_last_good_ones_and_the_one_at_hand(root):
    history = deploy(root, A, B, C)
    assert history.worth_keeping(C, 1) == {C, B}
    assert history.worth_keeping(A, 1, also=D) == {A, C, D}
    assert history.worth_keeping(C, 3) == {A, B, C}


def test_what_no_kept_release_needs_is_removed(root):
    history = deploy(root, A, B, C)
    (root / "code" / ".building-x").mkdir()
    (root / "data" / "notes.txt").write_text("somebody's")
    (root / "data" / ("f" * 64)).mkdir()  # somebody's too: it has no stamp
    (root / "venvs" / ".building-y").mkdir()
    assert history.collect(root / "data", {B, C}) == [A, D]
    assert set(os.listdir(root / "releases")) == {B, C}
    assert set(os.listdir(root / "code")) == {"1" * 64, "2" * 64}
    assert set(os.listdir(root / "venvs")) == {"e" * 16, C[:8] * 2}
    assert set(os.listdir(root / "data")) == {"b" * 64, "c" * 64, "f" * 64, "notes.txt"}
    assert set(json.loads((root / "history.json").read_text())) == {B, C}


def test_data_that_is_being_brought_is_left_alone_and_forgotten_halves_go(root):
    history = deploy(root, A)
    for name, days in (("new", 0), ("old", 8)):
        half = root / "data" / f".part-{name}"
        half.write_text("half")
        os.utime(half, (time.time() - days * 86400,) * 2)
    before = sorted(os.listdir(root / "data"))
    history.collect(root / "data", {A}, is_busy=True)
    assert sorted(os.listdir(root / "data")) == before
    history.collect(root / "data", {A})
    assert sorted(os.listdir(root / "data")) == [".part-new", "a" * 64]


def test_nothing_shared_is_removed_when_a_kept_release_does_not_say_what_it_needs(root):
    history = deploy(root, A, B)
    (root / "releases" / A / "release.json").unlink()
    history.collect(root / "data", {A, B})
    assert len(os.listdir(root / "venvs")) == 3


def test_what_an_interrupted_run_left_is_found_and_what_failed_is_kept(root):
    history = deploy(root, A, B)
    history.has_failed(C, "health", "status 500")
    built = json.loads((root / "releases" / D / "release.json").read_text())
    (root / "releases" / D / "release.json").write_text(
        json.dumps({**built, "built": "2026-01-01T00:59:00Z"})
    )
    for folder in ("code", "releases", "venvs", "data", "state/app"):
        (root / folder / ".building-x").mkdir(parents=True)
    (root / "venvs" / ("f" * 16)).mkdir()  # pip was killed
    (root / "data" / ("f" * 64)).mkdir()  # somebody's: it has no stamp
    found = [str(path.relative_to(root)) for path in history.unfinished(root / "data", B)]
    assert found == sorted(
        [
            *(f"{folder}/.building-x" for folder in ("code", "releases", "venvs", "data", "state/app")),
            f"releases/{D}", f"code/{'3' * 64}", f"venvs/{D[:8] * 2}", f"data/{'d' * 64}", f"venvs/{'f' * 16}",
        ]
    )  # fmt: skip
    assert not [
        path
        for path in history.unfinished(root / "data", B, is_busy=True)
        if root / "data" in path.parents
    ]
    for path in history.unfinished(root / "data", B):
        api_endpoint_history.discard(path)
    assert history.unfinished(root / "data", B) == []
    assert history.releases() == [A, B, C]


def test_a_lost_history_makes_no_release_unfinished(root):
    deploy(root, A, B)
    (root / "history.json").unlink()
    assert History(root).unfinished(root / "data", B) == []
    history = History(root)
    history.went_live(B, A, by_rollback=False)
    assert history.unfinished(root / "data", B) == []


def test_the_table_of_releases(root):
    history = deploy(root, A, B)
    history.has_failed(C, "health", "status 500")
    for slot in ("blue", "green"):
        (root / "slots" / slot).mkdir(parents=True)
    (root / "slots" / "blue" / "release").symlink_to(f"../../releases/{B}")
    (root / "live").symlink_to("slots/blue")
    from ansible.module_utils.api_endpoint.release import listing as releases

    rows = releases.rows(releases.Endpoint("api-endpoint", root), History(root))
    assert [(row["id"], row["state"]) for row in rows] == [
        (D, "built"),
        (C, "failed"),
        (B, "live"),
        (A, "good"),
    ]
    lines = releases.table(rows).splitlines()
    assert lines[0].split()[:2] == ["id", "state"]
    assert lines[2].endswith("failed 2026-01-01 00:02 at health: status 500")
    assert "0123456789+changes" in lines[1]
    (root / "releases" / A / "p3env").symlink_to(root / "venvs/removed")
    rows = releases.rows(releases.Endpoint("api-endpoint", root), History(root))
    assert [bool(row["unable"]) for row in rows] == [False, False, False, True]
    assert "cannot start any more: its virtualenv, " in releases.table(rows).splitlines()[4]
    assert releases.table([]) == "No release is on this host yet."


def test_a_line_for_whoever_asks_later(root):
    log = root / "deploys.log"
    audit(
        str(log),
        "no-such-endpoint",
        "rollout",
        {"release": A, "result": "live", "previous": "two words"},
    )
    audit(str(log), "no-such-endpoint", "rollback", {"release": B})
    lines = log.read_text().splitlines()
    assert lines[0].endswith(
        f"Z rollout release={A} result=live previous=two_words by=unknown from=unknown"
    )
    assert lines[1].split()[1] == "rollback"
    assert log.stat().st_mode & 0o777 == 0o640
