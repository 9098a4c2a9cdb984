# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python under a virtualenv: whether the service's account can run it, and whether it still fits what was installed."""

from __future__ import annotations

import errno
import os
import platform
import re
from pathlib import Path

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import acting_as
from ansible.module_utils.api_endpoint.sandbox import Sandbox

HIDDEN = ("/home", "/root", "/run/user")  # from the service, by ProtectHome
REPLACED = ("/dev/shm", "/tmp", "/var/tmp")  # noqa: S108 - by the service's own
PROBE_TIMEOUT_SECONDS = 60
OLDEST = (3, 10)  # for gunicorn, and for the role's worker
PROBE = (
    "import sys, importlib.util as u; "
    "print('Python', *sys.version_info[:2], *(n for n in ('venv', 'ensurepip') if not u.find_spec(n)))"
)
ELSEWHERE = "Install a Python where every account can run it, for example below /opt, and give its path there"


def misplaced(path: str) -> str:
    """Return why the service cannot see a path, whatever lies there; empty when it can."""
    for folder in (*HIDDEN, *REPLACED):
        if Path(path).is_relative_to(folder):
            why = (
                "is hidden from the service"
                if folder in HIDDEN
                else "is another folder for the service, and empty"
            )
            return f"it lies in {folder}, which {why}. {ELSEWHERE}"
    return ""


def unusable(python: str, user: str) -> str:
    """Return why an account cannot run a Python on this host, as far as the disk tells; empty when nothing is known."""
    real = os.path.realpath(python)
    if why := misplaced(python) or misplaced(real):
        return why if python == real else f"it leads to {real}: {why}"
    if not os.path.isfile(real):
        where = (
            "is no file on this host"
            if python == real
            else f"leads to {real}, which is no file on this host"
        )
        return f"it {where}. Name its Debian package in api_endpoint_apt_packages, or give the path of one that is there"
    with open(real, "rb") as file:
        if file.read(2) == b"#!":
            return (
                "it is a script that looks for a Python, such as a shim of pyenv's, and the service's account finds none. "
                'Give the path of the Python itself, as it prints by -c "import sys; print(sys.executable)"'
            )
    if os.statvfs(real).f_flag & os.ST_NOEXEC:
        return f"its disk is mounted with noexec, so that nothing on it runs. {ELSEWHERE}"
    try:
        with acting_as(user):
            closed = [
                path for path in (*reversed(Path(real).parents), Path(real)) if not _is_open(path)
            ]
    except (
        KeyError,
        PermissionError,
    ):  # a dry run before there is the account, or without being root
        return ""
    return (
        f"the account {user} may not use {closed[0]}: sudo chmod o+rx {closed[0]}, or give another one"
        if closed
        else ""
    )


def _is_open(path: Path) -> bool:
    return os.access(path, os.X_OK, effective_ids=True)


def refuse_unusable(python: str, user: str) -> None:
    """Raise DeployError when the disk tells that an account cannot run a Python."""
    if why := unusable(python, user):
        raise DeployError(
            f"api_endpoint_python is {python!r}, which the service cannot run: {why}."
        )


def does_not_run(python: str, error: Exception, output: str) -> DeployError:
    """Return the error for a Python that does not even run as root."""
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        why = f"it is no program for this host's processor ({platform.machine()})"
    else:
        why = (output.strip().splitlines() or [str(error)])[-1].rstrip(".")
    return DeployError(
        f"api_endpoint_python is {python!r}, which does not run on the host: {why}. "
        "Give the absolute path of a Python 3 with its venv module."
    )


def probe(python: str, name: str, user: str, folder: Path) -> None:
    """Run a Python in an endpoint's sandbox before anything is installed for it; raise DeployError when it is unfit."""
    done = Sandbox(name, "python", user, folder, timeout=PROBE_TIMEOUT_SECONDS).run(
        [python, "-c", PROBE]
    )
    words = (done.output.splitlines() or ["nothing"])[-1].split()
    start = f"api_endpoint_python is {python!r}, "
    if done.status != 0 or words[:1] != ["Python"]:
        raise DeployError(
            f"{start}which does not run as {user} in the service's sandbox (exit status {done.status}): "
            f"{' '.join(words)}. {ELSEWHERE}."
        )
    major, minor, *lacking = words[1:]
    version = f"{major}.{minor}"
    if (int(major), int(minor)) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise DeployError(
            f"{start}which is Python {version}. gunicorn needs {oldest} or newer: give a newer one, or leave "
            "api_endpoint_python out, for Debian's own."
        )
    if lacking:
        raise DeployError(
            f"{start}which lacks {' and '.join(lacking)}, by which virtualenvs are made. For a Python of Debian's, add "
            f"python{version}-venv to api_endpoint_apt_packages; one that was compiled needs `make install` with ensurepip."
        )


# --- whether what was installed still runs


def made_for(virtualenv: Path) -> list[str]:
    """Return the versions of Python for which a virtualenv has packages, such as 3.11."""
    return sorted(path.name.removeprefix("python") for path in virtualenv.glob("lib/python3.*"))


def python_changed(virtualenv: Path) -> str:
    """Return why a virtualenv's packages have lost their Python; empty when they have not.

    It only reads. A virtualenv belongs to the app's account, so root runs nothing in it.
    """
    if not virtualenv.is_dir():
        return ""
    python, versions = virtualenv / "bin/python", made_for(virtualenv)
    link, real = python, os.path.realpath(python)
    while link.is_symlink() and link.parent == python.parent:
        link = link.parent / os.readlink(link)
    if not os.path.exists(real):
        which = str(link) if str(link) == real else f"{link}, which leads to {real}"
        return f"the Python of its virtualenv, {which}, is gone"
    # Whatever the version of a correction (3.13.5): packages fit all of one minor version.
    runs = re.fullmatch(r"python(3\.\d+)", os.path.basename(real))
    if not runs or not versions or runs[1] in versions:
        return ""
    return f"its virtualenv was made for Python {versions[0]}, and {link} is {runs[1]} now, as after an upgrade of Debian"


def cannot_start(virtualenv: Path) -> str:
    """Return why no program of a virtualenv starts; empty when nothing is known."""
    if not virtualenv.is_dir():
        return f"its virtualenv, {virtualenv.resolve()}, is gone"
    if changed := python_changed(virtualenv):
        return changed
    gunicorn = virtualenv.resolve() / "bin/gunicorn"
    return "" if gunicorn.exists() else f"its {gunicorn} is gone"


def refuse_part(why: str) -> None:
    """Raise DeployError for a part of a run, where there is a reason why the live release cannot start again."""
    if why:
        raise DeployError(
            f"Run site.yml without tags: the live release cannot start again, because {why}. A part of a run does not "
            "change that, and would fail in the end. Nothing live was touched."
        )
