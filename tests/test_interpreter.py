"""A Python that the service cannot run is refused before anything is installed for it, and one that has gone is noticed."""

import contextlib
import os
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint import interpreter
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.interpreter import (
    cannot_start,
    misplaced,
    probe,
    python_changed,
    unusable,
)
from ansible.module_utils.api_endpoint.release import virtualenv as venv
from ansible.module_utils.api_endpoint.release.requirements import Plan
from ansible.module_utils.api_endpoint.sandbox import Outcome, Sandbox
from helpers import Stub, make_virtualenv

UPGRADED = (
    "was made for Python 3.11, and {tmp}/bin/python3 is 3.13 now, as after an upgrade of Debian"
)


@pytest.fixture
def host(tmp_path, monkeypatch):
    """A folder that is no temporary one, with two Pythons of Debian's and one that was compiled."""
    monkeypatch.setattr(interpreter, "REPLACED", (str(tmp_path / "tmp"),))
    monkeypatch.setattr(interpreter, "HIDDEN", (str(tmp_path / "home"),))
    monkeypatch.setattr(interpreter, "acting_as", lambda _user: contextlib.nullcontext())
    for path in (
        "bin/python3.11",
        "bin/python3.13",
        "opt/bin/python3.12",
        "home/me/bin/python3.12",
        "tmp/python3",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"\x7fELF")
        (tmp_path / path).chmod(0o755)
    (tmp_path / "bin/python3").symlink_to("python3.13")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/root/.pyenv/versions/3.12.1/bin/python3.12", "hidden"),
        ("/home/me/miniconda3/bin/python", "hidden"),
        ("/run/user/1000/python", "hidden"),
        ("/tmp/venv/bin/python", "another folder"),
        ("/var/tmp/python", "another folder"),
        ("/dev/shm/python", "another folder"),
        ("/usr/bin/python3", ""),
        ("/opt/python/bin/python3.12", ""),
        ("/homes/python", ""),
    ],
)
def test_where_the_service_sees_nothing_of_the_hosts(path, word):
    assert word in misplaced(path)
    assert bool(misplaced(path)) == bool(word)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("bin/python3", ""),
        ("opt/bin/python3.12", ""),
        ("home/me/bin/python3.12", "is hidden from the service"),
        ("tmp/python3", "another folder for the service"),
        ("bin/to-home", "leads to {tmp}/home/me/bin/python3.12: it lies in"),
        ("bin/to-nothing", "leads to {tmp}/nothing, which is no file"),
        (
            "bin/python9",
            "is no file on this host. Name its Debian package in api_endpoint_apt_packages",
        ),
        ("bin", "is no file on this host"),
        ("bin/shim", "a script that looks for a Python, such as a shim of pyenv's"),
        ("closed/python3", "the account any may not use {tmp}/closed: sudo chmod o+rx"),
        ("bin/not-executable", "the account any may not use {tmp}/bin/not-executable"),
        ("noexec/python3", "mounted with noexec"),
    ],
)
def test_a_python_that_the_service_cannot_run_is_refused_with_the_reason(
    host, monkeypatch, path, word
):
    (host / "bin/to-home").symlink_to(host / "home/me/bin/python3.12")
    (host / "bin/to-nothing").symlink_to(host / "nothing")
    (host / "bin/shim").write_text('#!/usr/bin/env bash\nexec pyenv exec python "$@"\n')
    (host / "bin/not-executable").write_text("")
    for folder in ("closed", "noexec"):
        (host / folder).mkdir()
        (host / folder / "python3").write_bytes(b"\x7fELF")
        (host / folder / "python3").chmod(0o755)
    (host / "closed").chmod(0o700)
    # What others may do, whoever runs the tests; the folders of the tests themselves are closed, too.
    monkeypatch.setattr(
        interpreter,
        "_is_open",
        lambda path: host not in path.parents or path.stat().st_mode & stat.S_IXOTH,
    )
    real_statvfs = os.statvfs
    noexec = SimpleNamespace(f_flag=os.ST_NOEXEC)
    monkeypatch.setattr(
        os, "statvfs", lambda path: noexec if "noexec" in str(path) else real_statvfs(path)
    )
    told = unusable(str(host / path), "any")
    assert word.format(tmp=host) in told
    assert bool(told) == bool(word)


