#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""List the releases of an endpoint."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_releases
short_description: List the releases of an endpoint
description:
  - Returns the releases on the host, the newest first, as data and as a table. Changes nothing.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: List the releases
  api_endpoint_releases:
    name: api-endpoint
    root: /var/lib/api-endpoint
  register: found
"""

RETURN = r"""
releases:
  description: The releases, the last built first.
  type: list
  elements: dict
  returned: always
  contains:
    id:
      description: Its id, which C(-e api_endpoint_release=) takes.
      type: str
    state:
      description: C(live), C(good) (it was live before), C(failed) or C(built) (it was never tried).
      type: str
    built:
      description: When it was built (UTC).
      type: str
    live_since:
      description: When it last went live (UTC); empty when it never did.
      type: str
    by:
      description: Who built it.
      type: str
    revision:
      description: The git commit of its code, with C(+changes) when the folder had more.
      type: str
    differs:
      description: The components in which it differed from the release that was live when it was built.
      type: list
      elements: str
    note:
      description: When and why it last failed; empty when it did not.
      type: str
live:
  description: The id of the live release; empty when none is.
  type: str
  returned: always
previous:
  description: The id of the good release before the live one, to which a roll-back goes; empty when there is none.
  type: str
  returned: always
table:
  description: The same as text, a release a line.
  type: str
  returned: always
"""

from typing import Any

from ansible.module_utils.api_endpoint_history import History
from ansible.module_utils.api_endpoint_service import Endpoint
from ansible.module_utils.api_endpoint_store import StoreError, in_words, read_json
from ansible.module_utils.api_endpoint_table import aligned, minutes
from ansible.module_utils.basic import AnsibleModule


def rows(endpoint: Endpoint, history: History) -> list[dict[str, Any]]:
    """Return what there is to say of each release, the last built first."""
    live = endpoint.release_of(endpoint.live_slot)
    found = []
    for release in history.releases():
        record = read_json(endpoint.root / "releases" / release / "release.json") or {}
        entry = history.entries.get(release, {})
        failed = entry.get("failed")
        found.append(
            {
                "id": release,
                "state": history.state(release, live),
                "built": record.get("built", ""),
                "live_since": entry.get("live", ""),
                "by": record.get("by", ""),
                "revision": record.get("revision", ""),
                "differs": record.get("differs", []),
                "note": f"failed {minutes(failed['at'])} at {failed['step']}: {failed['reason']}" if failed else "",
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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    endpoint = Endpoint(module.params["name"], module.params["root"])
    try:
        history = History(module.params["root"])
        found = rows(endpoint, history)
        live = endpoint.release_of(endpoint.live_slot)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(changed=False, releases=found, live=live, previous=history.previous(live), table=table(found))


if __name__ == "__main__":
    main()
