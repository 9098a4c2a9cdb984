"""The role load_balancer: its rules, and what it takes from the inventory. See also tests/component."""

from types import SimpleNamespace

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.api_endpoint.controller.preflight import LISTENED_ON
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from helpers import PROJECT, load_file
from rendering import templar

ROLE = PROJECT / "roles" / "load_balancer"
SPECS = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"][
    "main"
]["options"]
TEMPLATES = sorted(path.name for path in (ROLE / "templates").glob("*.j2"))
SERVERS = [
    {"name": "one", "address": "10.0.0.1", "port": 80},
    {"name": "two.example", "address": "fd00::2", "port": 8080},
]
preflight = load_file(ROLE / "action_plugins" / "load_balancer_preflight.py")


def good():
    """The defaults, with what group_vars/load_balancers.yml adds."""
    defaults = {name: option["default"] for name, option in SPECS.items() if "default" in option}
    return {
        **defaults,
        "load_balancer_servers": SERVERS,
        "load_balancer_server_name": "my-api.example",
    }


def found(here="balancer", **changes):
    return preflight.problems({**good(), **changes}, here)


def test_good_settings_have_no_problem():
    assert found() == []
    assert (
        found(
            load_balancer_floating_address="10.0.0.100/24", load_balancer_floating_peers=["lb-two"]
        )
        == []
    )


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


def test_names_are_looked_up():
    settings = {
        "load_balancer_servers": [*SERVERS, {"name": "three", "address": "b.example"}],
        "load_balancer_floating_peers": ["a.example", "10.0.0.8"],
    }
    assert preflight.names_of(settings) == ["a.example", "b.example"]
    said = "ID=debian\nlooked up: a.example fd00::1 RAW\nlooked up: a.example 10.0.0.1 RAW\nlooked up: b.example ::2 RAW\n"
    assert preflight.addresses_of(said) == {"a.example": "10.0.0.1", "b.example": "::2"}


@pytest.fixture
def act(monkeypatch):
    """Return a function that runs the preflight with what the host shows, as other accounts and as root."""
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})

    def run(shown="", as_root="", method="sudo", check_mode=False, rc=0, **changes):
        action = object.__new__(preflight.ActionModule)
        action._task = SimpleNamespace(args={}, check_mode=check_mode)
        become = SimpleNamespace(name=method, get_option=lambda _name: "")
        action._connection = SimpleNamespace(become=become if method else None)
        action._templar = SimpleNamespace(template=lambda value: value)
        action._low_level_execute_command = lambda _command, sudoable=True: {
            "rc": rc,
            "stdout": as_root if sudoable else f"NAME=Debian\nVERSION_ID=13\n{shown}",
        }
        return action.run(None, {**good(), "inventory_hostname": "balancer", **changes})

    return run


def test_a_balancer_that_is_as_it_should_be_is_accepted(act):
    assert act("looked up: a.example 10.0.0.1 RAW") == {
        "changed": False, "addresses": {"a.example": "10.0.0.1"}, "has_ipv6": True,
    }  # fmt: skip


TAKEN = f"{LISTENED_ON}80"
APACHE = "port 80\t42\tapache2.service\t/usr/sbin/apache2 -k start"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"shown": "VERSION_ID=11"}, "The host runs Debian 11. Use Debian 12 or 13."),
        ({"shown": "NAME=Ubuntu"}, "The host runs Ubuntu 13. Use Debian 12 or 13."),
        ({"shown": "no sudo"}, "This host has no sudo"),
        ({"shown": "sudo asks for a password"}, "Run again with -K (with make: ARGS=-K)"),
        ({"shown": "this is not root", "method": ""}, "ansible_become is false"),
        ({"shown": "no python3"}, "This host has no python3"),
        ({"shown": TAKEN, "as_root": APACHE}, "load_balancer_port is 80, where /usr/sbin/apache2"),
        (
            {"shown": "this host has no IPv6", "load_balancer_metrics_listen": "[::1]:8404"},
            "this host has no IPv6. Give another address.",
        ),
        ({"load_balancer_prot": 81}, "Did you mean load_balancer_port?"),
        ({"load_balancer_cors_origins": "*"}, "and not a list"),
        ({"rc": 255}, "The host does not answer"),
    ],
)
def test_a_balancer_that_cannot_be_one_is_refused(act, given, said):
    with pytest.raises(AnsibleError) as told:
        act(**given)
    assert said in str(told.value)


def test_what_has_the_port_may_give_it_up_in_the_real_run(act):
    act(TAKEN, APACHE, check_mode=True)
    act(TAKEN, APACHE.replace("apache2", "haproxy"))


@pytest.fixture
def derived(tmp_path):
    """Return a function that returns what each balancer of an inventory gets."""
    (tmp_path / "group_vars").symlink_to(PROJECT / "group_vars")
    names = [
        name
        for name in SPECS
        if name in (PROJECT / "group_vars" / "load_balancers.yml").read_text()
    ]

    def run(inventory):
        (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
        play = {"hosts": "load_balancers", "gather_facts": False}
        found = {}
        for host in inventory["load_balancers"]["hosts"]:
            variables = templar(play, tmp_path / "hosts.yml", host, folder=tmp_path)
            found[host] = {
                name: variables.template(trust_as_template(f"{{{{ {name} }}}}")) for name in names
            }
        return found

    return run


def test_a_balancer_takes_from_the_inventory_what_both_sides_must_agree_on(derived):
    one = {"ansible_host": "10.0.0.1", "api_endpoint_port": 8080, "api_endpoint_log_query_string": False,
           "api_endpoint_server_names": ["my-api.example"], "api_endpoint_max_concurrency": 50}  # fmt: skip
    found = derived(
        {
            "api_endpoints": {
                "hosts": {
                    "one": one,
                    "two": {"ansible_host": "127.0.0.1", "balancer_address": "10.0.0.2"},
                }
            },
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
    endpoint = yaml.safe_load(
        (PROJECT / "roles" / "api_endpoint" / "defaults" / "main.yml").read_text()
    )
    inventory = {"api_endpoints": {"hosts": {"one": {}}}, "load_balancers": {"hosts": {"lb": {}}}}
    found = derived(inventory)["lb"]
    for name, value in found.items():
        other = name.replace("load_balancer_", "api_endpoint_")
        if other in endpoint and not other.endswith("max_concurrency"):
            assert value == endpoint[other], name
    assert found["load_balancer_max_concurrency"] == endpoint["api_endpoint_max_concurrency"] - 2
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert defaults["load_balancer_max_concurrency"] == endpoint["api_endpoint_max_concurrency"] - 2
    assert defaults["load_balancer_trusted_proxies"] == endpoint["api_endpoint_trusted_proxies"]


def test_a_balancer_without_hosts_is_refused_and_no_error_in_a_template(derived):
    found = derived({"load_balancers": {"hosts": {"lb": {}}}})["lb"]
    assert found["load_balancer_servers"] == []


def test_every_template_and_every_default_is_used():
    used = "".join(
        path.read_text()
        for kind in ("tasks", "templates", "vars")
        for path in (ROLE / kind).rglob("*.*")
    )
    for template in TEMPLATES:
        assert template in used
    for name in SPECS:
        assert name in used, name
