"""Every branch of the templates, rendered by Ansible itself, without a host."""

import ast
import json
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT, ROLE

TEMPLATES = sorted(path.name for path in (ROLE / "templates").iterdir())
BASE = {"api_endpoint_server_names": ["language.wmcloud.org", "lang.example"]}


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Return a function that renders templates with the role's defaults and the given variables."""
    folder = tmp_path_factory.mktemp("render")

    def run(*names, **variables):
        play = [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
                "tasks": [
                    {
                        "ansible.builtin.template": {
                            "src": str(ROLE / "templates" / name),
                            "dest": str(folder / name),
                            "mode": "0600",
                        }
                    }
                    for name in names
                ],
            }
        ]
        (folder / "play.yml").write_text(yaml.safe_dump(play))
        # The templates that look up another one find it beside the play.
        link = folder / "templates"
        if not link.exists():
            link.symlink_to(ROLE / "templates")
        given = json.dumps({**BASE, "ansible_python_interpreter": sys.executable, **variables})
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", given, str(folder / "play.yml")]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        rendered = [(folder / name).read_text() for name in names]
        return rendered[0] if len(rendered) == 1 else rendered

    return run


@pytest.fixture(scope="module")
def defaults(render):
    return dict(zip(TEMPLATES, render(*TEMPLATES), strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_file_says_whose_it_is_and_has_no_time_in_it(defaults, name):
    assert defaults[name].startswith("# Managed by Ansible (role api_endpoint).")
    assert "{{" not in defaults[name]
    assert "{%" not in defaults[name]
    assert "2026" not in defaults[name]


def settings_of(text):
    return {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(text).body}


def test_gunicorns_settings(defaults):
    settings = settings_of(defaults["gunicorn.conf.py.j2"])
    assert settings["workers"] == 4
    assert settings["threads"] == 4
    assert settings["preload_app"] is True
    assert settings["control_socket_disable"] is True
    assert "%(h)s" not in settings["access_log_format"]
    assert "%(a)s" not in settings["access_log_format"]
    assert "bind" not in settings


def test_gunicorns_settings_of_other_kinds(render):
    settings = settings_of(
        render(
            "gunicorn.conf.py.j2",
            api_endpoint_worker_class="sync",
            api_endpoint_workers="2",
            api_endpoint_preload=False,
            api_endpoint_max_requests=1000,
            api_endpoint_gunicorn_settings={
                "backlog": 5,
                "reuse_port": True,
                "proc_name": 'it\'s "mine"',
                "chdir": None,
            },
        )
    )
    assert "threads" not in settings
    assert settings["workers"] == 2
    assert settings["preload_app"] is False
    assert settings["max_requests_jitter"] == 100
    assert settings["backlog"] == 5
    assert settings["reuse_port"] is True
    assert settings["proc_name"] == 'it\'s "mine"'
    assert settings["chdir"] is None


def test_what_a_release_adds_to_its_unit(render):
    text = render(
        "service.conf.j2",
        api_endpoint_environment={"B": '50% "ü" \\ $X', "A": 1},
        api_endpoint_release_mounts=["/etc/api-endpoint", "/extrastorage"],
        api_endpoint_start_timeout=20,
    )
    assert 'Environment="A=1"\nEnvironment="B=50%% \\"ü\\" \\\\ $X"\n' in text
    assert "BindReadOnlyPaths=/var/lib/api-endpoint/slots/%i/release:/extrastorage\n" in text
    assert "TimeoutStartSec=30\n" in text


def test_a_second_endpoint_has_names_of_its_own(render):
    unit, waiting, site, logrotate = render(
        "api-endpoint@.service.j2",
        "api-endpoint-waiting.service.j2",
        "site.conf.j2",
        "logrotate.j2",
        api_endpoint_name="two",
        api_endpoint_port=8081,
    )
    assert "api-endpoint" not in unit.replace("role api_endpoint", "")
    assert "api-endpoint" not in waiting.replace("role api_endpoint", "")
    assert "ReadWritePaths=/var/lib/two/state /var/log/gunicorn-two\n" in unit
    assert "server unix:/var/lib/two/live/gunicorn.sock;" in site
    assert "listen 8081;" in site
    assert "/var/log/gunicorn-two/*.log {" in logrotate


def test_the_site_names_nobody_to_the_app(defaults):
    site = defaults["site.conf.j2"]
    assert "server_name language.wmcloud.org lang.example;" in site
    for header in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "User-Agent"):
        assert f'proxy_set_header {header} "";' in site
    assert "add_header" not in site


def test_requests_that_may_wait_are_not_given_up(render, defaults):
    assert "proxy_read_timeout 420s;" in defaults["site.conf.j2"]
    quick = {"api_endpoint_strategy": "restart", "api_endpoint_start_timeout": "20", "api_endpoint_graceful_timeout": "10"}
    assert "proxy_read_timeout 100s;" in render("site.conf.j2", **quick)
    assert "proxy_read_timeout 60s;" in render("site.conf.j2", api_endpoint_strategy="blue_green")


def test_the_plan_of_a_release(render, tmp_path):
    template = tmp_path / "plan.j2"
    template.write_text("{{ __api_endpoint_settings['rollout.json'] }}")
    plan = json.loads(
        render(
            str(template),
            api_endpoint_health_status=["200"],
            api_endpoint_drain="3",
            api_endpoint_workers="2",
            api_endpoint_gunicorn_settings={"workers": 7},
            api_endpoint_environment={"A": 1, "B": "x"},
            api_endpoint_smoke_requests=[{"path": "/x", "body": {"n": 42}, "text": 42}],
            api_endpoint_build_commands=["echo $HOME > x"],
        )
    )
    assert plan["health"] == {"path": "/", "status": [200], "timeout": 5}
    assert plan["drain"] == 3
    assert plan["workers"] == 7
    assert plan["environment"] == {"A": "1", "B": "x"}
    assert plan["smoke"] == [{"path": "/x", "body": {"n": 42}, "text": 42}]
    assert plan["build_commands"] == ["echo $HOME > x"]
    assert plan["mounts"] == ["/etc/api-endpoint"]
    assert plan["strategy"] == "auto"


def test_a_unit_with_a_volume_waits_for_it_and_says_when_it_is_missing(render, defaults):
    plain = defaults["api-endpoint@.service.j2"]
    assert "RequiresMountsFor=/var/lib/api-endpoint /srv/api-endpoint/data\n" in plain
    assert "mountpoint" not in plain
    unit = render("api-endpoint@.service.j2", api_endpoint_volume={"device": "auto"})
    assert "RequiresMountsFor=/var/lib/api-endpoint\n" in unit
    assert "Wants=srv-api\\x2dendpoint.mount\nAfter=srv-api\\x2dendpoint.mount\n" in unit
    assert "mountpoint -q /srv/api-endpoint ||" in unit


def test_flask_config_is_the_given_one(render):
    text = render("flask_config.yaml.j2", api_endpoint_flask_config={"A": [1, "ü"], "B": {"c": True}})
    assert yaml.safe_load(text) == {"A": [1, "ü"], "B": {"c": True}}
