#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace nginx's configuration as a whole, or not at all."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_nginx
short_description: Replace nginx's configuration as a whole, or not at all
description:
  - Puts the wanted files into a copy of the configuration folder, lets C(nginx -t) judge the copy, and only then
    writes them. A configuration that nginx rejects never reaches the disk, where the next start of nginx would find it.
  - C(nginx -t) makes the folders of caches. In the copy they are beside it, so that judging leaves nothing behind, and
    needs no folder that a dry run does not make.
  - What is somebody else's is kept, with a warning that says where - a file that was there before the role as
    C(<name>.before-api-endpoint), the last edit by hand of one of the role's own files as C(<name>.edited-by-hand). Both are
    beside the file, or in C(*-available) for one in C(*-enabled), whose files nginx reads whatever their names.
  - To tell an edit by hand from what an older version of the role wrote, C(.api-endpoint.json) in the folder has a digest
    of each file as it was written last.
  - Including other files works when their paths are relative to the folder, as in the role's C(nginx.conf).
options:
  folder:
    description: The configuration folder.
    type: path
    default: /etc/nginx
  files:
    description: Content by path, relative to O(folder).
    type: dict
    required: true
  links:
    description: Targets of symbolic links by path, relative to O(folder).
    type: dict
    default: {}
  absent:
    description: Paths that must not be there, relative to O(folder).
    type: list
    elements: str
    default: []
  pending:
    description:
      - Absolute path of a mark that is set before anything is written, for whoever reloads nginx to remove. While it is
        there the module reports a change, so that a run that was cut off before the reload is made up for.
    type: path
    required: true
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Configure nginx
  api_endpoint_nginx:
    pending: /run/nginx-api-endpoint.pending
    files:
      nginx.conf: "{{ lookup('template', 'nginx.conf.j2') }}"
    absent:
      - sites-enabled/default
"""

RETURN = r"""
written:
  description: The paths that were (or in check mode would be) written, linked or removed.
  type: list
  elements: str
  returned: always
pending:
  description: Whether nginx has yet to read what is on the disk.
  type: bool
  returned: when there is something to do
"""

from ansible.module_utils.api_endpoint.host.nginx import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "folder": {"type": "path", "default": "/etc/nginx"},
            "files": {"type": "dict", "required": True},
            "links": {"type": "dict", "default": {}},
            "absent": {"type": "list", "elements": "str", "default": []},
            "pending": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
