"""Every branch of the templates, rendered by Ansible itself, without a host."""

import ast
import contextlib
import ipaddress
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

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
    first = defaults[name].removeprefix("#!/usr/sbin/nft --file\n").splitlines()[0]
    assert first.removeprefix("//").removeprefix("#").startswith(" Managed by Ansible (role api_endpoint).")
    assert "{{" not in defaults[name]
    assert "{%" not in defaults[name]
    assert "2026" not in defaults[name]


def settings_of(text):
    """The settings, that is, what stands before the first import."""
    nodes = itertools.takewhile(lambda node: isinstance(node, ast.Assign), ast.parse(text).body)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


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


@pytest.fixture
def gunicorn(defaults, monkeypatch):
    """The settings file as gunicorn runs it, with what it does to a worker noted instead of done."""
    told = SimpleNamespace(signals=[], exits=[], lines=[], threads=[])
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    loaded = {}
    exec(compile(defaults["gunicorn.conf.py.j2"], "gunicorn.conf.py", "exec"), loaded)
    monkeypatch.setattr(os, "kill", lambda _pid, number: told.signals.append(number))

    def leave(status):
        told.exits.append(status)
        raise SystemExit

    monkeypatch.setattr(os, "_exit", leave)
    loaded.update(timeout=0.1, graceful_timeout=0.1)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.05)))
    log = SimpleNamespace(critical=lambda text, *words: told.lines.append(text % words))
    yield SimpleNamespace(**loaded, settings=loaded, worker=SimpleNamespace(log=log), told=told)
    # No thread may outlive the stand-ins: it would end the tests.
    loaded.update(graceful_timeout=0)
    loaded["under_way"].clear()
    loaded["under_way"][0] = 0.0, "/so that the thread ends"
    for thread in told.threads:
        thread.join()


def look_after(gunicorn):
    """Let a worker look after its requests, in a thread."""

    def look():
        with contextlib.suppress(SystemExit):
            gunicorn.look_after(gunicorn.worker)

    gunicorn.told.threads.append(threading.Thread(target=look, daemon=True))
    gunicorn.told.threads[-1].start()
    return gunicorn.told.threads[-1]


def test_a_worker_with_a_request_that_takes_too_long_is_replaced(gunicorn):
    gunicorn.pre_request(gunicorn.worker, SimpleNamespace(path="/hang"))
    look_after(gunicorn).join(5)
    assert gunicorn.told.signals == [15]
    assert gunicorn.told.exits == [1]
    assert gunicorn.told.lines == ["/hang took longer than 0.1 s. This worker is replaced."]


def test_a_worker_does_not_wait_for_what_hangs(gunicorn):
    gunicorn.settings.update(graceful_timeout=3600)
    gunicorn.under_way[1] = 0.0, "/hang"
    look_after(gunicorn).join(5)
    assert gunicorn.told.exits == [1]


def test_a_worker_gives_the_others_that_it_works_on_their_time(gunicorn):
    gunicorn.settings.update(graceful_timeout=2)
    gunicorn.under_way.update({1: (0.0, "/hang"), 2: (time.monotonic() + 3600, "/in time")})
    thread = look_after(gunicorn)
    thread.join(1)
    assert gunicorn.told.signals == [15]
    assert gunicorn.told.exits == []
    thread.join(10)
    assert gunicorn.told.exits == [1]


@pytest.mark.parametrize(("timeout", "threads"), [(30, 1), (0, 0)])
def test_without_a_time_out_nobody_looks(gunicorn, monkeypatch, timeout, threads):
    started = []
    monkeypatch.setattr(threading.Thread, "start", lambda self: started.append(self))
    gunicorn.settings["timeout"] = timeout
    gunicorn.post_worker_init(gunicorn.worker)
    assert len(started) == threads


def test_a_worker_whose_requests_end_in_time_is_left_alone(gunicorn):
    gunicorn.pre_request(gunicorn.worker, SimpleNamespace(path="/"))
    gunicorn.post_request(gunicorn.worker, None, None, None)
    look_after(gunicorn).join(0.5)
    assert (gunicorn.told.signals, gunicorn.told.exits) == ([], [])


def test_a_line_that_cannot_be_written_is_not_printed_either(gunicorn, capsys):
    class Full(logging.Handler):
        def emit(self, record):
            try:
                raise OSError(28, "No space left on device")
            except OSError:
                self.handleError(record)

    Full().handle(logging.makeLogRecord({"msg": "%s", "args": ("marked-header",)}))
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "marked-header" not in said


def complaint(text, *words):
    record = logging.makeLogRecord({"name": "gunicorn.error", "msg": text, "args": words})
    logging.getLogger("gunicorn.error").filter(record)
    return record.getMessage()


