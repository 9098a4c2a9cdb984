"""The call of systemd-run by which a command runs inside the walls of its endpoint's service."""

from dataclasses import replace
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
        line.split("=")[0]
        for line in service.partition("[Install]")[0].splitlines()
        if "=" in line and line[0].isupper()
    }
    given = {name.split("=")[0] for name in properties(sandbox.arguments(["true"]))}
    assert there <= given
    assert {"CapabilityBoundingSet=", "ProtectSystem=strict", "ProtectProc=invisible"} < set(
        properties(sandbox.arguments([]))
    )


def test_filters_keep_their_order(sandbox):
    wanted = [line for line in TEMPLATE.splitlines() if line.startswith("SystemCallFilter=")]
    assert [
        one for one in properties(sandbox.arguments([])) if one.startswith("SystemCallFilter=")
    ] == wanted
    assert len(wanted) > 2


def test_it_reaches_no_link_local_address_but_a_name_server(sandbox):
    found = properties(sandbox.arguments([]))
    assert "IPAddressDeny=link-local" in found
    assert [one for one in found if one.startswith("IPAddressAllow=")] == [
        "IPAddressAllow=169.254.1.1"
    ]


def test_hidden_paths_need_not_be_there(sandbox, tmp_path):
    """The service makes one before it starts, and some exist on one Debian alone; a command would not start without them."""
    (tmp_path / "my-api@.service").write_text(
        "[Service]\nInaccessiblePaths=/run/a\nInaccessiblePaths=-/run/b /run/c\n"
    )
    assert commands.walls("my-api") == [
        ("InaccessiblePaths", "-/run/a"),
        ("InaccessiblePaths", "-/run/b -/run/c"),
    ]


def test_its_bounds_and_its_unit(sandbox):
    found = properties(sandbox.arguments([]))
    assert {
        "MemoryMax=75%",
        "TasksMax=1024",
        "RuntimeMaxSec=600",
        "LimitAS=1000",
        "User=my-api",
    } < set(found)
    assert {"ReadWritePaths=/srv/x", "BindPaths=/srv/x:/etc/x"} < set(found)
    assert "--unit=my-api-build.service" in sandbox.arguments([])


def test_what_it_may_only_read_is_bound_read_only(sandbox):
    reading = Sandbox(
        name="my-api",
        task="build",
        user="my-api",
        folder=Path("/srv/x"),
        mounts=("/etc/x",),
        timeout=None,
    )
    assert {"BindReadOnlyPaths=/srv/x:/etc/x", "RuntimeMaxSec=infinity"} < set(
        properties(reading.arguments([]))
    )


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
    monkeypatch.setattr(
        Sandbox, "arguments", lambda _self, command: called.append("run") or command
    )
    assert sandbox.run(["echo", "hello"]) == Outcome(0, "hello", False)
    assert called == ["stop my-api-build.service", "reset-failed my-api-build.service", "run"]


def test_its_temporary_folders_are_on_the_disk_of_the_endpoint(sandbox):
    """The host's are memory on Debian 13. A tool that unpacks data gets the system's, of its own: it has no root."""
    found = properties(replace(sandbox, root=Path("/var/lib/my-api")).arguments([]))
    work = "BindPaths=/var/lib/my-api/work/build"
    assert {f"{work}:/tmp", f"{work}:/var/tmp", "ReadWritePaths=/tmp /var/tmp"} < set(found)
    assert "PrivateTmp=true" not in found
    assert "PrivateTmp=true" in properties(sandbox.arguments([]))


@pytest.mark.usefixtures("without_systemd")
def test_what_it_leaves_in_a_temporary_folder_goes(sandbox, tmp_path):
    one = replace(sandbox, root=tmp_path, limits={})
    (one.work / "killed").mkdir(parents=True)
    done = one.run(["sh", "-c", f"ls {one.work}; touch {one.work}/x; stat --format %a {one.work}"])
    assert done.output == "750"
    assert not one.work.exists()


@pytest.mark.usefixtures("without_systemd")
@pytest.mark.parametrize("said", ["[Errno 28] No space left on device", "Disk quota exceeded"])
def test_a_command_that_found_no_room_is_told_with_its_disk(sandbox, tmp_path, said):
    done = replace(sandbox, root=tmp_path, limits={}).run(["sh", "-c", f"echo pip: {said}; exit 1"])
    assert done.output.startswith(
        f"pip: {said}\nIts files and its temporary files are on the disk at /"
    )
    assert replace(sandbox, root=tmp_path, limits={}).run(["echo", said]).output == said


@pytest.mark.usefixtures("without_systemd")
def test_it_is_stopped_before_it_fills_the_disk(sandbox, tmp_path, monkeypatch):
    one = replace(sandbox, root=tmp_path, limits={})
    started, start = [], Sandbox._start
    monkeypatch.setattr(
        Sandbox,
        "_start",
        lambda *words, **more: started.append(start(*words, **more)) or started[-1],
    )
    monkeypatch.setattr(Sandbox, "end", lambda _self: [process.kill() for process in started])
    monkeypatch.setattr(commands, "lacks_spare_room", lambda folder: folder == one.work)
    with pytest.raises(
        DeployError,
        match=r"on the disk at /.* of the host: sleep 60 was stopped before it filled that disk",
    ):
        one.run(["sleep", "60"])
    assert not one.work.exists()


def test_how_much_room_a_command_leaves(tmp_path, monkeypatch):
    assert not commands.lacks_spare_room(tmp_path)
    monkeypatch.setattr(commands, "SPARE_BYTES", 2**62)
    assert commands.lacks_spare_room(tmp_path)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(3, "no such table", False), "ended with status 3.\n--- its output\nno such table"),
        (
            Outcome(1, "", True),
            "was stopped after api_endpoint_command_timeout = 600 s.\n--- its output\n(nothing)",
        ),
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
