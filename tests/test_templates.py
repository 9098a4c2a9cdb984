"""Every branch of the templates, rendered by Ansible itself, without a host."""

import ast
import functools
import gc
import ipaddress
import itertools
import json
import re

import api_endpoint_worker
import pytest
import rendering
import yaml
from helpers import ROLE

REPORT = "diagnosis.html.j2"
TEMPLATES = sorted(
    path.name for path in (ROLE / "templates").glob("*.j2") if not path.match("*.html.j2")
)  # the host's
BASE = {"api_endpoint_server_names": ["language.wmcloud.org", "lang.example"]}


@pytest.fixture(scope="module")
def render():
    """Return a function that renders templates with the role's defaults and the given variables."""
    return functools.partial(rendering.render, **BASE)


@pytest.fixture(scope="module")
def defaults(render):
    return dict(zip(TEMPLATES, render(*TEMPLATES), strict=True))


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_file_says_whose_it_is_and_has_no_time_in_it(defaults, name):
    first = defaults[name].removeprefix("#!/usr/sbin/nft --file\n").splitlines()[0]
    assert (
        first.removeprefix("//")
        .removeprefix("#")
        .startswith(" Managed by Ansible (role api_endpoint).")
    )
    assert "{{" not in defaults[name]
    assert "{%" not in defaults[name]
    assert "2026" not in defaults[name]


def settings_of(text):
    """The settings, which stand before the first import."""
    nodes = itertools.takewhile(lambda node: isinstance(node, ast.Assign), ast.parse(text).body)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in nodes}


def test_gunicorns_settings(defaults):
    settings = settings_of(defaults["gunicorn.conf.py.j2"])
    assert settings["workers"] == 4
    assert settings["threads"] == 16
    assert settings["preload_app"] is True
    assert "watch(may_replace=True)" in defaults["gunicorn.conf.py.j2"]
    assert settings["control_socket_disable"] is True
    assert "%(h)s" not in settings["access_log_format"]
    assert "%(a)s" not in settings["access_log_format"]
    assert "bind" not in settings


@pytest.mark.parametrize("as_text", [False, True])
def test_preload_is_auto_true_or_false(render, as_text):
    for given, said in (("auto", "may_replace=True"), (True, "may_replace=False"), (False, "")):
        text = render("gunicorn.conf.py.j2", api_endpoint_preload=str(given) if as_text else given)
        settings = settings_of(text)
        assert settings["preload_app"] is bool(given)
        assert ("on_starting" in settings, "post_fork" in settings) == (bool(given), bool(given))
        assert said in text if given else "watch(" not in text


def test_a_preloaded_model_is_kept_from_the_garbage_collector(render, defaults):
    assert (
        settings_of(defaults["gunicorn.conf.py.j2"])["when_ready"]
        == "api_endpoint_worker.freeze_heap"
    )
    for not_loaded in (
        {"api_endpoint_preload": "false"},
        {"api_endpoint_gunicorn_settings": {"preload_app": False}},
    ):
        assert "when_ready" not in settings_of(render("gunicorn.conf.py.j2", **not_loaded))
    gc.unfreeze()
    try:
        api_endpoint_worker.freeze_heap(None)
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()


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


@pytest.mark.parametrize(
    ("name", "said"),
    [("tiemout", "Did you mean timeout?"), ("zzzzzzzz", "Its documentation lists them.")],
)
def test_a_setting_that_gunicorn_would_leave_out_is_refused(render, name, said):
    text = render(
        "gunicorn.conf.py.j2",
        api_endpoint_preload=False,
        api_endpoint_gunicorn_settings={"backlog": 5, name: 3},
    )
    with pytest.raises(SystemExit) as refused:
        exec(text, {})
    assert f"api_endpoint_gunicorn_settings has '{name}', which gunicorn " in str(refused.value)
    assert said in str(refused.value)


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


def test_what_a_profile_adds(render, defaults):
    assert "OMP_NUM_THREADS" not in defaults["service.conf.j2"]
    unit, gunicorn = render(
        "service.conf.j2", "gunicorn.conf.py.j2", api_endpoint_profile="pytorch"
    )
    assert 'Environment="OMP_NUM_THREADS=1"' in unit
    assert "MemoryDenyWriteExecute" not in unit
    assert settings_of(gunicorn)["preload_app"] is False
    assert "MemoryDenyWriteExecute=true" in render(
        "service.conf.j2", api_endpoint_profile="fasttext"
    )


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


