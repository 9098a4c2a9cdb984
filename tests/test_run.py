"""make deploy and its siblings: what is wrong in files is said before Ansible starts, and the rest before the first task."""

import os
import socket
import subprocess
import sys

import pytest
import yaml
from helpers import PROJECT, load_file, role_tags

run = load_file(PROJECT / "tools" / "run.py")
from ansible.module_utils.api_endpoint.controller import commands, inventories  # noqa: E402

GOOD = """\
---
api_endpoints:
  hosts:
    good:
      ansible_host: 127.0.0.1
      ansible_port: 1
"""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Return a clone with one endpoint, in which the tool works."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "endpoints" / "good"
    (folder / "host_vars").mkdir(parents=True)
    (folder / "inventory.yml").write_text(GOOD)
    (folder / "host_vars" / "good.yml").write_text("---\napi_endpoint_workers: 2\n")
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "hosts.yml").write_text(
        (PROJECT / "inventory" / "hosts.yml").read_text()
    )
    return tmp_path


def refused(target="deploy", **given) -> str:
    with pytest.raises(run.RunError) as raised:
        run.command_of(target, {"NAME": "good", **given})
    return "\n".join(raised.value.problems)


# What an inventory says, and words of the problem.
INVENTORIES = {
    "tab": ("api_endpoints:\n\thosts:\n\t\tgood:\n", ["inventory.yml line 2", "A tab"]),
    "no colon after a group": ("api_endpoints\n  hosts:\n    good:\n", ["line 2", "lacks a colon"]),
    "no space after a colon": (
        GOOD.replace("ansible_host: ", "ansible_host:"),
        ["line 6", "space after it", "The line: ansible_port: 1"],
    ),
    "indentation": (GOOD + "  children:\n   a:\n  b:\n    c:\n   d:\n", ["not indented"]),
    "open quote": (GOOD.replace("127.0.0.1", '"127.0.0.1'), ["line", "A quote is opened"]),
    "template without quotes": (
        GOOD.replace("127.0.0.1", "{{ address }}"),
        ["line 5", "Put the value in quotes"],
    ),
    "at sign": (GOOD.replace("127.0.0.1", "@home"), ["line 5", "begins with @"]),
    "list": ("- good\n", ["has no groups"]),
    "empty": ("---\n", ["no host in the group api_endpoints"]),
    "no hosts": ("api_endpoints:\n  hosts:\n", ["no host in the group api_endpoints"]),
    "host for hosts": (
        GOOD.replace("hosts:", "host:"),
        ["line 3: host stands in the group api_endpoints", "Did you mean hosts?"],
    ),
    "variable of a group": (
        GOOD + "  api_endpoint_port: 8080\n",
        ["line 7: api_endpoint_port", "ignores it. Put it below vars:"],
    ),
    "variable at the top": (
        GOOD + "ansible_user: me\n",
        ["line 7: ansible_user is a variable where a group is expected"],
    ),
    "group's name": (
        GOOD.replace("api_endpoints:", "api_endpoint:"),
        ["has hosts in the group api_endpoint", "Did you mean api_endpoints?"],
    ),
    "hosts in a list": (
        "api_endpoints:\n  hosts:\n    - good\n",
        ["line 2: hosts of the group api_endpoints is ['good']", "without a dash"],
    ),
    "an address for variables": (
        "api_endpoints:\n  hosts:\n    good: 203.0.113.9\n",
        ["line 3: the host good has '203.0.113.9'", "ansible_host: "],
    ),
    "variables without a colon": (
        "api_endpoints:\n  hosts:\n    good:\n      ansible_host 203.0.113.9\n",
        ["the host good has 'ansible_host 203.0.113.9'", "name: value"],
    ),
    "vars of a host": (
        "api_endpoints:\n  hosts:\n    good:\n      vars:\n        ansible_user: me\n",
        ["vars stands below the host good", "right below its name"],
    ),
    "vars in a list": (GOOD + "  vars:\n    - ansible_user: me\n", ["vars has", "name: value"]),
    "children in a list": (GOOD + "  children:\n    - more\n", ["children has", "with a colon"]),
    "a group that is text": (GOOD + "others: none\n", ["line 7: others is 'none'"]),
    "example's host": (
        (PROJECT / "skeleton" / "common" / "inventory.yml").read_text().replace("my-api:", "good:"),
        ["line 7: my-instance.my-project", "lines 9 and 10: my-shell-name", "in its place"],
    ),
}


