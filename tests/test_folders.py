"""Folders are what they should be, and no link leads the change elsewhere."""

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import folders


def entry(path, mode="0750"):
    return {"path": str(path), "owner": "any", "group": "any", "mode": mode}


def test_a_folder_is_made_then_mended_then_left(tmp_path):
    path = tmp_path / "a" / "b"
    assert folders.ensure(entry(path), check_mode=True)
    assert not path.exists()
    assert folders.ensure(entry(path), check_mode=False)
    assert path.stat().st_mode & 0o7777 == 0o750
    assert not folders.ensure(entry(path), check_mode=False)
    assert folders.ensure(entry(path, "0700"), check_mode=True)
    assert path.stat().st_mode & 0o7777 == 0o750
    assert folders.ensure(entry(path, "0700"), check_mode=False)


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("target")
    with pytest.raises(DeployError, match="link is no folder"):
        folders.ensure(entry(tmp_path / "link", "0777"), check_mode=False)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o700


def test_a_file_in_its_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match=r"file is no folder.*move away"):
        folders.ensure(entry(tmp_path / "file"), check_mode=False)
