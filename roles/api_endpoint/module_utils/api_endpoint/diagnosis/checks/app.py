# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of the live version: its parts, its data, its rights, its start, and whether it answers."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint.artifacts.store import Store
from ansible.module_utils.api_endpoint.diagnosis.findings import (
    CAUSE,
    NOTE,
    RISK,
    SYMPTOM,
    Finding,
    last_traceback,
)
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState, run_command
from ansible.module_utils.api_endpoint.digests import file_digest, value_digest, walk
from ansible.module_utils.api_endpoint.files import acting_as
from ansible.module_utils.api_endpoint.interpreter import python_changed
from ansible.module_utils.api_endpoint.release.failures import explain
from ansible.module_utils.api_endpoint.release.hints import find_hints, read_journal
from ansible.module_utils.api_endpoint.release.slots import SLOTS, queued

SITE = "ansible-playbook -i inventory site.yml"
BACK = "ansible-playbook -i inventory playbooks/rollback.yml"
SHOWN = 10  # lines of a list


def deployed(observed: EndpointState) -> Iterator[Finding]:
    """Find out that nothing is here to be looked at."""
    if not observed.is_set_up:
        yield Finding(
            CAUSE,
            f"Nothing was ever deployed to this host under the name {observed.name}.",
            [],
            [SITE],
        )
    elif not observed.release:
        there = (
            sorted(path.name for path in observed.root.iterdir()) if observed.root.is_dir() else []
        )
        yield Finding(
            CAUSE, "This host was set up, and no version of the app is live on it.",
            [f"in {observed.root}: {', '.join(there) or 'nothing'}"], [SITE],
        )  # fmt: skip


def live_link(observed: EndpointState) -> Iterator[Finding]:
    """Find out that nginx is led to a slot in which nothing runs, while another one does."""
    live, link = observed.endpoint.live_slot, observed.root / "live"
    other = next((slot for slot in SLOTS if slot != live and observed.endpoint.is_active(slot)), "")
    right = observed.slot if live != observed.slot else ""
    if (
        live == observed.slot
        and other
        and not observed.is_active
        and observed.state.get("UnitFileState") != "enabled"
    ):
        right = other
    if right:
        runs = "which runs" if observed.endpoint.is_active(right) else "which has the release"
        led = f"leads to the slot {live}, where no version runs" if live else "is missing"
        yield Finding(
            CAUSE, f"The link {link}, by which nginx finds the live version, {led}. It belongs to {right}, {runs}.",
            [f"{link} -> {os.readlink(link) if link.is_symlink() else '(no link)'}"],
            [f"sudo ln --symbolic --force --no-dereference slots/{right} {link}"],
        )  # fmt: skip
    way = observed.endpoint.link_of(observed.slot)
    if not way.is_symlink():
        yield Finding(
            CAUSE, f"The link {way}, by which nginx finds the app's socket, is missing.", [], [SITE]
        )


def parts(observed: EndpointState) -> Iterator[Finding]:
    """Find what the live version is made of and is gone."""
    needed = {
        "the folder of the live release": observed.folder,
        "its record": observed.folder / "release.json",
        "its settings of gunicorn": observed.folder / "gunicorn.conf.py",
        "its virtualenv": observed.folder / "p3env",
        "the file of its secrets": observed.secrets,
        "the service's unit": observed.template,
    }
    gone = [(what, path) for what, path in needed.items() if path and not path.exists()]
    if gone:
        what, path = gone[0]
        yield Finding(
            observed.start_severity, f"{what[0].upper()}{what[1:]} is missing: {path}.{observed.until_restart}",
            [f"missing: {path}" for _what, path in gone],
            [SITE] if path in (observed.secrets, observed.template) else
            anew(observed, "virtualenv" if "virtualenv" in what else "release"),
        )  # fmt: skip


def anew(observed: EndpointState, part: str) -> list[str]:
    """Return the commands that have a part built again: a run leaves alone what is there."""
    virtualenv = observed.root / "venvs" / str(observed.components.get("virtualenv"))
    if part == "virtualenv":
        away = [f"sudo rm -r {virtualenv}"] if virtualenv.is_dir() else []
    else:
        # It costs kilobytes, and its editor may want to see the change.
        aside = f"{observed.folder}.{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
        away = [f"sudo mv {observed.folder} {aside}"] if observed.folder.is_dir() else []
    return [*away, SITE, *([observed.restart] if observed.is_healthy else [])]


