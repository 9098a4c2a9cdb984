#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Count the requests of the access log, for a page about the endpoint's traffic."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_traffic
short_description: Count an endpoint's requests, for a page about its traffic
description:
  - Reads nginx's access log from its beginning, rotated files included. Requests for the health path do not count.
  - What it returns has no query strings, and the log nothing that tells who called.
  - Needs to be root. Changes nothing.
  - The times of privacy audits are left out.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  path:
    description: Health path.
    type: str
    default: /
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Count the requests
  api_endpoint_traffic:
    name: api-endpoint
    path: /readyz
  register: traffic
"""

RETURN = r"""
report:
  description: All that the page shows, as C(templates/traffic.html.j2) takes it.
  type: dict
  returned: always
requests:
  description: How many requests it tells of.
  type: int
  returned: always
"""

from ansible.module_utils.api_endpoint.traffic.report import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
