#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make folders, and put owners and rights right that somebody has changed by hand."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_permissions
short_description: Make accounts and folders, and put owners and rights right that somebody has changed by hand
description:
  - Makes each account that is not there, with a group of its name, and puts it into its further groups.
  - Makes each folder that is not there, and its parents, and sets its owner, group and rights.
  - Walks through trees and gives each file and folder the owner, the rights that it needs, and takes the rights that it must
    not have. Rights that are neither stay as they are, so that what is as the role made it is not changed.
  - A file that its owner may execute is given the group's right to do so where the group may read it.
  - Follows no link, whose own owner it sets, so that an account that may write in a tree cannot turn a change to another
    place. What is not there is left out, and so is what lies on a disk that fails.
options:
  accounts:
    description: Accounts of services, each with the list of the groups that it is in besides its own.
    type: dict
    default: {}
  folders:
    description: The folders that must be there, parents before what lies below them.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      owner:
        description: Its owner.
        type: str
        default: root
      group:
        description: Its group.
        type: str
        default: root
      mode:
        description: Its rights, in octal.
        type: str
        default: "0750"
  trees:
    description: The trees.
    type: list
    elements: dict
    required: true
    suboptions:
      paths:
        description: Patterns, as in a shell, of the files and folders that are the trees' tops.
        type: list
        elements: str
        required: true
      owner:
        description: Owner of all that is in the tree.
        type: str
        required: true
      group:
        description: Group of all that is in the tree. Left empty, groups stay as they are.
        type: str
        default: ""
      folders:
        description: Rights that a folder needs, in octal.
        type: str
        default: "0750"
      files:
        description: Rights that a file needs, in octal.
        type: str
        default: "0440"
      never:
        description: Rights that nothing in the tree may have, in octal.
        type: str
        default: "6022"
      leave:
        description: Names of files that are left as they are.
        type: list
        elements: str
        default: []
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Repair permissions that were changed by hand
  api_endpoint_permissions:
    folders:
      - path: /var/lib/api-endpoint
    trees:
      - paths:
          - /var/lib/api-endpoint/releases/*
        owner: root
        group: www-data
"""

RETURN = r"""
made:
  description: The accounts and folders that were (or in check mode would be) made or changed.
  type: list
  elements: str
  returned: always
repaired:
  description: The first hundred paths that were (or in check mode would be) changed.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.api_endpoint.host.permissions import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "accounts": {"type": "dict", "default": {}},
            "folders": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str", "default": "0750"},
                },
            },
            "trees": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "paths": {"type": "list", "elements": "str", "required": True},
                    "owner": {"type": "str", "required": True},
                    "group": {"type": "str", "default": ""},
                    "folders": {"type": "str", "default": "0750"},
                    "files": {"type": "str", "default": "0440"},
                    "never": {"type": "str", "default": "6022"},
                    "leave": {"type": "list", "elements": "str", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