@pytest.mark.parametrize(
    ("variables", "worker", "log"),
    [
        ({}, "api_endpoint_worker.ThreadedWorker", True),
        ({"api_endpoint_worker_class": "sync"}, "api_endpoint_worker.PlainWorker", True),
        ({"api_endpoint_gunicorn_settings": {"worker_class": "gevent"}}, "gevent", True),
        (
            {"api_endpoint_gunicorn_settings": {"access_log_format": "%(s)s"}},
            "api_endpoint_worker.ThreadedWorker",
            False,
        ),
        (
            {"api_endpoint_gunicorn_settings": {"statsd_host": "x:1"}},
            "api_endpoint_worker.ThreadedWorker",
            False,
        ),
    ],
)
def test_what_is_the_roles_own_in_gunicorn_and_what_the_user_has_replaced(
    render, variables, worker, log
):
    text = render("gunicorn.conf.py.j2", **variables)
    assert settings_of(text)["worker_class"] == worker
    assert settings_of(text).get("logger_class") == (
        "api_endpoint_worker.AccessLog" if log else None
    )
    assert "\nprotect_logs(query_strings=True)\n" in text
    assert text.endswith("\nspeak_uwsgi()\n") == worker.startswith("api_endpoint_worker."), (
        "gunicorn's own go on with HTTP"
    )
    assert len(text.splitlines()) < 45, "a page that a person can read"


def test_without_query_strings_in_the_logs_there_are_none_in_gunicorns_complaints(render):
    text = render("gunicorn.conf.py.j2", api_endpoint_log_query_string="false")
    assert "\nprotect_logs(query_strings=False)\n" in text


def test_nginx_and_the_workers_say_the_same_when_they_shed(defaults):
    for name in ("nginx.conf.j2", "site.conf.j2"):
        assert api_endpoint_worker.MESSAGE in defaults[name]


def test_what_nginx_tells_the_workers(defaults):
    (found,) = set(re.findall('X.REQUEST.START "(.+)"', defaults["site.conf.j2"], re.I))
    assert found == "t=$msec bucket=$api_endpoint_bucket concurrency=128"
    said = found.replace("$msec", "1764.5").replace("$api_endpoint_bucket", "7")
    assert api_endpoint_worker.parse_request_start(said) == (1764.5, "7", 128)


def passed(site):
    """Return the headers that reach the app, each as a variable of WSGI; by HTTP they are the same."""
    by_uwsgi = set(re.findall(r"uwsgi_param HTTP_(\S+) ", site)) | set(
        re.findall(r"uwsgi_param (CONTENT_TYPE) ", site)
    )
    by_http = {
        name.upper().replace("-", "_") for name in re.findall(r"proxy_set_header (\S+) ", site)
    }
    assert by_http in (set(), by_uwsgi)
    return by_uwsgi


def test_the_site_names_nobody_to_the_app(render, defaults):
    site = defaults["site.conf.j2"]
    assert "server_name language.wmcloud.org lang.example;" in site
    assert site.count("_pass_request_headers off;") == len(
        re.findall("(?:uwsgi|proxy)_pass ", site)
    )
    assert {"ACCEPT", "AUTHORIZATION", "CONTENT_TYPE", "COOKIE"} < passed(site)
    assert not {"X_FORWARDED_FOR", "X_REAL_IP", "FORWARDED", "USER_AGENT"} & passed(site)
    location = site[site.index("location / {") :]
    assert "add_header" not in location, "nginx would forget all of the server's"
    names = render(
        "site.conf.j2", api_endpoint_forward_client_address=True, api_endpoint_forward_user_agent=True,
        api_endpoint_request_headers=["X-Token", "accept"],
    )  # fmt: skip
    assert passed(names) - passed(site) == {
        "X_FORWARDED_FOR",
        "X_REAL_IP",
        "USER_AGENT",
        "API_USER_AGENT",
        "X_TOKEN",
    }
    assert "uwsgi_param HTTP_X_TOKEN $http_x_token if_not_empty;" in names
    assert "proxy_set_header X-Token $http_x_token;" in names


