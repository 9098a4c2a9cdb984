# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what the next start needs, which a version that runs does not show."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint.diagnosis.checks.app import SITE, anew, parts
from ansible.module_utils.api_endpoint.diagnosis.findings import RISK, Finding
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState, run_command
from ansible.module_utils.api_endpoint.interpreter import cannot_start, python_changed
from ansible.module_utils.api_endpoint.release.virtualenv import COMPLETE
from ansible.module_utils.api_endpoint.systemd import systemctl

FSTAB = Path("/etc/fstab")
TRANSIENT = "/run/systemd/transient/"  # where systemd-mount has its units, until the next boot
LATER_SECONDS = 1.0  # that a package may be newer than the note that all were installed
ERROR = re.compile(
    r"^\w*(Error|Exception): |Failed at step|Failed to spawn"
)  # the line that says why
UNIT = re.compile(r"^\S+\.service: ")
SHOWN = 5  # files of a list


def _will_fail(observed: EndpointState) -> str:
    return (
        "The live version runs, and its next start will fail"
        if observed.is_active
        else "The live version cannot start"
    )


def python(observed: EndpointState) -> Iterator[Finding]:
    """Find a virtualenv whose Python was upgraded or removed."""
    virtualenv = observed.folder / "p3env"
    if not virtualenv.is_dir() or not (why := cannot_start(virtualenv)):
        return
    programs = [virtualenv / "bin/python", virtualenv / "bin/gunicorn"]
    evidence = [f"{path} -> {os.path.realpath(path)}" for path in programs]
    evidence += [
        f"packages: {path}" for path in sorted(virtualenv.glob("lib/python3.*/site-packages"))
    ]
    _rc, system = run_command("sed", "--quiet", "s/^PRETTY_NAME=//p", "/etc/os-release")
    # With another Python the virtualenv gets another name, so that nothing has to be removed for it.
    fixes = [SITE] if python_changed(virtualenv) else anew(observed, "virtualenv")
    yield Finding(
        observed.start_severity,
        f"{_will_fail(observed)}: {why}.",
        [*evidence, f"system: {system}"],
        fixes,
    )


def account(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the service's account was removed."""
    if not observed.has_account:
        yield Finding(
            observed.start_severity, f"{_will_fail(observed)}: its account, {observed.user}, is not on this host.",
            [f"getent passwd {observed.user}: nothing"],
            # nginx's workers learn the group's new number.
            [f"{SITE} --tags setup", observed.restart, "sudo systemctl reload nginx"],
        )  # fmt: skip


def mounts(observed: EndpointState) -> Iterator[Finding]:
    """Find a disk that was mounted by hand, so that the next boot leaves it out."""
    needed = {
        observed.root: "the releases", observed.data_dir: "the model data",
        (observed.folder / "p3env").resolve(): "the virtualenv",
        (observed.folder / "p3env/bin/python").resolve(): "its Python",
    }  # fmt: skip
    booted = _timestamp("FinishTimestampMonotonic")
    found: dict[Path, list[str]] = {}
    for path, what in needed.items():
        mount = next(
            folder
            for folder in (path.resolve(), *path.resolve().parents)
            if os.path.ismount(folder)
        )
        if mount != Path("/"):
            found.setdefault(mount, []).append(what)
    listed = [
        line.split()[1] for line in _fstab() if len(line.split()) > 1 and not line.startswith("#")
    ]
    for mount, whats in found.items():
        # Without a unit's file nothing is configured. What was mounted while the host booted will be so again.
        file = systemctl("show", str(mount), "--property=FragmentPath", "--value").stdout.strip()
        if (file and not file.startswith(TRANSIENT)) or str(mount) in listed:
            continue
        if not booted or _timestamp("InactiveExitTimestampMonotonic", str(mount)) <= booted:
            continue
        _rc, shown = run_command(
            "findmnt", "--noheadings", "--first-only", "--output=SOURCE,FSTYPE,UUID", str(mount)
        )
        _source, kind, *uuid = shown.split() or ["", ""]
        line = f"UUID={uuid[0]} {mount} {kind} defaults,nofail 0 2" if uuid else ""
        add = (
            f"echo {shlex.quote(line)} | sudo tee --append {FSTAB}" if line else f"sudoedit {FSTAB}"
        )
        yield Finding(
            RISK, f"{mount}, where the service finds {' and '.join(whats)}, was mounted by hand. The next boot "
            "leaves it out.", [f"findmnt {mount}: {shown}"], [add, "sudo systemctl daemon-reload"],
        )  # fmt: skip


def _fstab() -> list[str]:
    return FSTAB.read_text(encoding="utf-8").splitlines() if FSTAB.exists() else []


def _timestamp(name: str, *unit: str) -> int:
    """Return a time of a unit, or of systemd itself (microseconds since boot)."""
    return int(systemctl("show", *unit, f"--property={name}", "--value").stdout.strip() or 0)


def packages(observed: EndpointState) -> Iterator[Finding]:
    """Find packages that somebody added or removed after the virtualenv was proven."""
    virtualenv = (observed.folder / "p3env").resolve()
    if (
        not (virtualenv / COMPLETE).exists()
        or python_changed(virtualenv)
        or any(gunicorn(observed))
    ):
        return
    since = (virtualenv / COMPLETE).stat().st_mtime + LATER_SECONDS
    changed = []
    for top, folders, _files in os.walk(virtualenv):
        folders[:] = [name for name in folders if name != "__pycache__"]
        # A folder's time tells what was added and removed; the virtualenv's own has this note.
        if top != str(virtualenv) and os.lstat(top).st_mtime > since:
            changed.append(top)
    if changed:
        yield Finding(
            RISK, "The virtualenv of the live version was changed by hand, so its next start may fail or differ: "
            f"{changed[0]}.", changed[:SHOWN], anew(observed, "virtualenv"),
        )  # fmt: skip


def gunicorn(observed: EndpointState) -> Iterator[Finding]:
    """Find out, by starting gunicorn without the app, that the next start fails for a reason that no other check knows."""
    # Of a service that is down the app itself is loaded.
    if (
        observed.crash_looping
        or observed.is_starting
        or not observed.has_account
        or any(parts(observed))
    ):
        return
    virtualenv = observed.folder / "p3env"
    if cannot_start(virtualenv):
        return
    rc, words = observed.start_check
    if rc in (0, 124):
        return
    lines = words.splitlines() or [f"status {rc}"]
    why = next((line for line in reversed(lines) if ERROR.search(line)), lines[-1])
    why = UNIT.sub("", why.strip()).rstrip(".")
    real = (virtualenv / "bin/python").resolve()
    library = real.parents[1] / "lib" / real.name
    barred = [
        path
        for path in (virtualenv / "bin/gunicorn", virtualenv / "bin/python")
        if _is_noexec(path)
    ]
    if barred:
        why = f"the disk of {barred[0].resolve()} is mounted with noexec"
        fixes = [f'sudo mount -o remount,exec "$(stat --format %m {barred[0].resolve()})"']
    elif "No module named 'encodings'" in words and library.is_dir():
        fixes = [f"sudo chmod --recursive o+rX {library}"]
    else:
        fixes = anew(observed, "virtualenv") if "No module named 'gunicorn" in words else [SITE]
    yield Finding(
        observed.start_severity, f"{_will_fail(observed)}: {why}.",
        [f"gunicorn --version, in the service's sandbox: status {rc}", *lines], fixes,
    )  # fmt: skip


def _is_noexec(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_NOEXEC)
