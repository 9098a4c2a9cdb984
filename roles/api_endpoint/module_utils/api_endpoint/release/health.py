# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the live release's health through nginx, as clients reach it."""

from __future__ import annotations

import subprocess
import time
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import read_json
from ansible.module_utils.api_endpoint.http import Answer, ask_through_port, healthy
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.basic import AnsibleModule

UNHEALTHY = "nothing healthy now"  # in place of a status
SHORTEST_SECONDS = 10  # seconds that it is asked at least before it counts as broken


def health_of(endpoint: Endpoint, release: str) -> dict[str, Any]:
    """Return what proves a release. It is written in it: an older one may have had another health path."""
    plan = read_json(endpoint.root / "releases" / release / "rollout.json") or {} if release else {}
    return dict(plan.get("health", {}))


def health_through_nginx(
    endpoint: Endpoint, request: dict[str, Any], server_name: str, port: int, timeout: float
) -> Answer:
    """Send one health request as clients do."""
    return ask_through_port(
        request["path"], server_name, proof_socket=endpoint.proof_socket, port=port, timeout=timeout
    )  # fmt: skip


def ask_through_nginx(endpoint: Endpoint, given: dict[str, Any]) -> dict[str, Any]:
    """Ask until it is healthy, and return the status and the release; raise DeployError with the last log lines."""
    slot = endpoint.live_slot
    release = endpoint.release_of(slot)
    asked = {**given, **health_of(endpoint, release)}
    timeout = max(SHORTEST_SECONDS, asked["timeout"])
    deadline = time.monotonic() + timeout
    while True:
        answer = health_through_nginx(endpoint, asked, given["server_name"], given["port"], timeout)
        if healthy(answer, asked["status"]):
            return {"status": answer.status, "release": release}
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    nginx = subprocess.run(
        ["tail", "-n", "10", "/var/log/nginx/error.log"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    log, requirements = given["error_log"], given.get("requirements", "requirements.txt")
    is_error = answer.status is None or answer.status >= 500
    failure = endpoint.why_it_fails(slot, log, requirements) if slot and is_error else None
    first = "".join(f"{line}\n" for line in ([failure.line] if failure else []))
    trace = "".join(f"{line}\n" for line in (failure.trace if failure else []))
    raise DeployError(
        f"{first}GET {asked['path']} through nginx on port {given['port']}: {answer}; "
        f"expected: {asked['status'] or 'any status below 500'}.\n"
        f"{trace}{endpoint.log_tail(slot, log, shown=failure)}\n"
        f"--- /var/log/nginx/error.log\n{nginx.strip() or '(nothing)'}"
    )


def ask(endpoint: Endpoint, given: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Ask what is live through nginx. A dry run does not fail for what a run would change first (`would_change`)."""
    release = endpoint.release_of(endpoint.live_slot)
    if check_mode and not release:
        return {"release": ""}
    try:
        return ask_through_nginx(endpoint, given)
    except DeployError:
        if check_mode and given["would_change"]:
            return {"status": UNHEALTHY, "release": release}
        raise


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    given = module.params
    endpoint = Endpoint(given["name"], given["root"])
    try:
        module.exit_json(changed=False, **ask(endpoint, given, module.check_mode))
    except DeployError as error:
        module.fail_json(msg=str(error))