def test_logs_without_query_and_referrer(render, defaults):
    kept, left_out = defaults["site.conf.j2"], render(
        "site.conf.j2", api_endpoint_log_query_string=False, api_endpoint_log_referrer=False
    )  # fmt: skip
    assert '"$api_endpoint_request_line" $status $body_bytes_sent "$http_referer"' in kept
    assert '"$api_endpoint_short_line" $status $body_bytes_sent "-"' in left_out
    assert "tag=nginx_short warn;" in left_out
    assert "nginx_short" not in kept
    assert "http_referer" not in re.sub("(?:proxy_set_header|uwsgi_param) .*", "", left_out)
    settings = settings_of(
        render(
            "gunicorn.conf.py.j2",
            api_endpoint_log_query_string="false",
            api_endpoint_log_referrer="false",
        )
    )
    assert settings["access_log_format"] == '%(t)s "%(m)s %(U)s %(H)s" %(s)s %(B)s "-" %(D)s'


def test_pages_of_named_origins_alone(render, defaults):
    assert 'add_header Access-Control-Allow-Origin "*" always;' in defaults["site.conf.j2"]
    site = render(
        "site.conf.j2", api_endpoint_cors_origins=["https://tool.example"], api_endpoint_cors_credentials=True,
        api_endpoint_cors_max_age=60, api_endpoint_methods=["GET", "post"], api_endpoint_request_headers=["X-Token"],
    )  # fmt: skip
    assert '    "https://tool.example" $http_origin;\n    default "";' in site
    assert (
        "add_header Access-Control-Allow-Origin $api_endpoint_origin always;\n    add_header Vary Origin always;"
        in site
    )
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
    assert "live/uwsgi/gunicorn.sock max_conns=128;" in site
    assert "limit_conn api_endpoint_clients 64;" in site
    assert "rate=100r/s;" in site
    assert "burst=200 nodelay;" in site
    few = render(
        "site.conf.j2",
        api_endpoint_max_concurrency="1",
        api_endpoint_client_rate="0",
        api_endpoint_trusted_proxies=[],
    )
    assert "live/gunicorn.sock max_conns=1;" in few
    assert "limit_conn api_endpoint_clients 1;" in few
    assert "limit_req" not in few
    assert "set_real_ip_from" not in few


def test_without_a_cache_nothing_is_kept(defaults):
    for name in ("nginx.conf.j2", "site.conf.j2", "catch_all.conf.j2"):
        for word in ("uwsgi_cache", "cached", "Cache-Status"):
            assert word not in defaults[name]


def test_what_the_cache_keeps(render):
    unit, mount, site = render(
        "api-endpoint@.service.j2", "cache.mount.j2", "site.conf.j2",
        api_endpoint_cache={"paths": ["/api/v1.0/", "/x"], "ttl": "90", "size": "1g", "key": ["Accept-Language"]},
        api_endpoint_health_path="/api/v1.0//health%20z?x", api_endpoint_forward_client_address=True,
    )  # fmt: skip
    assert "InaccessiblePaths=/run/nginx-cache\n" in unit
    assert "Where=/run/nginx-cache/api-endpoint\n" in mount
    assert "\nOptions=size=2064m,mode=0700,uid=nginx,gid=nginx,noexec,nosuid,nodev\n" in mount
    assert "uwsgi_cache_path /run/nginx-cache/api-endpoint " in site
    assert "keys_zone=api_endpoint_cache:4194304 max_size=1g\n    inactive=90s;" in site
    assert '"~^1(?:GET|HEAD)/api/v1\\.0(?:/|$)" 1;\n    "~^1(?:GET|HEAD)/x(?:/|$)" 1;' in site
    assert '"~^1[A-Z]+/api/v1.0/health.z$" "";\n    "~^1(?:GET' in site, (
        "the first one that fits counts"
    )
    usual, kept = site.split("location = /.api-endpoint-cached {")
    assert (
        usual.index("/waiting)")
        < usual.index("_cacheable)")
        < usual.index("limit_conn api_endpoint_clients")
    )
    assert "uwsgi_cache_key" not in usual
    assert '$api_endpoint_given_port$request_uri\\n$http_accept_language";' in kept
    assert passed(kept) == {
        "HOST",
        "CONNECTION",
        "X_FORWARDED_PROTO",
        "ACCEPT_LANGUAGE",
        "X_REQUEST_START",
    }
    assert "X-Request-Start" not in usual.split("location = /.api-endpoint-waiting {")[1], (
        "it may wait there"
    )
    small = re.compile(re.search(r"_too_large \{\n    volatile;\n    \"~(\S+)\" \"\";", usual)[1])
    assert all(
        small.search(length) for length in ("0", "7", "9999", "10000", "59999", "63999", "64000")
    )
    assert not any(
        small.search(length) for length in ("", "64001", "65000", "70000", "100000", "64000, 1")
    )
    assert "uwsgi_no_cache $api_endpoint_switched $api_endpoint_too_large;" in kept
    assert "uwsgi_cache_valid 200 90s;" in kept
    assert "stale" not in kept
    assert kept.count("limit_conn ") == kept.count("limit_req ") == 1
    assert "add_header" not in kept, "nginx would forget all of the server's"
    inner, past = kept.split("location @past_the_cache {")
    assert re.findall(r"error_page (.*);", inner) == [
        *re.findall(r"error_page ((?:400|494) .*);", usual)[:2], "500 = @past_the_cache", "502 = @no_answer",
    ]  # fmt: skip
    assert passed(past) == passed(inner)
    assert "uwsgi_cache" not in past