@pytest.mark.parametrize(
    ("status", "output", "word"),
    [
        (0, "Python 3 13", ""),
        (0, "a warning\nPython 3 10", ""),
        (0, "Python 3 9", "which is Python 3.9. gunicorn needs 3.10 or newer"),
        (1, 'File "<string>", line 1\nSyntaxError: invalid syntax', "SyntaxError"),  # Python 2
        (0, "Python 3 11 ensurepip", "lacks ensurepip, by which virtualenvs are made. For a Python of Debian's, add pyth"),
        (0, "Python 3 12 venv ensurepip", "lacks venv and ensurepip"),
        (0, "", "does not run as any in the service's sandbox (exit status 0): nothing"),
        (127, "python: error while loading shared libraries: libpython3.12.so: no such file", "libpython3.12.so"),
        (203, "", "does not run as any in the service's sandbox (exit status 203)"),
    ],
)  # fmt: skip
def test_a_python_is_run_in_the_sandbox_first(tmp_path, monkeypatch, status, output, word):
    asked = []
    monkeypatch.setattr(
        Sandbox,
        "run",
        lambda self, command: asked.append(self.unit) or Outcome(status, output, False),
    )
    expected = pytest.raises(DeployError) if word else contextlib.nullcontext()
    with expected as told:
        probe("/opt/python", "api", "any", tmp_path)
    # Never the unit in which another run may be installing at this moment.
    assert asked == ["api-python.service"]
    assert not word or (word in str(told.value) and "'/opt/python'" in str(told.value))


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(57), "no program for this host's processor"),
        (
            b"#!/bin/sh\necho pyenv: python: command not found >&2; exit 127\n",
            "pyenv: python: command not found",
        ),
        (b"#!/nowhere/interpreter\n", "No such file or directory"),
    ],
)
def test_what_does_not_even_run_as_root_is_said_in_words(host, content, word):
    python = host / "bin/mine"
    python.write_bytes(content)
    python.chmod(0o755)
    with pytest.raises(
        DeployError,
        match=f"api_endpoint_python is '{python}', which does not run on the host: .*{word}",
    ):
        venv.Virtualenv(Stub(python=str(python), credentials={})).key()


@pytest.mark.parametrize(
    ("python", "versions", "word"),
    [
        ("bin/python3", ["3.13"], ""),  # also after a correction, 3.13.5 to 3.13.9
        ("bin/python3.11", ["3.11"], ""),  # named by its version, and still there after the upgrade
        ("bin/python3", ["3.11", "3.13"], ""),  # somebody ran venv --upgrade
        ("opt/bin/python3.12", ["3.12"], ""),
        ("tmp/python3", ["3.12"], ""),  # its name does not say which version it is
        ("bin/python3", ["3.11"], UPGRADED),
        ("bin/python3.9", ["3.9"], "the Python of its virtualenv, {tmp}/bin/python3.9, is gone"),
        (
            "bin/dangling",
            ["3.12"],
            "{tmp}/bin/dangling, which leads to {tmp}/compiled/python3.12, is gone",
        ),
    ],
)
def test_packages_that_have_lost_their_python(host, python, versions, word):
    (host / "bin/dangling").symlink_to(host / "compiled/python3.12")
    virtualenv = make_virtualenv(host / "venv", host / python, *versions)
    for told in (python_changed(virtualenv), cannot_start(virtualenv)):
        assert word.format(tmp=host) in told
        assert bool(told) == bool(word)


def test_a_virtualenv_that_was_removed(host):
    virtualenv = make_virtualenv(host / "venv", host / "bin/python3", "3.13")
    (virtualenv / "bin/gunicorn").unlink()
    assert python_changed(virtualenv) == ""
    assert cannot_start(virtualenv) == f"its {virtualenv}/bin/gunicorn is gone"
    (host / "p3env").symlink_to(host / "removed")
    assert python_changed(host / "p3env") == ""
    assert cannot_start(host / "p3env") == f"its virtualenv, {host}/removed, is gone"


@pytest.fixture
def code(host, monkeypatch):
    """An app without requirements, and a virtualenv live that was made for a Python that is gone."""
    (host / "code/digest").mkdir(parents=True)
    Plan().write(host / "code/digest")
    (host / "p3env").symlink_to(make_virtualenv(host / "old", "/nowhere/python3.11", "3.11"))
    monkeypatch.setattr(interpreter, "_is_open", lambda _path: True)
    monkeypatch.setattr(venv.Virtualenv, "key", lambda _self: "0" * 16)
    monkeypatch.setattr(venv.Virtualenv, "build", lambda *_: pytest.fail("it was built"))
    return host


def ensure(host: Path, **more):
    given = {
        "name": "api", "root": str(host), "code": "digest", "python": str(host / "bin/python3"), "packages": [],
        "gunicorn": "gunicorn", "constraints": [], "credentials": {}, "index_url": "",
        "extra_index_urls": [], "options": [], "exclude": [], "user": "any", "part": False, **more,
    }  # fmt: skip
    return venv.ensure(Stub(**given))


def test_nothing_is_made_for_a_python_that_the_service_cannot_run(code, monkeypatch):
    with pytest.raises(DeployError, match="is hidden from the service"):
        ensure(code, python=str(code / "home/me/bin/python3.12"))
    monkeypatch.setattr(Sandbox, "run", lambda *_: Outcome(0, "Python 3 9", False))
    with pytest.raises(DeployError, match="gunicorn needs"):
        ensure(code)


def test_a_part_of_a_run_says_that_the_whole_is_needed(code):
    with pytest.raises(
        DeployError, match=r"^Run site\.yml without tags: .*/nowhere/python3\.11, is gone"
    ):
        ensure(code, part=True)


def test_where_the_virtualenv_is_there_its_python_is_not_run_in_the_sandbox(code, monkeypatch):
    (code / "venvs" / ("0" * 16)).mkdir(parents=True)
    (code / "venvs" / ("0" * 16) / ".complete").touch()
    monkeypatch.setattr(Sandbox, "run", lambda *_: pytest.fail("it took the time of a sandbox"))
    assert not ensure(code)["changed"]
