"""A look by a shell command says that there is nothing to do only when that is so; anything else is the module's."""

import importlib.util
import os
import re
import shutil
import subprocess
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleActionFail
from ansible.module_utils.api_endpoint.artifacts.store import Store, key_of
from ansible.module_utils.api_endpoint.controller.preflight import (
    argument_spec,
    facts_of,
    rights,
    rights_look,
)
from ansible.module_utils.api_endpoint.digests import file_digest
from ansible.module_utils.api_endpoint.host import file_state, nginx
from ansible.module_utils.api_endpoint.host import managed_files as files
from ansible.plugins.action import ActionBase
from helpers import PROJECT, ROLE, Stub, load_file
from rendering import templar

UNIT = "# Managed by Ansible\n"
SUDO_SAYS = "sudo: unable to resolve host api: Name or service not known"


@pytest.fixture
def act(tmp_path, monkeypatch):
    """Return a function that runs an action plugin on this machine; what it has modules do is in `.asked`."""
    monkeypatch.setattr(ActionBase, "run", lambda *_: {})
    mine = f"{os.getuid()}:{os.getgid()}"
    monkeypatch.setattr(file_state, "OWNER", mine)
    monkeypatch.setattr(files, "OWNER", mine)
    (tmp_path / "bin").mkdir()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"

    def run(plugin, check_mode=False, variables=None, answers=(), **arguments):
        spec = importlib.util.spec_from_file_location(
            "action", ROLE / "action_plugins" / f"api_endpoint_{plugin}.py"
        )
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        action = object.__new__(module.ActionModule)
        action._task = SimpleNamespace(args=arguments, check_mode=check_mode)
        # It becomes root without a question, so that nothing is looked for on this machine.
        shell_plugin = SimpleNamespace(
            tmpdir="/tmp/there", join_path=lambda *parts: "/".join(parts)
        )
        action._connection = SimpleNamespace(
            become=SimpleNamespace(name="su", get_option=lambda _name: None), _shell=shell_plugin
        )
        action._make_tmp_path = lambda: None
        action._transfer_file = lambda _local, _remote: None
        left = list(answers)

        def shell(command, sudoable=True):
            done = subprocess.run(
                ["/bin/sh", "-c", command],
                capture_output=True,
                text=True,
                env={**os.environ, "PATH": path},
            )
            # As on a terminal, on a host whose name sudo cannot resolve.
            stdout = "".join(f"{line}\r\n" for line in [SUDO_SAYS, *done.stdout.splitlines()])
            return {"rc": done.returncode, "stdout": stdout, "stderr": done.stderr}

        def execute(module_name="", module_args=None, task_vars=None):
            run.asked.append((module_name, module_args))
            return left.pop(0) if left else {"changed": True}

        action._low_level_execute_command = shell
        action._execute_module = execute
        action._templar = SimpleNamespace(template=lambda value: value)
        return action.run(None, variables or {})

    run.asked = []
    run.program = lambda name, text: (
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        and (tmp_path / "bin" / name).chmod(0o755)
    )
    return run


# --- files


@pytest.fixture
def wanted(tmp_path):
    """Two files as they should be, written by the module."""
    given = {str(tmp_path / "etc" / "a.conf"): "a\n", str(tmp_path / "etc" / "it's b"): "b é\n"}
    said = ensure(given)
    assert said["changed"]
    assert said["written"] == list(given)
    assert not ensure(given)["changed"]
    return given


def ensure(given, check_mode=False, **users):
    """Have the module write files."""
    known = {"mode": "0644", "needs": None, "loaded_as": [], "read_by": []}
    return files.ensure(Stub(check_mode, files=given, **{**known, **users}))


def test_files_that_are_as_they_should_be_are_left(act, wanted):
    assert act("managed_files", files=wanted) == {"changed": False, "written": [], "unused": []}
    assert act.asked == []


def edited(path):
    path.write_text("edited\n")


def linked(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "harm", [edited, linked, os.unlink, lambda path: path.chmod(0o666), lambda path: path.chmod(0o600)],
    ids=["edited", "linked", "removed", "writable", "unreadable"],
)  # fmt: skip
def test_what_was_changed_by_hand_is_the_modules(act, wanted, tmp_path, harm):
    path = tmp_path / "etc" / "a.conf"
    harm(path)
    act("managed_files", files=wanted)
    assert act.asked == [("", {"files": wanted})]
    would = ensure(wanted, check_mode=True)
    assert (would["changed"], would["written"]) == (True, [str(path)])
    assert would["diff"][0]["before"] != would["diff"][0]["after"]
    ensure(wanted)
    assert path.read_text() == "a\n"
    assert not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o644 or os.getuid() != 0


