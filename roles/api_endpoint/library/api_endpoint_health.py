#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the endpoint through nginx, as a client would."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_health
short_description: Ask the endpoint through nginx, as a client would
description:
  - Sends the live release's health request to nginx on this host and fails, with the last log lines, when the answer is not
    the expected one in time. Changes nothing, and asks in check mode too when a release is live.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  port:
    description: Port of nginx.
    type: int
    default: 80
  server_name:
    description: Name to send as Host header.
    type: str
    required: true
  path:
    description: Path that is asked.
    type: str
    default: /
  status:
    description: Statuses that mean healthy. When empty, any below 500.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds to go on asking.
    type: int
    default: 10
  would_change:
    description: Whether a run changes nginx before. Then a dry run does not fail when nothing is healthy.
    type: bool
    default: false
  error_log:
    description: Absolute path of gunicorn's error log, to quote from.
    type: path
    required: true
  requirements:
    description: What the list of the app's packages is called in messages.
    type: str
    default: requirements.txt
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Ask through nginx
  api_endpoint_health:
    name: api-endpoint
    root: /var/lib/api-endpoint
    server_name: language.wmcloud.org
    path: /readyz
    status: [200]
    error_log: /var/log/gunicorn/error.log
"""

RETURN = r"""
status:
  description: Status of the answer.
  type: int
  returned: when there was one
release:
  description: Id of the live release.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.release.health import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "port": {"type": "int", "default": 80},
            "server_name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "status": {"type": "list", "elements": "int", "default": []},
            "timeout": {"type": "int", "default": 10},
            "would_change": {"type": "bool", "default": False},
            "error_log": {"type": "path", "required": True},
            "requirements": {"type": "str", "default": "requirements.txt"},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