@pytest.mark.parametrize(
    ("size", "megabytes"), [("64m", 144), ("1G", 2064), ("9000K", 34), (12 * 1024 * 1024, 40)]
)
def test_the_memory_of_the_cache_has_an_end(render, size, megabytes):
    assert f"Options=size={megabytes}m," in render(
        "cache.mount.j2", api_endpoint_cache={"size": size}
    )


def test_the_cache_as_it_is_and_with_old_answers(render):
    site = render(
        "site.conf.j2", api_endpoint_cache={"stale": "yes", "ttl": None}, api_endpoint_client_rate=0
    )
    assert "keys_zone=api_endpoint_cache:262144 max_size=64m\n    inactive=3600s;" in site
    assert '"~^1(?:GET|HEAD)(?:/|$)" 1;' in site
    assert '"~^1[A-Z]+/$" "";' in site
    kept = site.split("location = /.api-endpoint-cached {")[1]
    assert "uwsgi_cache_valid 200 300s;" in kept
    assert "uwsgi_cache_use_stale error timeout updating http_503;\n" in kept
    assert "limit_req" not in kept


def test_an_api_key_is_whose_answer_it_is_unless_the_cache_tells_keys_apart(render):
    usual = render("site.conf.j2", api_endpoint_cache={"ttl": 9})
    others = "$http_content_length$http_transfer_encoding$http_if_match$http_if_unmodified_since $api_endpoint_is_plain {"
    assert (
        f"map $api_endpoint_wants_events$http_authorization$http_cookie$http_x_api_key{others}\n"
        in usual
    )
    in_key = render("site.conf.j2", api_endpoint_cache={"key": ["x-api-key"]})
    assert f"map $api_endpoint_wants_events$http_authorization$http_cookie{others}\n" in in_key
    assert '$request_uri\\n$http_x_api_key";' in in_key


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
    assert (
        "PrivateNetwork=true\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n"
        in changed
    )
    assert "IPAddressAllow" not in changed
    assert "MemoryDenyWriteExecute=true\n" in changed
    assert "MemoryMax" not in changed
    assert "PrivateDevices=false\nDevicePolicy=closed\nDeviceAllow=/dev/nvidia0 rw\n" in changed
    assert changed.endswith(
        "LimitNOFILE=9\nPrivateTmp=false\nSystemCallFilter=@a\nSystemCallFilter=@b\n"
    )


def test_a_limit_of_memory_in_bytes_may_be_a_number(render):
    assert "MemoryMax=4294967296\n" in render(
        "service.conf.j2", api_endpoint_memory_limit=4294967296
    )


def test_link_local_addresses_are_outside_of_what_the_app_may_reach(defaults):
    line = re.search(r"IPAddressAllow=(.*)", defaults["service.conf.j2"])[1]
    networks = [ipaddress.ip_network(network) for network in line.split()]

    def reached(address):
        return any(ipaddress.ip_address(address) in network for network in networks)

    for address in (
        "1.1.1.1",
        "10.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "255.255.255.255",
        "2001:db8::1",
        "fd00::1",
    ):
        assert reached(address), address
    for address in (
        "169.254.169.254",
        "169.254.0.0",
        "169.254.255.255",
        "fe80::a9fe:a9fe",
        "febf::1",
    ):
        assert not reached(address), address


def test_a_resolver_at_a_link_local_address_is_reached(render):
    resolvers = ["fe80::1%eth0", "169.254.169.253", "9.9.9.9"]
    assert " ff00::/8 169.254.169.253 fe80::1\n" in render(
        "service.conf.j2", __api_endpoint_resolvers=resolvers
    )


