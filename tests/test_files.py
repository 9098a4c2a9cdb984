"""Digests that mean what they should, and writes that are never half done."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.api_endpoint import files as store
from ansible.module_utils.api_endpoint.digests import (
    file_digest,
    leads_out,
    tree_digest,
    value_digest,
    walk,
)
from ansible.module_utils.api_endpoint.files import (
    BUILDING,
    chown_tree,
    is_within,
    replace_symlink,
    staged_dir,
    work_folder,
    write_file,
)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    (root / "package").mkdir(parents=True)
    (root / "wsgi.py").write_text("app = 1\n")
    (root / "package" / "__init__.py").write_text("")
    (root / "link").symlink_to("wsgi.py")
    return root


def test_a_digest_is_sha256(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert file_digest(tmp_path / "empty").startswith("e3b0c44298fc1c149afbf4c8996fb924")


def test_a_values_digest_does_not_depend_on_the_order_of_keys():
    assert value_digest({"a": 1, "b": [2]}) == value_digest({"b": [2], "a": 1})
    assert value_digest({"a": 1}) != value_digest({"a": 2})
    assert len(value_digest({}, 12)) == 12


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "wsgi.py").write_text("app = 2\n"),
        lambda root: (root / "wsgi.py").rename(root / "other.py"),
        lambda root: (root / "new").write_text(""),
        lambda root: (root / "wsgi.py").chmod(0o755),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("package")),
    ],
    ids=["content", "name", "new file", "executable", "link"],
)
def test_a_trees_digest_changes_with_what_is_in_it(tree, change):
    before = tree_digest(tree)
    change(tree)
    assert tree_digest(tree) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: os.utime(root / "wsgi.py", (1, 1)),
        lambda root: (root / "wsgi.py").chmod(0o600),
        lambda root: (
            (root / "__pycache__").mkdir(),
            (root / "__pycache__" / "x.pyc").write_text("x"),
        ),
        lambda root: ((root / ".git").mkdir(), (root / ".git" / "HEAD").write_text("x")),
    ],
    ids=["time", "rights", "caches", "git"],
)
def test_a_trees_digest_does_not_change_with_what_is_around_it(tree, change):
    before = tree_digest(tree)
    change(tree)
    assert tree_digest(tree) == before


def test_excluded_names_are_left_out_anywhere_and_excluded_paths_at_their_place(tree):
    (tree / "package" / "notes.ipynb").write_text("")
    (tree / "data").mkdir()
    (tree / "data" / "model.bin").write_text("")
    (tree / "package" / "data").mkdir()
    (tree / "package" / "data" / "kept").write_text("")
    found = {str(path) for path in walk(tree, ["*.ipynb", "/data"])}
    assert found == {"link", "package/__init__.py", "package/data/kept", "wsgi.py"}


@pytest.mark.parametrize(
    ("name", "target", "is_out"),
    [
        ("a", "wsgi.py", False),
        ("a", "package", False),
        ("package/a", "../wsgi.py", False),
        ("a", "nowhere", False),
        ("a", "../outside", True),
        ("a", "../tree/wsgi.py", True),  # it comes back, to a name that is another one on the host
        ("a", "{root}/wsgi.py", True),
        ("a", "package/../../outside", True),
        ("a", ".git/annex/x", True),
        ("a", "out/x", True),  # over another link
    ],
)
def test_links_that_lead_out(tree, name, target, is_out):
    (tree.parent / "outside").mkdir()
    (tree / "out").symlink_to("../outside")
    (tree / name).symlink_to(target.format(root=tree))
    assert leads_out(tree, Path(name)) is is_out


def test_a_tree_whose_links_are_followed_has_the_digest_of_a_copy_without_links(tree, tmp_path):
    (tmp_path / "blobs" / "inner").mkdir(parents=True)
    (tmp_path / "blobs" / "inner" / "weights").write_text("first")
    (tmp_path / "blobs" / "run").write_text("#!/bin/sh")
    (tmp_path / "blobs" / "run").chmod(0o755)
    (tree / "folder").symlink_to("../blobs/inner")
    (tree / "package" / "run").symlink_to(tmp_path / "blobs" / "run")
    subprocess.run(["cp", "-rL", tree, tmp_path / "copy"], check=True)
    followed = tree_digest(tree, follow=True)
    assert followed == tree_digest(tmp_path / "copy")
    assert followed != tree_digest(tree)
    (tmp_path / "blobs" / "inner" / "weights").write_text("other")
    assert tree_digest(tree, follow=True) != followed


def test_names_that_are_no_utf_8(tree, tmp_path):
    name = os.fsdecode(b"gr\xf6\xdfe")
    (tree / name).write_text("x")
    before = tree_digest(tree)
    (tree / name).rename(tree / os.fsdecode(b"gr\xf6\xdfer"))
    assert tree_digest(tree) != before
    store.write_json(tmp_path / "notes.json", {"path": name}, 0o600)
    assert store.read_json(tmp_path / "notes.json") == {"path": name}


def test_a_folder_for_work_is_empty_and_leaves_nothing(tmp_path):
    (tmp_path / "work" / "code" / "killed").mkdir(parents=True)

    def fail():
        with work_folder(tmp_path, "code") as folder:
            assert os.listdir(folder) == []
            assert folder == tmp_path / "work" / "code"
            (folder / "half").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(tmp_path / "work") == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_file(path, "old", 0o640)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
    with pytest.raises(OSError, match="no"):
        write_file(path, "new", 0o640)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_turned_and_tells_whether_it_was(tmp_path):
    link = tmp_path / "live"
    assert replace_symlink(link, "blue")
    assert not replace_symlink(link, "blue")
    assert replace_symlink(link, "green")
    assert os.readlink(link) == "green"
    assert os.listdir(tmp_path) == ["live"]


def test_an_entry_that_is_not_finished_has_no_name(tmp_path):
    final = tmp_path / "store" / "entry"

    def fail():
        with staged_dir(final) as folder:
            (folder / "half").write_text("x")
            assert folder.name.startswith(BUILDING)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert os.listdir(final.parent) == []
    with staged_dir(final) as folder:
        (folder / "whole").write_text("x")
    assert os.listdir(final.parent) == ["entry"]


def test_rights_are_set_on_files_and_folders_and_links_are_left(tree):
    (tree / "run.sh").write_text("")
    (tree / "run.sh").chmod(0o700)
    outside = tree.parent / "outside"
    outside.write_text("")
    outside.chmod(0o604)
    (tree / "away").symlink_to(outside)
    os.mkfifo(tree / "pipe")
    chown_tree(tree, "any", "any")
    (tree / "pipe").unlink()
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in tree.iterdir()
        if not path.is_symlink()
    }
    assert modes == {"package": 0o750, "run.sh": 0o750, "wsgi.py": 0o640}
    assert stat.S_IMODE(outside.stat().st_mode) == 0o604


def test_nobody_gets_in_while_a_tree_changes_its_owner(tree, monkeypatch):
    """The owner of its content could put a link in the place of a folder, and root would follow it."""
    seen = []
    own_one = store._own_one

    def watched(name, *rest):
        seen.append((name, stat.S_IMODE(tree.stat().st_mode)))
        own_one(name, *rest)

    tree.chmod(0o777)
    monkeypatch.setattr(store, "_own_one", watched)
    chown_tree(tree, "any", "any")
    assert seen[-1][0] == tree.name
    assert {mode for _name, mode in seen} == {0o700}
    assert stat.S_IMODE(tree.stat().st_mode) == 0o750


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a", True),
        ("a/b", True),
        ("a/../b", True),
        ("../x", False),
        ("a/../../x", False),
        ("/etc", False),
        (".", False),
    ],
)
def test_inside(tmp_path, path, expected):
    assert is_within(tmp_path, path) is expected