def test_files_that_were_never_put_to_use_are_reported(act, wanted, tmp_path):
    needs = str(tmp_path / "it's a socket")
    act("managed_files", files=wanted, needs=needs)
    assert len(act.asked) == 1
    assert ensure(wanted, needs=needs) == {
        "changed": True, "written": [], "unused": [f"{needs}: is missing"], "diff": [],
    }  # fmt: skip
    (tmp_path / "it's a socket").touch()
    assert not act("managed_files", files=wanted, needs=needs)["changed"]
    assert len(act.asked) == 1
    assert not ensure(wanted, needs=needs)["changed"]


@pytest.fixture
def systemd(act):
    """A systemd whose answers a test decides on: `systemd(needs_reload=..., started=..., is_active=...)`."""

    def answer(needs_reload="no", started="", is_active=True):
        act.program(
            "systemctl",
            f"""case "$*" in
  "show --property=NeedDaemonReload --value a.socket b.service") printf 'no\\n\\n%s\\n' {needs_reload};;
  "show --timestamp=us+utc --property=ActiveState,InactiveExitTimestamp b.service")
    echo 'InactiveExitTimestamp={started}'; echo ActiveState={"active" if is_active else "activating"};;
  *) exit 1;;
esac""",
        )

    return answer


@pytest.fixture(autouse=True)
def _programs(tmp_path, monkeypatch):
    """Have modules find the programs that a test makes, as looks do."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")


def assert_unused(act, given, reasons, **users):
    """The look and the module agree on why files are not in use."""
    act.asked.clear()
    act("managed_files", files=given, **users)
    assert len(act.asked) == bool(reasons)
    told = ensure(given, check_mode=True, **users)
    assert (told["changed"], told["written"], told["unused"]) == (bool(reasons), [], reasons)


@pytest.mark.parametrize(
    ("needs_reload", "reasons"),
    [
        ("no", []),
        ("yes", ["b.service: systemd has not loaded its files"]),
        ("", ["b.service: systemd has not loaded its files"]),
    ],
)
def test_unit_files_are_in_use_when_systemd_has_loaded_them(
    act, wanted, systemd, needs_reload, reasons
):
    systemd(needs_reload=needs_reload)
    assert_unused(act, wanted, reasons, loaded_as=["a.socket", "b.service"])


OLDER = ["b.service: was started before its files were written"]


@pytest.mark.parametrize(
    ("started", "is_active", "reasons"),
    [
        ("Thu 2026-01-01 12:00:00.500001 UTC", True, []),
        ("Thu 2026-01-01 12:00:00.500000 UTC", True, []),
        ("Thu 2026-01-01 12:00:00.499999 UTC", True, OLDER),
        ("Thu 2026-01-01 12:00:09.000000 UTC", True, []),
        ("Wed 2025-12-31 12:00:01.000000 UTC", True, OLDER),
        ("Thu 2026-01-01 12:00:09.000000 UTC", False, ["b.service: does not run"]),
        ("", False, ["b.service: does not run"]),
        ("", True, OLDER),
    ],
)
def test_files_are_in_use_when_their_reader_was_started_after_them(
    act, wanted, systemd, started, is_active, reasons
):
    for path, seconds in zip(wanted, (1767268000, 1767268800.5), strict=True):
        os.utime(path, (seconds, seconds))
    systemd(started=started, is_active=is_active)
    assert_unused(act, wanted, reasons, read_by=["b.service"])


def test_a_file_from_before_the_clock_was_set_back_is_not_read_again_and_again(
    act, wanted, systemd
):
    os.utime(next(iter(wanted)), (4102444800, 4102444800))
    systemd(started="Thu 2026-01-01 12:00:09.000000 UTC")
    assert_unused(act, wanted, [], read_by=["b.service"])


def test_without_an_answer_of_systemds_no_file_is_in_use(act, wanted):
    act.program("systemctl", "exit 1")
    assert_unused(
        act, wanted, [f"{unit}: systemd has not loaded its files" for unit in ("a.socket", "b.service")],
        loaded_as=["a.socket", "b.service"],
    )  # fmt: skip
    assert_unused(act, wanted, ["b.service: does not run"], read_by=["b.service"])


def test_files_that_were_just_written_say_so_and_no_more(act, systemd, tmp_path):
    systemd(needs_reload="yes")
    told = ensure({str(tmp_path / "new"): "a\n"}, loaded_as=["b.service"])
    assert (told["changed"], told["unused"]) == (True, [])


# --- nginx


@pytest.fixture
def configured(act, tmp_path, monkeypatch):
    """nginx's folder as the module leaves it, and the arguments."""
    act.program("nginx", "exit 0")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    folder = tmp_path / "nginx"
    (folder / "sites-enabled").mkdir(parents=True)
    (folder / "sites-enabled" / "default").write_text("Debian's\n")
    given = {
        "folder": str(folder), "files": {"nginx.conf": UNIT, "sites-available/api": f"{UNIT}server\n"},
        "links": {"sites-enabled/api": "../sites-available/api"}, "absent": ["sites-enabled/default"],
        "socket": str(tmp_path / "run/proof.sock"), "loaded": "api-endpoint/api.loaded",
    }  # fmt: skip
    act("nginx", **given)
    assert len(act.asked) == 1
    monkeypatch.setattr(nginx, "systemctl", lambda *_: SimpleNamespace(returncode=0))
    nginx.ensure(Stub(**given, reload=False))
    name = re.search("return 200 (.+);", (folder / "api-endpoint/api.loaded").read_text())[1]
    act.program("curl", f"echo {name}")
    act.asked.clear()
    return folder, given


