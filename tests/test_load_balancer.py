"""The role load_balancer: every branch of its templates, judged by the programs that read them, and every rule."""

import importlib.util
import json
import socket
import subprocess
import sys

import pytest
import yaml
from conftest import PROJECT

ROLE = PROJECT / "roles" / "load_balancer"
SPECS = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
TEMPLATES = sorted(path.name for path in (ROLE / "templates").glob("*.j2"))
SERVERS = [
    {"name": "one", "address": "10.0.0.1", "port": 80},
    {"name": "two.example", "address": "fd00::2", "port": 8080},
]
INTERFACE = next(name for _number, name in socket.if_nameindex() if name != "lo")  # keepalived wants one that exists
BASE = {
    "load_balancer_servers": SERVERS,
    "load_balancer_server_name": "my-api.example",
    "load_balancer_floating_address": "10.0.0.100/24",
    "load_balancer_floating_interface": INTERFACE,
    "load_balancer_floating_peers": ["lb-two", "10.0.0.7"],
    "__load_balancer_found": {"addresses": {"lb-two": "10.0.0.8", "known.example": "10.0.0.3"}},
}

spec = importlib.util.spec_from_file_location("preflight", ROLE / "action_plugins" / "load_balancer_preflight.py")
preflight = importlib.util.module_from_spec(spec)
spec.loader.exec_module(preflight)


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
    "figures for others": (
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
    """Render all templates with the defaults, and HAProxy's in every branch, in one run; return the folder."""
    folder = tmp_path_factory.mktemp("render")
    wanted = [(name, name, {}) for name in TEMPLATES]
    wanted += [("haproxy.cfg.j2", branch, variables) for branch, (variables, _expected) in BRANCHES.items()]
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
        "tasks": [
            {
                "ansible.builtin.template": {
                    "src": str(ROLE / "templates" / name),
                    "dest": str(folder / dest),
                    "mode": "0600",
                },
                "vars": {**BASE, **variables},
            }
            for name, dest, variables in wanted
        ],
    }
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", "-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}",
         str(folder / "play.yml")],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
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
    judged = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False)
    assert judged.returncode == 0, judged.stderr
    # It looks the example's names up, too.
    complaints = [line for line in judged.stderr.splitlines() if "could not resolve" not in line]
    assert "WARNING" not in "".join(complaints)


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
            ["keepalived", "--config-test", f"--use-file={config}"], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    assert said() == ""
    config.write_text(config.read_text().replace("virtual_router_id 51", "virtual_router_id 999"))
    assert "999" in said()


def good():
    """The defaults, with what group_vars/load_balancers.yml adds."""
    defaults = {name: option["default"] for name, option in SPECS.items() if "default" in option}
    return {**defaults, "load_balancer_servers": SERVERS, "load_balancer_server_name": "my-api.example"}


def found(here="balancer", **changes):
    return preflight.problems({**good(), **changes}, here)


