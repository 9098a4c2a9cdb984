#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Let one deployment at a time work on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_lock
short_description: Let one deployment at a time work on a host
description:
  - Takes the lock of an endpoint for this run of Ansible. Whoever comes second is told who holds it, since
    when, and from which computer.
  - A lock ends with the run, with a restart of the host, when its run has not been heard of for ten minutes, or at once when
    the run that held it was made on the same computer and is gone, which the action plugin of the same name finds out.
  - The action plugin adds who deploys; C(api_endpoint_unlock), an action plugin alone, gives the lock back.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  run:
    description: Token of this run, when it should have the lock already. It is renewed then, or the task fails.
    type: str
    default: ""
  token:
    description: The run's token. Made by the action plugin.
    type: str
    default: ""
  who:
    description: User on the controller. Set by the action plugin.
    type: str
    default: unknown
  computer:
    description: Name of the controller. Set by the action plugin.
    type: str
    default: unknown
  machine:
    description: What tells the controller from others of that name. Set by the action plugin.
    type: str
    default: ""
  pid:
    description: Process id of the run on the controller. Set by the action plugin.
    type: int
    default: 0
  instead_of:
    description: Token of a run that is known to be gone. Set by the action plugin.
    type: str
    default: ""
  wait:
    description: Seconds to wait for a process of an earlier run to end on the host. Set by the action plugin.
    type: int
    default: 0
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Take the lock
  api_endpoint_lock:
    name: api-endpoint
  register: lock

- name: Give the lock back
  api_endpoint_unlock:
    name: api-endpoint
    token: "{{ lock.token }}"
"""

RETURN = r"""
token:
  description: The run's token.
  type: str
  returned: success
holder:
  description: Who holds the lock, as it was written down.
  type: dict
  returned: when somebody else holds it
busy:
  description: Whether a process of theirs is at work on the host.
  type: bool
  returned: when somebody else holds it
"""

from ansible.module_utils.api_endpoint.lock import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run": {"type": "str", "default": ""},
            "token": {"type": "str", "default": ""},
            "who": {"type": "str", "default": "unknown"},
            "computer": {"type": "str", "default": "unknown"},
            "machine": {"type": "str", "default": ""},
            "pid": {"type": "int", "default": 0},
            "instead_of": {"type": "str", "default": ""},
            "wait": {"type": "int", "default": 0},
        },
        supports_check_mode=False,
    )
    run_module(module)


if __name__ == "__main__":
    main()
