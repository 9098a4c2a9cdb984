#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files with their owners and rights, in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_managed_files
short_description: Write files with their owners and rights, in one go
description:
  - Brings each file to its content, owned by root, in one step, so that nobody reads half of it. Missing folders above it
    are made. What is a link there is replaced by the file.
  - One module for several files is several times faster than a task for each. The action plugin of the same name looks at
    the files by a shell command first, and leaves it at that when all are as they should be.
  - O(needs), O(loaded_as) and O(read_by) say what shows that the files are in use. When they are not, the module reports a
    change, so that the handlers of a run that was killed between a file and its handler run now.
options:
  files:
    description: Content by absolute path.
    type: dict
    required: true
  mode:
    description: The files' rights, in octal.
    type: str
    default: "0644"
  needs:
    description:
      - Absolute path of something that is there when the files are in use.
    type: path
  loaded_as:
    description:
      - Units to which the files belong. They are in use when systemd has loaded the latest files of each unit. Name the
        instances of a template.
    type: list
    elements: str
    default: []
  read_by:
    description:
      - Units that read the files when they start. The files are in use when each unit runs, and was started after the latest
        file was written.
    type: list
    elements: str
    default: []
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Have rsyslog take nginx's errors
  api_endpoint_managed_files:
    files:
      /etc/rsyslog.d/30-nginx-private.conf: "{{ lookup('template', 'rsyslog.conf.j2') }}"
    needs: /run/nginx-error-log.sock
    read_by: [rsyslog.service]
  notify: Restart rsyslog
"""

RETURN = r"""
written:
  description: The files that were (or in check mode would be) written, or whose owner or rights were changed.
  type: list
  elements: str
  returned: always
unused:
  description: Why files that are as they should be are not in use, a line for each reason.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.api_endpoint.host.managed_files import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "mode": {"type": "str", "default": "0644"},
            "needs": {"type": "path"},
            "loaded_as": {"type": "list", "elements": "str", "default": []},
            "read_by": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