@pytest.mark.parametrize("case", INVENTORIES)
def test_an_inventory_that_would_not_do_is_refused(clone, case):
    text, words = INVENTORIES[case]
    (clone / "endpoints" / "good" / "inventory.yml").write_text(text)
    said = refused()
    for word in words:
        assert word in said, said
    assert "endpoints/good/inventory.yml" in said


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD + "  vars:\n    ansible_user: me # my-shell-name\n    secret: !vault |\n      $ANSIBLE_VAULT\n",
        "all:\n  children:\n    api_endpoints:\n      children:\n        of_mine:\n          hosts:\n            good:\n",
        "api_endpoints:\n  hosts: good\nload_balancers:\n",
        "api_endpoints:\n  hosts:\n    web[1:9]:\n",
        "plugin: openstack.cloud.openstack\nhost: x\n",
        "[api_endpoints]\ngood\n",
    ],
)  # fmt: skip
def test_an_inventory_that_will_do_is_taken(clone, text):
    file = clone / "endpoints" / "good" / "inventory.yml"
    file.write_text(text)
    run.check_files(str(file), "site.yml")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("host_vars/good.yml", "a: b: c\n", ["host_vars/good.yml line 1", "needs quotes"]),
        ("group_vars/all.yml", "- a\n", ["group_vars/all.yml has no variables", "without a dash"]),
        ("group_vars/all.yml", 'a: "x" y\n', ["line 1", "Text follows a closing quote"]),
        ("group_vars/all.yml", "a: [1, 2\nb: 3\n", ["lacks a comma or its closing bracket"]),
        ("group_vars/all.yml", b"a: \xe9\n", ["not text in UTF-8"]),
        ("group_vars/api_endpoint.yml", "a: 1\n",
         ["for the group api_endpoint", "Did you mean api_endpoints? Rename it to group_vars/api_endpoints.yml"]),
    ],
)  # fmt: skip
def test_files_of_variables_are_read_too(clone, name, text, words):
    file = clone / "endpoints" / "good" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said = refused()
    for word in words:
        assert word in said, said


def test_a_file_for_a_host_that_is_not_there_is_named(clone):
    folder = clone / "endpoints" / "good" / "host_vars"
    (folder / "good.yml").rename(folder / "goood.yml")
    assert "host_vars/goood.yml is for the host goood" in refused()
    assert "Did you mean good? Rename it to host_vars/good.yml." in refused()
    # Beside one with the right name it may be for another inventory.
    (folder / "good.yml").write_text("---\n")
    assert run.command_of("deploy", {"NAME": "good"})
    hosts, groups = {"good"}, {"api_endpoints": {"good"}}
    problems, warnings = inventories.stray_files([folder.parent], hosts, groups)
    assert (problems, len(warnings)) == ([], 1)
    assert "sets nothing in this run" in warnings[0]


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("my-api-1", "my-api-2"),
        ("blue-debian12", "blue-bare"),
        ("old.project.example", "new.project.example"),
        ("api-01.project.example", "api-02.project.example"),
    ],
)
def test_a_file_for_another_host_is_no_slip(tmp_path, name, host):
    """It may be for a host that was removed, or of another inventory; a host whose group has its settings needs none."""
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / f"{name}.yml").write_text("---\n")
    problems, warnings = inventories.stray_files([tmp_path], {host}, {})
    assert (problems, len(warnings)) == ([], 1)


def test_a_file_beside_site_yml_is_named_since_ansible_does_not_read_it(clone):
    (clone / "host_vars").mkdir()
    (clone / "host_vars" / "good.yml").write_text("---\n")
    sources = [str(clone / "endpoints" / "good" / "inventory.yml")]
    assert inventories.unread_files(clone, sources) == [
        "host_vars/good.yml sets nothing: Ansible does not look there. "
        "Move it to endpoints/good/host_vars/."
    ]
    (clone / "hosts.yml").write_text(GOOD)
    assert inventories.unread_files(clone, [str(clone / "hosts.yml")]) == []


def test_the_first_part_of_a_hosts_name_is_not_its_name(clone):
    folder = clone / "endpoints" / "good"
    (folder / "inventory.yml").write_text(GOOD.replace("good:", "good.research.example:"))
    assert "Did you mean good.research.example?" in refused()