def test_a_configuration_that_is_as_it_should_be_is_left(act, configured):
    assert act("nginx", **configured[1]) == {"changed": False, "written": []}
    assert act.asked == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "nginx.conf").write_text("edited\n"),
        lambda folder: (folder / "sites-available" / "api").unlink(),
        lambda folder: (folder / "sites-enabled" / "api").unlink(),
        lambda folder: (folder / "sites-enabled" / "default").symlink_to("nowhere"),
        lambda folder: (folder / "api-endpoint" / "api.loaded").write_text("return 200 another;"),
        lambda folder: (folder / "api-endpoint" / "api.loaded").unlink(),
        lambda folder: (folder.parent / "bin" / "curl").write_text("#!/bin/sh\nexit 7\n"),
        lambda folder: (folder / ".api-endpoint.json").unlink(),
        lambda folder: (folder / ".api-endpoint.json").write_text('{"nginx.conf": "another"}'),
        lambda folder: (folder / ".api-endpoint.json").write_text("damaged"),
        lambda folder: (folder / ".api-endpoint.json").write_text("[]"),
    ],
    ids=[
        "edited",
        "file",
        "link",
        "default site",
        "not loaded",
        "no name",
        "not running",
        "no note",
        "old note",
        "damaged note",
        "another note",
    ],
)
def test_a_configuration_that_is_not_is_the_modules(act, configured, harm):
    folder, given = configured
    harm(folder)
    act("nginx", **given)
    assert act.asked == [("", given)]


def test_a_configuration_does_not_listen_on_ipv6_where_there_is_none(act, configured):
    """Until the host has some: the next run adds the lines."""
    folder, given = configured
    site = "server {\n    listen 80;\n    listen [::]:80;\n}\n"
    given["files"] = {**given["files"], "sites-available/api": site}
    act.program("perl", "echo 'this host has no IPv6'")
    act("nginx", **given)
    wanted = act.asked.pop()[1]
    assert wanted["files"] == {
        **given["files"],
        "sites-available/api": "server {\n    listen 80;\n}\n",
    }
    nginx.ensure(Stub(**wanted, reload=False))
    name = re.search("return 200 (.+);", (folder / "api-endpoint/api.loaded").read_text())[1]
    act.program("curl", f"echo {name}")
    assert act("nginx", **given) == {"changed": False, "written": []}
    act.program("perl", "true")
    act("nginx", **given)
    assert act.asked == [("", given)]


# --- nginx and what it needs, in one look


UP = 'case $1 in is-active) printf "active\\nactive\\n";; *) printf "enabled\\nenabled\\n";; esac'
HARMS = {
    "nothing": lambda _act, _folder, _file: None,
    "nginx's configuration": lambda _act, folder, _file: (folder / "nginx.conf").write_text("edited\n"),
    "nginx does not run": lambda act, _folder, _file: act.program("curl", "exit 7"),
    "a file": lambda _act, _folder, file: file.write_text("edited\n"),
    "a file is not in use": lambda _act, folder, _file: (folder.parent / "socket").unlink(),
    "a service": lambda act, _folder, _file: act.program("systemctl", "echo active"),
    "no answer": lambda act, _folder, _file: act.program("stat", "kill -9 $PPID"),
}  # fmt: skip


@pytest.mark.parametrize("harm", HARMS)
def test_one_look_at_nginx_and_what_it_needs(act, configured, wanted, tmp_path, harm):
    folder, given = configured
    act.program("systemctl", UP)
    (tmp_path / "socket").touch()
    HARMS[harm](act, folder, tmp_path / "etc" / "a.conf")
    files_of = [{"files": {}}, {"files": wanted, "needs": str(tmp_path / "socket")}]
    told = act("nginx_look", nginx=given, files=files_of, services=["a", "b"])
    assert told == {"changed": False, "is_as_wanted": harm == "nothing"}
    assert act.asked == []


