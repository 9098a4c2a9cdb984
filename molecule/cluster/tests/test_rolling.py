"""New code, data and settings reach one host after the other, under load and without a failed request.

Each step is a run of its own, and builds on the steps before.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import SCENARIO, Watch
from load import assert_nothing_failed, load
from outcomes import PROJECT, ROOT, wait_until

APP = PROJECT / "molecule" / "shared" / "fault_app"
DRAIN_FLAG = "/run/api-endpoint/draining"
LOCK = "/run/api-endpoint.lock"


class Roll:
    """Runs that change the scenario's hosts."""

    def __init__(self, playbook, cluster) -> None:
        self.playbook = playbook
        self.hosts = {node.container: node for node in cluster.endpoints}
        self.names = list(self.hosts)  # in the order of the roll
        self.balancer = cluster.balancer
        self.app = APP
        self.given: dict = {}  # variables of all runs beside the scenario's

    def start(self, *options: str, name: str = "site.yml", inventory: str = "", **variables):
        """Start a run; `variables` are the role's, without their prefix."""
        playbook = type(self.playbook)(inventory=inventory) if inventory else self.playbook
        given = {**self.given, "app_dir": str(self.app), **variables}
        given = {
            name if name.startswith("__") else f"api_endpoint_{name}": value
            for name, value in given.items()
        }
        return playbook.start(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options, name=name
        )

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
        """Each host was drained once, never two at a time, and all are back."""
        away = [sorted(name for name, state in states.items() if state != "UP") for states in seen]
        assert max(map(len, away)) == 1, away
        order = [
            name
            for before, now in zip([[], *away], away, strict=False)
            if now != before
            for name in now
        ]
        assert order == self.names, away
        assert not away[-1], away


@pytest.fixture(scope="module")
def roll(everywhere, cluster):
    return Roll(everywhere, cluster)


@pytest.fixture(scope="module")
def new_app(tmp_path_factory):
    """Return a function that makes another version of the app: with one more line."""

    def make(line: str) -> Path:
        folder = tmp_path_factory.mktemp("app") / "app"
        shutil.copytree(APP, folder)
        with (folder / "wsgi.py").open("a") as file:
            file.write(f"\n{line}\n")
        return folder

    return make


def only(values) -> str:
    """Return what all values are."""
    assert len(set(values)) == 1, values
    return values[0]


def test_a_run_that_is_killed_while_a_host_is_drained(roll, new_app):
    """The host's timer ends the drain."""
    first = roll.hosts[roll.names[0]]
    roll.app = new_app("# a run that is killed")
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll.start(__api_endpoint_drain_timeout=30)
        wait_until(
            lambda: first.host.file(DRAIN_FLAG).exists or run.has_ended, "a host drains", 1200
        )
        run.kill()
        assert first.host.file(DRAIN_FLAG).exists, run.output
        wait_until(lambda: not first.host.file(DRAIN_FLAG).exists, "its timer ends the drain")
        roll.balancer.wait_for(first, "UP")
    assert_nothing_failed(result)
    assert any(states[first.container] == "NOLB" for states in watch.states), watch.states


def test_new_code(roll, new_app):
    """The run before was killed: this one repairs what it left."""
    before = roll.releases
    roll.app = new_app("# new code")
    with Watch(roll.balancer) as watch, load(roll.balancer) as result:
        run = roll()
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    after = only(roll.releases)
    assert after not in before
    assert set(result.releases) == {*before, after}
    roll.assert_one_after_the_other(watch.states)
    assert re.search(rf"{roll.names[-1]} +{after} +until now {before[-1]}", run.output), run.output


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
    assert {name for states in watch.states for name, state in states.items() if state != "UP"} == {
        roll.names[0]
    }
    assert set(watch.states[-1].values()) == {"UP"}
    assert "Error: broken on purpose" in run.said, run.output
    table = run.output.rpartition("host ")[2]
    first, *others = roll.names
    assert re.search(
        rf"{first} +{before} +FAILED, still serves the release before: wsgi.py line \d+: RuntimeError",
        table,
    ), run.output
    for name in others:
        assert re.search(rf"{name} +{before} +not touched", table), run.output


def test_a_run_with_nothing_to_do_drains_no_host(roll):
    """The run before stopped at the first host: the others have a release that was built for it, which goes."""
    with Watch(roll.balancer) as watch:
        run = roll()
    assert run.status == 0, run.output
    assert max(run.changed) == 1, run.output
    assert sum(run.changed) == len(roll.names) - 1, run.output
    assert watch.states == [dict.fromkeys(roll.names, "UP")]


@pytest.mark.full
def test_a_dry_run_with_nothing_to_do(roll):
    dry = roll("--check", "--diff")
    assert dry.status == 0, dry.output
    assert set(dry.changed) == {0}, dry.output


