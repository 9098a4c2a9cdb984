"""site.yml takes over a host that the old template's scripts have set up; clients notice nothing."""

import signal
from pathlib import Path

import pytest
import yaml
from load import assert_nothing_failed, load
from outcomes import MARKED_ADDRESS, MARKED_AGENT, PROJECT, ROOT, wait_until

# The folder of the old app's code: what its answers name as their release.
OLD = "api-endpoint"
# While this file is there, the app loads.
HOLD = "/srv/published/hold"


def old_service(host):
    """Return the state of the old service, and whether it starts at boot."""
    return host.run("systemctl is-active model; systemctl is-enabled model").stdout.split()


def cut_off_at(task):
    """Return the environment of a run that is cut off where a task begins; the callback kills it."""
    return {
        "ANSIBLE_CALLBACK_PLUGINS": str(PROJECT / "molecule" / "shared" / "callbacks"),
        "API_ENDPOINT_CUT_OFF_AT": task,
    }


def data_of(host):
    return host.check_output("cd /etc/api-endpoint && sha256sum model.bin resources/titles.tsv")


def assert_taken_over(result, api):
    """No request failed, the old service answered the first ones, and the new version later ones.

    While nginx reloads, its old and its new workers take connections side by side, so the order is no promise.
    """
    assert_nothing_failed(result)
    assert result.releases[0] == OLD
    assert set(result.releases) == {OLD, api.release}
    wait_until(lambda: api.get("/").json["release"] == api.release, "the new version answers")


@pytest.fixture(scope="module")
def before(host, api):
    """Return what is on the host before the role has been there."""
    wait_until(lambda: api.get("/").status == 200, "the old service answers")
    assert api.get("/api/v1/seen").json == {"seen": 1}
    return {
        "data": data_of(host),
        "etc": host.check_output("ls -la --time-style=+ /etc/api-endpoint"),
    }


def test_the_import_takes_the_data_from_where_it_lies(imported):
    variables = yaml.safe_load(Path(imported[1].removeprefix("@")).read_text())
    assert variables["api_endpoint_server_names"] == ["titles.wmcloud.org"]
    assert variables["api_endpoint_git_url"] == "file:///srv/git/titles.git"
    assert variables["api_endpoint_git_version"] == "titles"
    assert variables["api_endpoint_artifacts"] == [
        {"dest": "resources/titles.tsv", "path": "/etc/api-endpoint/resources/titles.tsv"},
        {"dest": "model.bin", "path": "/etc/api-endpoint/model.bin"},
        {"dest": "seen.sqlite", "path": "/etc/api-endpoint/seen.sqlite", "writable": True},
    ]


def test_a_dry_run_announces_the_takeover_and_touches_nothing(
    host, api, before, playbook, imported
):
    run = playbook("--check", "--diff", *imported)
    assert run.status == 0, run.output
    for words in (
        "-model.service: enabled",
        "+model.service: stopped, disabled",
        "--- before: /etc/nginx/sites-enabled/model",
        "+/var/lib/api-endpoint/p3env.before-api-endpoint",
        "sudo rm -r /etc/systemd/system/model.service",
    ):
        assert words in run.said, run.output
    assert old_service(host) == ["active", "enabled"]
    assert host.check_output("ls -la --time-style=+ /etc/api-endpoint") == before["etc"]
    assert host.check_output("ls /etc/nginx/sites-enabled").split() == ["default", "model"]


def test_a_rejected_version_leaves_the_old_service_as_it_was(host, api, before, playbook, imported):
    with load(api) as result:
        run = playbook(*imported, "-e", '{"api_endpoint_smoke_requests": [{"path": "/nowhere"}]}')
    assert run.status != 0
    assert "GET /nowhere" in run.said, run.output
    assert "model.service of the old template still serves" in run.said, run.output
    assert_nothing_failed(result)
    assert result.releases == [OLD]
    assert old_service(host) == ["active", "enabled"]
    # The old service still writes beside its code, and still starts.
    assert api.get("/api/v1/seen").json == {"seen": 2}
    host.check_output("systemctl restart model")
    wait_until(lambda: api.get("/").status == 200, "the old service answers after a restart")


