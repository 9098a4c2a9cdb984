#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring model data into the store on the host, verified."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_artifacts
short_description: Bring model data into the store on the host, verified
description:
  - Makes sure that every artifact lies in O(data_dir) under its key, a digest of what it is or of what it is made of, as
    C(<key>/artifact), with its size and source in C(<key>/artifact.json). One that is there is not read again to find out
    that nothing changed; its size and time say so.
  - What arrives is written to C(.part-<digest>), verified while it arrives, and gets its place only when it is whole. A half
    is kept, and the next run goes on from there.
  - Work that takes long is done by a process of its own on the host, which goes on when the connection drops. The action
    plugin of the same name sends what lies on the controller, asks every ten seconds how far it is, and shows that.
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
    description: Absolute path of the store.
    type: path
    required: true
  user:
    description: Account of the app; its group may read the data, and commands run as it.
    type: str
    default: www-data
  virtualenv:
    description: Absolute path of the virtualenv whose programs commands find first.
    type: path
    default: /usr
  command_timeout:
    description: Seconds within which a command must end.
    type: int
    default: 600
  environment:
    description: Environment variables for commands.
    type: dict
    default: {}
  verify:
    description: Read all data again and compare it, instead of looking at sizes and times.
    type: bool
    default: false
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  step:
    description:
      - The action plugin of the same name turns C(bring) into C(plan) (say what is missing and what the controller has to
        send), C(begin) (start to bring it) and C(wait) (wait ten seconds for its end).
    type: str
    choices: [bring, plan, begin, wait]
    default: bring
  artifacts:
    description: The artifacts.
    type: list
    elements: dict
    required: true
    suboptions:
      dest:
        description: Where the app finds it, relative to the app's folder.
        type: str
        required: true
      src:
        description: File or folder on the controller.
        type: str
      url:
        description: Where to download it from (http or https), or a list of such mirrors.
        type: raw
      secret_urls:
        description:
          - The URLs with their users, passwords and queries, where they have any. The action plugin takes them from O(url),
            so that no log and no message has them.
        type: list
        elements: str
        default: []
      path:
        description: File on the host.
        type: str
      command:
        description: Shell command that makes it of O(artifacts[].inputs).
        type: str
      inputs:
        description: The C(dest) of the artifacts that O(artifacts[].command) reads.
        type: list
        elements: str
        default: []
      sha256:
        description: SHA-256 of what is fetched, 64 hexadecimal digits.
        type: str
      size:
        description: Size of what is fetched, in bytes.
        type: int
      headers:
        description: Further request headers.
        type: dict
        default: {}
      unpack:
        description: Unpack it (tar, also with gz, bz2, xz, lzma, zst or Z; zip; a single compressed file).
        type: bool
        default: false
      mode:
        description: Rights of the file or folder, in octal, instead of 0640 and 0750.
        type: str
      allow_unverified:
        description:
          - Take a download without O(artifacts[].sha256) as it comes. It is fetched once, and not again while its
            URL stays the same.
        type: bool
        default: false
      writable:
        description: Whether the app gets a copy of its own that it may write.
        type: bool
        default: false
      is_folder:
        description: Whether O(artifacts[].src) is a folder. Set by the action plugin.
        type: bool
        default: false
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Fetch the model
  api_endpoint_artifacts:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    run: "{{ lock.token }}"
    artifacts:
      - dest: model.bin
        url: https://analytics.wikimedia.org/published/datasets/one-off/me/model.bin
        sha256: 8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83
"""

RETURN = r"""
artifacts:
  description: What a release needs to know of each artifact.
  type: list
  elements: dict
  returned: when it can be told without changing anything
  contains:
    dest:
      description: Where the app finds it.
      type: str
    digest:
      description: Its key in the store.
      type: str
    writable:
      description: Whether the app may write its copy.
      type: bool
missing:
  description: The C(dest) of what is not in the store.
  type: list
  elements: str
  returned: with O(step=plan)
uploads:
  description: The names below O(data_dir) under which the controller has to put what it has, by C(dest).
  type: dict
  returned: with O(step=plan)
text:
  description: How far it is.
  type: str
  returned: with O(step=wait), until it is done
"""

from ansible.module_utils.api_endpoint.artifacts.bring import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "user": {"type": "str", "default": "www-data"},
            "virtualenv": {"type": "path", "default": "/usr"},
            "command_timeout": {"type": "int", "default": 600},
            "environment": {"type": "dict", "default": {}},
            "verify": {"type": "bool", "default": False},
            "run": {"type": "str", "default": ""},
            "step": {
                "type": "str",
                "choices": ["bring", "plan", "begin", "wait"],
                "default": "bring",
            },
            "artifacts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "dest": {"type": "str", "required": True},
                    "src": {"type": "str"},
                    "url": {"type": "raw"},
                    "secret_urls": {
                        "type": "list",
                        "elements": "str",
                        "default": [],
                        "no_log": True,
                    },
                    "path": {"type": "str"},
                    "command": {"type": "str"},
                    "inputs": {"type": "list", "elements": "str", "default": []},
                    "sha256": {"type": "str"},
                    "size": {"type": "int"},
                    "headers": {"type": "dict", "default": {}, "no_log": True},
                    "unpack": {"type": "bool", "default": False},
                    "mode": {"type": "str"},
                    "allow_unverified": {"type": "bool", "default": False},
                    "writable": {"type": "bool", "default": False},
                    "is_folder": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
