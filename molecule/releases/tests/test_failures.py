"""A bad version fails no request and never gets one, and the next good run needs no repair."""

import platform
import re
import subprocess
from contextlib import contextmanager

import pytest
from kills import KILL_MODULES, KILL_WHO_WAITS, python_on
from load import assert_nothing_failed, load
from outcomes import ROOT, assert_switched, wait_until

pytestmark = pytest.mark.usefixtures("on_one_host")

# What only concerns the app: no need to go through nginx and Debian's packages each time.
APP = ("--tags", "app")

# The next switch does not stop this release for ten minutes.
STAYS = {"drain": 600}


def assert_serving(api, result, before):
    """The old release is still live, and no request failed."""
    assert_nothing_failed(result)
    assert result.releases == [before], result
    assert api.release == before
    assert api.running == api.enabled == [api.unit]


def assert_refused(api, deploy, app, step, *said, **variables):
    """A version is refused at a step, for the stated reason; return its id."""
    before = api.release
    with load(api) as result:
        run = deploy(app, *APP, **variables)
    assert run.status != 0, run.output
    told = re.search(
        r'Release ([0-9a-f]{12}) was not brought live\. It failed at the step "([a-z-]+)": ',
        run.said,
    )
    assert told, run.output
    assert told[2] == step, run.output
    assert f"Release {before} is still live." in run.said, run.output
    for words in said:
        assert re.search(words, run.said), f"{words!r} is not in:\n{run.output}"
    assert_serving(api, result, before)
    assert f" rollout release={told[1]} result=failed " in api.deploys[-1]
    assert f" step={step} " in f"{api.deploys[-1]} "
    return told[1]


def assert_next_good_run_goes_live(api, deploy, app, tags=APP, **variables):
    """Without any repair, a good version goes live."""
    before = api.release
    with load(api, f"next good run ({app.version})") as result:
        run = deploy(app, *tags, **variables)
    assert_switched(api, run, result, before)
    assert api.get("/").json["version"] == app.version


def test_an_import_error(api, deploy, new_app):
    bad = new_app("import-error")
    bad.replace("wsgi.py", "import KINDS", "import KINDS, gone")
    processes = api.processes
    assert_refused(
        api, deploy, bad, "start",
        r"it stopped with status [1-9]", r"cannot import name 'gone'",
        r"--- /var/log/gunicorn/error\.log", r"--- journal of api-endpoint@(blue|green)\.service",
    )  # fmt: skip
    assert api.processes == processes


@pytest.mark.full
def test_a_missing_dependency(api, deploy, new_app):
    bad = new_app("missing-dependency")
    bad.replace("wsgi.py", "import yaml", "import six\nimport yaml")
    assert_refused(
        api, deploy, bad, "start", r"it stopped with status [1-9]", r"No module named 'six'"
    )
    bad.replace("requirements.txt", "Werkzeug", "six==1.17.0\nWerkzeug")
    assert_next_good_run_goes_live(api, deploy, bad)


@pytest.mark.full
def test_a_health_route_that_says_500(api, deploy, new_app):
    bad = new_app("health-500")
    bad.replace("flask_config.yaml", "HEALTH_STATUS: 200", "HEALTH_STATUS: 500")
    assert_refused(
        api,
        deploy,
        bad,
        "health",
        r"GET /healthz .*: status 500",
        r"api_endpoint_start_timeout = 20 s",
        start_timeout=20,
    )
    assert_next_good_run_goes_live(api, deploy, new_app("health-repaired"))


def test_an_app_whose_thread_would_not_survive_a_fork(api, deploy, new_app):
    app = new_app("lost-thread")
    app.replace("flask_config.yaml", "DATABASE: plain", "DATABASE: in_a_thread")
    assert_refused(
        api,
        deploy,
        app,
        "start",
        r"Refused to fork with api_endpoint_preload: true, .* the thread ",
        preload=True,
    )
    # Left to itself, the role has each worker load it.
    assert_next_good_run_goes_live(api, deploy, app)


@pytest.mark.full
def test_an_app_that_takes_too_long_to_start(api, deploy, new_app):
    app = new_app("slow-start", is_held=True)
    assert_refused(
        api,
        deploy,
        app,
        "start",
        r"it was not healthy within api_endpoint_start_timeout = 3 s",
        start_timeout=3,
    )
    api.host.check_output(f"touch {app.load_until}")
    assert_next_good_run_goes_live(api, deploy, app)


@pytest.mark.full
def test_a_setting_that_gunicorn_rejects(api, deploy, new_app):
    app = new_app("bad-setting")
    assert_refused(
        api, deploy, app, "start", r"it stopped with status [1-9]", r"Invalid value for limit_request_line: long",
        gunicorn_settings={"limit_request_line": "long"},
    )  # fmt: skip
    assert_next_good_run_goes_live(api, deploy, app)


