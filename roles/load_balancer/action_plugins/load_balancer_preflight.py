# SPDX-License-Identifier: GPL-3.0-or-later
"""Check every input before the balancer is touched: what the argument spec cannot, all at once, with the remedy.

The look at the balancer that this takes also looks up the hosts that are known by name: HAProxy bounds the silence of
a host (tcp-ut) only where it has an address, and keepalived wants addresses.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from pathlib import Path
from typing import Any

from ansible.plugins.loader import action_loader

ROLE = Path(__file__).resolve().parents[1]
action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.inputs import (
    Settings,
    is_address,
    number,
    out_of_range,
    wrong_networks,
    wrong_origins,
)
from ansible.module_utils.api_endpoint.controller.preflight import (
    PreflightAction,
    argument_spec,
    facts_of,
    foreign_listener,
)
from ansible.module_utils.api_endpoint.controller.processes import IPV6_LOOK, NO_IPV6
from ansible.module_utils.api_endpoint.controller.validate import platform

PREFIX = "load_balancer_"
LOOKED_UP = "looked up: "  # the beginning of lines of the answer that stand in no file

# Least and most of every number, and what it counts.
RANGES = {
    "load_balancer_port": (1, 65535, "ports"),
    "load_balancer_max_concurrency": (1, 4000, "requests"),
    "load_balancer_queue_timeout": (1, 3600, "seconds"),
    "load_balancer_client_rate": (0, 100_000, "requests a second"),
    "load_balancer_client_timeout": (1, 3600, "seconds"),
    "load_balancer_apt_lock_timeout": (0, 86_400, "seconds"),
    "load_balancer_log_days": (1, 90, "days"),
    "load_balancer_floating_router_id": (1, 255, "numbers"),
}
SERVER_NAME = re.compile(r"[A-Za-z0-9_.:-]+")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I
)
PATH = re.compile(
    r"/[!#-&(-\[\]-~]*"
)  # without spaces, quotes and backslashes, which HAProxy would read in its own way
INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
NETWORKS = ("load_balancer_trusted_proxies", "load_balancer_metrics_clients")


def servers(settings: Settings, here: str) -> list[str]:
    """Check the hosts; `here` is the balancer's own name in the inventory."""
    found: list[str] = []
    given = settings.get("load_balancer_servers") or []
    if not given:
        found.append(
            "load_balancer_servers is []. A balancer needs hosts: put them into the group api_endpoints of the inventory, "
            "or take the balancers out of the group load_balancers."
        )
    names = [str(server.get("name")) for server in given]
    for server in given:
        name, address, port = (
            str(server.get("name")),
            str(server.get("address")),
            server.get("port", 80),
        )
        if not SERVER_NAME.fullmatch(name):
            found.append(
                f"load_balancer_servers has the name {name!r}. Use letters, digits, dots, hyphens and underscores."
            )
        if names.count(name) > 1:
            found.append(
                f"load_balancer_servers has the name {name!r} {names.count(name)} times. Give each host a name of its own."
            )
        if not is_address(address) and not HOST_NAME.fullmatch(address):
            found.append(
                f"load_balancer_servers has the address {address!r} for {name}. Give an address or a host's name."
            )
        if not 1 <= (number(port) or 0) <= 65535:
            found.append(
                f"load_balancer_servers has the port {port!r} for {name}. Give a port from 1 to 65,535."
            )
        if name == here and number(port) == number(settings.get("load_balancer_port")):
            found.append(
                f"load_balancer_port is {port}, and so is the port of nginx on {here}, which is a balancer and one of its "
                "hosts. Give nginx another one there, such as api_endpoint_port: 8080 in its host_vars."
            )
    return list(dict.fromkeys(found))


