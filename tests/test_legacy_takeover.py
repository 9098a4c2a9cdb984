"""The old template's service is stopped when the endpoint has taken its place, and what was in the way is kept."""

import os

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import legacy_takeover as takeover
from helpers import Stub


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A host whose old service still runs, beside a release that is live."""
    root, etc = tmp_path / "root", tmp_path / "etc"
    (root / "p3env" / "bin").mkdir(parents=True)
    etc.mkdir()
    (etc / "gunicorn.conf.py").write_text("old")
    (root / "live").symlink_to("slots/blue")
    links = {
        root / "p3env": "live/release/p3env",
        etc / "gunicorn.conf.py": f"{root}/current/gunicorn.conf.py",
    }
    host = tmp_path
    host_done: list[str] = []
    monkeypatch.setattr(takeover.Endpoint, "links", links)
    monkeypatch.setattr(takeover, "must", lambda *words: host_done.append(" ".join(words)))
    monkeypatch.setattr(
        takeover, "wait_for_the_last_answers", lambda _seconds: host_done.append("wait")
    )
    monkeypatch.setattr(
        takeover.api_endpoint_folders,
        "ensure",
        lambda folder, check_mode: host_done.append(folder["owner"]),
    )
    endpoint = takeover.Endpoint("api", root)
    return endpoint, host, host_done


def take_over(endpoint):
    takeover.take_over(endpoint, "model.service", takeover.kept_at(endpoint), 1)


def test_it_is_stopped_first_and_disabled_last(host):
    endpoint, folder, done = host
    take_over(endpoint)
    assert done == ["wait", "stop model.service", "root", "disable model.service"]
    assert os.readlink(folder / "root" / "p3env") == "live/release/p3env"
    assert (folder / "root" / "p3env.before-api-endpoint" / "bin").is_dir()
    assert (folder / "etc" / "gunicorn.conf.py.before-api-endpoint").read_text() == "old"


@pytest.mark.parametrize("cut_off_after", ["p3env", "the first link"])
def test_one_that_was_cut_off_is_ended(host, cut_off_after):
    endpoint, folder, _done = host
    takeover.set_aside(folder / "root" / "p3env", folder / "root" / "p3env.before-api-endpoint")
    if cut_off_after == "the first link":
        (folder / "root" / "p3env").symlink_to("live/release/p3env")
    take_over(endpoint)
    assert os.readlink(folder / "root" / "p3env") == "live/release/p3env"
    assert (folder / "root" / "p3env.before-api-endpoint" / "bin").is_dir()
    assert (folder / "etc" / "gunicorn.conf.py").is_symlink()


def test_it_is_left_running_when_nothing_has_taken_its_place(host):
    endpoint, folder, done = host
    (folder / "root" / "live").unlink()
    with pytest.raises(DeployError, match="was left running"):
        takeover.ensure(
            Stub(name="api", root=str(endpoint.root), unit="model.service", run="", patience=1)
        )
    assert done == []


def test_a_dry_run_says_it_all_and_does_nothing(host):
    endpoint, folder, done = host
    stub = Stub(
        check_mode=True,
        name="api",
        root=str(endpoint.root),
        unit="model.service",
        run="",
        patience=1,
    )
    told = takeover.ensure(stub)
    assert told["changed"]
    assert f"{folder}/root/p3env.before-api-endpoint" in told["diff"]["after"]
    assert any("gunicorn.conf.py.before-api-endpoint" in line for line in told["left"])
    assert done == []
    assert (folder / "etc" / "gunicorn.conf.py").read_text() == "old"