SSHD = {
    "sshd's settings": "port 22\nlistenaddress 0.0.0.0:2222\nlistenaddress [::]:2222\n",
    "who listens": 'LISTEN 0 128 0.0.0.0:2300 0.0.0.0:* users:(("sshd",pid=1,fd=3))\n'
    'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=2,fd=6))\n',
    "systemd's socket": "Listen=[::]:2400 (Stream)\n",
}


def test_the_firewall_admits_ssh_wherever_it_is_http_and_what_is_named(render):
    rules = render(
        "nftables.conf.j2",
        __api_endpoint_sshd={"stdout": "".join(SSHD.values())},
        ansible_port=2500,
    )
    assert "elements = { 22, 2222, 2300, 2400, 2500 }" in rules
    admitted = render(
        "nftables_endpoint.nft.j2", api_endpoint_firewall_ports=[9100], api_endpoint_port="8080"
    )
    assert admitted.endswith("add element inet api_endpoint admitted { 8080, 9100 }\n")


@pytest.mark.parametrize(
    ("listen", "admitted"),
    [("", "80"), ("127.0.0.1:9113", "80"), ("[::1]:9113", "80"), ("10.0.0.5:9113", "80, 9113")],
)
def test_the_firewall_admits_the_metrics_where_other_hosts_may_read_them(render, listen, admitted):
    rules = render("nftables_endpoint.nft.j2", api_endpoint_metrics_listen=listen)
    assert rules.endswith(f"admitted {{ {admitted} }}\n")


def test_nginx_tells_of_requests_only_when_somebody_counts(render, defaults):
    assert "metrics" not in defaults["site.conf.j2"]
    given = {
        "api_endpoint_metrics_listen": "10.0.0.5:9113",
        "api_endpoint_metrics_clients": ["10.0.0.9", "fd00::/8"],
    }
    site, socket, service = render(
        "site.conf.j2", "api-endpoint-metrics.socket.j2", "api-endpoint-metrics.service.j2",
        api_endpoint_health_path="/a.b?c=1", **given,
    )  # fmt: skip
    assert (
        "access_log syslog:server=unix:/run/api-endpoint/metrics.sock,nohostname api_endpoint_metrics if="
        in site
    )
    told = re.search(r"^log_format api_endpoint_metrics (.*);$", site, re.M)[1]
    assert not re.search(r"addr|agent|uri|request |query|args|referer|forwarded", told)
    uncounted = re.findall(
        r'^    "~(\S+)" "";$', site.partition("_counted {")[2].partition("}")[0], re.M
    )
    # What is asked by someone has a 1 before it.
    asked = ["1/a.b?c=1", "1/a.b", "1/a.b?c=12", "1/a.b/c", "1/c/a.b?c=1", "1/c/a.b"]
    assert [
        path for path in asked if any(re.search(pattern, path) for pattern in uncounted)
    ] == asked[:2]
    assert "ListenStream=10.0.0.5:9113\n" in socket
    assert (
        "metrics.py api-endpoint /var/lib/api-endpoint /srv/api-endpoint/data 10.0.0.9 fd00::/8\n"
        in service
    )


@pytest.mark.parametrize(("listen", "is_wanted"), [("", False), ("127.0.0.1:9113", True)])
def test_the_library_for_metrics_is_installed_where_they_are_wanted_whatever_turns_them_on(
    listen, is_wanted
):
    """No scenario would notice: its hosts have the package already."""
    files = [str(ROLE / kind / "main.yml") for kind in ("defaults", "vars")]
    play = {"hosts": "all", "gather_facts": False, "vars_files": files}
    packages = rendering.templar(play, api_endpoint_metrics_listen=listen).template(
        rendering.trust_as_template("{{ __api_endpoint_packages }}")
    )
    assert ("python3-prometheus-client" in packages) == is_wanted
    install = yaml.safe_load((ROLE / "tasks" / "setup.yml").read_text())[0]
    assert "__api_endpoint_packages" in install["api_endpoint_packages"]["name"]
    assert "nginx" in install["tags"]