def texts(settings: Settings) -> list[str]:
    """Check every text that must have a certain form."""
    found = []
    name = settings.get("load_balancer_server_name")
    if name is not None and not HOST_NAME.fullmatch(str(name)):
        found.append(
            f"load_balancer_server_name is {name!r}. Give the API's name, such as my-api.wmcloud.org."
        )
    path = settings.get("load_balancer_health_path")
    if path is not None and not PATH.fullmatch(str(path)):
        found.append(
            f"load_balancer_health_path is {path!r}. Give a path that begins with a slash, without spaces, quotes and "
            "backslashes."
        )
    found += wrong_origins(settings, "load_balancer_cors_origins")
    for variable in NETWORKS:
        found += wrong_networks(settings, variable)
    listen = settings.get("load_balancer_metrics_listen")
    if listen is not None:
        address, _, port = str(listen).rpartition(":")
        if not is_address(address.strip("[]")) or not 1 <= (number(port) or 0) <= 65535:
            found.append(
                f"load_balancer_metrics_listen is {listen!r}. Give an address and a port, such as 127.0.0.1:8404."
            )
        elif number(port) == number(settings.get("load_balancer_port")):
            found.append(
                f"load_balancer_metrics_listen is {listen!r}, with the port of load_balancer_port. Give it another one."
            )
    return found


def floating(settings: Settings) -> list[str]:
    """Check the address that balancers share."""
    address = str(settings.get("load_balancer_floating_address") or "")
    if not address:
        return []
    found = []
    try:
        if "/" not in address:
            raise ValueError
        ipaddress.ip_interface(address)
    except ValueError:
        found.append(
            f"load_balancer_floating_address is {address!r}. Give an address with its prefix, such as 172.16.0.10/21."
        )
    interface = str(settings.get("load_balancer_floating_interface"))
    if not INTERFACE.fullmatch(interface):
        found.append(
            f"load_balancer_floating_interface is {interface!r}. Give a network interface's name, such as ens3."
        )
    if not settings.get("load_balancer_floating_peers"):
        found.append(
            f"load_balancer_floating_address is {address!r}, but load_balancer_floating_peers is []: nobody could take it "
            "over. Put a second balancer into the group load_balancers, or leave the address out."
        )
    return found


def problems(settings: Settings, here: str) -> list[str]:
    """Return every problem there is."""
    return (
        servers(settings, here)
        + out_of_range(settings, RANGES)
        + texts(settings)
        + floating(settings)
    )


def question(settings: Settings) -> str:
    """Return the command that looks at the balancer: its system, who has the port, the addresses of names."""
    port = number(settings.get("load_balancer_port")) or 0
    own = (
        f"grep -qsE '^[[:space:]]*bind :{port}$' /etc/haproxy/haproxy.cfg && "
        "grep -qsx haproxy /proc/$(cat /run/haproxy/haproxy.pid 2>/dev/null || echo none)/comm"
    )
    looked_up = "".join(
        f"getent ahosts {shlex.quote(name)} | sed {shlex.quote(f's/^/{LOOKED_UP}{name} /')}; "
        for name in names_of(settings)
    )
    return f"cat /etc/os-release; {IPV6_LOOK}{foreign_listener(port, own)}{looked_up}"


def names_of(settings: Settings) -> list[str]:
    """Return what is to be looked up."""
    given = [str(server.get("address")) for server in settings.get("load_balancer_servers") or []]
    given += [str(peer) for peer in settings.get("load_balancer_floating_peers") or []]
    return sorted({name for name in given if not is_address(name)})


def addresses_of(text: str) -> dict[str, str]:
    """Return the address of each name that has one, IPv4 where there is one; `text` is getent's, a name before each line."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.removeprefix(LOOKED_UP).split()
        if line.startswith(LOOKED_UP) and len(words) > 1:
            name, address = words[:2]
            if name not in found or (":" in found[name] and ":" not in address):
                found[name] = address
    return found


class ActionModule(PreflightAction):
    """Check, and fail with every problem there is; return the addresses of hosts that are known by name."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        settings, found, mistaken = self.checked(variables, PREFIX, argument_spec(ROLE))
        if mistaken:
            self.refuse(found + mistaken)
        found += problems(settings, str(variables.get("inventory_hostname")))
        text, rights = self.look(variables, question(settings))
        found += rights + platform(facts_of(text))
        # In a dry run what has the port now may be about to give it up.
        if not self._task.check_mode:
            port = settings.get("load_balancer_port")
            found += self.listeners(text, "load_balancer_port", port, port, "haproxy.service")
        listen = settings.get("load_balancer_metrics_listen")
        found += self.without_ipv6(text, "load_balancer_metrics_listen", listen)
        self.refuse(found)
        has_ipv6 = NO_IPV6 not in text.splitlines()
        return {"changed": False, "addresses": addresses_of(text), "has_ipv6": has_ipv6}
