"""A good change fails no request: each test is a run of its own, under load."""

import re

import pytest
from load import RATE, REPORTS, assert_nothing_failed, load
from outcomes import ROOT, Asked, assert_switched, wait_until

WAITING = "/run/api-endpoint/waiting.sock"


def virtualenv(api):
    return api.host.check_output(f"readlink -f {ROOT}/p3env")


@pytest.fixture
def four_releases(deploy, new_app):
    """There are four releases that were live; the tests above have made them, unless this one runs alone."""
    while len(deploy.lived) < 4:
        run = deploy(new_app(f"filler-{len(deploy.lived)}"))
        assert run.status == 0, run.output
    return deploy.lived


def test_unchanged_input(api, deploy):
    before = api.release, api.processes, api.deploys
    with load(api) as result:
        run = deploy(deploy.last)
    assert run.status == 0, run.output
    assert run.changed == [0], run.output
    assert (api.release, api.processes, api.deploys) == before
    assert_nothing_failed(result)
    assert result.releases == [api.release]


def test_changed_nginx_settings(api, deploy):
    app, nginx = api.processes, api.workers("nginx.service")
    with load(api, retry_once=True) as result:
        changed = deploy(deploy.last, "--tags", "nginx", client_timeout=29)
        effective = api.host.run("nginx -T").stdout
        back = deploy(deploy.last, "--tags", "nginx")
    assert changed.status == back.status == 0, changed.output + back.output
    assert "client_body_timeout 29s;" in effective
    assert set(api.workers("nginx.service")) - set(nginx), "nginx was not reloaded"
    assert api.processes == app, "the app was restarted"
    assert_nothing_failed(result)
    assert result.releases == [api.release]


def test_new_code_and_requirements(api, deploy, new_app):
    """One request begins before the switch and ends when the old version has been told to stop."""
    app, before, packages = new_app("new-code", is_held=True), api.release, virtualenv(api)
    app.replace("requirements.txt", "Werkzeug", "six==1.17.0\nWerkzeug")
    app.replace("wsgi.py", "import yaml", "import six\nimport yaml")
    app.replace("wsgi.py", "pid=os.getpid()", "pid=os.getpid(), six=six.__version__")
    old, until = api.unit, "/run/answer-new-code"
    api.host.check_output(f"rm --force {until}")
    with load(api) as result:
        with deploy.loading(app) as started:
            long = Asked(api, f"/slow?until={until}")
            while_it_loads = {api.get("/").json["release"] for _ in range(50)}
        wait_until(
            lambda: (
                started.has_ended
                or api.host.run(f"systemctl is-active {old}").stdout.strip() != "active"
            ),
            "the old version stops",
        )
        api.host.check_output(f"touch {until}")
        run = deploy.note(started.wait(), app)
    assert while_it_loads == {before}
    assert_switched(api, run, result, before)
    answer = long.wait()
    assert answer.status == 200, answer
    assert answer.json["release"] == before
    answer = api.get("/").json
    assert (answer["version"], answer["six"]) == (app.version, "1.17.0")
    assert virtualenv(api) != packages


def test_changed_settings_and_data(api, deploy, tmp_path):
    before, packages = api.release, virtualenv(api)
    (tmp_path / "words.txt").write_text("new data")
    with load(api) as result:
        run = deploy(
            deploy.last, "--tags", "app,model",
            workers=3, artifacts=[{"dest": "words.txt", "src": str(tmp_path / "words.txt")}],
        )  # fmt: skip
    assert_switched(api, run, result, before)
    assert len(api.workers()) == 3
    assert api.as_service(f"cat {ROOT}/current/words.txt").stdout == "new data"
    assert virtualenv(api) == packages, "the requirements are the same, the virtualenv is not"


def test_the_strategy_restart_lets_requests_wait(api, deploy, new_app):
    app, before, old = new_app("restarted", is_held=True), api.release, api.unit
    with load(api) as result:
        with deploy.loading(app, strategy="restart") as started:
            wait_until(
                lambda: int(api.host.check_output(f"ss -xlH src {WAITING}").split()[2]) >= 50,
                "requests wait",
            )
            assert old not in api.running, "the old version was not stopped"
        run = deploy.note(started.wait(), app)
    assert_switched(api, run, result, before)
    assert "strategy=restart" in api.deploys[-1]
    assert api.get("/").json["version"] == app.version


def test_the_last_three_good_releases_are_kept_with_what_they_need(api, four_releases):
    assert sorted(api.releases) == sorted(four_releases[-3:])
    needed = api.host.check_output(
        f"readlink {ROOT}/releases/*/p3env | xargs -n 1 basename | sort -u"
    )
    assert api.host.check_output(f"ls {ROOT}/venvs | sort") == needed


def test_roll_back_to_the_previous_release_without_network(api, deploy, four_releases, offline):
    previous, before = four_releases[-2], api.release
    with load(api) as result:
        run = deploy.back()
    assert_switched(api, run, result, before)
    assert api.release == previous
    assert f"rollback release={previous} result=live previous={before} " in api.deploys[-1]


@pytest.mark.full
def test_roll_back_to_a_release_by_its_id_without_network(api, deploy, four_releases, offline):
    wanted, before = four_releases[-3], api.release
    with load(api) as result:
        run = deploy.back(wanted)
    assert_switched(api, run, result, before)
    assert api.release == wanted


@pytest.mark.full
def test_roll_back_to_a_release_that_is_not_there(api, deploy):
    before = api.release, api.processes
    with load(api) as result:
        run = deploy.back("0123456789ab")
    assert run.status != 0
    assert "There is no release '0123456789ab' on this host. There are:" in run.said, run.output
    listed = run.said.partition("There are:")[2]
    assert all(release in listed for release in api.releases)
    assert run.changed == [0]
    assert (api.release, api.processes) == before
    assert_nothing_failed(result)


def test_the_releases_are_listed_with_their_states(api, deploy):
    run = deploy.listed()
    assert run.status == 0, run.output
    lines = run.output.splitlines()
    abandoned = re.findall(r" rollback release=\w+ .*previous=(\w+)", "\n".join(api.deploys))
    assert abandoned, api.deploys
    for release in api.releases:
        state = " rolled back " if release in abandoned else " good "
        state = " live " if release == api.release else state
        assert any(release in line and state in line and " ada@" in line for line in lines), (
            run.output
        )


def test_each_change_has_a_line_in_the_log_of_deployments(api, deploy):
    form = re.compile(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z (rollout|rollback) release=[0-9a-f]{12} result=live "
        r"previous=([0-9a-f]{12}|none)( [a-z]+=\S+)+"
    )
    for line in api.deploys:
        assert form.fullmatch(line), line
        assert {"by", "from", "strategy", "seconds"} <= {
            word.partition("=")[0] for word in line.split()
        }, line
    ids = [re.search(r"release=(\w+)", line)[1] for line in api.deploys if " rollout " in line]
    assert ids[1 - len(deploy.lived) :] == deploy.lived[1:]
    assert " by=ada " in f"{api.deploys[-1]} "
    assert api.host.run("grep --recursive /var/log/api-endpoint/ /etc/logrotate.d").rc == 0, (
        "the log is not rotated"
    )


def test_requests_were_sent_all_the_time(api):
    assert sum(result.requests for result in REPORTS if result.host == api.container) > 20 * RATE
