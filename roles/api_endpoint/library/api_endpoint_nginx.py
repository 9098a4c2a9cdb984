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
    default: {}
  links:
    description: Targets of symbolic links by path, relative to O(folder).
    type: dict
    default: {}
  absent:
    description:
      - Paths that must not be there, relative to O(folder). A site C(catch-all-<port>) of a port that no other site listens
        on goes without being named.
    type: list
    elements: str
    default: []
  loaded:
    description:
      - Path, relative to O(folder), of a file that gives the configuration a name of its own, new with each change. The
        sites include it in a server that listens on O(socket) under the name C(loaded.invalid), and C(<path>.location) in
        their own.
      - While nginx says another name than the file has, or none, the module reports a change. So a reload that failed, or
        that a run was cut off before, is made up for by the next run.
    type: str
    required: true
  socket:
    description: Absolute path of the unix socket on which nginx says which configuration it has loaded.
    type: path
    required: true
  reload:
    description:
      - Have nginx load what is on the disk, unless it has. Fails, with nginx's reason, when nginx goes on with the
        configuration that it had, because another program has its port for example.
    type: bool
    default: false
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Configure nginx
  api_endpoint_nginx:
    socket: /run/nginx-proof/api-endpoint.sock
    loaded: api-endpoint/api-endpoint.loaded
    files:
      nginx.conf: "{{ lookup('template', 'nginx.conf.j2') }}"
    absent:
      - sites-enabled/default

- name: Reload nginx, unless it has loaded what is on the disk
  api_endpoint_nginx:
    socket: /run/nginx-proof/api-endpoint.sock
    loaded: api-endpoint/api-endpoint.loaded
    reload: true
"""

RETURN = r"""
written:
  description: The paths that were (or in check mode would be) written, linked or removed.
  type: list
  elements: str
  returned: always
pending:
  description: Whether nginx had yet to load what is on the disk.
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
            "files": {"type": "dict", "default": {}},
            "links": {"type": "dict", "default": {}},
            "absent": {"type": "list", "elements": "str", "default": []},
            "loaded": {"type": "str", "required": True},
            "socket": {"type": "path", "required": True},
            "reload": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
