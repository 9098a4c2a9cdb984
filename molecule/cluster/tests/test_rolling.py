"""New code, data and settings reach one host after the other, and nobody notices; what fails stops at the first one.

Each step is a run of its own, with 100 requests a second through the balancer. The steps follow each other.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import testinfra
import yaml
from conftest import SERVER_NAME, Balancer, Watch
from load import assert_nothing_failed, load
from outcomes import PROJECT, ROOT, Api, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
MARK = "/run/api-endpoint/leaving"


class Roll:
    """The scenario's hosts, and runs that change them."""

    def __init__(self, playbook) -> None:
        self.playbook = playbook
        inventory = yaml.safe_load(Path(os.environ["MOLECULE_INVENTORY_FILE"]).read_text())
        # In the order of their turns.
        self.names = list(inventory["api_endpoints"]["hosts"])
        self.hosts = {name: Api(testinfra.get_host(f"docker://{name}"), SERVER_NAME) for name in self.names}
        self.balancer = Balancer("balancer")
        self.app = PROJECT / "molecule" / "shared" / "fault_app"
        self.given: dict = {}  # what the runs are given beside the scenario's variables

    def start(self, *options: str, name: str = "site.yml", inventory: str = "", **variables):
        """Start a run; `variables` are the role's, without their prefix."""
        playbook = type(self.playbook)(inventory=inventory) if inventory else self.playbook
        given = {**self.given, "app_dir": str(self.app), **variables}
        given = {name if name.startswith("__") else f"api_endpoint_{name}": value for name, value in given.items()}
        return playbook.start("-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options, name=name)

    def __call__(self, *options: str, **more):
        """Run a playbook."""
        return self.start(*options, **more).wait()

    @property
    def releases(self) -> list[str]:
        """The live release of each host."""
        return [api.release for api in self.hosts.values()]

    @property
    def states(self) -> dict[str, str]:
        """What the balancer says of each host."""
        return {name: row["status"].split()[0] for name, row in self.balancer.figures.items()}

    def assert_one_after_the_other(self, seen) -> None:
        """Each host has left once, never two at a time, and all are back."""
        away = [sorted(name for name, state in states.items() if state != "UP") for states in seen]
        assert max(map(len, away)) == 1, away
        turns = [name for before, now in zip([[], *away], away, strict=False) if now != before for name in now]
        assert sorted(turns) == sorted(self.names), away
        assert not away[-1], away


@pytest.fixture(scope="module")
def roll(everywhere):
    return Roll(everywhere)


@pytest.fixture
def new_app(tmp_path):
    """Return a function that makes another version of the app: with a line more."""

    def make(line: str) -> Path:
        folder = tmp_path / "app"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(PROJECT / "molecule" / "shared" / "fault_app", folder)
        with (folder / "wsgi.py").open("a") as file:
            file.write(f"\n{line}\n")
        return folder

    return make


@pytest.fixture(scope="module")
def kept_app(tmp_path_factory, roll):
    """Return a function that makes a version of the app the one of all further runs."""

    def make(version: str) -> None:
        folder = tmp_path_factory.mktemp("app") / "app"
        shutil.copytree(PROJECT / "molecule" / "shared" / "fault_app", folder)
        with (folder / "wsgi.py").open("a") as file:
            file.write(f"\n# {version}\n")
        roll.app = folder

    return make


def only(values) -> str:
    """Return what all values are."""
    assert len(set(values)) == 1, values
    return values[0]


def test_new_code(roll, kept_app):
    before = only(roll.releases)
    kept_app("new code")
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll()
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    after = only(roll.releases)
    assert after != before
    assert set(result.releases) == {before, after}
    roll.assert_one_after_the_other(watch.states)
    assert re.search(rf"{roll.names[2]} +{after} +until now {before}", run.output), run.output


def test_new_data_alone(roll, tmp_path_factory):
    before = only(roll.releases)
    words = tmp_path_factory.mktemp("data") / "words.txt"
    words.write_text("other words\n")
    roll.given["artifacts"] = [{"dest": "words.txt", "src": str(words)}]
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll("--tags", "model")
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert only(roll.releases) != before
    roll.assert_one_after_the_other(watch.states)
    for api in roll.hosts.values():
        assert api.host.check_output(f"cat {ROOT}/current/words.txt") == "other words"


def test_a_roll_back_everywhere_to_the_same_release(roll):
    before = only(roll.releases)
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll(name="playbooks/rollback.yml")
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert only(roll.releases) != before
    roll.assert_one_after_the_other(watch.states)


def test_settings_of_nginx_and_of_the_app(roll):
    before = only(roll.releases)
    roll.given |= {"client_timeout": 6, "environment": {"A": "1"}}
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll()
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert only(roll.releases) != before
    roll.assert_one_after_the_other(watch.states)
    for api in roll.hosts.values():
        assert "client_body_timeout 6s;" in api.host.check_output("nginx -T")


def test_a_broken_release_stops_at_the_first_host(roll, new_app):
    before = only(roll.releases)
    processes = [api.processes for api in roll.hosts.values()]
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll(app_dir=str(new_app("raise RuntimeError('broken on purpose')")))
    assert run.status != 0
    assert_nothing_failed(result)
    assert result.releases == [before]
    assert only(roll.releases) == before
    assert [api.processes for api in roll.hosts.values()] == processes
    assert {name for states in watch.states for name, state in states.items() if state != "UP"} == {roll.names[0]}
    assert set(watch.states[-1].values()) == {"UP"}
    assert "Error: broken on purpose" in run.said, run.output
    table = run.output.rpartition("host ")[2]
    first, *others = roll.names
    assert re.search(rf"{first} +{before} +FAILED, back in service with what it had: Release \w+ was not", table), run.output
    for name in others:
        assert re.search(rf"{name} +{before} +not touched", table), run.output


def test_a_run_that_is_killed_while_a_host_has_left(roll, kept_app):
    first = roll.hosts[roll.names[0]]
    kept_app("a run that is killed")
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll.start(__api_endpoint_lease=15)
        wait_until(lambda: first.host.file(MARK).exists or run.has_ended, "a host leaves", 300)
        run.kill()
        assert first.host.file(MARK).exists, run.output
        wait_until(lambda: not first.host.file(MARK).exists, "its timer removes the mark", 30)
        wait_until(lambda: roll.states[first.container] == "UP", "the balancer has it back", 10)
    assert_nothing_failed(result)
    assert any(states[first.container] == "NOLB" for states in watch.states), watch.states


def test_a_host_that_is_down_is_left_out_and_the_next_run_heals_what_is_left(roll):
    gone = roll.hosts[roll.names[2]]
    subprocess.run(["docker", "stop", "--time", "20", gone.container], check=True, capture_output=True)
    wait_until(lambda: roll.states[gone.container] == "DOWN", "the balancer knows that it is down", 10)
    try:
        with load(roll.balancer) as result:
            refused = roll("--tags", "app", require_all_hosts=True)
            run = roll()
    finally:
        subprocess.run(["docker", "start", gone.container], check=True, capture_output=True)
    assert refused.status != 0
    assert f"Nothing was touched. These hosts cannot be reached: {gone.container}." in refused.said, refused.output
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert re.search(rf"{gone.container} +\S+ +cannot be reached; left out", run.output), run.output
    assert f"When {gone.container} can be reached again, run site.yml once more" in run.said
    wait_until(lambda: roll.states[gone.container] == "UP", "the balancer has it back by itself", 60)
    live = only(roll.releases[:2])
    assert gone.release != live
    listed = roll(name="playbooks/status.yml")
    assert "NOT ALL HOSTS HAVE THE SAME RELEASE LIVE" in listed.said, listed.output
    # To the release that the others have.
    back = roll("--limit", gone.container)
    assert back.status == 0, back.output
    assert only(roll.releases) == live


def test_hosts_that_would_have_different_releases_are_refused(roll):
    before = only(roll.releases)
    own = json.dumps({"api_endpoint_environment": "{{ {'HOST': inventory_hostname} }}"})
    run = roll("--tags", "app", "-e", own)
    assert run.status != 0
    assert "No host was switched: they would have different releases" in run.said, run.output
    assert "They differ in: settings." in run.said
    assert only(roll.releases) == before


def test_a_host_is_removed_and_another_one_added(roll, tmp_path):
    name = roll.names[2]
    api = roll.hosts[name]
    inventory = yaml.safe_load(Path(os.environ["MOLECULE_INVENTORY_FILE"]).read_text())
    for group in inventory.values():
        (group.get("hosts") or {}).pop(name, None)
    without = tmp_path / "inventory.yml"
    without.write_text(yaml.safe_dump(inventory))
    live = only(roll.releases)
    with load(roll.balancer) as result:
        removed = roll(name="playbooks/load_balancers.yml", inventory=str(without))
        assert removed.status == 0, removed.output
        assert name not in roll.states
        # A host on which nothing ever was.
        api.host.check_output(
            "systemctl stop nginx 'api-endpoint*' && rm -rf /var/lib/api-endpoint /srv/api-endpoint "
            "/etc/nginx/sites-enabled/* && find /etc/systemd/system -name 'api-endpoint*' -prune -exec rm -rf {} + "
            "&& systemctl daemon-reload"
        )
        added = roll()
    assert added.status == 0, added.output
    assert_nothing_failed(result)
    assert only(roll.releases) == live
    wait_until(lambda: roll.states[name] == "UP", "it gets requests", 10)
    assert [api.get("/").status for api in roll.hosts.values()] == [200] * 3


def test_a_run_with_nothing_to_do_moves_nobody(roll):
    with Watch(roll.balancer) as watch:
        run = roll()
        dry = roll("--check", "--diff")
    assert run.status == dry.status == 0, run.output + dry.output
    assert set(run.changed) == set(dry.changed) == {0}, run.output + dry.output
    assert set(watch.states[-1].values()) == {"UP"}
    assert len(watch.states) == 1, watch.states
