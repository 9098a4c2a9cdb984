"""What is on the host: owners, rights, the effective configuration, and that a second run agrees."""

import json

import pytest
from outcomes import ROOT


def test_the_processes_belong_to_www_data(api):
    owners = api.host.check_output(
        f"ps -o user= -p $(systemctl show --property=MainPID --value {api.unit}) --ppid {api.main_pid()}"
    ).split()
    assert len(owners) == 5  # the master and four workers
    assert set(owners) == {"www-data"}


def test_the_socket_is_for_www_data_alone(api):
    found = api.host.file(f"/run/api-endpoint/{api.slot}/gunicorn.sock")
    assert (found.user, found.group, found.mode) == ("www-data", "www-data", 0o770)


def test_a_release_is_whole_and_belongs_to_root(api):
    current = api.host.check_output(f"readlink -f {ROOT}/current")
    record = json.loads(api.host.file(f"{current}/release.json").content_string)
    assert current == f"{ROOT}/releases/{record['id']}"
    assert set(record["components"]) == {
        "code",
        "virtualenv",
        "artifacts",
        "settings",
        "writable_paths",
        "secrets",
        "data_dir",
    }
    assert api.host.check_output(f"find {current} -not -user root").strip() == ""
    assert api.host.check_output(f"readlink -f {ROOT}/p3env").startswith(f"{ROOT}/venvs/")
    assert api.host.check_output("readlink -f /etc/api-endpoint/gunicorn.conf.py") == f"{current}/gunicorn.conf.py"
    assert api.host.file(f"{current}/lid.176.ftz").linked_to.startswith("/srv/api-endpoint/data/")


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/current/wsgi.py",
        f"{ROOT}/current/flask_config.yaml",
        f"{ROOT}/current/lid.176.ftz",
        f"{ROOT}/p3env/bin/gunicorn",
        f"{ROOT}/releases/new",
        f"{ROOT}/state/new",
        f"{ROOT}/state/app/new",
        "/srv/api-endpoint/data/new",
        "/etc/api-endpoint/new",
        "/var/log/nginx/new",
        "/home/new",
    ],
)
def test_the_service_cannot_write(api, path):
    tried = api.as_service(f"echo x >> {path}")
    assert tried.rc != 0
    assert tried.stderr.startswith("sh: "), "the service's view of the files could not be entered"
    assert "Read-only file system" in tried.stderr or "Permission denied" in tried.stderr


def test_the_service_can_write_its_state_and_sees_its_release_in_etc(api):
    assert api.as_service(f"echo x > {ROOT}/state/home/test && rm {ROOT}/state/home/test").rc == 0
    assert api.as_service("head -c 1 /etc/api-endpoint/wsgi.py").rc == 0


@pytest.mark.parametrize(
    "path",
    [f"{ROOT}/current/wsgi.py", "/srv/api-endpoint/data", "/var/log/gunicorn/access.log", "/var/log/nginx/access.log"],
)
def test_other_users_of_the_host_cannot_read(api, path):
    assert api.host.file(path).exists
    assert api.host.run(f"setpriv --reuid nobody --regid nogroup --clear-groups head -c 1 {path}").rc != 0


def test_the_effective_nginx_configuration_names_nobody(api):
    shown = api.host.run("nginx -T")
    assert shown.rc == 0
    assert "log_format private" in shown.stdout
    for word in ("remote_addr", "http_user_agent", "http_x_forwarded_for", "proxy_add_x_forwarded_for", "combined"):
        assert f"${word}" not in shown.stdout.replace("combined", "$combined")
    assert "proxy_params" not in shown.stdout
    error_logs = {line.strip() for line in shown.stdout.splitlines() if line.strip().startswith("error_log")}
    assert error_logs == {
        "error_log /var/log/nginx/error.log warn;",
        "error_log syslog:server=unix:/run/nginx-error-log.sock,nohostname,tag=nginx warn;",
    }


def test_all_is_enabled_for_the_next_boot(api):
    for unit in (api.unit, "nginx", "rsyslog"):
        assert api.host.service(unit).is_enabled


def test_a_dry_run_reports_nothing_on_a_deployed_host(playbook):
    run = playbook("--check", "--diff")
    assert run.status == 0, run.output
    assert run.changed == [0], run.output


@pytest.mark.parametrize("tag", ["setup", "app", "model", "nginx"])
def test_each_tag_works_alone_and_changes_nothing(playbook, tag):
    run = playbook("--tags", tag)
    assert run.status == 0, run.output
    assert run.changed == [0], run.output


def test_new_settings_turn_the_other_slot_live_and_back(api, playbook):
    slot, release = api.slot, api.host.check_output(f"readlink -f {ROOT}/current")
    changed = playbook("--tags", "app", "-e", "api_endpoint_workers=2")
    assert changed.status == 0, changed.output
    assert api.slot != slot
    assert len(api.host.check_output(f"pgrep --parent {api.main_pid()}").split()) == 2
    assert api.get("/readyz").status == 200
    back = playbook("--tags", "app")
    assert back.status == 0, back.output
    assert api.host.check_output(f"readlink -f {ROOT}/current") == release


def test_a_version_that_does_not_boot_is_refused_and_the_live_one_stays(api, playbook):
    slot = api.slot
    run = playbook("--tags", "app", "-e", '{"api_endpoint_flask_config": {"MODEL_FILE": "nowhere.ftz"}}')
    assert run.status != 0
    assert 'was not brought live. It failed at the step "start": it stopped with status' in run.output
    assert "nowhere.ftz" in run.output, "the message quotes the app's own last words"
    assert "goes on serving" in run.output
    assert api.slot == slot
    assert api.get("/readyz").status == 200
    assert playbook("--tags", "app").changed == [0]


def test_what_was_changed_by_hand_is_mended(api, playbook):
    host = api.host
    host.check_output("echo '# by hand' >> /etc/nginx/sites-available/api-endpoint")
    host.check_output(f"rm {ROOT}/p3env && systemctl disable {api.unit} && systemctl stop {api.unit}")
    run = playbook()
    assert run.status == 0, run.output
    assert api.get("/readyz").status == 200
    assert host.file(f"{ROOT}/p3env/bin/python").exists
    assert host.service(api.unit).is_enabled
    assert "# by hand" not in host.file("/etc/nginx/sites-available/api-endpoint").content_string
    assert playbook().changed == [0]


def test_two_endpoints_live_on_one_host(api, playbook):
    second = '{"api_endpoint_name": "second", "api_endpoint_server_names": ["second.example"]}'
    run = playbook("-e", second)
    assert run.status == 0, run.output
    assert playbook("-e", second).changed == [0]
    assert playbook().changed == [0]
    for name in (api.name, "second.example"):
        assert api.get("/readyz", headers={"Host": name}).status == 200
    units = api.host.check_output("systemctl list-units --plain --no-legend '*@blue.service' '*@green.service'")
    assert len(units.splitlines()) == 2
    assert api.host.file("/var/log/gunicorn-second/access.log").exists
