#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring an app's code into the store on the host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_code
short_description: Bring an app's code into the store on the host
description:
  - Puts one version of an app's code under O(root)C(/code/<digest>), from where releases take it.
  - The code comes from a git repository, or from a folder on the controller. For the latter the action plugin of the
    same name selects and packs the files and sends them only when the host does not have them.
  - An entry holds C(app/), the files that become a release, C(requirements.json), what they require, and C(local/), what
    the requirements name of the code that is not in C(app/).
  - Submodules come along, and the files of git-lfs where the host has its program. What only stands for a file is refused.
  - Nothing is built or run here. An entry is never changed once it has its name.
options:
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  group:
    description: Group that may read the code.
    type: str
    default: www-data
  folder:
    description: Folder on the controller that holds the code, instead of O(git_url). Handled by the action plugin.
    type: path
  exclude:
    description: Patterns of files to leave out, in the shell's style, from a folder or from git.
    type: list
    elements: str
    default: []
  subdir:
    description: Folder within the source that holds the WSGI module; its content becomes the release.
    type: str
    default: ""
  requirements_file:
    description:
      - The requirements file, relative to the source. When empty, C(requirements.txt) beside the WSGI module, else the
        one at the top of the source, else what C(pyproject.toml) lists.
    type: str
    default: ""
  wsgi:
    description: The WSGI application as C(module:callable); the module must exist in the code.
    type: str
    default: wsgi:app
  git_url:
    description: URL of a git repository to take the code from.
    type: str
  git_credentials:
    description: Credentials by the URL that they are for, C(user:password). The action plugin takes them out of O(git_url).
    type: dict
    default: {}
  git_version:
    description: Branch, tag or commit.
    type: str
    default: HEAD
  git_key:
    description: Private key (the key itself, not a path) that may read the repository.
    type: str
  archive:
    description: Packed code on the host. Set by the action plugin.
    type: path
  digest:
    description: Digest of the packed code. Set by the action plugin.
    type: str
  name:
    description: Name of the endpoint.
    type: str
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Take the code from the laptop
  api_endpoint_code:
    name: api-endpoint
    root: /var/lib/api-endpoint
    folder: app

- name: Take the code from git
  api_endpoint_code:
    name: api-endpoint
    root: /var/lib/api-endpoint
    git_url: https://gitlab.wikimedia.org/me/my-api.git
    git_version: v1.2
    subdir: model
"""

RETURN = r"""
digest:
  description: SHA-256 of the code (64 hexadecimal digits); its name in the store.
  type: str
  returned: when it can be told without changing anything
revision:
  description: The git commit, with C(+changes) behind it when the folder has uncommitted changes; empty without git.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.release.code import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run": {"type": "str", "default": ""},
            "root": {"type": "path", "required": True},
            "group": {"type": "str", "default": "www-data"},
            "folder": {"type": "path"},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "subdir": {"type": "str", "default": ""},
            "requirements_file": {"type": "str", "default": ""},
            "wsgi": {"type": "str", "default": "wsgi:app"},
            "git_url": {"type": "str"},
            "git_credentials": {"type": "dict", "default": {}, "no_log": True},
            "git_version": {"type": "str", "default": "HEAD"},
            "git_key": {"type": "str", "no_log": True},
            "archive": {"type": "path"},
            "digest": {"type": "str"},
        },
        required_one_of=[("git_url", "digest")],
        required_together=[("digest", "archive")],
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
