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
      description:
        - C(live), C(good) (it was live before), C(rolled back) (a rollback left it), C(failed) or C(built) (it was never
          tried).
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
      description: Why it cannot start any more, or else when and why it last failed; empty when neither is so.
      type: str
    unable:
      description: Why it cannot start on this host any more, as after an upgrade of Debian; empty when nothing is known.
      type: str
live:
  description: The id of the live release; empty when none is.
  type: str
  returned: always
previous:
  description: The id of the good release before the live one, to which a rollback goes; empty when there is none.
  type: str
  returned: always
table:
  description: The same as text, a release a line.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.release.listing import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
