# SPDX-License-Identifier: GPL-3.0-or-later
"""One table of what api_endpoint_status found on all hosts, those included that it could not ask."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.traffic.access_log import in_seconds
from ansible.module_utils.api_endpoint.controller.fleet import alike
from ansible.module_utils.api_endpoint.table import aligned, minutes, printable

HEADS = (
    "host",
    "live",
    "since (UTC)",
    "healthy",
    "memory",
    "disk free",
    "requests",
    "5xx",
    "4xx",
    "p50",
    "p95",
    "",
)
LONGEST = 120  # characters of a note


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def row(host: str, found: dict[str, Any]) -> list[str]:
    """Return a host's line."""
    if not found.get("release"):
        words = found.get("note") or found.get("msg") or "nothing came back"
        # Ansible says that it has failed before it says why.
        words = words.removeprefix("Task failed: ").removeprefix(
            "Failed to connect to the host via ssh: "
        )
        what = f"cannot be reached: {words}" if found.get("unreachable") else words
        return [host, *["-"] * (len(HEADS) - 2), printable(" ".join(what.split()))[:LONGEST]]
    figures = [str(found[name]) for name in ("requests", "server_errors", "client_errors")]
    notes = [printable(note)[:LONGEST] for note in (found["answer"], found["note"]) if note]
    return [
        host, found["release"], minutes(found["live_since"]), "yes" if found["healthy"] else "NO",
        size(found["memory"]), size(found["disk_free"]), *figures,
        in_seconds(found["p50"]), in_seconds(found["p95"]), "; ".join(notes),
    ]  # fmt: skip


class ActionModule(ActionBase):
    """Put the table together."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action; C(found) has for each host what was found there, C(one_api) is whether they are one API."""
        super().run(tmp, task_vars)
        found = self._task.args["found"]
        table = aligned([HEADS, *(row(host, found[host]) for host in sorted(found))])
        if self._task.args.get("one_api"):
            table += alike({host: str(found[host].get("release") or "") for host in sorted(found)})
        return {"changed": False, "table": table}
