"""Owners and permissions that were changed by hand are repaired, and nothing else is touched."""

import errno
import grp
import os
import pwd
import stat
import subprocess

import pytest
from ansible.module_utils.api_endpoint.host import permissions as rights
from ansible.module_utils.api_endpoint.host import permissions_look
from helpers import Stub


@pytest.fixture
def tree(tmp_path):
    """A tree as the role makes it."""
    tree = tmp_path / "releases" / "0123456789ab"
    (tree / "package").mkdir(parents=True)
    for name, mode in (("wsgi.py", 0o640), ("package/run", 0o750), ("p3env", None)):
        if mode:
            (tree / name).write_text("")
            (tree / name).chmod(mode)
    outside = tmp_path / "outside"
    outside.write_text("")
    outside.chmod(0o600)
    (tree / "data").symlink_to(outside)
    for folder in (tree, tree / "package"):
        folder.chmod(0o750)
    return tree


def ensure(tree, check_mode=False, **more):
    given = {
        "paths": [f"{tree.parent}/*"], "owner": "root", "group": "www-data", "folders": "0750", "files": "0440",
        "never": "6022", "leave": [], **more,
    }  # fmt: skip
    return rights.ensure(Stub(check_mode, trees=[given]))


def modes(tree):
    return {
        path.name: stat.S_IMODE(path.lstat().st_mode)
        for path in [tree, *tree.rglob("*")]
        if not path.is_symlink()
    }


AS_MADE = {"0123456789ab": 0o750, "package": 0o750, "wsgi.py": 0o640, "run": 0o750}


def test_what_the_role_made_is_not_touched(tree):
    assert ensure(tree) == {"changed": False, "repaired": []}
    assert modes(tree) == AS_MADE


@pytest.mark.parametrize("mode", [0o000, 0o077])
def test_rights_that_are_missing_and_rights_that_are_too_many(tree, mode):
    for path in (tree / "package" / "run", tree / "wsgi.py", tree / "package", tree):
        path.chmod(path.stat().st_mode & 0o100 | mode)
    assert len(ensure(tree)["repaired"]) == 4
    after = modes(tree)
    for name, wanted in AS_MADE.items():
        assert after[name] & 0o550 & wanted == wanted & 0o550, name
        assert not after[name] & 0o022, name
    assert not ensure(tree)["changed"]


def test_a_program_that_only_its_owner_may_run(tree):
    (tree / "package" / "run").chmod(0o700)
    assert ensure(tree)["repaired"] == [f"{tree}/package/run"]
    assert modes(tree)["run"] == 0o750


def test_check_mode_tells_and_does_nothing(tree):
    (tree / "wsgi.py").chmod(0o666)
    assert ensure(tree, check_mode=True)["repaired"] == [f"{tree}/wsgi.py"]
    assert modes(tree)["wsgi.py"] == 0o666


def test_no_link_is_followed(tree, tmp_path):
    ensure(tree)
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o600
    (tree.parent / "elsewhere").symlink_to(tmp_path)
    assert not ensure(tree)["changed"]


def test_what_is_to_be_left(tree):
    (tree / "wsgi.py").chmod(0o600)
    assert not ensure(tree, leave=["wsgi.py"])["changed"]


