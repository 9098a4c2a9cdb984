#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drain a host, or have it rejoin the balancers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_drain
short_description: Drain a host, or have it rejoin the balancers
description:
  - Writes or removes the drain flag, C(/run/<name>/draining). While it is there nginx answers a balancer's check with 404,
    so that the balancer sends no new requests and lets those in flight end.
  - Before it writes the flag, it sets a timer of systemd that removes it, so that a host whose run was cut off rejoins by
    itself. A reboot removes the flag too.
  - Nothing that lasts is changed, so no change is reported.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  state:
    description: Whether the flag is there. C(present) drains the host, C(absent) has it rejoin.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Seconds after which a drained host rejoins by itself.
    type: int
    default: 600
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Drain the host
  api_endpoint_drain:
    name: api-endpoint

- name: Rejoin the balancers
  api_endpoint_drain:
    name: api-endpoint
    state: absent
"""

RETURN = r"""
flag:
  description: The flag's path.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.balancing.drain import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