def test_a_tag_alone_is_rejected_while_the_old_service_serves(host, playbook, imported):
    run = playbook(*imported, "--tags", "nginx")
    assert run.status != 0
    assert "was never set up for api-endpoint" in run.said, run.output
    assert old_service(host) == ["active", "enabled"]


def test_a_run_cut_off_before_nginx_is_switched_changes_nothing_for_clients(
    host, api, playbook, imported
):
    host.check_output(f"touch {HOLD}")
    with load(api) as result:
        started = playbook.start(*imported)
        wait_until(lambda: api.running, "the new version starts to load")
        run = started.kill()
        # The rollout on the host goes on without the run.
        host.check_output(f"rm {HOLD}")
        wait_until(lambda: api.slot, "the rollout on the host has ended")
    assert "PLAY RECAP" not in run.output, run.output
    assert_nothing_failed(result)
    assert result.releases == [OLD]
    assert old_service(host) == ["active", "enabled"]


def test_a_run_cut_off_after_nginx_was_switched_leaves_the_new_version_serving(
    host, api, playbook, imported
):
    # The reload may close a connection that a client has just used, so the client tries once more.
    with load(api, retry_once=True) as result:
        run = playbook(
            *imported,
            environment=cut_off_at(
                "activate | Stop the old template's service, on a host that has one"
            ),
        )
        services = old_service(host)
    assert "PLAY RECAP" not in run.output, run.output
    assert run.status == -signal.SIGKILL, run.output
    assert_taken_over(result, api)
    assert services == ["active", "enabled"]


def test_the_next_run_completes_the_takeover(host, api, before, playbook, imported):
    with load(api) as result:
        run = playbook(*imported)
    assert run.status == 0, run.output
    assert_nothing_failed(result)
    assert old_service(host) == ["inactive", "disabled"]
    for remains in (
        "/etc/api-endpoint/model.bin",
        "/etc/systemd/system/model.service",
        "p3env.before-api-endpoint",
    ):
        assert remains in run.said, run.output
    assert host.check_output("ls /etc/nginx/sites-enabled").split() == [
        "api-endpoint",
        "catch-all-80",
    ]
    defaults = host.check_output("nginx -T 2>/dev/null | grep default_server").splitlines()
    assert defaults
    assert len(set(defaults)) == len(defaults)
    assert host.run("nginx -t").stderr.count("[warn]") == 0
    assert data_of(host) == before["data"]
    assert host.file("/etc/api-endpoint").user == "root"
    assert host.file(f"{ROOT}/p3env").is_symlink


def test_a_dry_run_afterwards_finds_nothing_to_change(playbook, imported):
    run = playbook(*imported, "--check", "--diff")
    assert (run.status, run.changed) == (0, [0]), run.output


def test_the_data_is_used_from_where_it_lay(host, api):
    assert api.get("/").json == {"release": api.release, "titles": 200_000, "bytes": 5_000_000}
    assert api.get("/api/v1/title?title=Title_8").json == {"topic": "topic 1"}
    # Its database with it, the visits under the old template included.
    assert api.get("/api/v1/seen").json == {"seen": 3}


def test_no_client_is_in_a_log_after_the_takeover(host, api):
    host.check_output("truncate --size 0 /var/log/nginx/access.log /var/log/nginx/error.log")
    api.get("/")
    logs = host.check_output("cat /var/log/nginx/*.log /var/log/gunicorn/access.log | tail -n 20")
    assert MARKED_AGENT not in logs
    assert MARKED_ADDRESS not in logs


def test_the_way_back_and_a_takeover_in_one_go(host, api, playbook, imported):
    guide = (PROJECT / "docs" / "guides" / "migrating.md").read_text()
    commands = guide.split("<!-- the way back -->")[1].split("```")[1].removeprefix("sh\n")
    host.check_output(commands.replace("sudo ", ""))
    wait_until(lambda: api.get("/").status == 200, "the old service answers")
    assert api.get("/").json["release"] == OLD
    assert old_service(host) == ["active", "enabled"]
    with load(api, retry_once=True) as result:
        run = playbook(*imported)
    assert run.status == 0, run.output
    assert_taken_over(result, api)
    assert old_service(host) == ["inactive", "disabled"]
    assert playbook(*imported).changed == [0]
