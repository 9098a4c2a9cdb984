#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove an endpoint from a host, and say what stays."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_removal
short_description: Remove an endpoint from a host, and say what stays
description:
  - Takes the endpoint out of nginx, tested in a copy before; stops its units; removes its files, its model data, the
    accounts that the role has made and, with the last endpoint of the host, what all of them shared.
  - What the app has written stays unless O(remove_data) is set, and with it the account that owns it. Model data on a
    volume, Debian packages, and all that is not the role's stay in any case.
  - Other endpoints of the host go on without a failed request.
  - Refuses a folder or an account that is not the endpoint's by the unit that is on the host. In check mode nothing is
    touched, and all is listed with its size.
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
    description: Absolute path of the folder with the model data.
    type: path
    required: true
  user:
    description: Account of the app.
    type: str
    required: true
  nginx_user:
    description: Account of nginx's workers.
    type: str
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  units:
    description: Units of systemd to stop and disable, in this order.
    type: list
    elements: str
    required: true
  files:
    description: Files that are the endpoint's own.
    type: list
    elements: path
    required: true
  folders:
    description: Folders and files that are the endpoint's own, with all that is in them.
    type: list
    elements: path
    required: true
  firewall_rules:
    description: File with what the firewall admits for the endpoint.
    type: path
    required: true
  nginx:
    description: The endpoint's files and links in O(nginx_folder).
    type: list
    elements: str
    required: true
  nginx_folder:
    description: Folder of nginx's configuration.
    type: path
    default: /etc/nginx
  shared:
    description: Files that all endpoints of a host share.
    type: list
    elements: path
    required: true
  shared_folders:
    description: Folders that all endpoints of a host share.
    type: list
    elements: path
    required: true
  rotation:
    description: File that rotates nginx's logs.
    type: path
    required: true
  has_balancers:
    description: >-
      Whether balancers send requests to the host. Debian's default site, which would pass for healthy, then stays away.
    type: bool
    default: false
  remove_data:
    description: Whether to remove what the app has written.
    type: bool
    default: false
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Say what would be removed
  api_endpoint_removal:
    name: my-api
    root: /var/lib/my-api
    data_dir: /srv/my-api/data
    user: my-api
    nginx_user: nginx
    units: [my-api@blue.service, my-api@green.service]
    files: [/etc/logrotate.d/my-api]
    folders: [/var/log/my-api]
    firewall_rules: /etc/nftables.d/my-api.nft
    nginx: [sites-enabled/my-api, sites-available/my-api]
    shared: [/etc/tmpfiles.d/nginx-log.conf]
    shared_folders: [/run/nginx-log]
    rotation: /etc/logrotate.d/nginx
  check_mode: true
"""

RETURN = r"""
removed:
  description: What was, or in check mode would be, removed.
  type: list
  elements: str
  returned: always
kept:
  description: What stays, each with the reason.
  type: list
  elements: str
  returned: always
text:
  description: Both for people, with sizes.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.host.removal import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    required: dict[str, object] = {"required": True}
    paths = {"type": "list", "elements": "path", "required": True}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", **required},
            "root": {"type": "path", **required},
            "data_dir": {"type": "path", **required},
            "user": {"type": "str", **required},
            "nginx_user": {"type": "str", **required},
            "run": {"type": "str", "default": ""},
            "units": {"type": "list", "elements": "str", **required},
            "files": {**paths},
            "folders": {**paths},
            "firewall_rules": {"type": "path", **required},
            "nginx": {"type": "list", "elements": "str", **required},
            "nginx_folder": {"type": "path", "default": "/etc/nginx"},
            "shared": {**paths},
            "shared_folders": {**paths},
            "rotation": {"type": "path", **required},
            "has_balancers": {"type": "bool", "default": False},
            "remove_data": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
