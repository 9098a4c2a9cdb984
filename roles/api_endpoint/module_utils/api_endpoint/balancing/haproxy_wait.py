# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a balancer what it does with an endpoint's host."""

from __future__ import annotations

import csv
import io
import socket
import time

from ansible.module_utils.basic import AnsibleModule

HALF = 50  # per cent
SOCKET = "/run/haproxy/admin.sock"
BACKEND = "api"  # all the hosts of the endpoint, in the configuration of the role load_balancer
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


def servers_of(text: str) -> Servers:
    """Return the lines of the hosts, by their names."""
    rows = csv.DictReader(io.StringIO(text.removeprefix("# ")))
    return {
        row["svname"]: row
        for row in rows
        if row["pxname"] == BACKEND and row["svname"] not in ("BACKEND", "FRONTEND")
    }


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
    others = [
        row for other, row in servers.items() if is_usable(row) and other not in [name, *besides]
    ]
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


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    given = module.params
    deadline = time.monotonic() + given["timeout"]
    while True:
        text = ask(SOCKET)
        found = judged(
            servers_of(text or ""),
            given["server"],
            given["until"],
            given["besides"],
        )
        if found["as_wanted"] or module.check_mode or time.monotonic() > deadline:
            break
        time.sleep(0.1)
    module.exit_json(changed=False, answers=text is not None, **found)
