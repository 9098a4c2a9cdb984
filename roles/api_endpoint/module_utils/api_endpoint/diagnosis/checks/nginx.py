# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of nginx: its port, its configuration, whether it runs, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint.diagnosis.findings import CAUSE, RISK, SYMPTOM, Finding
from ansible.module_utils.api_endpoint.diagnosis.state import (
    EndpointState,
    properties,
    run_command,
    tail,
)
from ansible.module_utils.api_endpoint.files import read_json
from ansible.module_utils.api_endpoint.host.nginx import is_pending
from ansible.module_utils.api_endpoint.host.nginx_note import NOTE

FOLDER = Path("/etc/nginx")
RUN = "ansible-playbook -i inventory site.yml --tags nginx"


def port(observed: EndpointState) -> Iterator[Finding]:
    """Find another program on the port, or nginx on another one."""
    number = observed.given["port"]
    _rc, shown = run_command(
        "ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes"
    )
    lines = shown.splitlines()
    here = [line for line in lines if re.search(rf":{number}\s", line)]
    others = sorted(
        set(re.findall(r'"([^"]+)",pid=(\d+)', "\n".join(here)))
        - {("nginx", pid) for pid in _nginx(here)}
    )
    for program, pid in others:
        yield Finding(
            CAUSE, f"Port {number}, where nginx belongs, is taken by another program: {program}.",
            here, [_end(pid), "sudo systemctl restart nginx"],
        )  # fmt: skip
    if not here and properties("nginx.service").get("ActiveState") == "active":
        where = [line for line in lines if '"nginx"' in line]
        yield Finding(
            CAUSE, f"nginx runs and does not listen on port {number}, which the web proxy asks.", where,
            [RUN, "sudo systemctl restart nginx"],
        )  # fmt: skip


def _nginx(lines: list[str]) -> list[str]:
    return re.findall(r'"nginx",pid=(\d+)', "\n".join(lines))


def _end(pid: str) -> str:
    """Return the command that ends a program, and keeps it from coming back where a service of its own runs it."""
    try:
        unit = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").strip().rpartition("/")[2]
    except OSError:
        unit = ""
    return (
        f"sudo systemctl disable --now {unit}" if unit.endswith(".service") else f"sudo kill {pid}"
    )


def configuration(observed: EndpointState) -> Iterator[Finding]:
    """Find a configuration that nginx rejects, or has not loaded: it goes on with the old one."""
    # In a /run of its own: nginx's test leaves an empty file for its process id there, and makes folders of caches.
    test = "mount -t tmpfs tmpfs /run && mkdir /run/nginx-log /run/nginx-proof && exec nginx -t -q"
    rc, words = run_command("unshare", "--mount", "sh", "-c", test)
    if rc == 127:
        yield Finding(
            CAUSE, "nginx is not installed.", [words], ["ansible-playbook -i inventory site.yml"]
        )
    elif rc != 0:
        file = re.search(rf" in ({FOLDER}/\S+?):\d+", words)
        fix = f"sudo mv {file[1]} /root/" if file and not _is_the_roles(file[1]) else RUN
        runs = properties("nginx.service").get("ActiveState") == "active"
        yield Finding(
            CAUSE,
            "nginx's configuration is wrong"
            + (": it runs on the old one, and will not start again." if runs else "."),
            words.splitlines(),
            [fix, "sudo systemctl restart nginx"],
        )
    elif is_pending(
        FOLDER / "api-endpoint" / f"{observed.name}.loaded", Path(observed.endpoint.proof_socket)
    ):
        yield Finding(
            observed.severity, "nginx has not loaded the configuration that is on the disk: it runs on an earlier one.",
            [line for line in tail("/var/log/nginx/error.log").splitlines() if "[emerg]" in line][-5:], [RUN],
        )  # fmt: skip


def _is_the_roles(path: str) -> bool:
    noted = read_json(FOLDER / NOTE) or {}
    return str(Path(path).relative_to(FOLDER)) in noted


def switched_on(_patient: EndpointState) -> Iterator[Finding]:
    """Find out that nginx does not run, or will not after the next boot."""
    state = properties("nginx.service")
    if state.get("LoadState") == "not-found":
        return
    if state.get("LoadState") == "masked":
        commands = ["sudo systemctl unmask nginx", "sudo systemctl enable --now nginx"]
        yield Finding(CAUSE, "nginx is masked.", _words(state), commands)
    elif state.get("ActiveState") != "active":
        kind = CAUSE if state.get("Result") == "success" else SYMPTOM
        what = "nginx is stopped." if kind == CAUSE else "nginx does not start."
        _rc, journal = run_command(
            "journalctl", "--unit=nginx", "--lines=8", "--output=cat", "--no-pager"
        )
        yield Finding(
            kind,
            what,
            [*_words(state), *journal.splitlines()],
            ["sudo systemctl enable --now nginx"],
        )
    elif state.get("UnitFileState") != "enabled":
        yield Finding(
            RISK,
            "nginx will not start at the next boot.",
            _words(state),
            ["sudo systemctl enable nginx"],
        )


def _words(state: dict[str, str]) -> list[str]:
    names = ("LoadState", "ActiveState", "UnitFileState", "Result")
    return ["systemctl show nginx: " + ", ".join(f"{name}={state.get(name, '')}" for name in names)]


def through_nginx(observed: EndpointState) -> Iterator[Finding]:
    """Find out that clients do not get what the app answers."""
    if observed.answers:
        return
    port, expected = (
        observed.given["port"],
        " or ".join(map(str, observed.health["status"])) or "any below 500",
    )
    asked = f"GET {observed.health['path']}, port {port}, Host {observed.given['server_name']}"
    end = tail("/var/log/nginx/error.log").splitlines()[-5:]
    yield Finding(
        SYMPTOM, ("The app is healthy, but r" if observed.is_healthy else "R") + "equests through nginx fail.",
        [f"{asked}: {observed.through_nginx}; expected: status {expected}", *end], [RUN, "sudo systemctl restart nginx"],
    )  # fmt: skip
