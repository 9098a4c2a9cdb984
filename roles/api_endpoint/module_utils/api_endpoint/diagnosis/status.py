# SPDX-License-Identifier: GPL-3.0-or-later
"""Look how the endpoint on this host is, and what it was asked lately."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.http import healthy
from ansible.module_utils.api_endpoint.release.health import health_of, health_through_nginx
from ansible.module_utils.api_endpoint.release.history import History
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.api_endpoint.traffic.access_log import (
    ACCESS_LOG,
    Budget,
    audits,
    is_health,
    is_of_audit,
    percentile,
    recent,
)
from ansible.module_utils.basic import AnsibleModule


def traffic(log: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of the requests in the time that counts."""
    now = time.time()
    budget = Budget(given["most_bytes"], given["most_seconds"])
    classes: Counter[int] = Counter()
    durations: Counter[int] = Counter()
    oldest = now
    times = audits(given["name"])
    audited = False
    for request in recent(log, now - given["since"], budget):
        oldest = request.time
        if is_of_audit(request, times):
            audited = True
        elif not is_health(request, given["path"]):
            classes[request.status // 100] += 1
            durations[request.duration] += 1
    notes = ["without the time of a privacy audit"] if audited else []
    seconds = int(now - oldest) if budget.is_spent else given["since"]
    return {
        "seconds": seconds,
        "requests": classes.total(),
        "server_errors": classes[5],
        "client_errors": classes[4],
        "p50": percentile(durations, 50),
        "p95": percentile(durations, 95),
        "note": "; ".join(
            [
                *notes,
                *(
                    [f"the log is long: only the last {seconds // 60} min"]
                    if budget.is_spent
                    else []
                ),
            ]
        ),
    }


def state(endpoint: Endpoint, release: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return how the live release is."""
    asked = {**given, **health_of(endpoint, release)}
    timeout = max(given["timeout"], asked["timeout"])
    answer = health_through_nginx(endpoint, asked, given["server_name"], given["port"], timeout)
    is_healthy = healthy(answer, asked["status"])
    # Absent when the folder is on a volume that is not there.
    disks = [
        path
        for path in (endpoint.root, given["data_dir"], ACCESS_LOG.parent)
        if os.path.exists(path)
    ]
    return {
        "live_since": History(endpoint.root).entries.get(release, {}).get("live", ""),
        "healthy": is_healthy,
        "answer": "" if is_healthy else str(answer),
        "memory": endpoint.memory(endpoint.live_slot),
        "disk_free": min(shutil.disk_usage(path).free for path in disks),
    }


def look(given: dict[str, Any]) -> dict[str, Any]:
    """Return all that there is to say."""
    endpoint = Endpoint(given["name"], given["root"])
    release = endpoint.release_of(endpoint.live_slot)
    if not release:
        was_set_up = os.path.exists(f"/etc/systemd/system/{given['name']}@.service")
        return {"release": "", "note": "nothing is live yet" if was_set_up else "never set up"}
    # Read before it is asked: that leaves a line too.
    figures = traffic(ACCESS_LOG, given)
    return {"release": release, **figures, **state(endpoint, release, given)}


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    try:
        module.exit_json(changed=False, **look(module.params))
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
