"""Every branch of the role load_balancer's templates, judged by the programs that read them."""

import socket
import subprocess

import pytest
from outcomes import PROJECT
from rendering import render

TEMPLATES = sorted(
    path.name for path in (PROJECT / "roles" / "load_balancer" / "templates").glob("*.j2")
)
SERVERS = [
    {"name": "one", "address": "10.0.0.1", "port": 80},
    {"name": "two.example", "address": "fd00::2", "port": 8080},
]
INTERFACE = next(
    name for _number, name in socket.if_nameindex() if name != "lo"
)  # keepalived wants one that exists
BASE = {
    "load_balancer_servers": SERVERS,
    "load_balancer_server_name": "my-api.example",
    "load_balancer_floating_address": "10.0.0.100/24",
    "load_balancer_floating_interface": INTERFACE,
    "load_balancer_floating_peers": ["lb-two", "10.0.0.7"],
    "__load_balancer_found": {
        "addresses": {"lb-two": "10.0.0.8", "known.example": "10.0.0.3"},
        "has_ipv6": True,
    },
}

BRANCHES = {
    "the defaults": ({}, [
        "server one 10.0.0.1:80 tcp-ut 5s", "server two.example [fd00::2]:8080 tcp-ut 5s", "bind 127.0.0.1:8404",
    ]),
    "a name with an address": (
        {"load_balancer_servers": [{"name": "one", "address": "known.example", "port": 80}]},
        ["server one 10.0.0.3:80 tcp-ut 5s"],
    ),
    "a name without one": (
        {"load_balancer_servers": [{"name": "one", "address": "one.example", "port": 80}]},
        [
            "resolvers host",
            "server one one.example:80 tcp-ut 5s resolvers host resolve-prefer ipv4 init-addr last,libc,none",
        ],
    ),
    "some origins, with cookies": (
        {"load_balancer_cors_origins": ["https://a.example", "https://b.org"], "load_balancer_cors_credentials": True},
        [
            "http-request set-var(txn.origin) req.hdr(Origin) if { req.hdr(Origin) -m str https://a.example https://b.org }",
            "http-after-response set-header Access-Control-Allow-Credentials true if { var(txn.origin) -m found }",
        ],
    ),
    "no IPv6": ({"__load_balancer_found": {"addresses": {}, "has_ipv6": False}}, ["bind :80"]),
    "no limit": ({"load_balancer_client_rate": "0"}, ["http-request deny deny_status 503 if { sc0_conn_cur gt 126 }"]),
    "a rate": ({"load_balancer_client_rate": "7"}, ["http-request deny deny_status 429 if { sc0_gpc0_rate gt 14 }"]),
    "no proxies": ({"load_balancer_trusted_proxies": []}, ["http-request set-var(txn.client) src"]),
    "callers by name": (
        {"load_balancer_forward_client_address": True, "load_balancer_forward_user_agent": True},
        ["http-request set-header X-Forwarded-For %[var(txn.client)] if { var(txn.client) -m found }"],
    ),
    "no query strings": (
        {"load_balancer_log_query_string": False},
        ["log-format '[%trl] \"%HM %HPO %HV\" %ST %B %Ta %s'"],
    ),
    "metrics for others": (
        {"load_balancer_metrics_listen": "[::1]:9000", "load_balancer_metrics_clients": ["10.0.0.9"]},
        ["bind [::1]:9000", "http-request deny unless { src 127.0.0.0/8 ::1 10.0.0.9 }"],
    ),
    "numbers as text": (
        {"load_balancer_max_concurrency": "5", "load_balancer_queue_timeout": "3", "load_balancer_port": "8081"},
        ["acl full queue(api) ge 10", "timeout queue 3s", "bind :8081"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Render all templates with the defaults, and HAProxy's in every branch; return the folder."""
    folder = tmp_path_factory.mktemp("render")
    wanted = [(name, name, {}) for name in TEMPLATES]
    wanted += [
        ("haproxy.cfg.j2", branch, variables) for branch, (variables, _expected) in BRANCHES.items()
    ]
    for name, target, variables in wanted:
        (folder / target).write_text(render(name, role="load_balancer", **{**BASE, **variables}))
    return folder


def lines(path):
    """The lines, without what indents them."""
    return [line.strip() for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_file_says_whose_it_is_and_has_no_time_in_it(rendered, name):
    text = (rendered / name).read_text()
    assert text.startswith("# Managed by Ansible (role load_balancer).")
    assert "{{" not in text
    assert "{%" not in text
    assert "2026" not in text


@pytest.mark.parametrize("branch", BRANCHES)
def test_haproxy_accepts_every_branch(rendered, branch):
    config = rendered / branch
    found = lines(config)
    for line in BRANCHES[branch][1]:
        assert line in found
    judged = subprocess.run(
        ["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stderr
    # It looks the example's names up, too.
    complaints = [line for line in judged.stderr.splitlines() if "could not resolve" not in line]
    assert "WARNING" not in "".join(complaints)


def test_it_listens_on_ipv6_where_the_host_has_some(rendered):
    assert "bind [::]:80 v6only" in lines(rendered / "the defaults")
    assert not any("[::]" in line for line in lines(rendered / "no IPv6"))


def test_what_callers_bring_along_goes_no_further(rendered):
    found = lines(rendered / "the defaults")
    for header in ("forwarded", "x-forwarded-for", "x-real-ip", "user-agent", "x-balancer-check"):
        assert f"http-request del-header {header}" in found
    assert not any(line.startswith("http-request set-header X-Forwarded-For") for line in found)
    assert "http-request del-header user-agent" not in lines(rendered / "callers by name")


def test_no_line_of_a_log_can_name_a_caller(rendered):
    formats = [line for line in lines(rendered / "the defaults") if "log-format" in line]
    assert len(formats) == 2
    for line in formats:
        assert not {"%ci", "%cp", "%hr", "%hrl", "%r", "%[src"} & set(line.split())
        assert "src" not in line


def test_keepalived_accepts_it(rendered):
    config = rendered / "keepalived.conf.j2"
    assert {"10.0.0.8", "10.0.0.7"} <= set(lines(config))

    def said() -> str:
        # Debian 12's ends with an error also when all is well.
        done = subprocess.run(
            ["keepalived", "--config-test", f"--use-file={config}"],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout + done.stderr

    assert said() == ""
    config.write_text(config.read_text().replace("virtual_router_id 51", "virtual_router_id 999"))
    assert "999" in said()