@pytest.mark.parametrize("whose", ["ours", pytest.param("somebody else's", marks=pytest.mark.full)])
def test_a_configuration_that_nginx_rejects(api, deploy, new_app, whose):
    app, before, processes = new_app(f"nginx-{whose.split()[0]}"), api.release, api.processes
    foreign = "/etc/nginx/conf.d/broken.conf"
    if whose == "ours":
        variables, words = {"max_body_size": "9999999999999999g"}, "client_max_body_size"
    else:
        variables, words = {"client_timeout": 28}, "nonsense"
        api.host.check_output(f"echo 'nonsense on;' > {foreign}")
    try:
        with load(api, f"nginx -t rejects what is {whose}") as result:
            run = deploy(app, **variables)
    finally:
        api.host.check_output(f"rm --force {foreign}")
    assert run.status != 0
    assert "nginx rejects the new configuration; the old one is in place." in run.said, run.output
    assert words in run.said, run.output
    assert_serving(api, result, before)
    assert api.processes == processes
    assert api.host.run("nginx -t").rc == 0


@contextmanager
def almost_full_disk(host):
    """Move everything below the endpoint's folder to a disk with 1 MB to spare, for a while."""
    host.check_output(
        "mkdir /run/disk && mount -t tmpfs -o size=2g,mode=0750 tmpfs /run/disk && "
        f"cp --archive --no-target-directory {ROOT} /run/disk && mount --bind /run/disk {ROOT} && "
        "mount -o remount,size=$(($(df --output=used /run/disk | tail -n 1) + 1024))k /run/disk"
    )
    try:
        yield
    finally:
        host.check_output(f"umount --lazy {ROOT} && umount --lazy /run/disk && rmdir /run/disk")


def test_a_disk_that_is_full_during_the_build(api, deploy, new_app):
    app, before, processes = new_app("large"), api.release, api.processes
    (app.folder / "large.bin").write_bytes(b"0123456789abcdef" * 2**17)
    with almost_full_disk(api.host):
        with load(api) as result:
            run = deploy(app, *APP)
        assert run.status != 0
        assert "No space left on device" in run.said, run.output
        assert_serving(api, result, before)
        assert api.processes == processes
        assert_nothing_is_left_behind(api)
    # The first good run since the failures above.
    assert_next_good_run_goes_live(api, deploy, app, tags=())


@pytest.mark.full
def test_hooks_that_fail_and_hooks_that_work(api, deploy, new_app):
    app = new_app("hooks")
    assert_refused(
        api, deploy, app, "build", r"half a database", r"no such table", r"ended with status 3",
        build_commands=["echo half a database; echo no such table >&2; exit 3"],
    )  # fmt: skip
    good = {"build_commands": ["id --user --name > built.txt"], "warm_up": "python warm_up.py"}
    refused = assert_refused(
        api, deploy, app, "warm-up", r"the cache is cold", r"ended with status 4",
        **{**good, "warm_up": "python warm_up.py && echo the cache is cold && exit 4"},
    )  # fmt: skip
    lines = deploy.listed().output.splitlines()
    assert any(refused in line and " failed " in line and "warm-up" in line for line in lines), (
        "\n".join(lines)
    )
    assert_next_good_run_goes_live(api, deploy, app, **good)
    built = api.host.file(f"{ROOT}/releases/{api.release}/built.txt")
    assert built.content_string == "www-data\n"
    assert built.user == "root", "the app could replace what was built"
    assert "/slow?seconds=0.01" in api.host.check_output("cat /var/log/gunicorn/access.log")


@pytest.mark.full
def test_a_bad_version_under_the_strategy_restart(api, deploy, new_app):
    bad = new_app("bad-restart")
    bad.replace("wsgi.py", "DATABASE = ", 'raise RuntimeError("out of luck")\nDATABASE = ')
    main, _workers = api.processes
    assert_refused(api, deploy, bad, "start", r"out of luck", strategy="restart")
    assert api.processes[0] != main, "the old version was not stopped: was there a restart?"
    assert_next_good_run_goes_live(api, deploy, new_app("restart-repaired"), strategy="restart")


def assert_nothing_is_left_behind(api):
    """No half-built release, code, virtualenv or data is on the disk."""
    assert (
        api.host.check_output(f"find {ROOT} /srv/api-endpoint -maxdepth 3 -name '.building-*'")
        == ""
    )
    assert (
        api.host.check_output(
            f"find {ROOT}/venvs -mindepth 1 -maxdepth 1 ! -exec test -e '{{}}/.complete' ';' -print"
        )
        == ""
    )