def test_what_gunicorn_refuses_is_not_quoted(gunicorn):
    assert "203.0.113.7" not in complaint("Invalid request from ip=: Invalid HTTP request line: '203.0.113.7'")
    assert complaint("Error handling request %s %s", "GET", "/x?a=b") == "Error handling request GET /x?a=b"
    assert complaint("Booting worker with pid: %s", 7) == "Booting worker with pid: 7"


def test_no_query_string_in_complaints_when_none_is_to_be_logged(render, monkeypatch):
    monkeypatch.setattr(logging.Handler, "handleError", logging.Handler.handleError)
    exec(compile(render("gunicorn.conf.py.j2", api_endpoint_log_query_string=False), "gunicorn.conf.py", "exec"), {})
    assert complaint("Error handling request %s %s", "GET", "/x?a=b") == "Error handling request GET /x"
    assert complaint("Booting worker with pid: %d", 7) == "Booting worker with pid: 7"


@pytest.fixture(autouse=True)
def _no_filters_are_left():
    yield
    logging.getLogger("gunicorn.error").filters.clear()


def test_only_workers_of_threads_look_after_themselves(render):
    assert "look_after" not in render("gunicorn.conf.py.j2", api_endpoint_worker_class="sync")


def passed(site):
    return set(re.findall(r"proxy_set_header (\S+) ", site))


def test_the_site_names_nobody_to_the_app(render, defaults):
    site = defaults["site.conf.j2"]
    assert "server_name language.wmcloud.org lang.example;" in site
    assert "proxy_pass_request_headers off;" in site
    assert {"Accept", "Authorization", "Content-Type", "Cookie"} < passed(site)
    assert not {"X-Forwarded-For", "X-Real-IP", "Forwarded", "User-Agent"} & passed(site)
    location = site[site.index("location / {") :]
    assert "add_header" not in location, "nginx would forget all of the server's"
    names = render(
        "site.conf.j2", api_endpoint_forward_client_address=True, api_endpoint_forward_user_agent=True,
        api_endpoint_request_headers=["X-Token", "accept"],
    )  # fmt: skip
    assert passed(names) - passed(site) == {"X-Forwarded-For", "X-Real-IP", "User-Agent", "Api-User-Agent", "X-Token"}
    assert "proxy_set_header X-Token $http_x_token;" in names


def test_logs_without_query_and_referrer(render, defaults):
    kept, left_out = defaults["site.conf.j2"], render(
        "site.conf.j2", api_endpoint_log_query_string=False, api_endpoint_log_referrer=False
    )  # fmt: skip
    assert '"$api_endpoint_request_line" $status $body_bytes_sent "$http_referer"' in kept
    assert '"$api_endpoint_short_line" $status $body_bytes_sent "-"' in left_out
    assert "tag=nginx_short warn;" in left_out
    assert "error_log" not in kept
    assert "http_referer" not in left_out.replace("proxy_set_header Referer $http_referer;", "")
    settings = settings_of(
        render("gunicorn.conf.py.j2", api_endpoint_log_query_string="false", api_endpoint_log_referrer="false")
    )
    assert settings["access_log_format"] == '%(t)s "%(m)s %(U)s %(H)s" %(s)s %(B)s "-" %(D)s'


def test_pages_of_named_origins_alone(render, defaults):
    assert 'add_header Access-Control-Allow-Origin "*" always;' in defaults["site.conf.j2"]
    site = render(
        "site.conf.j2", api_endpoint_cors_origins=["https://tool.example"], api_endpoint_cors_credentials=True,
        api_endpoint_cors_max_age=60, api_endpoint_methods=["GET", "post"], api_endpoint_request_headers=["X-Token"],
    )  # fmt: skip
    assert '    "https://tool.example" $http_origin;\n    default "";' in site
    assert "add_header Access-Control-Allow-Origin $api_endpoint_origin always;\n    add_header Vary Origin always;" in site
    assert "add_header Access-Control-Allow-Credentials true always;" in site
    allowed = re.search(r'OPTIONS "(Authorization, Content-Type, .*)";', site)[1].split(", ")
    assert {"X-Token", "X-CSRF-Token", "X-Requested-With"} < set(allowed)
    assert "*" not in allowed
    assert 'OPTIONS "GET, POST, OPTIONS";' in site
    assert '405 "GET, POST, OPTIONS";' in site
    assert 'OPTIONS "60";' in site
    assert 'if ($request_method !~ "^(GET|POST)$") {' in site


def test_how_many_are_let_in(render, defaults):
    site = defaults["site.conf.j2"]
    assert "live/gunicorn.sock max_conns=128;" in site
    assert "limit_conn api_endpoint_clients 64;" in site
    assert "rate=100r/s;" in site
    assert "burst=200 nodelay;" in site
    few = render(
        "site.conf.j2", api_endpoint_max_concurrency="1", api_endpoint_client_rate="0", api_endpoint_trusted_proxies=[]
    )
    assert "live/gunicorn.sock max_conns=1;" in few
    assert "limit_conn api_endpoint_clients 1;" in few
    assert "limit_req" not in few
    assert "set_real_ip_from" not in few


