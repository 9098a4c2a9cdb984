#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a balancer what it does with an endpoint's host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_haproxy_wait
short_description: Ask a balancer what it does with an endpoint's host, and wait until it is as it should be
description:
  - Runs on the balancer, and reads the state of its servers from HAProxy's socket. It changes nothing there. A host is
    drained and rejoins by itself (M(api_endpoint_drain)).
  - Where no HAProxy runs, or where it does not know the host, there is nothing to wait for.
options:
  server:
    description: The host's name at the balancer.
    type: str
    default: ""
  until:
    description:
      - C(others) waits until those that can stand in for the host have at least half of their strength, after a slow start.
      - C(drained) waits until the host gets no requests any more and has none in flight; C(rejoined) until it gets requests.
        A host that the balancer's operator has taken out by hand counts as rejoined.
    type: str
    choices: ["", others, drained, rejoined]
    default: ""
  timeout:
    description: Seconds to wait.
    type: int
    default: 30
  besides:
    description: Hosts that are drained at the same time, the host itself among them.
    type: list
    elements: str
    default: []
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Wait until the balancer no longer sends requests to this host
  api_endpoint_haproxy_wait:
    server: "{{ inventory_hostname }}"
    until: drained
  delegate_to: my-balancer
"""

RETURN = r"""
answers:
  description: Whether a HAProxy runs.
  type: bool
  returned: always
status:
  description: HAProxy's word for the host's state, with what its last check found; empty when it does not know the host.
  type: str
  returned: always
usable:
  description: Whether the host gets requests.
  type: bool
  returned: always
may_drain:
  description: Whether others get requests, besides those that are drained as well, or the host gets none anyway.
  type: bool
  returned: always
requests:
  description: Requests in flight on the host.
  type: int
  returned: always
as_wanted:
  description: Whether it is as O(until) says.
  type: bool
  returned: always
"""

from ansible.module_utils.api_endpoint.balancing.haproxy_wait import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "str", "default": ""},
            "until": {
                "type": "str",
                "choices": ["", "others", "drained", "rejoined"],
                "default": "",
            },
            "timeout": {"type": "int", "default": 30},
            "besides": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