def kill_modules(api):
    """Kill what an interrupted run has left on the host."""
    python_on(api.host, KILL_MODULES)


def assert_healed(api, killed, again, result, before, app):
    """The run after a killed one has brought its version live."""
    assert killed.status == -9, f"it ended before it was killed:\n{killed.output}"
    assert_switched(api, again, result, before)
    assert api.get("/").json["version"] == app.version
    assert_nothing_is_left_behind(api)


@pytest.mark.full
@pytest.mark.parametrize(
    ("moment", "side"),
    [
        ("while the code arrives", "laptop"),
        ("while pip installs", "both"),
        ("while pip installs", "laptop"),  # the build goes on, and the next run waits for it
        ("while a build command runs", "both"),
    ],
    ids=["the-code-arrives", "pip-installs", "pip-goes-on", "a-build-command-runs"],
)
def test_a_run_that_is_killed_while_it_builds(api, deploy, new_app, moment, side):
    app, before = new_app(moment.replace(" ", "-")), api.release
    app.replace(
        "requirements.txt", "Werkzeug", "six==1.16.0\nWerkzeug" if "pip" in moment else "Werkzeug"
    )
    variables = {"build_commands": ["sleep 4.2"]} if "build command" in moment else {}
    reached = {
        "while the code arrives": lambda: "app | Bring the code into the store" in run.output,
        "while pip installs": lambda: api.host.run("pgrep --full '[p]ip install'").rc == 0,
        "while a build command runs": lambda: api.host.run("pgrep --full '[s]leep 4.2'").rc == 0,
    }[moment]
    with load(api, f"killed {moment}, and run again") as result:
        run = deploy.start(app, *APP, **variables)
        wait_until(lambda: reached() or run.has_ended, moment)
        killed = run.kill()
        if side == "both":
            kill_modules(api)
        again = deploy(app, *APP, **variables)
    assert_healed(api, killed, again, result, before, app)


def test_a_run_whose_laptop_dies_while_the_new_version_starts(api, deploy, new_app):
    app, before = new_app("laptop-dies", is_held=True), api.release
    with load(api) as result:
        with deploy.loading(app, *APP, **STAYS) as run:
            killed = run.kill()
            assert api.get("/").json["release"] == before
        again = deploy(app, *APP, **STAYS)
    assert_healed(api, killed, again, result, before, app)


def test_a_run_that_is_killed_right_after_the_switch(api, deploy, new_app):
    """The release of the test above stays for ten minutes after the switch; the run is killed meanwhile."""
    app, before, old = new_app("killed-after-the-switch"), api.release, api.unit
    with load(api) as result:
        run = deploy.start(app, *APP)
        wait_until(lambda: api.unit != old or run.has_ended, "the switch")
        killed = run.kill()
        kill_modules(api)
        assert len(api.running) == 2, "the old version was stopped before the run was killed"
        again = deploy(app, *APP)
    assert_healed(api, killed, again, result, before, app)


@pytest.mark.full
def test_a_host_that_restarts_between_build_and_switch(api, deploy, new_app):
    app, before = new_app("host-restarts", is_held=True), api.release
    with deploy.loading(app, *APP) as run:
        subprocess.run(
            ["docker", "restart", "--time", "20", api.container], check=True, capture_output=True
        )
        assert run.wait().status != 0, run.output
        api.wait_until_it_answers("/")
        assert api.get("/").json["release"] == api.release == before
        assert api.running == api.enabled == [api.unit]
    assert_next_good_run_goes_live(api, deploy, app)
    assert_nothing_is_left_behind(api)


FALLBACK = "api-endpoint-fallback.service"


def is_inactive(api, unit):
    return api.host.run(f"systemctl is-active {unit}").stdout.strip() == "inactive"


def assert_nothing_is_left_running(api):
    """One slot is on, no request is held, no fallback waits, and no unit has failed."""
    assert api.running == api.enabled == [api.unit]
    for unit in ("api-endpoint-waiting.socket", "api-endpoint-waiting.service", FALLBACK):
        assert is_inactive(api, unit), unit
    assert api.host.check_output("systemctl --failed --plain --no-legend") == ""
    assert not api.host.file("/run/api-endpoint/waiting").exists


def assert_settled(api, deploy, app, **variables):
    """There is nothing left to do."""
    run = deploy(app, **variables)
    assert run.status == 0, run.output
    assert run.changed == [0], run.output


