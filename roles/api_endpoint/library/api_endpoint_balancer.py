#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a balancer what it does with an endpoint's host."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_balancer
short_description: Ask a balancer what it does with an endpoint's host, and wait until it is as it should be
description:
  - Runs on the balancer, and reads the state of its servers from HAProxy's socket. It changes nothing there. A host is
    drained and rejoins by itself (M(api_endpoint_drain)).
  - Where no HAProxy runs, or where it does not know the host, there is nothing to wait for.
options:
  server:
    description: The host's name at the balancer.
    type: str
    default: ""
  until:
    description:
      - C(others) waits until those that can stand in for the host have at least half of their strength, after a slow start.
      - C(drained) waits until the host gets no requests any more and has none in flight; C(rejoined) until it gets requests.
        A host that the balancer's operator has taken out by hand counts as rejoined.
    type: str
    choices: ["", others, drained, rejoined]
    default: ""
  timeout:
    description: Seconds to wait.
    type: int
    default: 30
  besides:
    description: Hosts that are drained at the same time, the host itself among them.
    type: list
    elements: str
    default: []
  backend:
    description: HAProxy's name for all the hosts of the endpoint.
    type: str
    default: api
  socket:
    description: HAProxy's socket.
    type: path
    default: /run/haproxy/admin.sock
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Wait until the balancer no longer sends requests to this host
  api_endpoint_balancer:
    server: "{{ inventory_hostname }}"
    until: drained
  delegate_to: my-balancer
"""

RETURN = r"""
answers:
  description: Whether a HAProxy runs.
  type: bool
  returned: always
status:
  description: HAProxy's word for the host's state, with what its last check found; empty when it does not know the host.
  type: str
  returned: always
usable:
  description: Whether the host gets requests.
  type: bool
  returned: always
may_drain:
  description: Whether others get requests, besides those that are drained as well, or the host gets none anyway.
  type: bool
  returned: always
requests:
  description: Requests in flight on the host.
  type: int
  returned: always
as_wanted:
  description: Whether it is as O(until) says.
  type: bool
  returned: always
"""

import csv
import io
import socket
import time

from ansible.module_utils.basic import AnsibleModule

HALF = 50  # per cent
Servers = dict[str, dict[str, str]]


def ask(path: str) -> str | None:
    """Return what HAProxy tells of its servers; None when it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(b"show stat\n")
            parts = []
            while part := connection.recv(65536):
                parts.append(part)
    except OSError:
        return None
    return b"".join(parts).decode(errors="replace")


def servers_of(text: str, backend: str) -> Servers:
    """Return the lines of a backend's servers, by their names."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {row["svname"]: row for row in rows if row["pxname"] == backend and row["svname"] not in ("BACKEND", "FRONTEND")}


def is_usable(server: dict[str, str]) -> bool:
    """Tell whether a server gets new requests. `UP 1/2` does, `DOWN 1/2` does not."""
    return server["status"].startswith(("UP", "no check"))


def is_strong(server: dict[str, str]) -> bool:
    """Tell whether a server is past the first half of its slow start."""
    return int((server.get("throttle") or "100%").rstrip("%")) >= HALF


def judged(servers: Servers, name: str, until: str, besides: list[str]) -> dict[str, object]:
    """Return what there is to say of a server."""
    server = servers.get(name)
    if server is None:
        return {"status": "", "usable": False, "may_drain": True, "requests": 0, "as_wanted": True}
    usable, requests = is_usable(server), int(server["scur"] or 0)
    by_hand = server["status"].startswith(("MAINT", "DRAIN"))
    others = [row for other, row in servers.items() if is_usable(row) and other not in [name, *besides]]
    wanted = {
        "": True,
        "others": all(map(is_strong, others)),
        "drained": not usable and requests == 0,
        "rejoined": usable or by_hand,
    }
    return {
        "status": " ".join(f"{server['status']} {server.get('check_status') or ''}".split()),
        "usable": usable,
        "may_drain": not usable or bool(others),
        "requests": requests,
        "as_wanted": wanted[until],
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "server": {"type": "str", "default": ""},
            "until": {"type": "str", "choices": ["", "others", "drained", "rejoined"], "default": ""},
            "timeout": {"type": "int", "default": 30},
            "besides": {"type": "list", "elements": "str", "default": []},
            "backend": {"type": "str", "default": "api"},
            "socket": {"type": "path", "default": "/run/haproxy/admin.sock"},
        },
        supports_check_mode=True,
    )
    given = module.params
    deadline = time.monotonic() + given["timeout"]
    while True:
        text = ask(given["socket"])
        found = judged(servers_of(text or "", given["backend"]), given["server"], given["until"], given["besides"])
        if found["as_wanted"] or module.check_mode or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    module.exit_json(changed=False, answers=text is not None, **found)


if __name__ == "__main__":
    main()