def data(observed: EndpointState) -> Iterator[Finding]:
    """Find model data that is gone, or is not what was verified."""
    store = Store(observed.components.get("data_dir", observed.data_dir), observed.user)
    for artifact in observed.components.get("artifacts", []):
        key, link = artifact["digest"], observed.folder / artifact["dest"]
        place, kept = store.place(key), observed.root / "state/app" / key / "artifact"
        if not place.exists():
            what = "is gone"
        elif not store.has(key):
            what = "was changed since it was verified"
        elif artifact["writable"] and not kept.exists():
            what, place = "is gone, the copy that the app may write", kept
        elif not link.is_symlink():
            what, place = "has no link in the release any more", link
        else:
            continue
        evidence = [f"{place}: {_size(place)}"]
        if place.exists() and (stamp := store.stamp(key)):
            evidence.append(f"verified: {stamp.get('size'):,} bytes, from {stamp.get('source')}")
        fixes = anew(observed, "release") if place in (link, kept) else [f"{SITE} --tags model"]
        more = "" if place.exists() else observed.until_restart
        yield Finding(CAUSE, f"The model data {artifact['dest']} {what}.{more}", evidence, fixes)


def _size(path: Path) -> str:
    return (
        f"{path.stat().st_size:,} bytes now"
        if path.is_file()
        else "is there"
        if path.exists()
        else "is not there"
    )


def rights(observed: EndpointState) -> Iterator[Finding]:
    """Find a folder or a file on its way that the service's account may not use."""
    if not observed.has_account:
        return
    code = (
        [path for path in sorted(observed.folder.rglob("*")) if path.is_file()]
        if observed.folder.is_dir()
        else []
    )
    store = Path(observed.components.get("data_dir", observed.data_dir))
    read = [
        *code,
        observed.folder / "p3env/bin/python",
        observed.folder / "p3env/bin/gunicorn",
        *(
            store / artifact["digest"] / "artifact"
            for artifact in observed.components.get("artifacts", [])
        ),
        # nginx's workers are in the account's group.
        observed.endpoint.link_of(observed.slot).parent,
    ]
    write = [observed.root / "state/home", observed.log_dir]
    socket = Path(observed.endpoint.socket_of(observed.slot))
    needs = {(path.resolve(), os.R_OK) for path in read}
    needs |= {(path.resolve(), os.W_OK) for path in [*write, socket] if path.exists()}
    needs |= {(path, os.X_OK) for target, _right in needs for path in target.parents}
    wanted = sorted(
        (need for need in needs if os.path.lexists(need[0])), key=lambda need: len(need[0].parts)
    )
    with acting_as(observed.user):
        closed = [path for path, right in wanted if not os.access(path, right, effective_ids=True)]
    # What is below a closed folder is closed with it.
    first = [path for path in closed if not any(above in closed for above in path.parents)]
    if not first:
        return
    own = (observed.root, observed.data_dir, observed.log_dir, Path("/run", observed.name))
    is_ours = any(first[0].is_relative_to(folder) for folder in own)
    yield Finding(
        CAUSE, f"The service's account, {observed.user}, may not use {first[0]}, which it needs.",
        [f"{_rights(path)} {path}" for path in first[:SHOWN]],
        [f"{SITE} --tags setup" if is_ours else f"sudo chmod o+rX {first[0]}", observed.restart],
    )  # fmt: skip


def _rights(path: Path) -> str:
    found = path.lstat()
    return f"{stat.filemode(found.st_mode)} {found.st_uid}:{found.st_gid}"