@pytest.mark.full
@pytest.mark.parametrize("again_at_once", [False, True], ids=["fallback", "next-run"])
def test_a_roll_out_that_is_killed_while_requests_wait(api, deploy, new_app, again_at_once):
    """No request fails: they get the old version as soon as the rollout is dead, also after a daemon-reload."""
    app, before = new_app(f"killed-restart-{again_at_once:d}", is_held=True), api.release
    with load(api) as result:
        with deploy.loading(app, *APP, strategy="restart") as run:
            api.host.check_output("systemctl daemon-reload")
            killed = run.kill()
            kill_modules(api)
            if not again_at_once:
                wait_until(lambda: is_inactive(api, FALLBACK), "the fallback has done its work")
                assert api.get("/").json["release"] == before
                assert_nothing_is_left_running(api)
        again = deploy(app, *APP, strategy="restart")
    assert_healed(api, killed, again, result, before, app)
    assert_nothing_is_left_running(api)
    assert_settled(api, deploy, app, strategy="restart")


@pytest.mark.full
def test_a_roll_out_that_goes_on_without_its_run_is_waited_for(api, deploy, new_app):
    app, before = new_app("goes-on", is_held=True), api.release
    with load(api) as result:
        with deploy.loading(app, *APP) as run:
            python_on(api.host, KILL_WHO_WAITS)
            assert run.wait().status != 0, run.output
            second = deploy.start(app, *APP)
            wait_until(
                lambda: second.has_ended or "an earlier run of yours was cut off" in second.output,
                "the second waits",
            )
            assert not second.has_ended, second.output
        done = second.wait()
    assert done.status == 0, done.output
    assert_nothing_failed(result)
    assert set(result.releases) == {before, api.release}
    assert api.get("/").json["version"] == app.version
    assert_nothing_is_left_running(api)


@pytest.mark.full
def test_the_link_live_is_removed_while_green_is_live(api, deploy, new_app):
    for version in ("live-removed", "live-removed-too"):
        app = new_app(version)
        assert deploy(app, *APP).status == 0
        if api.slot == "green":
            break
    processes = api.processes
    api.host.check_output(f"rm {ROOT}/live")
    run = deploy(app, *APP)
    assert run.status == 0, run.output
    assert "Repaired: the link live" in run.said, run.output
    assert (api.slot, api.processes) == ("green", processes)
    assert_nothing_is_left_running(api)
    assert_settled(api, deploy, app)


@pytest.mark.full
def test_a_run_that_starts_nothing_removes_what_a_killed_one_left(api, deploy, new_app):
    live, killed = new_app("stays-live"), new_app("never-live", is_held=True)
    assert deploy(live, *APP).status == 0
    releases, before = set(api.releases), api.release
    with deploy.loading(killed, *APP) as run:
        run.kill()
        kill_modules(api)
    api.host.check_output(f"mkdir {ROOT}/code/.building-x {ROOT}/venvs/.building-y")
    assert set(api.releases) > releases
    run = deploy(live, *APP)
    assert run.status == 0, run.output
    assert "files of an interrupted run" in run.said, run.output
    assert set(api.releases) == releases
    assert api.release == before
    assert_nothing_is_left_behind(api)
    assert_nothing_is_left_running(api)
    assert_settled(api, deploy, live)


@pytest.mark.full
def test_handlers_that_a_killed_run_lost_run_in_the_next_one(api, deploy):
    """A file that is newer than what uses it is all that such a run leaves."""
    rsyslog = api.main_pid("rsyslog.service")
    api.host.check_output(
        "touch /etc/rsyslog.d/30-nginx-private.conf /etc/systemd/system/nginx.service.d/api-endpoint.conf "
        "/etc/systemd/system/api-endpoint@.service"
    )
    question = f"systemctl show --property=NeedDaemonReload --value nginx.service {api.unit}"
    assert api.host.check_output(question).split() == ["yes", "yes"]
    run = deploy(deploy.last)
    assert run.status == 0, run.output
    assert run.changed != [0], run.output
    assert api.host.check_output(question).split() == ["no", "no"]
    assert api.main_pid("rsyslog.service") != rsyslog
    assert_settled(api, deploy, deploy.last)


def test_two_people_deploy_at_once(api, deploy, new_app):
    hers, his, before = new_app("of-ada", is_held=True), new_app("of-bob"), api.release
    with load(api) as result:
        with deploy.loading(hers, *APP, user="ada") as first:
            second = deploy(his, *APP, user="bob")
        done = first.wait()
    assert second.status != 0, second.output
    told = rf"ada on {re.escape(platform.node())} has been deploying to this host since \d{{4}}-\d\d-\d\d.\d\d:\d\d"
    assert re.search(told, second.said), second.output
    assert not re.search(r"\b[0-9a-f]{32}\b", second.output), (
        "with the lock's token bob could work as ada's run"
    )
    assert second.changed == [0]
    assert_switched(api, done, result, before)
    assert api.get("/").json["version"] == hers.version
    assert_next_good_run_goes_live(api, deploy, his, user="bob")
    assert " by=bob " in f"{api.deploys[-1]} "
