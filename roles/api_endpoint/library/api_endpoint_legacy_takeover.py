#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop the service of the old template, whose place the endpoint has taken, and say what of it is left."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_legacy_takeover
short_description: Stop the service of the old template, whose place the endpoint has taken
description:
  - For a host that the scripts of C(research-api-endpoint-template) have set up, after a release is live and nginx was
    turned to it. Waits until nginx has the last answers of the old service, and stops its unit.
  - The old virtualenv and the old C(gunicorn.conf.py) stand where the links to the live ones belong. They are kept with the
    ending C(.before-api-endpoint).
  - The folder C(/etc/<name>) becomes root's, as what is in it is not to be replaced by the app. All that is in it stays.
  - The unit is disabled last. As long as it is enabled there is something to do, so a run that was cut off is made up for.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  unit:
    description: The old unit.
    type: str
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  patience:
    description: Seconds to wait at most for the last answers of the old service.
    type: int
    default: 60
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Stop the service of the old template
  api_endpoint_legacy_takeover:
    name: api-endpoint
    root: /var/lib/api-endpoint
    unit: model.service
    run: "{{ lock.token }}"
"""

RETURN = r"""
left:
  description: What was left of the old template, each with the command that removes it.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.api_endpoint.host.legacy_takeover import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "unit": {"type": "str", "required": True},
            "run": {"type": "str", "default": ""},
            "patience": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