def edits(observed: EndpointState) -> Iterator[Finding]:
    """Find code or settings of the live release that are not those that were proven."""
    code = observed.root / "code" / str(observed.components.get("code")) / "app"
    settings = observed.components.get("settings", {})
    # A build command may have changed what it found; then nobody knows what the code should be.
    compared = [] if observed.plan.get("build_commands") or not code.is_dir() else list(walk(code))
    linked = {os.path.normpath(path) for path in observed.components.get("writable_paths", [])}
    linked |= {artifact["dest"] for artifact in observed.components.get("artifacts", [])}
    changed = [
        str(path) for path in compared
        if str(path) not in settings and not any(Path(path).is_relative_to(link) for link in linked)
        and (code / path).is_file() and not _is_same(code / path, observed.folder / path)
    ]  # fmt: skip
    changed += [
        name for name, digest in settings.items() if _digest(observed.folder / name) != digest
    ]
    if changed:
        yield Finding(
            CAUSE, f"The live version was changed by hand, so it is not what was proven: {', '.join(changed[:SHOWN])}.",
            [f"{observed.folder / name}: {_size(observed.folder / name)}" for name in changed[:SHOWN]],
            anew(observed, "release"),
        )  # fmt: skip


def _is_same(one: Path, other: Path) -> bool:
    return other.is_file() and file_digest(one) == file_digest(other)