@pytest.mark.full
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


@contextlib.contextmanager
def never_unlocked_while_drained(roll):
    """Watch that each host is locked whenever it is drained: nobody else may deploy to it then."""
    seen = "/run/drained-and-unlocked"
    # The flag is looked at again: it is taken away before the lock is.
    guarded = f"[ ! -e {DRAIN_FLAG} ] || [ -e {LOCK} ] || [ ! -e {DRAIN_FLAG} ]"
    watch = f"while sleep 0.02; do {guarded} || date +%T.%N >>{seen}; done"
    hosts = [api.host for api in roll.hosts.values()]
    for host in hosts:
        host.check_output(f"systemd-run --quiet --unit=watch-lock sh -c '{watch}'")
    yield
    for host in hosts:
        host.check_output("systemctl stop watch-lock")
        assert not host.file(seen).exists, host.check_output(f"cat {seen}")


@pytest.mark.full
def test_a_host_that_another_deployment_reached_first_is_not_touched(roll, new_app):
    """Its lock is held from the build on. That another one has taken it since is what its absence means."""
    first, second = (roll.hosts[name] for name in roll.names[:2])
    before = second.release
    roll.app = new_app("# a run that comes too late")
    with load(roll.balancer) as result:
        run = roll.start()
        wait_until(
            lambda: first.host.file(DRAIN_FLAG).exists or run.has_ended, "the first drains", 1200
        )
        assert all(api.host.file(LOCK).exists for api in roll.hosts.values()), run.output
        second.host.check_output(f"rm {LOCK}")
        done = run.wait()
    assert done.status != 0
    assert "This run no longer has the lock of this host" in done.said, done.output
    assert_nothing_failed(result)
    assert second.release == before != first.release
    assert not any(api.host.file(LOCK).exists for api in roll.hosts.values())
    assert roll().status == 0
    only(roll.releases)


@pytest.mark.full
def test_a_rollback_everywhere_to_the_same_release(roll):
    before = only(roll.releases)
    with (
        never_unlocked_while_drained(roll),
        Watch(roll.balancer) as watch,
        load(roll.balancer) as result,
    ):
        run = roll(name="playbooks/rollback.yml")
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert only(roll.releases) != before
    roll.assert_one_after_the_other(watch.states)


@pytest.mark.full
def test_settings_of_nginx_and_the_app(roll):
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


@pytest.mark.full
def test_a_host_that_is_down_is_left_out_and_gets_the_release_later(roll, new_app):
    gone = roll.hosts[roll.names[-1]]
    roll.app = new_app("# a host that is down")
    gone.docker("stop", "--time=20")
    roll.balancer.wait_for(gone, "DOWN")
    try:
        with load(roll.balancer) as result:
            refused = roll("--tags", "app", require_all_hosts=True)
            run = roll()
    finally:
        gone.docker("start")
    assert refused.status != 0
    assert (
        f"Nothing was touched. These hosts cannot be reached: {gone.container}." in refused.said
    ), refused.output
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert re.search(rf"{gone.container} +\S+ +cannot be reached; left out", run.output), run.output
    assert f"When {gone.container} can be reached again, run `ansible-playbook" in run.said
    roll.balancer.wait_for(gone, "UP")
    live = only(roll.releases[:-1])
    assert gone.release != live
    listed = roll(name="playbooks/status.yml")
    assert "NOT ALL HOSTS HAVE THE SAME RELEASE LIVE" in listed.said, listed.output
    # It gets the release that the others have.
    back = roll("--limit", gone.container)
    assert back.status == 0, back.output
    assert only(roll.releases) == live


@pytest.mark.full
def test_hosts_that_would_have_different_releases_are_refused(roll):
    before = only(roll.releases)
    own = json.dumps({"api_endpoint_environment": "{{ {'HOST': inventory_hostname} }}"})
    run = roll("--tags", "app", "-e", own)
    assert run.status != 0
    assert "No host was switched: they would have different releases" in run.said, run.output
    assert "They differ in: settings." in run.said
    assert only(roll.releases) == before


@pytest.mark.full
def test_a_host_is_removed_and_another_one_added(roll, tmp_path):
    name = roll.names[-1]
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
        # A host without anything of the role's.
        api.host.check_output(
            "systemctl stop nginx 'api-endpoint*' && rm -rf /var/lib/api-endpoint /srv/api-endpoint "
            "/etc/nginx/sites-enabled/* && find /etc/systemd/system -name 'api-endpoint*' -prune -exec rm -rf {} + "
            "&& systemctl daemon-reload"
        )
        added = roll()
    assert added.status == 0, added.output
    assert_nothing_failed(result)
    assert only(roll.releases) == live
    roll.balancer.wait_for(api, "UP")
    assert {host.get("/").status for host in roll.hosts.values()} == {200}