def test_what_is_not_there(tree):
    assert not ensure(tree / "nowhere")["changed"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owners(tree, monkeypatch):
    os.chown(tree / "wsgi.py", 4321, 4321)
    os.chown(tree / "data", 4321, 4321, follow_symlinks=False)
    assert sorted(ensure(tree)["repaired"]) == [f"{tree}/data", f"{tree}/wsgi.py"]
    assert (tree / "wsgi.py").stat().st_uid == os.getuid()
    assert (tree / "data").lstat().st_uid == os.getuid()


@pytest.mark.parametrize(
    ("number", "is_the_disks"), [(errno.EIO, True), (errno.EBADMSG, True), (errno.EPERM, False)]
)
def test_a_disk_that_fails_is_left_to_the_step_that_needs_it(
    tree, monkeypatch, number, is_the_disks
):
    other = tree.parent / "ffffffffffff"
    other.mkdir(mode=0o700)
    walk = os.fwalk

    def fails(top, **more):
        if top == str(tree):
            raise OSError(number, os.strerror(number))
        return walk(top, **more)

    monkeypatch.setattr(os, "fwalk", fails)
    if is_the_disks:
        assert ensure(tree)["repaired"] == [str(other)], "the others are repaired"
    else:
        with pytest.raises(OSError, match="not permitted"):
            ensure(tree)


# --- the look by a shell command, which spares the module


OWN, OWN_GROUP = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name


def look(tree, accounts=None, folders=(), **more):
    """Tell whether the look says that nothing is to be done, and whether the module says so."""
    given = {
        "paths": [f"{tree.parent}/*"], "owner": OWN, "group": OWN_GROUP, "folders": "0750", "files": "0440",
        "never": "6022", "leave": [], **more,
    }  # fmt: skip
    asked = permissions_look.question(accounts or {}, list(folders), [given])
    done = subprocess.run(["/bin/sh", "-c", asked], capture_output=True, text=True, check=False)
    return permissions_look.is_as_wanted(list(folders), done.stdout), not ensure(
        tree, check_mode=True, **more
    )["changed"]


HARMS = {
    "nothing": lambda tree: None,
    "a file that all may write": lambda tree: (tree / "wsgi.py").chmod(0o666),
    "a file that the group may not read": lambda tree: (tree / "wsgi.py").chmod(0o600),
    "a file that others may read, which is its own business": lambda tree: (tree / "wsgi.py").chmod(0o644),
    "a program that only its owner may run": lambda tree: (tree / "package" / "run").chmod(0o740),
    "a program that runs as its owner": lambda tree: (tree / "package" / "run").chmod(0o4750),
    "a folder that the group may not enter": lambda tree: (tree / "package").chmod(0o700),
    "the top": lambda tree: tree.chmod(0o700),
    "a file's owner": lambda tree: os.chown(tree / "wsgi.py", 4321, -1),
    "a file's group": lambda tree: os.chown(tree / "wsgi.py", -1, 4321),
    "a link's owner": lambda tree: os.chown(tree / "data", 4321, -1, follow_symlinks=False),
    "a link to elsewhere as top": lambda tree: (tree.parent / "other").symlink_to("/"),
    "a name with spaces": lambda tree: (tree / "it's a file").write_text("") or (tree / "it's a file").chmod(0o777),
}  # fmt: skip


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize(
    "more", [{}, {"group": ""}, {"never": "0000"}, {"leave": ["wsgi.py", "run"]}], ids=str
)
def test_the_look_finds_what_the_module_would_repair(tree, harm, more):
    ensure(tree)
    HARMS[harm](tree)
    looked, module = look(tree, **more)
    assert looked == module


@pytest.mark.parametrize(
    ("folder", "is_so"),
    [
        ({}, True),
        ({"mode": "0755"}, False),
        ({"owner": "daemon"}, False),
        ({"group": "daemon"}, False),
        ({"path": "/nowhere"}, False),
        ({"path": "/proc/self/cwd"}, False),
    ],
    ids=str,
)
@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_the_look_at_folders(tree, folder, is_so):
    given = {"path": str(tree.parent / "it's"), "owner": OWN, "group": OWN_GROUP, **folder}
    made = tree.parent / "it's"
    made.mkdir(mode=0o750)
    ensure(tree)
    assert look(tree, folders=[given])[0] == is_so


@pytest.mark.parametrize(
    ("accounts", "is_so"),
    [({"daemon": []}, True), ({"root": []}, False), ({"nobody-there": []}, False), ({"daemon": ["daemon"]}, False)],
    ids=str,
)  # fmt: skip
def test_the_look_at_accounts(tree, accounts, is_so):
    assert look(tree.parent / "none" / "there", accounts=accounts)[0] == is_so


def test_a_look_that_was_cut_off_says_nothing():
    assert not permissions_look.is_as_wanted([], "")
    assert not permissions_look.is_as_wanted([], f"a greeting\n{permissions_look.LOOKED}\n")
