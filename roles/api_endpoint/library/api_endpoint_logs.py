#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the last lines of the endpoint's logs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_logs
short_description: Read the last lines of the endpoint's logs
description:
  - Reads the ends of log files, and of the journal of the endpoint's service.
  - Needs to be root. Changes nothing.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  logs:
    description: Absolute paths of log files. A file that was just rotated goes on in the one before.
    type: list
    elements: path
    required: true
  lines:
    description: How many lines of each, from 1 to 10,000.
    type: int
    default: 20
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Read the ends of the logs
  api_endpoint_logs:
    name: api-endpoint
    logs: [/var/log/nginx/access.log, /var/log/gunicorn/error.log]
    lines: 100
  register: found
"""

RETURN = r"""
text:
  description: The lines under the names of their logs, the oldest first. What a terminal would obey is written as C(\x1b).
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.diagnosis.logs import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "logs": {"type": "list", "elements": "path", "required": True},
            "lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
