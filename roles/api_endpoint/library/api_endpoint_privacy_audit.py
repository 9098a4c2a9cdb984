#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Call the endpoint in many ways, and look whether anything on the host tells who called."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_privacy_audit
short_description: Look whether anything on the host tells who called
description:
  - Sends good, bad and hostile requests to nginx on this host, over IPv4 and IPv6, from addresses that nobody else uses,
    with marks that were never there before in the headers that carry addresses and user agents.
  - Then searches all files that were changed meanwhile where logs are and where the service can write, packed ones
    too, and the journal, for the marks and for the addresses.
  - Proves that its search works by files and an entry of the journal that it puts there itself, and that it looks where
    requests are logged by finding the requests' paths in nginx's access log.
  - Fails when a mark is where it should not be, and when it could not search or not prove itself.
  - Needs to be root. Changes nothing that stays, but for the log lines of its requests and one line in the journal. In check
    mode it says what it would do.
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
  log_dir:
    description: Absolute path of the folder of gunicorn's logs.
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
    description: Path that the app answers. Only GET and HEAD are sent to it; other methods go to paths that no app has.
    type: str
    default: /
  requests:
    description: How many requests to send over IPv4, and as many over IPv6.
    type: int
    default: 100
  rate:
    description: How many requests a second to send at most.
    type: int
    default: 50
  seconds:
    description: Seconds for sending over IPv4, and as many over IPv6. What was not sent by then is not sent.
    type: int
    default: 60
  search_seconds:
    description: Seconds for searching. What was not searched by then makes the audit fail.
    type: int
    default: 600
  access_log:
    description: The log in which every request is, by which the audit tells that its search finds what is there.
    type: path
    default: /var/log/nginx/access.log
  query_string:
    description: Whether the access logs may keep query strings.
    type: bool
    default: true
  referrer:
    description: Whether the access logs may keep referrers.
    type: bool
    default: true
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Look whether anything tells who called
  api_endpoint_privacy_audit:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    log_dir: /var/log/gunicorn
    server_name: language.wmcloud.org
    path: /readyz
  register: audit
"""

RETURN = r"""
report:
  description: What was sent, searched and found, as text. A failure's message has it too.
  type: str
  returned: success
sent:
  description: How many requests were sent, by address family, kind and outcome (a status, or words where none came).
  type: dict
  returned: success, not in check mode
files:
  description: How many files were searched, by folder.
  type: dict
  returned: success, not in check mode
bytes:
  description: How many bytes these had, unpacked.
  type: int
  returned: success, not in check mode
entries:
  description: How many entries of the journal were searched.
  type: int
  returned: success, not in check mode
found:
  description: The marks that are where they should not be, the first ones of each kind in each place.
  type: list
  elements: dict
  returned: failure
  contains:
    kind:
      description: What the mark stands for, such as C(user agent).
      type: str
    place:
      description: Path of the file, or C(journal).
      type: str
    excerpt:
      description: What is around it.
      type: str
"""

from ansible.module_utils.api_endpoint.privacy.audit import audit
from ansible.module_utils.basic import AnsibleModule


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "log_dir": {"type": "path", "required": True},
            "port": {"type": "int", "default": 80},
            "server_name": {"type": "str", "required": True},
            "path": {"type": "str", "default": "/"},
            "requests": {"type": "int", "default": 100},
            "rate": {"type": "int", "default": 50},
            "seconds": {"type": "int", "default": 60},
            "search_seconds": {"type": "int", "default": 600},
            "access_log": {"type": "path", "default": "/var/log/nginx/access.log"},
            "query_string": {"type": "bool", "default": True},
            "referrer": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    answer = audit(module.params, module.check_mode)
    (module.fail_json if "msg" in answer else module.exit_json)(changed=False, **answer)


if __name__ == "__main__":
    main()