def test_the_look_sees_all_that_the_tasks_would_do():
    """With the same variables, but for the cache's memory, which the tasks look at themselves."""
    tasks, activate = (
        (ROLE / "tasks" / name).read_text() for name in ("nginx.yml", "activate.yml")
    )
    done = set(re.findall(r"\{\{ (__api_endpoint_nginx\w*|__api_endpoint_redaction\w*)", tasks))
    looked = set(re.findall(r"\{\{ (__api_endpoint_\w+(?:_wanted|_services)) \}\}", activate))
    assert done == looked
    modules = re.findall(r"(?m)^  (api_endpoint_\w+|ansible[.]builtin[.]\w+):", tasks)
    assert sorted(modules) == sorted(
        ["api_endpoint_managed_files"] * 2 + ["api_endpoint_nginx", "api_endpoint_services"]
        + ["ansible.builtin.meta", "ansible.builtin.include_tasks"] * 2
    )  # fmt: skip


# --- packages


APP = {
    "git_url": "", "folder": str(PROJECT / "app"), "subdir": "", "requirements_file": "", "exclude": [], "packages": [],
    "constraints": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("there", "names", "is_left"),
    [
        ("installed curl\ninstalled g++", ["g++", "curl"], True),
        ("installed curl", ["g++", "curl"], False),
        ("installed curl\nconfig-files g++", ["g++", "curl"], False),
        ("installed curl", ["curl=8.1"], False),
        ("installed curl", ["curl:amd64", "curl"], False),
    ],
)
def test_apt_is_asked_only_when_a_package_is_missing(act, there, names, is_left):
    act.program("dpkg-query", f"/bin/cat <<'X'\n{there}\nX")
    act.program("grep", "exit 1")
    told = act("packages", name=names, state="present", app=APP)
    assert told["changed"] is not is_left
    assert [name for name, _ in act.asked] == ([] if is_left else ["ansible.legacy.apt"])


@pytest.mark.parametrize(
    ("changed", "is_needed"),
    [
        ({}, False),
        ({"git_url": "https://x/y.git"}, True),
        ({"text": "flask\nhelper @ git+https://x/y.git\n"}, True),
        ({"text": "-r more.txt\n"}, True),
        ({"text": "GitPython==3.1\n"}, True),
        ({"text": "./package\n"}, True),
        ({"packages": ["helper @ git+https://x/y.git"]}, True),
        ({"constraints": ["helper @ git+https://x/y.git"]}, True),
        ({"folder": "/nowhere"}, True),
    ],
    ids=str,
)
def test_git_is_installed_where_the_app_needs_it(act, tmp_path, changed, is_needed):
    app = tmp_path / "app"
    (app / "package").mkdir(parents=True)
    (app / "package" / "pyproject.toml").write_text('[project]\nname = "p"\n')
    (app / "more.txt").write_text("-e git+https://x/y.git#egg=y\n")
    (app / "requirements.txt").write_text(changed.get("text", "flask  # no git\n"))
    given = {**APP, "folder": str(app), **changed}
    given.pop("text", "")
    act.program("dpkg-query", "echo installed curl")
    act.program("grep", "exit 1")
    act("packages", name=["curl"], app=given)
    assert act.asked == (
        [("ansible.legacy.apt", {"name": ["curl", "git", "openssh-client"]})] if is_needed else []
    )


def test_what_a_killed_installation_left_goes_first(act):
    act.program("dpkg-query", "echo installed curl")
    act.program("grep", "exit 0")
    assert act("packages", name=["curl"], app=APP)["changed"]
    assert act.asked == [
        ("ansible.legacy.file", {"path": "/usr/sbin/policy-rc.d", "state": "absent"})
    ]


def test_the_words_of_apt_are_kept(act):
    act.program("dpkg-query", "exit 1")
    act.program("grep", "exit 1")
    act.program("apt-get", "exit 0")
    failed = {"failed": True, "msg": "python3-apt must be installed"}
    assert act("packages", name=["curl"], app=APP, answers=[failed]) == {
        **failed, "changed": False, "missing": ["curl"],
    }  # fmt: skip


# --- services


def test_services_that_run_are_left(act):
    act.program(
        "systemctl",
        'case $1 in is-active) printf "active\\nactive\\n";; *) printf "enabled\\nenabled\\n";; esac',
    )
    assert act("services", names=["a", "b"]) == {"changed": False}
    assert act.asked == []