def test_a_balancer_is_told_whether_the_host_may_be_used(render, defaults):
    assert "check" not in defaults["site.conf.j2"], "a single host has nothing of it"
    site = render(
        "site.conf.j2", api_endpoint_balancers=["lb"], api_endpoint_health_path="/readyz?deep=1",
        api_endpoint_metrics_listen="127.0.0.1:9113", api_endpoint_cache={"ttl": 9},
    )  # fmt: skip
    usual, check = site.split("location = /.api-endpoint-check {")
    check, _rest = check.split("location @no_such_path {")
    order = ["_asked_by_someone = ", "/waiting)", "_cacheable)"]
    assert sorted(order, key=usual.index) == order
    assert 'if (-e /run/api-endpoint/draining) {\n            return 404 "draining\\n";' in check
    assert (
        check.index("/draining)")
        < check.index("/waiting)")
        < check.index("proxy_pass http://api_endpoint_waiting/readyz?deep=1;")
    )
    assert "X-Request-Start" not in check, "the workers would shed it in an overload"
    assert "limit_conn api_endpoint_clients" in check
    assert (
        "access_log /var/log/nginx/access.log api_endpoint if=$api_endpoint_asked_by_someone;"
        in usual
    )
    counted = re.search(r"map (\S+) \$api_endpoint_counted \{\n(.*?)\n\}", site, re.S)
    assert counted[1] == "$api_endpoint_asked_by_someone$request_uri"
    assert counted[2].splitlines()[:2] == ['    "~^/" "";', '    "~^1/readyz.deep.1$" "";']


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


def test_a_release_brings_the_module_that_its_settings_import(render, tmp_path):
    template = tmp_path / "module.j2"
    template.write_text("{{ __api_endpoint_settings['api_endpoint_worker.py'] }}")
    assert render(str(template)) == (ROLE / "files" / "api_endpoint_worker.py").read_text()


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
    text = render(
        "flask_config.yaml.j2", api_endpoint_flask_config={"A": [1, "ü"], "B": {"c": True}}
    )
    assert yaml.safe_load(text) == {"A": [1, "ü"], "B": {"c": True}}


# --- the report of a diagnosis


def diagnosis(*kinds, evil=""):
    findings = [
        {
            "kind": kind,
            "what": f"{kind} {evil}",
            "evidence": [evil or "line", "  next"],
            "remedy": [f"sudo {evil}"],
        }
        for kind in kinds
    ]
    looked = [
        {"what": "the clock", "outcome": "well"},
        {"what": f"disks {evil}", "outcome": "found"},
    ]
    return {
        "well": not kinds,
        "findings": findings,
        "looked": looked,
        "read_all_data": "make deploy NAME=my-api TAGS=model",
        "about": "(release 0123456789ab)",
    }


def test_a_report_needs_nothing_else_and_runs_nothing(render):
    evil = "</pre><script src=//a.example></script><img onerror=x>&lt;\"'"
    text = render(REPORT, __api_endpoint_diagnosis=diagnosis("cause", "symptom", evil=evil))
    assert "<script" not in text
    assert "<img" not in text
    assert "&amp;lt;" in text
    assert not re.search(r"(src|href)\s*=\s*[\"']|url\(|@import", text)
    assert text.count("goes with its cause") == 1
    assert text.index("1. Cause") < text.index("2. Symptom")


def test_a_report_says_well_or_unwell(render):
    well, unwell = (
        render(REPORT, __api_endpoint_diagnosis=diagnosis(*kinds)) for kinds in ((), ("risk",))
    )
    assert "Well: nothing needs to be done." in well
    assert "<title>api-endpoint on localhost: unwell</title>" in unwell


@pytest.mark.parametrize(
    ("places", "variables"),
    [
        (32, {}),
        (64, {"api_endpoint_stream_share": 100}),
        (0, {"api_endpoint_stream_share": 0}),
        (1, {"api_endpoint_profile": "pytorch"}),
        (1, {"api_endpoint_stream_share": 1}),
        (2, {"api_endpoint_worker_class": "sync"}),
        (64, {"api_endpoint_worker_class": "gevent"}),
        (64, {"api_endpoint_worker_class": "asgi"}),
    ],
)
def test_streams_have_a_share_of_what_is_answered_at_a_time(render, places, variables):
    text = render("gunicorn.conf.py.j2", **variables)
    assert f"limit_streams(count={places}, graceful_seconds=30)" in text


@pytest.mark.parametrize(("grace", "longest"), [(300, 300), (0, 30)])
def test_a_version_that_stops_has_time_for_its_streams(render, grace, longest):
    gunicorn, unit = render(
        "gunicorn.conf.py.j2", "service.conf.j2", api_endpoint_stream_grace=grace
    )
    assert f"\ngraceful_timeout = {longest}\n" in gunicorn
    assert f"TimeoutStopSec={longest + 5}\n" in unit