def test_what_the_app_may_do_on_the_host(render, defaults):
    usual = defaults["service.conf.j2"]
    assert "IPAddressDeny=any\n" in usual
    assert "IPAddressAllow=0.0.0.0/1 " in usual
    assert "MemoryMax=90%\n" in usual
    for directive in ("PrivateNetwork", "MemoryDenyWriteExecute", "DeviceAllow"):
        assert directive not in usual
    changed = render(
        "service.conf.j2", api_endpoint_outbound_network=False, api_endpoint_jit=False, api_endpoint_memory_limit="",
        api_endpoint_devices=["/dev/nvidia0"],
        api_endpoint_service_settings={"LimitNOFILE": 9, "SystemCallFilter": ["@a", "@b"], "PrivateTmp": False},
    )  # fmt: skip
    assert "PrivateNetwork=true\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n" in changed
    assert "IPAddressAllow" not in changed
    assert "MemoryDenyWriteExecute=true\n" in changed
    assert "MemoryMax" not in changed
    assert "PrivateDevices=false\nDevicePolicy=closed\nDeviceAllow=/dev/nvidia0 rw\n" in changed
    assert changed.endswith("LimitNOFILE=9\nPrivateTmp=false\nSystemCallFilter=@a\nSystemCallFilter=@b\n")


def test_a_limit_of_memory_in_bytes_may_be_a_number(render):
    assert "MemoryMax=4294967296\n" in render("service.conf.j2", api_endpoint_memory_limit=4294967296)


def test_link_local_addresses_are_outside_of_what_the_app_may_reach(defaults):
    line = re.search(r"IPAddressAllow=(.*)", defaults["service.conf.j2"])[1]
    networks = [ipaddress.ip_network(network) for network in line.split()]

    def reached(address):
        return any(ipaddress.ip_address(address) in network for network in networks)

    for address in ("1.1.1.1", "10.0.0.1", "169.253.255.255", "169.255.0.0", "255.255.255.255", "2001:db8::1", "fd00::1"):
        assert reached(address), address
    for address in ("169.254.169.254", "169.254.0.0", "169.254.255.255", "fe80::a9fe:a9fe", "febf::1"):
        assert not reached(address), address


def test_a_resolver_at_a_link_local_address_is_reached(render):
    resolvers = ["fe80::1%eth0", "169.254.169.253", "9.9.9.9"]
    assert " ff00::/8 169.254.169.253 fe80::1\n" in render("service.conf.j2", __api_endpoint_resolvers=resolvers)


SSHD = {
    "sshd's settings": "port 22\nlistenaddress 0.0.0.0:2222\nlistenaddress [::]:2222\n",
    "who listens": 'LISTEN 0 128 0.0.0.0:2300 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'
    'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=2,fd=6))\n',
    "systemd's socket": "Listen=[::]:2400 (Stream)\n",
}


def test_the_firewall_admits_ssh_wherever_it_is_http_and_what_is_named(render):
    rules = render("nftables.conf.j2", __api_endpoint_sshd={"stdout": "".join(SSHD.values())}, ansible_port=2500)
    assert "elements = { 22, 2222, 2300, 2400, 2500 }" in rules
    admitted = render("nftables_endpoint.nft.j2", api_endpoint_firewall_ports=[9100], api_endpoint_port="8080")
    assert admitted.endswith("add element inet api_endpoint admitted { 8080, 9100 }\n")


def test_requests_that_wait_for_a_new_version_are_not_given_up(defaults):
    usual, waiting = defaults["site.conf.j2"].split("location = /.api-endpoint-waiting {")
    assert "if (-e /run/api-endpoint/waiting) {" in usual
    assert "proxy_read_timeout 60s;" in usual
    assert "proxy_read_timeout 3600s;" in waiting
    assert "limit_conn" not in waiting
    assert "proxy_pass_request_headers off;" in waiting


def test_a_change_of_the_apps_settings_is_none_of_nginxs(render, defaults):
    changed = {
        "api_endpoint_workers": 7, "api_endpoint_threads": 2, "api_endpoint_worker_class": "sync", "api_endpoint_timeout": 9,
        "api_endpoint_graceful_timeout": 9, "api_endpoint_start_timeout": 9, "api_endpoint_health_timeout": 9,
        "api_endpoint_command_timeout": 9, "api_endpoint_warm_up": "true", "api_endpoint_strategy": "restart",
        "api_endpoint_smoke_requests": [{"path": "/x"}], "api_endpoint_gunicorn_settings": {"workers": 9, "threads": 9},
        "api_endpoint_preload": False, "api_endpoint_max_requests": 9, "api_endpoint_drain": 9,
    }  # fmt: skip
    ours = ("nginx.conf.j2", "site.conf.j2", "catch_all.conf.j2")
    assert render(*ours, **changed) == [defaults[name] for name in ours]


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