@pytest.mark.parametrize(
    ("target", "given", "words"),
    [
        ("deploy", {"NAME": "goood"}, ["no folder endpoints/goood", "Did you mean good?", "make new-endpoint"]),
        ("deploy", {"NAME": "PC", "NAME_ORIGIN": "environment"}, ["comes from the environment"]),
        ("deploy", {"NAME": ""}, ["my-instance.my-project", "give NAME=good"]),
        ("deploy", {"NAME": "endpoints"}, ["no folder endpoints/endpoints"]),
        ("deploy", {"NAME": "./endpoints"}, ["endpoints has no inventory.yml"]),
        ("deploy", {"TAGS": "models"}, ["There is no tag models. Did you mean model?", "app, model, nginx, setup"]),
        ("check", {"TAGS": "app,nginxx"}, ["There is no tag nginxx. Did you mean nginx?"]),
        ("status", {"TAGS": "app"}, ["only a deployment has tags"]),
        ("deploy", {"RELEASE": "0123456789ab"}, ["only `make rollback` takes it"]),
        ("deploy", {"CONFIRM": "good"}, ["only `make remove` takes it"]),
        ("deploy", {"ARGS": "-e 'a=b"}, ["a quote in it is not closed"]),
        ("deploy", {"GIVEN": r"NAME=good TAG=app ARGS=-e\ x=1"}, ["TAG is given", "Did you mean TAGS?"]),
        ("deplyo", {}, ["There is no 'deplyo'"]),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused(clone, target, given, words):
    said = refused(target, **given)
    for word in words:
        assert word in said, said
    assert "x is given" not in said


@pytest.mark.parametrize(
    ("target", "given", "line"),
    [
        ("deploy", {}, "site.yml"),
        ("check", {"TAGS": "app model"}, "site.yml --check --tags app,model"),
        ("status", {"LIMIT": "good"}, "playbooks/status.yml --limit good"),
        ("rollback", {"RELEASE": "0123456789ab"}, "playbooks/rollback.yml -e api_endpoint_release=0123456789ab"),
        ("remove", {"CONFIRM": "good"}, "playbooks/remove.yml -e api_endpoint_remove=good"),
        ("logs", {"ARGS": "-e '{\"a\": 1}' -K"}, "playbooks/logs.yml -e '{\"a\": 1}' -K"),
        ("deploy", {"NAME": "endpoints/good"}, "site.yml"),
        ("deploy", {"NAME": "endpoints/good/inventory.yml"}, "site.yml"),
    ],
)  # fmt: skip
def test_the_command_that_is_run(clone, target, given, line):
    command = run.command_of(target, {"NAME": "good", **given})
    shown = commands.joined(command)
    assert shown == f"ansible-playbook -i endpoints/good/inventory.yml {line}"


def test_the_tags_are_the_roles():
    assert inventories.tags_of(PROJECT, ["site.yml"]) == role_tags()


def test_every_target_has_its_playbook_and_its_line_in_the_makefile():
    makefile = (PROJECT / "Makefile").read_text()
    for target, (playbook, *_) in commands.TARGETS.items():
        assert (PROJECT / playbook).exists()
        assert f"\n{target}: ## " in makefile
    assert f"RUNS := {' '.join(sorted(commands.TARGETS))}" == " ".join(
        ["RUNS :=", *sorted(makefile.partition("RUNS := ")[2].partition("\n")[0].split())]
    )


def test_make_hands_everything_over_as_it_is(tmp_path):
    """What stands for the tool prints what it gets; make finds no virtualenv that is out of date."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".deploy").touch()
    (tmp_path / "Makefile").write_text((PROJECT / "Makefile").read_text())
    (tmp_path / "requirements.txt").touch()
    os.utime(tmp_path / "requirements.txt", (0, 0))
    shim = tmp_path / ".venv" / "bin" / "python"
    shim.write_text(f"#!{sys.executable}\nimport json, os\nprint(json.dumps(dict(os.environ)))\n")
    shim.chmod(0o755)
    args = '-e \'a=b c\' -e "{\\"x\\": 1}" -K'
    done = subprocess.run(
        ["make", "-s", "deploy", "NAME=my-api", "TAG=app", f"ARGS={args}"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**{k: v for k, v in os.environ.items() if k != "MAKEFLAGS"}, "TAGS": ""},
    )  # fmt: skip
    found = yaml.safe_load(done.stdout)
    assert (found["NAME"], found["NAME_ORIGIN"], found["ARGS"]) == ("my-api", "command line", args)
    assert sorted(run.GIVEN.findall(found["GIVEN"])) == ["ARGS", "NAME", "TAG"]


def ansible(*options, cwd=PROJECT) -> subprocess.CompletedProcess:
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")
    }
    return subprocess.run(
        ["ansible-playbook", *options],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("inventory", "options", "words"),
    [
        (GOOD, ["site.yml", "--tags", "models"], ["There is no tag models. Did you mean model?"]),
        (GOOD, ["site.yml", "--skip-tags", "ngin"], ["There is no tag ngin. Did you mean nginx?"]),
        (GOOD, ["site.yml", "--skip-tags", "always"], ["leaves out every task"]),
        (GOOD, ["playbooks/status.yml", "--tags", "app"], ["only a deployment has tags"]),
        (GOOD.replace("hosts:", "host:"), ["site.yml"], ["Did you mean hosts?"]),
        (GOOD.replace("points:", "point:"), ["playbooks/diagnose.yml"], ["Did you mean api_endpoints?"]),
        ((PROJECT / "inventory" / "hosts.yml").read_text(), ["site.yml"], ["is the example's"]),
    ],
)  # fmt: skip
def test_ansible_by_itself_refuses_the_same_before_the_first_task(
    tmp_path, inventory, options, words
):
    (tmp_path / "hosts.yml").write_text(inventory)
    playbook, *others = options
    done = ansible("-i", "hosts.yml", PROJECT / playbook, *others, cwd=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "PLAY [" not in said
    for word in ["Nothing was touched. Please correct:", *words]:
        assert word in said


@pytest.mark.parametrize("playbook", ["status", "diagnose", "traffic_report", "privacy_audit"])
def test_playbooks_that_only_look_refuse_an_api_without_a_name(tmp_path, playbook):
    (tmp_path / "hosts.yml").write_text(GOOD)
    done = ansible("-i", "hosts.yml", PROJECT / "playbooks" / f"{playbook}.yml", cwd=tmp_path)
    assert "api_endpoint_server_names is not set. Give" in done.stdout + done.stderr


def test_ansible_names_files_of_variables_for_hosts_that_are_not_there(tmp_path):
    (tmp_path / "hosts.yml").write_text(GOOD)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "goood.yml").write_text("api_endpoint_workers: 2\n")
    done = ansible("-i", "hosts.yml", PROJECT / "site.yml", cwd=tmp_path)
    assert "Did you mean good? Rename it to host_vars/good.yml." in done.stderr, done.stderr


def test_a_playbook_of_ones_own_may_have_tags_of_its_own(tmp_path):
    (tmp_path / "hosts.yml").write_text(GOOD)
    play = [
        {"ansible.builtin.import_playbook": str(PROJECT / "playbooks" / "status.yml")},
        {"hosts": "all", "gather_facts": False, "tasks": [
            {"ansible.builtin.debug": {"msg": "mine has run"}, "tags": "mine"}]},
    ]  # fmt: skip
    (tmp_path / "own.yml").write_text(yaml.safe_dump(play))
    done = ansible("-i", "hosts.yml", "own.yml", "--tags", "mine", cwd=tmp_path)
    assert "mine has run" in done.stdout, done.stdout + done.stderr


SITE = "ansible-playbook -i inventory site.yml"


@pytest.mark.parametrize(
    ("line", "source", "here", "words"),
    [
        (SITE, "endpoints/good/inventory.yml", "", "make deploy NAME=good"),
        (f"{SITE} --check", "endpoints/good/inventory.yml", "", "make check NAME=good"),
        (SITE, "inventory", "", "make deploy"),
        (f"{SITE} --tags app -e '{{\"a\": [1]}}'", "endpoints/good/inventory.yml", "",
         "make deploy NAME=good TAGS=app ARGS='-e '\"'\"'{\"a\": [1]}'\"'\"''"),
        (f"{SITE} -e a=1", "endpoints/good/inventory.yml", "", "make deploy NAME=good ARGS='-e a=1'"),
        (SITE.replace("site.yml", "playbooks/rollback.yml -e api_endpoint_release=<id>"),
         "inventory", "", "make rollback RELEASE=<id>"),
        (f"{SITE} -e 'a=$HOME'", "inventory", "", "ansible-playbook -i inventory site.yml -e 'a=$HOME'"),
        (SITE, "other/hosts.yml", "", "ansible-playbook -i other/hosts.yml site.yml"),
        (SITE, "endpoints/good/inventory.yml", "endpoints",
         "ansible-playbook -i good/inventory.yml ../site.yml"),
        (SITE, "a.example,", "", "ansible-playbook -i a.example, site.yml"),
    ],
)  # fmt: skip
def test_commands_are_shown_for_the_inventory_at_hand(
    clone, monkeypatch, line, source, here, words
):
    (clone / "tools").mkdir()
    (clone / "tools" / "run.py").touch()
    (clone / "playbooks").mkdir()
    sources = [source if "," in source else str(clone / source)]
    monkeypatch.chdir(clone / here)
    for folder in ("", "playbooks"):
        assert commands.command(line, sources, str(clone / folder)) == words
    text = commands.adapted(
        f"Fix:\n   $ {line}\n   $ sudo reboot\n",
        {"ansible_inventory_sources": sources, "playbook_dir": str(clone)},
    )
    assert text == f"Fix:\n   $ {words}\n   $ sudo reboot\n"


def test_a_playbook_of_ones_own_is_named_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert commands.command(SITE, [str(tmp_path / "hosts.ini")], str(tmp_path)) == (
        "ansible-playbook -i hosts.ini site.yml"
    )


def test_a_diagnosis_shows_commands_for_the_inventory_at_hand(tmp_path, monkeypatch):
    plugin = load_file(PROJECT / "roles/api_endpoint/action_plugins/api_endpoint_diagnosis.py")
    found = {"summary": f"x\n $ {SITE}\n", "findings": [{"remedy": [SITE, "sudo reboot"]}]}
    action = plugin.ActionModule.__new__(plugin.ActionModule)
    monkeypatch.setattr(plugin.ActionBase, "run", lambda *_: {})
    monkeypatch.setattr(plugin.ActionModule, "_execute_module", lambda *_, **__: found)
    monkeypatch.chdir(tmp_path)
    inventory = f"{tmp_path}/mine/hosts.yml"
    result = action.run(
        task_vars={"ansible_inventory_sources": [inventory], "playbook_dir": str(tmp_path)}
    )
    mine = "ansible-playbook -i mine/hosts.yml site.yml"
    assert result["summary"] == f"x\n $ {mine}\n"
    assert result["findings"] == [{"remedy": [mine, "sudo reboot"]}]
    assert result["read_all_data"].startswith(f"{mine} --tags model -e ")


@pytest.mark.parametrize("is_taken", [True, False])
def test_the_demo_names_a_port_that_another_program_has(is_taken):
    """Before a container is started: Docker's own message does not say who has it."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        if is_taken:
            other.listen()
        done = subprocess.run(
            ["bash", "-euc", 'keys=x; . tools/instance.sh; refuse_taken_ports "$1"; echo free', "x", str(port)],
            cwd=PROJECT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if is_taken:
        assert done.returncode == 1
        assert f"Nothing was started. Port {port} of this computer is taken by" in done.stderr
    else:
        assert done.stdout == "free\n", done.stderr


def test_a_message_of_an_assertion_has_commands_for_the_inventory_at_hand(tmp_path):
    (tmp_path / "hosts.yml").write_text("all: {hosts: {localhost: {ansible_connection: local}}}\n")
    play = [{"hosts": "all", "gather_facts": False, "tasks": [{
        "ansible.builtin.include_role": {"name": "api_endpoint", "tasks_from": "remove"}}]}]  # fmt: skip
    (tmp_path / "play.yml").write_text(yaml.safe_dump(play))
    (tmp_path / "roles").symlink_to(PROJECT / "roles")
    done = ansible("-i", "hosts.yml", "play.yml", "-e", "api_endpoint_name=mine", cwd=tmp_path)
    said = " ".join((done.stdout + done.stderr).split())
    assert done.returncode == 2, said
    remove = "playbooks/remove.yml -e api_endpoint_remove=mine"
    assert f"ansible-playbook -i hosts.yml {remove}" in said