def test_good_settings_have_no_problem():
    assert found() == []
    assert found(load_balancer_floating_address="10.0.0.100/24", load_balancer_floating_peers=["lb-two"]) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"load_balancer_servers": []}, "load_balancer_servers is []. A balancer needs hosts: put them into the"),
        ({"load_balancer_servers": [SERVERS[0], SERVERS[0]]}, "has the name 'one' 2 times"),
        ({"load_balancer_servers": [{"name": "a b", "address": "10.0.0.1"}]}, "has the name 'a b'"),
        ({"load_balancer_servers": [{"name": "a", "address": "10.0.0.1 backup"}]}, "has the address '10.0.0.1 backup'"),
        ({"load_balancer_servers": [{"name": "a", "address": "b", "port": 0}]}, "has the port 0 for a"),
        ({"load_balancer_port": "http"}, "load_balancer_port is 'http'. Give ports from 1 to 65,535."),
        ({"load_balancer_queue_timeout": 0}, "load_balancer_queue_timeout is 0. Give seconds from 1 to 3,600."),
        ({"load_balancer_log_days": 91}, "load_balancer_log_days is 91. Give days from 1 to 90."),
        ({"load_balancer_server_name": "a b"}, "load_balancer_server_name is 'a b'"),
        ({"load_balancer_health_path": "readyz"}, "load_balancer_health_path is 'readyz'"),
        ({"load_balancer_health_path": '/a"b'}, "load_balancer_health_path is '/a\"b'"),
        ({"load_balancer_cors_origins": ["tool.example"]}, "load_balancer_cors_origins has 'tool.example'"),
        ({"load_balancer_cors_origins": []}, "load_balancer_cors_origins is []"),
        ({"load_balancer_trusted_proxies": ["10.0.0.1/8"]}, "load_balancer_trusted_proxies has '10.0.0.1/8'"),
        ({"load_balancer_metrics_clients": ["prometheus"]}, "load_balancer_metrics_clients has 'prometheus'"),
        ({"load_balancer_metrics_listen": "8404"}, "load_balancer_metrics_listen is '8404'"),
        ({"load_balancer_metrics_listen": "10.0.0.1:80"}, "with the port of load_balancer_port"),
        (
            {"load_balancer_floating_address": "10.0.0.9", "load_balancer_floating_peers": ["b"]},
            "is '10.0.0.9'. Give an address",
        ),
        ({"load_balancer_floating_address": "10.0.0.9/24"}, "load_balancer_floating_peers is []: nobody could take it over"),
        (
            {"load_balancer_floating_address": "10.0.0.9/24", "load_balancer_floating_peers": ["b"],
             "load_balancer_floating_interface": "a b"},
            "load_balancer_floating_interface is 'a b'",
        ),
        ({"load_balancer_floating_router_id": 256}, "load_balancer_floating_router_id is 256"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(changes, said):
    problems = found(**changes)
    assert len(problems) == 1, problems
    assert said in problems[0]


def test_a_balancer_on_one_of_its_hosts_needs_another_port():
    assert found("one") == [
        "load_balancer_port is 80, and so is the port of nginx on one, which is a balancer and one of its hosts. "
        "Give nginx another one there, such as api_endpoint_port: 8080 in its host_vars."
    ]
    assert found("two.example") == []


def test_a_port_that_somebody_else_has_is_refused():
    ours = 'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("haproxy",pid=1,fd=5))\n'
    assert preflight.occupied(ours, 80) == []
    assert preflight.occupied(ours.replace("haproxy", "nginx"), 80) == [
        "load_balancer_port is 80, where nginx listens on this host already. Give one of them another port. (nginx keeps a "
        "port that an endpoint once had: remove /etc/nginx/sites-enabled/catch-all-80 and reload nginx.)"
    ]


def test_misspelt_names_are_refused():
    assert preflight.unknown_names(["load_balancer_prot", "load_balancer_port"], list(SPECS)) == [
        "load_balancer_prot is set, but the role has no such variable. Did you mean load_balancer_port?"
    ]


def test_names_are_looked_up():
    settings = {
        "load_balancer_servers": [*SERVERS, {"name": "three", "address": "b.example"}],
        "load_balancer_floating_peers": ["a.example", "10.0.0.8"],
    }
    assert preflight.names_of(settings) == ["a.example", "b.example"]
    said = "ID=debian\nlooked up: a.example fd00::1 RAW\nlooked up: a.example 10.0.0.1 RAW\nlooked up: b.example ::2 RAW\n"
    assert preflight.addresses_of(said) == {"a.example": "10.0.0.1", "b.example": "::2"}


def test_other_systems_are_refused():
    assert preflight.platform('ID=debian\nVERSION_ID="13"\n') == []
    assert preflight.platform('PRETTY_NAME="Debian GNU/Linux 11 (bullseye)"\nID=debian\nVERSION_ID="11"\n') == [
        "The balancer's system is Debian GNU/Linux 11 (bullseye). Use one with Debian 12 or 13."
    ]


@pytest.fixture(scope="module")
def derived(tmp_path_factory):
    """Return what a balancer gets from an inventory."""
    folder = tmp_path_factory.mktemp("inventory")

    def run(inventory):
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
        names = [name for name in SPECS if name in (PROJECT / "group_vars" / "load_balancers.yml").read_text()]
        shown = ", ".join(f"'{name}': {name}" for name in names)
        (folder / "play.yml").write_text(
            yaml.safe_dump(
                [{"hosts": "load_balancers", "gather_facts": False,
                  "tasks": [{"ansible.builtin.copy": {"content": f"{{{{ {{ {shown} }} | to_json }}}}",
                                                      "dest": str(folder / "{{ inventory_hostname }}")},
                             "delegate_to": "localhost"}]}]
            )
        )  # fmt: skip
        link = folder / "group_vars"
        if not link.exists():
            link.symlink_to(PROJECT / "group_vars")
        done = subprocess.run(
            ["ansible-playbook", "-i", str(folder / "hosts.yml"), "-e", f"ansible_python_interpreter={sys.executable}",
             str(folder / "play.yml")],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return {host: json.loads((folder / host).read_text()) for host in inventory["load_balancers"]["hosts"]}

    return run


def test_a_balancer_takes_from_the_inventory_what_both_sides_must_agree_on(derived):
    one = {"ansible_host": "10.0.0.1", "api_endpoint_port": 8080, "api_endpoint_log_query_string": False,
           "api_endpoint_server_names": ["my-api.example"], "api_endpoint_max_concurrency": 50}  # fmt: skip
    found = derived(
        {
            "api_endpoints": {"hosts": {"one": one, "two": {"ansible_host": "127.0.0.1", "balancer_address": "10.0.0.2"}}},
            "load_balancers": {"hosts": {"lb-one": {"ansible_host": "10.0.0.8"}, "lb-two": {}}},
        }
    )
    first = found["lb-one"]
    assert first["load_balancer_servers"] == [
        {"name": "one", "address": "10.0.0.1", "port": 8080},
        {"name": "two", "address": "10.0.0.2", "port": 80},
    ]
    assert first["load_balancer_server_name"] == "my-api.example"
    assert first["load_balancer_log_query_string"] is False
    assert first["load_balancer_max_concurrency"] == 24, (
        "two places of 50 are left for checks, the rest is for two balancers"
    )
    assert first["load_balancer_floating_peers"] == ["lb-two"]
    assert found["lb-two"]["load_balancer_floating_peers"] == ["10.0.0.8"]


def test_what_is_left_out_is_as_the_endpoints_have_it(derived):
    """The defaults stand in two places: here and in the role api_endpoint."""
    endpoint = yaml.safe_load((PROJECT / "roles" / "api_endpoint" / "defaults" / "main.yml").read_text())
    inventory = {"api_endpoints": {"hosts": {"one": {}}}, "load_balancers": {"hosts": {"lb": {}}}}
    shared = (PROJECT / "group_vars" / "api_endpoints.yml").read_text()
    for name, value in derived(inventory)["lb"].items():
        other = name.replace("load_balancer_", "api_endpoint_")
        if other in endpoint and other not in shared and not other.endswith("max_concurrency"):
            assert value == endpoint[other], name
    assert derived(inventory)["lb"]["load_balancer_max_concurrency"] == endpoint["api_endpoint_max_concurrency"] - 2
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert defaults["load_balancer_max_concurrency"] == endpoint["api_endpoint_max_concurrency"] - 2
    assert defaults["load_balancer_trusted_proxies"] == endpoint["api_endpoint_trusted_proxies"]


def test_a_balancer_without_hosts_is_refused_and_no_error_in_a_template(derived):
    found = derived({"load_balancers": {"hosts": {"lb": {}}}})["lb"]
    assert found["load_balancer_servers"] == []


def test_every_template_and_every_default_is_used():
    used = "".join(path.read_text() for kind in ("tasks", "templates", "vars") for path in (ROLE / kind).rglob("*.*"))
    for template in TEMPLATES:
        assert template in used
    for name in SPECS:
        assert name in used, name