def test_a_service_that_is_started_again_and_again_does_not_start(act):
    """nginx that somebody started by hand has its port; the module takes "activating" for started."""
    act.program("systemctl", "case $1 in is-active) echo activating;; esac; exit 1")
    act.program("journalctl", "echo 'still could not bind()'")
    assert act("services", names=["a"], answers=[{"changed": False}]) == {
        "changed": False,
        "failed": True,
        "msg": "a does not start. still could not bind()",
    }


@pytest.mark.parametrize("check_mode", [False, True])
def test_a_masked_service_is_named_by_a_dry_run_too(act, check_mode):
    act.program("systemctl", "case $* in is-enabled*b*) echo masked;; *) echo active;; esac")
    told = act("services", check_mode=check_mode, names=["a", "b"])
    assert told["failed"]
    assert told["msg"].startswith("b is masked, and so does not start. `sudo systemctl unmask b`")
    assert act.asked == []


@pytest.mark.parametrize("answer", ["inactive", "failed", "activating", ""])
@pytest.mark.parametrize("check_mode", [False, True])
def test_services_that_do_not_run_are_started(act, answer, check_mode, tmp_path):
    states = f"is-active) echo active; echo {answer};; is-enabled) echo enabled; echo enabled;;"
    act.program("systemctl", f"case $1 in {states} *) echo $* >{tmp_path}/done;; esac")
    answers = [{"changed": False}, {"changed": True}]
    told = act("services", check_mode=check_mode, names=["a", "b"], answers=answers)
    assert told == {"changed": True, "started": ["b"] if check_mode else ["a", "b"]}
    asked = [arguments["name"] for _, arguments in act.asked]
    assert asked == (["a", "b"] if check_mode else [])
    if not check_mode:
        assert (tmp_path / "done").read_text() == "enable --quiet --now a b\n"


def test_a_service_that_does_not_start_fails_but_for_a_dry_run(act):
    act.program("systemctl", "exit 1")
    failed = {"failed": True, "msg": "no such unit"}
    act.program("journalctl", "true")
    assert act("services", names=["a"], answers=[failed]) == {
        "failed": True,
        "msg": "a does not start. no such unit",
    }
    act.program(
        "journalctl", "echo 'nginx: [emerg] bind() to [::]:80 failed (98: Address already in use)'"
    )
    act.program("ss", """echo 'LISTEN 0 5 0.0.0.0:80 0.0.0.0:* users:(("apache2",pid=42,fd=3))'""")
    told = act("services", names=["a"], answers=[failed])["msg"].splitlines()
    assert (
        told[0]
        == "a does not start. Port 80 is taken by apache2 (process 42). Stop it, then run this again."
    )
    assert told[1].startswith("nginx: [emerg] bind()")
    assert act("services", names=["a"], answers=[failed], check_mode=True) == {
        "changed": True,
        "started": ["a"],
    }


# --- preflight

preflight = load_file(ROLE / "action_plugins" / "api_endpoint_preflight.py")
DEBIAN = """\
PRETTY_NAME="Debian GNU/Linux 13 (trixie)"
NAME="Debian GNU/Linux"
VERSION_ID="13"
ID=debian
# a comment
search eqiad.wmflabs
nameserver 172.20.255.1
nameserver fe80::1%eth0
"""


@pytest.fixture
def settings():
    """The defaults, with what everybody sets, as tasks of the role have them."""
    files = [str(ROLE / kind / "main.yml") for kind in ("defaults", "vars")]
    given = {
        "api_endpoint_server_names": ["a.example"],
        "api_endpoint_app_dir": "app",
        "playbook_dir": str(PROJECT / "playbooks"),
    }
    found = templar({"hosts": "all", "vars_files": files}, **given)
    names = [*argument_spec(ROLE), *preflight.DERIVED, "playbook_dir"]
    variables = found.available_variables
    return {name: found.template(variables[name]) for name in names if name in variables}


