#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a page about the endpoint's traffic, of all that the access log has."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_traffic
short_description: Make a page about the endpoint's traffic
description:
  - Reads nginx's access log from its beginning, rotated files included, and makes an HTML page with plots of it. Requests
    for the health path do not count.
  - The page needs no other file and has no scripts. It has what the log has, without query strings; so nothing that tells
    who called.
  - Needs to be root. Changes nothing on the host. The action plugin of the same name writes the page on the laptop.
options:
  title:
    description: What the page is about.
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
- name: Make the page
  api_endpoint_traffic:
    title: language.wmcloud.org
    path: /readyz
    dest: reports/traffic.html # on the laptop
  register: report
"""

RETURN = r"""
page:
  description: The page. The action plugin leaves it out, once it is written.
  type: str
  returned: always
requests:
  description: How many requests it tells of.
  type: int
  returned: always
dest:
  description: Absolute path of the page on the laptop.
  type: str
  returned: by the action plugin
"""

from ansible.module_utils.api_endpoint.traffic.report import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "title": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
