"""A dry run ends with five lines that a person reads; a deployment with how to ask the API before DNS leads to it."""

import shlex

import pytest
from ansible.module_utils.api_endpoint.controller.dry_run import how_to_ask, plan
from ansible.module_utils.api_endpoint.controller.rsync import ssh_command

OLD, NEW = "a" * 12, "b" * 12
NOTHING = {"changed": False, "written": []}
SAME = {
    "packages": {"changed": False},
    "files": [NOTHING, {}],
    "nginx": NOTHING,
    "code": {"changed": False},
    "virtualenv": {"changed": False},
    "data": {"changed": False, "missing": [], "artifacts": [{"dest": "model.bin"}]},
    "rollout": {"changed": False, "release": OLD, "previous": OLD},
}
BARE = {
    "packages": {"changed": True, "missing": ["a", "b", "c", "d", "nginx"]},
    "files": [{"changed": True, "written": ["/etc/x"]}, {"changed": True, "written": ["/etc/y"]}],
    "nginx": {"changed": True, "written": ["nginx.conf"]},
    "code": {"changed": True},
    "virtualenv": {"changed": True},
    "data": {
        "changed": True, "missing": ["model.bin", "w.tsv"],
        "diff": {"after": "model.bin from https://a.example/m (1.2 GiB)\nw.tsv from this computer (3 MiB)\n"},
    },
    "rollout": {"changed": True, "previous": "", "release": ""},
}  # fmt: skip


def lines(found):
    """The lines of a plan by their names; first and last say how it is meant."""
    first, *rows, last = plan(found).splitlines()
    assert first.startswith("A dry run: nothing was changed.")
    assert last == "Details: --check --diff."
    return {row.split()[0]: row.split(maxsplit=1)[1] for row in rows}


def test_a_bare_host():
    assert lines(BARE) == {
        "packages": "Installs 5 Debian packages: a, b, c, d and 1 more.",
        "files": "Writes 3 files of the system: /etc/x, /etc/y, nginx.conf.",
        "version": "Builds the first release; new on this host: code, requirements, model data.",
        "data": "Brings 2 artifacts: model.bin from https://a.example/m (1.2 GiB), w.tsv from this computer (3 MiB).",
        "clients": "Nothing is live yet, so that nobody notices.",
    }


def test_nothing_to_do():
    assert lines(SAME) == {
        "packages": "All are installed.",
        "files": "All are as they should be.",
        "version": f"Release {OLD} is live already.",
        "data": "All is on the host.",
        "clients": "They notice nothing.",
    }


@pytest.mark.parametrize(
    ("part", "found", "line", "words"),
    [
        ("nginx", {"changed": True, "written": ["sites-available/api"]}, "clients", "nginx reloads; no request fails."),
        ("nginx", {"changed": True, "written": []}, "clients", "nginx reloads; no request fails."),
        ("nginx", {"changed": True, "written": []}, "files", "Puts files to use that are written."),
        ("rollout", {"release": NEW, "previous": OLD}, "clients", "A new version starts beside the live one"),
        ("rollout", {"release": NEW, "previous": OLD, "differs": ["settings", "writable_paths"]}, "version",
         f"Builds release {NEW} in place of {OLD}; new: settings."),
        ("rollout", {"release": NEW, "previous": OLD, "differs": ["artifacts", "code"]}, "version",
         "new: model data, code."),
        ("data", {"changed": True, "missing": ["m"]}, "data", "Brings 1 artifact: m."),
        ("data", {"changed": False, "missing": [], "artifacts": []}, "data", "None is wanted."),
        ("packages", {"changed": True}, "packages", "Removes what an interrupted installation left."),
    ],
)  # fmt: skip
def test_what_changes_is_told(part, found, line, words):
    assert words in lines({**SAME, part: found})[line]


def test_parts_that_the_tags_leave_out_are_left_out():
    assert list(lines({"files": [{}, {}], "nginx": NOTHING})) == ["files", "clients"]


class Connection:
    """A connection of the run's."""

    def __init__(self, transport="ssh", **options):
        self.transport, self.options = transport, options

    def get_option(self, name):
        return self.options[name]


def test_the_way_to_a_host_has_the_options_of_the_run():
    connection = Connection(
        host="10.0.0.7", port=2222, remote_user="ada", private_key_file="/keys/my key",
        ssh_args="-o ControlMaster=auto -o ControlPersist=60s -o ServerAliveInterval=15",
        ssh_common_args="-J ada@bastion.example.org",
    )  # fmt: skip
    command = ssh_command(connection)
    assert command == (
        "ssh -J ada@bastion.example.org -p 2222 -i '/keys/my key' -o IdentitiesOnly=yes -l ada 10.0.0.7"
    )
    asked = how_to_ask("https://api.example.org", "/readyz?a=1", 8080, command).splitlines()
    assert asked[0] == "It was asked on the host, not from outside. To ask it:"
    name, marked = asked[1].split(" on this computer: ")
    assert name == "before DNS   "[: len(name)]
    words = shlex.split(marked)
    assert words[:-1] == shlex.split(command)
    assert shlex.split(words[-1]) == [
        "curl", "-H", "Host:api.example.org", "http://127.0.0.1:8080/readyz?a=1",
    ]  # fmt: skip
    assert asked[2].endswith("curl 'https://api.example.org/readyz?a=1'")


def test_without_ssh_it_is_asked_on_the_host():
    assert ssh_command(Connection("community.docker.docker")) == ""
    assert "on the host: curl " in how_to_ask("https://a.example", "/", 80, "")