@pytest.mark.parametrize(
    ("method", "has_password", "programs", "said"),
    [
        ("sudo", False, {}, ""),
        ("sudo", False, {"sudo": None}, "has no sudo"),
        (
            "sudo",
            False,
            {"sudo": "echo 'sudo: a password is required' >&2; exit 1"},
            "Run again with -K (with make: ARGS=-K)",
        ),
        ("sudo", True, {"sudo": "echo 'sudo: a password is required' >&2; exit 1"}, ""),
        ("sudo", False, {"sudo": None, "id": "echo 0"}, ""),  # it logs in as root
        ("su", True, {"sudo": None}, ""),
        ("", False, {}, "ansible_become is false"),
        ("", False, {"id": "echo 0"}, ""),
        ("sudo", False, {"python3": None}, "has no python3"),
    ],
)
def test_rights_that_are_missing_on_the_host_are_named(
    tmp_path, method, has_password, programs, said
):
    given = {"id": "echo 1000", "sudo": "exit 0", "python3": "exit 0", **programs}
    for name, command in given.items():
        if command is not None:
            (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
            (tmp_path / name).chmod(0o755)
    (tmp_path / "grep").symlink_to(shutil.which("grep"))
    look = rights_look(method, has_password, has_python=False)
    answer = subprocess.run(
        ["/bin/sh", "-c", look],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = rights(answer.stdout, "root")
    assert len(found) == bool(said)
    assert said in "".join(found)


def test_another_user_than_root_is_refused():
    assert "Leave it out" in rights("", "nobody")[0]
    assert rights("", "") == []


def test_the_facts_of_the_host(act, settings):
    act.program("cat", f"/bin/cat <<'X'\n{DEBIAN}X")
    with pytest.raises(AnsibleActionFail, match="Ubuntu 13"):
        act("preflight", variables={**settings, "ansible_facts": {"distribution": "Ubuntu"}})
    assert act("preflight", variables=settings)["ansible_facts"]["ansible_distribution"] == "Debian"


def test_a_wrong_type_is_named_in_a_line_and_spares_the_rest_of_the_checks(act, settings):
    act.program("cat", f"/bin/cat <<'X'\n{DEBIAN}X")
    wrong = {
        "api_endpoint_workers": "many",
        "api_endpoint_artifacts": ["model.bin"],
        "api_endpoint_port": 99999,
    }
    with pytest.raises(AnsibleActionFail) as told:
        act("preflight", variables={**settings, **wrong})
    lines = str(told.value).splitlines()[1:]
    assert len(lines) == 2, lines
    for line, name in zip(
        sorted(lines), ("api_endpoint_artifacts", "api_endpoint_workers"), strict=True
    ):
        assert name in line


@pytest.mark.parametrize(
    ("site", "port", "name", "is_refused"),
    [
        ("other", 80, "a.example", True),
        ("other", 8080, "a.example", False),
        ("other", 80, "b.example", False),
        ("mine", 80, "a.example", False),
    ],
)
def test_a_public_name_of_another_endpoint_of_the_host_is_refused(site, port, name, is_refused):
    shown = f"site: {site} listen {port}\nsite: {site} listen [::]:{port}\nsite: {site} server_name {name} c.example\n"
    settings = {
        "api_endpoint_name": "mine", "api_endpoint_port": 80, "api_endpoint_server_names": ["a.example"],
    }  # fmt: skip
    found = preflight.shared_names(settings, shown)
    assert bool(found) == is_refused
    assert not found or "the endpoint other on this host has too" in found[0]


def test_the_look_for_names_reads_the_sites_of_the_roles_endpoints_alone(tmp_path):
    for folder in ("nginx", "units"):
        (tmp_path / folder).mkdir()
    for site in ("other", "strange"):
        (tmp_path / "nginx" / site).write_text(
            "server {\n    listen 80;\n    server_name a.example b.example;\n}\n"
        )
    (tmp_path / "units" / "other@.service").touch()
    look = preflight.SITES_LOOK.replace("/etc/nginx/sites-enabled", f"{tmp_path}/nginx").replace(
        "/etc/systemd/system", f"{tmp_path}/units"
    )
    done = subprocess.run(["sh", "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout == "site: other listen 80\nsite: other server_name a.example b.example\n"


def test_playbooks_that_only_look_check_the_settings_without_the_host(act, settings):
    act.program("cat", "echo touched >&2; exit 1")
    assert act("preflight", settings_only=True, variables=settings) == {"changed": False}
    for wrong, said in (
        ({"api_endpoint_log_lines": "many"}, "api_endpoint_log_lines is 'many'. Give a whole"),
        ({"api_endpoint_log_lines": 0}, "api_endpoint_log_lines is 0. Give lines from 1 to"),
        ({"api_endpoint_log_line": 9}, "Did you mean api_endpoint_log_lines?"),
    ):
        with pytest.raises(AnsibleActionFail) as told:
            act("preflight", settings_only=True, variables={**settings, **wrong})
        assert said in str(told.value)


@pytest.mark.parametrize("tag", ["app", "model", "nginx"])
@pytest.mark.parametrize("old_site", ["", f"{preflight.OLD_SITE}sites-enabled/model\n"])
def test_a_part_is_refused_on_a_host_that_was_never_set_up(act, tag, old_site, settings):
    act.program("cat", f"/bin/cat <<'X'\n{DEBIAN}X\nprintf '{old_site}'")
    settings["ansible_run_tags"] = [tag]
    expected = rf"Nothing was touched\. This host was never set up for api-endpoint, so {tag} alone has nothing"
    with pytest.raises(AnsibleActionFail, match=expected):
        act("preflight", part=True, variables=settings)
    assert act("preflight", part=False, variables=settings)["is_set_up"] is False
    act.program("cat", f"/bin/cat <<'X'\n{DEBIAN}{preflight.SET_UP}\nX")
    assert act("preflight", part=True, variables=settings)["is_set_up"] is True


def test_all_wrong_values_are_named_at_once(act, settings):
    act.program("cat", f"/bin/cat <<'X'\n{DEBIAN}X")
    wrong = {"api_endpoint_port": 99999, "api_endpoint_worker": 3, "api_endpoint_data_dir": "data"}
    with pytest.raises(AnsibleActionFail) as told:
        act("preflight", variables={**settings, **wrong})
    assert str(told.value).startswith(
        "Nothing was touched. Please correct:\n  - api_endpoint_worker is set"
    )
    assert str(told.value).count("\n  - ") == 3


def test_what_has_to_be_removed_is_looked_for_on_the_way(tmp_path):
    there, gone = tmp_path / r"run-nginx\x2dcache it's.mount", tmp_path / "gone"
    there.touch()
    said = subprocess.run(
        ["sh", "-c", preflight.question("any", [str(there), str(gone)])],
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0
    assert [line for line in said.stdout.splitlines() if line.startswith(preflight.THERE)] == [
        f"{preflight.THERE}{there}"
    ]


def test_the_facts_are_those_that_ansible_finds(act):
    assert facts_of(DEBIAN) == {
        "distribution": "Debian",
        "distribution_major_version": "13",
        "dns": {"nameservers": ["172.20.255.1", "fe80::1%eth0"]},
    }
    assert facts_of("NAME=Ubuntu\nVERSION_ID='24.04'")["distribution_major_version"] == "24"
    assert facts_of("") == {
        "distribution": "an unknown system", "distribution_major_version": "", "dns": {"nameservers": []},
    }  # fmt: skip


def test_what_of_the_old_template_is_in_use():
    said = (
        "site of the old template: sites-enabled/model\nunit of the old template: model.service\n"
    )
    assert preflight.old_of(DEBIAN + said) == {
        "sites": ["sites-enabled/model"],
        "unit": "model.service",
    }
    assert preflight.old_of(DEBIAN) == {"sites": [], "unit": ""}


@pytest.mark.parametrize(
    ("volume", "sites", "is_refused"),
    [
        ({"device": "auto"}, ["sites-enabled/model"], True),
        ({"mount": "/srv"}, ["sites-enabled/model"], True),
        ({"mount": "/srv/models"}, ["sites-enabled/model"], False),
        ({"device": "auto"}, [], False),
        ({}, ["sites-enabled/model"], False),
    ],
)
def test_a_volume_must_not_hide_the_socket_of_the_old_templates_service(volume, sites, is_refused):
    settings = {"api_endpoint_name": "api-endpoint", "api_endpoint_volume": volume}
    found = preflight.hidden(settings, {"sites": sites, "unit": ""})
    assert [problem.split()[-1] for problem in found] == (["later."] if is_refused else [])


# --- code


def test_code_that_the_host_has_is_not_sent(act, tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "wsgi.py").write_text("app = None\n")
    (tmp_path / "app" / "requirements.txt").write_text("")
    given = {
        "folder": str(tmp_path / "app"),
        "root": str(tmp_path / "root"),
        "variables": {"playbook_dir": str(tmp_path)},
    }
    told = act("code", check_mode=True, **given)
    assert told["changed"]
    assert act.asked == [], "a dry run sends nothing"
    act("code", **given)
    [(_, asked)] = act.asked
    assert (asked["digest"], asked["archive"]) == (told["digest"], "/tmp/there/code.tar.gz")
    (tmp_path / "root" / "code" / asked["digest"]).mkdir(parents=True)
    assert act("code", **given) == {"changed": False, "digest": asked["digest"], "revision": ""}
    assert len(act.asked) == 1


code = load_file(ROLE / "action_plugins" / "api_endpoint_code.py")


def test_the_revision_is_that_of_the_repository_that_tracks_the_app(tmp_path):
    """A folder of an app that lies in another repository's clone, which tracks nothing of it, has none."""

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    (tmp_path / "tracked").mkdir()
    (tmp_path / "tracked" / "wsgi.py").write_text("app = None\n")
    assert code.revision(tmp_path / "tracked") == ""
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert code.revision(tmp_path / "tracked") == commit
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "wsgi.py").write_text("app = None\n")
    assert code.revision(tmp_path / "mine") == ""
    (tmp_path / "tracked" / "model.py").write_text("")
    assert code.revision(tmp_path / "tracked") == f"{commit}+changes"


# --- model data


@pytest.fixture
def stored(tmp_path):
    """A store with two artifacts, and the arguments that ask for them."""
    store = Store(tmp_path / "it's data", "any")
    store.folder.mkdir()
    store.claim("api-endpoint", may_write=True)
    artifacts = []
    for text, mode in (("model", ""), ("word\nlist", "0644")):
        (tmp_path / "made").write_text(text)
        sha256 = file_digest(tmp_path / "made")
        store.add(key_of(sha256, False, mode), tmp_path / "made", mode=mode, source='a \\n "é"')
        artifacts.append(
            {
                "dest": f"./{text[:4]}",
                "url": "https://a.example",
                "sha256": sha256.upper(),
                "mode": mode,
            }
        )
    artifacts[1]["writable"] = "yes"
    return store, {"name": "api-endpoint", "data_dir": str(store.folder), "artifacts": artifacts}


def test_data_that_is_there_is_not_brought(act, stored):
    store, given = stored
    keys = [
        key_of(artifact["sha256"].lower(), False, artifact["mode"])
        for artifact in given["artifacts"]
    ]
    assert all(store.has(key) for key in keys)
    told = [
        {"dest": "mode", "digest": keys[0], "writable": False},
        {"dest": "word", "digest": keys[1], "writable": True},
    ]
    for check_mode in (True, False):
        assert act("artifacts", check_mode, **given) == {
            "changed": False, "missing": [], "uploads": {}, "artifacts": told,
        }  # fmt: skip
    assert act("artifacts", **{**given, "artifacts": []})["artifacts"] == []
    assert act.asked == []


def changed_time(folder):
    os.utime(next(folder.glob("*/artifact")), ns=(1, 1_700_000_000_000_000_001))


def changed_size(folder):
    path = next(folder.glob("*/artifact"))
    before = path.stat()
    path.write_text("mode")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def swapped_notes(folder):
    first, second = folder.glob("*/artifact.json")
    first_text = first.read_text()
    first.write_text(second.read_text())
    second.write_text(first_text)


def replaced_by_a_folder(folder):
    path = next(folder.glob("*/artifact"))
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "harm",
    [
        changed_time, changed_size, swapped_notes, replaced_by_a_folder,
        lambda folder: next(folder.glob("*/artifact")).unlink(),
        lambda folder: next(folder.glob("*/artifact.json")).unlink(),
        lambda folder: next(folder.glob("*/artifact.json")).write_text("{}"),
        lambda folder: next(folder.glob("*/artifact.json")).write_text("[]"),
        lambda folder: next(folder.glob("*/artifact.json")).write_text("damaged"),
        lambda folder: (folder / ".endpoint").unlink(),
        lambda folder: (folder / ".endpoint").write_text("another\n"),
        lambda folder: folder.rename(folder.with_name("pulled off")),
    ],
)  # fmt: skip
def test_data_that_is_not_as_noted_is_the_modules(act, stored, harm):
    store, given = stored
    harm(store.folder)
    answer = {"failed": True}
    assert act("artifacts", **given, answers=[answer]) == answer
    assert act.asked[0][1]["step"] == "plan"


@pytest.mark.parametrize(
    "more",
    [
        {"command": "make"},
        {"sha256": None},
        {"mode": 420},
        {"writable": None},
        {"unpack": "true"},
        {"unpack": None},
    ],
    ids=str,
)
def test_data_whose_key_only_the_host_knows_is_the_modules(act, stored, more):
    _store, given = stored
    given["artifacts"][0] |= more
    act("artifacts", **given, answers=[{"failed": True}])
    assert len(act.asked) == 1


def test_more_than_fits_a_command_is_the_modules(act, stored):
    given = stored[1]
    act("artifacts", **{**given, "artifacts": given["artifacts"] * 101}, answers=[{"failed": True}])
    assert len(act.asked) == 1
    assert act("artifacts", **{**given, "artifacts": given["artifacts"] * 100})["missing"] == []
    assert len(act.asked) == 1


def test_data_that_shall_be_verified_is_the_modules(act, stored):
    act("artifacts", **stored[1], verify=True, answers=[{"failed": True}])
    assert len(act.asked) == 1


def test_a_rollout_is_followed_until_it_is_done(act):
    """Its module answers every few seconds; the last answer counts."""
    waits = [{"task": "t", "text": "not ready after 4 of 40 s"}, {"task": "t", "text": ""}]
    assert act("rollout", name="api", answers=[*waits, {"changed": True, "release": "a"}]) == {
        "changed": True, "release": "a",
    }  # fmt: skip
    assert len(act.asked) == 3
    act.asked.clear()
    failed = {"failed": True, "task": "t", "msg": "no"}
    assert act("rollout", name="api", answers=[waits[0], failed]) == failed
    assert len(act.asked) == 2
