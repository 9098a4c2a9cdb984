# SPDX-License-Identifier: GPL-3.0-or-later
"""List the releases of an endpoint."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import read_json
from ansible.module_utils.api_endpoint.release.history import History, unable
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.api_endpoint.table import aligned, minutes
from ansible.module_utils.basic import AnsibleModule


def rows(endpoint: Endpoint, history: History) -> list[dict[str, Any]]:
    """Return what there is to say of each release, the last built first."""
    live = endpoint.release_of(endpoint.live_slot)
    found = []
    for release in history.releases():
        record = read_json(endpoint.root / "releases" / release / "release.json") or {}
        entry = history.entries.get(release, {})
        failed = entry.get("failed")
        cannot = unable(endpoint.root, release)
        note = (
            f"failed {minutes(failed['at'])} at {failed['step']}: {failed['reason']}"
            if failed
            else ""
        )
        found.append(
            {
                "id": release,
                "state": history.state(release, live),
                "built": record.get("built", ""),
                "live_since": entry.get("live", ""),
                "by": record.get("by", ""),
                "revision": record.get("revision", ""),
                "differs": record.get("differs", []),
                "note": f"cannot start any more: {cannot}" if cannot else note,
                "unable": cannot,
            }
        )
    return sorted(found, key=lambda row: row["built"], reverse=True)


def table(releases: list[dict[str, Any]]) -> str:
    """Return a text with one release a line."""
    if not releases:
        return "No release is on this host yet."
    lines = [("id", "state", "built (UTC)", "live since (UTC)", "by", "revision", "new in it", "")]
    for row in releases:
        commit, plus, changes = row["revision"].partition("+")
        lines.append(
            (
                row["id"], row["state"], minutes(row["built"]), minutes(row["live_since"]), row["by"],
                commit[:10] + plus + changes, ", ".join(row["differs"]), row["note"],
            )
        )  # fmt: skip
    return aligned(lines)


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    endpoint = Endpoint(module.params["name"], module.params["root"])
    try:
        history = History(module.params["root"])
        found = rows(endpoint, history)
        live = endpoint.release_of(endpoint.live_slot)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(
        changed=False,
        releases=found,
        live=live,
        previous=history.previous(live),
        table=table(found),
    )
