#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out why an endpoint is unwell."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_diagnosis
short_description: Find out why an endpoint is unwell
description:
  - Looks at all that an endpoint needs, from the disks up to the answer that clients get, and returns what is not well,
    the likeliest cause first, each with its evidence and the command that fixes it.
  - Changes nothing. When the service does not stay up it loads the app once, in the service's own sandbox, without a
    socket.
  - Addresses and the values of secrets are blanked out in all that is returned.
  - Needs to be root.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  data_dir:
    description: Absolute path of the store of artifacts.
    type: path
    required: true
  user:
    description: Account of the app.
    type: str
    default: www-data
  error_log:
    description: Absolute path of gunicorn's error log.
    type: path
    required: true
  requirements:
    description: What the list of the app's packages is called in messages.
    type: str
    default: requirements.txt
  port:
    description: Port of nginx, which the web proxy asks.
    type: int
    default: 80
  server_name:
    description: Name to send as Host header.
    type: str
    required: true
  health:
    description: The health request, unless the release has its own.
    type: dict
    default: {}
    suboptions:
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
        description: Seconds to wait for the answer.
        type: int
        default: 5
  volume:
    description: Where the volume with the model data is mounted; empty when there is none.
    type: str
    default: ""
  outbound_network:
    description: Whether the app may use the network.
    type: bool
    default: true
  laptop_time:
    description: The time (seconds since 1970) on the computer that asks. When 0, clocks are not compared.
    type: float
    default: 0
  load_check_timeout:
    description: Seconds that loading the app may take.
    type: int
    default: 15
  drift:
    description: What a run would change, lists of words by kind.
    type: dict
    default: {}
  secrets:
    description: Secrets of the app whose values are blanked out, besides those that are on the host.
    type: dict
    default: {}
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Find out why the endpoint is unwell
  api_endpoint_diagnosis:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    error_log: /var/log/gunicorn/error.log
    server_name: language.wmcloud.org
  register: diagnosis
"""

RETURN = r"""
well:
  description: Whether nothing needs to be done.
  type: bool
  returned: always
findings:
  description: What is not well, the likeliest cause first.
  type: list
  elements: dict
  returned: always
  contains:
    kind:
      description: C(cause), C(symptom) (it goes with its cause), C(risk) (it answers still) or C(note).
      type: str
    what:
      description: What is wrong, in a sentence.
      type: str
    evidence:
      description: What shows it, lines of text.
      type: list
      elements: str
    remedy:
      description: The commands that fix it, those with C(ansible-playbook) on the laptop and the others on the host.
      type: list
      elements: str
looked:
  description: What was looked at, each with what came out of it.
  type: list
  elements: dict
  returned: always
  contains:
    what:
      description: What was looked at.
      type: str
    outcome:
      description: C(well), C(found), C(noted) or C(could not be looked at).
      type: str
about:
  description: Which release is live, and how long the look took.
  type: str
  returned: always
summary:
  description: All of it as text.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.diagnosis.report import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "user": {"type": "str", "default": "www-data"},
            "error_log": {"type": "path", "required": True},
            "requirements": {"type": "str", "default": "requirements.txt"},
            "port": {"type": "int", "default": 80},
            "server_name": {"type": "str", "required": True},
            "health": {
                "type": "dict",
                "default": {},
                "apply_defaults": True,
                "options": {
                    "path": {"type": "str", "default": "/"},
                    "status": {"type": "list", "elements": "int", "default": []},
                    "timeout": {"type": "int", "default": 5},
                },
            },
            "volume": {"type": "str", "default": ""},
            "outbound_network": {"type": "bool", "default": True},
            "laptop_time": {"type": "float", "default": 0},
            "load_check_timeout": {"type": "int", "default": 15},
            "drift": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
