#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the volume for the model data: find it, format it if it is empty, move the data to it, mount it, let it grow."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_volume
short_description: Bring the volume for the model data
description:
  - Makes sure that a disk of its own is mounted at O(mount), now and after a reboot, by its UUID, with C(nofail).
  - A disk is formatted only when nothing at all is on it and nobody uses it. One that carries a filesystem with the label
    O(label), is in C(/etc/fstab) for O(mount), or is mounted there, is used as it is. Every other one is refused, with what
    is on it. Where C(wmcs-prepare-cinder-volume) exists, it formats the disk.
  - What lies at O(mount) on the disk below it is copied to the volume, compared, and only then covered by the volume, in one
    step; processes that have it open go on with what they have. The copy below is removed with O(step=settle), when no
    running version looks at it any more. A move that was cut off goes on where it was.
  - When the disk has become larger than its filesystem, the filesystem follows.
  - The work is done by a process of its own on the host, which goes on when the connection drops. The action plugin of the
    same name asks every ten seconds how far it is, and shows that.
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
    description: Absolute path of the store of model data, O(mount) or below it.
    type: path
    required: true
  mount:
    description: Absolute path of the folder at which the volume is mounted.
    type: path
    required: true
  device:
    description:
      - The disk, such as C(/dev/sdb); or C(auto), the only one with the label O(label), or else the only one with nothing on
        it.
    type: str
    default: auto
  label:
    description: Label of the filesystem, which is given to a new one, and by which the volume is known again.
    type: str
    required: true
  filesystem:
    description: Kind of filesystem.
    type: str
    choices: [ext4, xfs]
    default: ext4
  step:
    description:
      - C(plan) says what is to be done, C(begin) starts it, C(wait) waits ten seconds for its end; these are for the action
        plugin, which goes through them for C(bring).
      - C(settle) removes what the move left below the volume. It belongs behind the rollout.
    type: str
    choices: [bring, plan, begin, wait, settle]
    default: bring
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Bring the only unused disk as the volume
  api_endpoint_volume:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    mount: /srv/api-endpoint
    label: api-endpoint
    run: "{{ lock.token }}"

- name: Remove what the move left on the root disk
  api_endpoint_volume:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    mount: /srv/api-endpoint
    label: api-endpoint
    step: settle
    run: "{{ lock.token }}"
"""

RETURN = r"""
device:
  description: The disk.
  type: str
  returned: always, but for O(step=settle)
actions:
  description: What was, or in check mode would be, done, in words.
  type: list
  elements: str
  returned: always
uuid:
  description: UUID of the filesystem; empty before there is one.
  type: str
  returned: always, but for O(step=settle)
text:
  description: How far it is.
  type: str
  returned: with O(step=wait), until it is done
"""

from ansible.module_utils.api_endpoint.volume.disks import FILESYSTEMS
from ansible.module_utils.api_endpoint.volume.provision import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "mount": {"type": "path", "required": True},
            "device": {"type": "str", "default": "auto"},
            "label": {"type": "str", "required": True},
            "filesystem": {"type": "str", "choices": list(FILESYSTEMS), "default": "ext4"},
            "step": {
                "type": "str",
                "choices": ["bring", "plan", "begin", "wait", "settle"],
                "default": "bring",
            },
            "run": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
