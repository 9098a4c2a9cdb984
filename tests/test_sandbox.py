"""The call of systemd-run by which a command runs inside the walls of its endpoint's service."""

from pathlib import Path

import pytest
from ansible.module_utils.api_endpoint import sandbox as commands
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.sandbox import Outcome, Sandbox, run_command
from helpers import ROLE

TEMPLATE = (ROLE / "templates" / "api-endpoint@.service.j2").read_text()


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """A sandbox on a host whose unit is the template as it stands."""
    (tmp_path / "my-api@.service").write_text(TEMPLATE)
    monkeypatch.setattr(commands, "UNITS", tmp_path)
    monkeypatch.setattr(commands, "link_local_resolvers", lambda: ["169.254.1.1"])
    return Sandbox(
        name="my-api", task="build", user="my-api", folder=Path("/srv/x"), writable=("/srv/x",), mounts=("/etc/x",),
        limits={"AS": 1000},
    )  # fmt: skip


def properties(call):
    return [word.removeprefix("--property=") for word in call if word.startswith("--property=")]


def test_it_has_the_walls_of_the_service_all_of_them(sandbox):
    """A setting of the template that commands do not have must be named here."""
    _, _, service = TEMPLATE.partition("# The app reads what it needs")
    there = {
        line.split("=")[0] for line in service.partition("[Install]")[0].splitlines() if "=" in line and line[0].isupper()
    }
    given = {name.split("=")[0] for name in properties(sandbox.arguments(["true"]))}
    assert there - given == {"ProcSubset"}
    assert {"CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectProc=invisible"} < set(
        properties(sandbox.arguments([]))
    )


def test_filters_keep_their_order(sandbox):
    wanted = [line for line in TEMPLATE.splitlines() if line.startswith("SystemCallFilter=")]
    assert [one for one in properties(sandbox.arguments([])) if one.startswith("SystemCallFilter=")] == wanted
    assert len(wanted) > 2


def test_it_reaches_no_link_local_address_but_a_name_server(sandbox):
    found = properties(sandbox.arguments([]))
    assert "IPAddressDeny=link-local" in found
    assert [one for one in found if one.startswith("IPAddressAllow=")] == ["IPAddressAllow=169.254.1.1"]


def test_hidden_paths_need_not_be_there(sandbox, tmp_path):
    """The service makes one before it starts, and some exist on one Debian alone; a command would not start without them."""
    (tmp_path / "my-api@.service").write_text("[Service]\nInaccessiblePaths=/run/a\nInaccessiblePaths=-/run/b /run/c\n")
    assert commands.walls("my-api") == [("InaccessiblePaths", "-/run/a"), ("InaccessiblePaths", "-/run/b -/run/c")]


def test_its_bounds_and_its_unit(sandbox):
    found = properties(sandbox.arguments([]))
    assert {"MemoryMax=75%", "TasksMax=1024", "RuntimeMaxSec=600", "LimitAS=1000", "User=my-api"} < set(found)
    assert {"ReadWritePaths=/srv/x", "BindPaths=/srv/x:/etc/x"} < set(found)
    assert "--unit=my-api-build.service" in sandbox.arguments([])


def test_what_it_may_only_read_is_bound_read_only(sandbox):
    reading = Sandbox(name="my-api", task="build", user="my-api", folder=Path("/srv/x"), mounts=("/etc/x",), timeout=None)
    assert {"BindReadOnlyPaths=/srv/x:/etc/x", "RuntimeMaxSec=infinity"} < set(properties(reading.arguments([])))


def test_variables_of_the_run_are_named_and_not_shown(sandbox, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "secret")
    call = Sandbox(
        name="my-api", task="virtualenv", user="my-api", folder=Path("/"), inherited=("PIP_INDEX_URL", "NOT_SET"),
        environment={"HOME": "/x"},
    ).arguments(["pip", "$HOME"])  # fmt: skip
    assert "--setenv=PIP_INDEX_URL" in call
    assert not [word for word in call if "secret" in word or "NOT_SET" in word]
    assert call[-3:] == ["--setenv=HOME=/x", "pip", "$$HOME"]


def test_without_the_unit_nothing_runs(sandbox, tmp_path):
    (tmp_path / "my-api@.service").unlink()
    with pytest.raises(DeployError, match=r"my-api@.service is missing. Run site.yml without tags"):
        sandbox.arguments(["true"])


def test_what_a_killed_run_left_is_ended_before_it_starts_again(sandbox, monkeypatch):
    called = []
    monkeypatch.setattr(commands, "systemctl", lambda *words: called.append(" ".join(words)))
    monkeypatch.setattr(Sandbox, "arguments", lambda _self, command: called.append("run") or command)
    assert sandbox.run(["echo", "hello"]) == Outcome(0, "hello", False)
    assert called == ["stop my-api-build.service", "reset-failed my-api-build.service", "run"]


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(3, "no such table", False), "ended with status 3.\n--- its output\nno such table"),
        (Outcome(1, "", True), "was stopped after api_endpoint_command_timeout = 600 s.\n--- its output\n(nothing)"),
    ],
)
def test_a_failure_is_told_with_its_output(sandbox, monkeypatch, outcome, words):
    monkeypatch.setattr(Sandbox, "run", lambda _self, _command: outcome)
    with pytest.raises(DeployError) as error:
        run_command("make it", sandbox)
    assert str(error.value) == f"the command 'make it' {words}"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 169.254.169.253\nnameserver 10.0.0.1\n", ["169.254.169.253"]),
        ("# nameserver 169.254.1.1\nnameserver fe80::1%eth0\nnameserver nonsense\n", ["fe80::1"]),
        ("", []),
    ],
)
def test_link_local_name_servers(tmp_path, text, found):
    (tmp_path / "resolv.conf").write_text(text)
    assert commands.link_local_resolvers(tmp_path / "resolv.conf") == found
    assert commands.link_local_resolvers(tmp_path / "missing") == []