def _digest(path: Path) -> str:
    try:
        return value_digest(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ""


def start_timeout(observed: EndpointState) -> Iterator[Finding]:
    """Find out that a start needs longer than it may."""
    allowed = observed.state.get("TimeoutStartUSec", "")
    late = [line for line in observed.log if "WORKER TIMEOUT" in line]
    more = f"{SITE} --tags app -e api_endpoint"
    # systemd forgets the result when it tries again.
    was_late = observed.crash_looping and "operation timed out" in observed.log_tail
    if observed.state.get("Result") == "timeout" or was_late:
        drop_in = observed.endpoint.drop_in_of(observed.slot)
        wanted = (observed.folder / "service.conf").read_text(encoding="utf-8")
        added = (
            drop_in.read_text(encoding="utf-8").removeprefix(wanted).splitlines()
            if drop_in.exists()
            else ["nothing"]
        )
        is_as_wanted = all(
            line == "[Service]" or line.startswith("EnvironmentFile=") for line in added
        )
        longer = 2 * int(observed.plan.get("start_timeout", 120))
        yield Finding(
            CAUSE, f"The app needs longer to start than it is given: {allowed}."
            + ("" if is_as_wanted else " That was changed by hand."),
            [f"systemctl show {observed.unit}: TimeoutStartUSec={allowed}", observed.log_tail],
            [f"{more}_start_timeout={longer}" if is_as_wanted else SITE],
        )  # fmt: skip
    elif late and not observed.is_healthy and not _preloads(observed):
        timeout = int(observed.plan.get("timeout", 30))
        yield Finding(
            CAUSE, f"The workers are replaced before they have loaded the app, or while they answer: after {timeout} s.",
            late[-5:], [f"{more}_timeout={4 * timeout} -e api_endpoint_proxy_timeout={5 * timeout}"],
        )  # fmt: skip


def _preloads(observed: EndpointState) -> bool:
    if any("Loaded in each worker" in line for line in observed.log):
        return False
    try:
        return "\npreload_app = True" in (observed.folder / "gunicorn.conf.py").read_text(
            encoding="utf-8"
        )
    except OSError:
        return False


def loads(observed: EndpointState) -> Iterator[Finding]:
    """Find out why the app does not load; tried only when the service is down, because it takes the memory of a version."""
    if not observed.crash_looping or python_changed(observed.folder / "p3env"):
        return
    rc, words = observed.load_check
    if rc == 0:
        return
    if rc == 124:
        yield Finding(
            NOTE, f"The load check timed out after {observed.given['load_check_timeout']} s.",
            words.splitlines(),
        )  # fmt: skip
        return
    failure = explain(words, observed.folder, observed.given["requirements"])
    lines = (failure.trace if failure else []) or words.splitlines()
    why = failure.line if failure else lines[-1].strip() if lines else f"status {rc}"
    lacking = re.search(r"No module named '([\w.]+)'", why)
    is_lacking = lacking and not (observed.folder / lacking[1].partition(".")[0]).exists()
    yield Finding(
        CAUSE, f"The app does not load: {why}",
        lines, anew(observed, "virtualenv") if is_lacking else [BACK],
    )  # fmt: skip


def hints(observed: EndpointState) -> Iterator[Finding]:
    """Find what the log of this start tells of the fork, of threads and of the sandbox, and the setting that helps."""
    journal = read_journal(observed.unit, observed.started_at)
    for hint in find_hints("\n".join([*observed.log, journal])):
        yield Finding(
            observed.severity if hint.is_fault else NOTE,
            f"{hint.what or hint.line.partition(', since')[0]}."
            + (f" {hint.advice}." if hint.advice else ""),
            [hint.line],
            [f"{SITE} --tags app -e '{{{hint.setting}}}'"] if hint.setting else [],
        )


def switched_on(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the service is masked, stopped, or off at the next boot."""
    state = observed.state
    evidence = [f"systemctl show {observed.unit}: " + ", ".join(f"{name}={state.get(name, '')}" for name in (
        "LoadState", "ActiveState", "UnitFileState", "Result"))]  # fmt: skip
    if state.get("LoadState") == "masked":
        commands = [
            f"sudo systemctl unmask {observed.unit}",
            f"sudo systemctl enable --now {observed.unit}",
        ]
        yield Finding(CAUSE, "The service is masked.", evidence, commands)
    elif state.get("ActiveState") == "inactive":
        yield Finding(
            CAUSE,
            "The service is stopped.",
            evidence,
            [f"sudo systemctl enable --now {observed.unit}"],
        )
    elif state.get("UnitFileState") != "enabled":
        yield Finding(
            RISK,
            "The service will not start at the next boot.",
            evidence,
            [f"sudo systemctl enable {observed.unit}"],
        )


def socket(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the service runs, and its socket is gone."""
    path = observed.endpoint.socket_of(observed.slot)
    if observed.is_active and not os.path.exists(path):
        yield Finding(
            CAUSE,
            "The service runs, and its socket is gone.",
            [f"missing: {path}"],
            [observed.restart],
        )


def drift(observed: EndpointState) -> Iterator[Finding]:
    """Find what a run would change: what was edited by hand, or variables that were not deployed yet."""
    found = [f"{what} {item}" for what, items in observed.given["drift"].items() for item in items]
    if found:
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        yield Finding(
            observed.severity,
            f"Not as the role leaves it: {found[0]}{others}. Changed by hand, or a variable was that is not deployed.",
            found[:SHOWN],
            [SITE],
        )


def service(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the service comes and goes, or is about to start."""
    state = observed.state
    if observed.is_starting:
        yield Finding(NOTE, "The service is starting; look again in a while.")
    elif observed.crash_looping:
        lines = last_traceback(observed.log_tail) or observed.log_tail.splitlines()
        yield Finding(
            SYMPTOM,
            f"The service starts and stops, {state.get('NRestarts', '0')} times so far (result: {state.get('Result')}).",
            lines, [observed.restart],
        )  # fmt: skip


def over_socket(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the service runs, and does not answer as it should."""
    if (
        observed.is_healthy
        or not observed.is_active
        or not os.path.exists(observed.endpoint.socket_of(observed.slot))
    ):
        return
    answer, main = observed.over_socket, int(observed.state.get("MainPID") or 0)
    asked = f"GET {observed.health['path']} over its socket: {answer}"
    if answer.status is None:
        path = observed.endpoint.socket_of(observed.slot)
        _rc, states = run_command(
            "ps", "-o", "pid,stat,wchan:20,etime,time", "--pid", str(main), "--ppid", str(main)
        )
        waiting = f"{queued(path, main)} requests wait. The processes (a state that begins with T is held still):"
        yield Finding(
            SYMPTOM,
            "The app runs, and does not answer: it hangs.",
            [asked, waiting, states],
            [observed.restart],
        )
    else:
        expected = " or ".join(map(str, observed.health["status"])) or "any below 500"
        failure = explain("\n".join(observed.log), observed.folder, observed.given["requirements"])
        is_error = failure is not None and answer.status >= 500
        yield Finding(
            SYMPTOM, f"The app answers its health request with status {answer.status}."
            + (f" {failure.line}" if failure and is_error else ""),
            [f"{asked}; expected: {expected}", *(failure.trace if failure and is_error else [])], [BACK, observed.restart],
        )  # fmt: skip
