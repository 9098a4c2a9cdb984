#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look how the endpoint on this host is, and what it was asked lately."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_status
short_description: Look how the endpoint on this host is, and what it was asked lately
description:
  - Asks the live release once through nginx, and looks at its memory and at the disks.
  - Reads nginx's access log backwards from its end, rotated files included, as far as the time reaches or the bounds on
    bytes and seconds allow.
  - Requests for the health path do not count.
  - Needs to be root. Changes nothing.
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
    description: Absolute path of the folder of the model data.
    type: path
    required: true
  port:
    description: Port of nginx.
    type: int
    default: 80
  server_name:
    description: Name to send as Host header.
    type: str
    required: true
  path:
    description: Health path. A release that was proven by another one is asked for that.
    type: str
    default: /
  status:
    description: Statuses that mean that it is healthy; left empty, any below 500.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds to wait for the answer.
    type: int
    default: 10
  since:
    description: How many seconds back requests count.
    type: int
    default: 3600
  most_bytes:
    description: Bytes of the log that are read at most.
    type: int
    default: 67108864
  most_seconds:
    description: Seconds for which the log is read at most.
    type: int
    default: 10
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Look how it is
  api_endpoint_status:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    server_name: language.wmcloud.org
    path: /readyz
    status: [200]
  register: found
"""

RETURN = r"""
release:
  description: Id of the live release; empty when nothing is live.
  type: str
  returned: always
live_since:
  description: When it went live (UTC).
  type: str
  returned: when a release is live
healthy:
  description: Whether it answered through nginx as it should.
  type: bool
  returned: when a release is live
answer:
  description: What it answered when it is not healthy; empty when it is.
  type: str
  returned: when a release is live
memory:
  description: Bytes of memory that the service uses, what its processes share counted once (the sum of their PSS).
  type: int
  returned: when a release is live
disk_free:
  description: Bytes free on the fullest of the disks of releases, data and logs.
  type: int
  returned: when a release is live
seconds:
  description: How many seconds back the figures reach; fewer than asked for when the log has more than may be read.
  type: int
  returned: when a release is live
requests:
  description: How many requests there were in that time.
  type: int
  returned: when a release is live
server_errors:
  description: How many of them were answered with 5xx.
  type: int
  returned: when a release is live
client_errors:
  description: How many of them were answered with 4xx.
  type: int
  returned: when a release is live
p50:
  description: Milliseconds that half of them did not exceed; none without requests.
  type: int
  returned: when a release is live
p95:
  description: Milliseconds that 95 of a hundred did not exceed; none without requests.
  type: int
  returned: when a release is live
note:
  description: What else is to say, such as that the host was never set up.
  type: str
  returned: always
"""

from ansible.module_utils.api_endpoint.diagnosis.status import run_module
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "port": {"type": "int", "default": 80},
            "server_name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "status": {"type": "list", "elements": "int", "default": []},
            "timeout": {"type": "int", "default": 10},
            "since": {"type": "int", "default": 3600},
            "most_bytes": {"type": "int", "default": 64 * 1024 * 1024},
            "most_seconds": {"type": "int", "default": 10},
        },
        supports_check_mode=True,
    )
    run_module(module)


if __name__ == "__main__":
    main()
