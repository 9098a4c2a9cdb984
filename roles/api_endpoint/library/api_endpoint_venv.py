#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the virtualenv that an app's requirements ask for."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_venv
short_description: Build the virtualenv that an app's requirements ask for
description:
  - Makes O(root)C(/venvs/<key>), where the key is a digest of the requirements, the constraints, the pip options and the
    Python that runs them, by its path, its version but for corrections (3.11) and its binary interface. Equal inputs share
    one virtualenv; no package installer runs for them again.
  - Before anything is installed, the Python runs once in the service's sandbox. One that the account cannot run there, that
    lacks venv or ensurepip, or that is too old for gunicorn is refused.
  - uv does the work, and pip where uv cannot. The process that builds goes on when the connection drops; the next call for
    the same virtualenv waits for it.
  - A virtualenv is never rebuilt in place. One whose building was interrupted has no C(.complete) file and is removed.
options:
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  code:
    description: Digest of the code, as returned by M(api_endpoint_code). Not needed in check mode on a clean host.
    type: str
    default: ""
  python:
    description: Absolute path of the Python to use.
    type: path
    default: /usr/bin/python3
  packages:
    description: More requirements, in pip's notation.
    type: list
    elements: str
    default: []
  gunicorn:
    description: Requirement for gunicorn. It replaces the app's own, but for its extras.
    type: str
    required: true
  constraints:
    description: Constraints, in pip's notation.
    type: list
    elements: str
    default: []
  exclude:
    description: Names of requirements to leave out.
    type: list
    elements: str
    default: []
  index_url:
    description: URL of the package index to use instead of pip's own.
    type: str
    default: ""
  extra_index_urls:
    description: URLs of further package indexes.
    type: list
    elements: str
    default: []
  options:
    description: Further options for C(pip install).
    type: list
    elements: str
    default: []
  part:
    description:
      - Whether only a part of a run is done, by tags. Refused where the live virtualenv has lost its Python, as after an
        upgrade of Debian.
    type: bool
    default: false
  credentials:
    description:
      - Credentials by the URL that they are for, C(user:password). The action plugin takes them out of the other options;
        uv and pip get them by a netrc file, git by its environment.
    type: dict
    default: {}
  task:
    description: What an earlier call has returned as RV(task), to wait for its end.
    type: str
    default: ""
  user:
    description: User and group who own the virtualenv and who run pip, inside the walls of the endpoint's service.
    type: str
    default: www-data
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
- name: Build the virtualenv
  api_endpoint_venv:
    name: api-endpoint
    root: /var/lib/api-endpoint
    code: "{{ code.digest }}"
    gunicorn: gunicorn==27.0.1
    constraints: ["numpy<2"]
    exclude: [uwsgi]
"""

RETURN = r"""
key:
  description: Name of the virtualenv below C(venvs), 16 hexadecimal digits.
  type: str
  returned: when it can be told without changing anything
task:
  description: The name of the work that goes on. Call again with O(task).
  type: str
  returned: while it is built
text:
  description: How far it is.
  type: str
  returned: while it is built
excluded:
  description: The requirements that were left out, as they stand in the files.
  type: list
  elements: str
  returned: when O(code) is there
"""

from ansible.module_utils.api_endpoint.release.virtualenv import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    texts = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run": {"type": "str", "default": ""},
            "root": {"type": "path", "required": True},
            "code": {"type": "str", "default": ""},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            "packages": texts,
            "gunicorn": {"type": "str", "required": True},
            "constraints": texts,
            "exclude": texts,
            "index_url": {"type": "str", "default": ""},
            "extra_index_urls": texts,
            "options": texts,
            "part": {"type": "bool", "default": False},
            "credentials": {"type": "dict", "default": {}, "no_log": True},
            "task": {"type": "str", "default": ""},
            "user": {"type": "str", "default": "www-data"},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
