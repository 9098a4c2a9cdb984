"""Digests that mean what they should, and writes that are never half done."""

import os
import stat

import pytest
from ansible.module_utils.api_endpoint import files as store
from ansible.module_utils.api_endpoint.digests import file_digest, tree_digest, value_digest, walk
from ansible.module_utils.api_endpoint.files import BUILDING, chown_tree, is_within, replace_symlink, staged_dir, write_file


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
        lambda root: ((root / "__pycache__").mkdir(), (root / "__pycache__" / "x.pyc").write_text("x")),
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
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tree.iterdir() if not path.is_symlink()}
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
