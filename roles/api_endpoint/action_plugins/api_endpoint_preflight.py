# SPDX-License-Identifier: GPL-3.0-or-later
"""Check every input before the host is touched: types, choices, ranges, combinations; all at once, with the remedy.

Of the host's facts the role needs three, which stand in two files. Reading these takes a tenth of the time that gathering
facts takes, and a look for the unit comes along, and one for what the old template left.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.loader import action_loader

ROLE = Path(__file__).resolve().parents[1]
action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.commands import USUAL, adapted
from ansible.module_utils.api_endpoint.controller.inputs import number, out_of_range
from ansible.module_utils.api_endpoint.controller.preflight import (
    PreflightAction,
    argument_spec,
    facts_of,
    foreign_listener,
)
from ansible.module_utils.api_endpoint.controller.validate import (
    RANGES,
    problems,
    server_names,
)

PREFIX = "api_endpoint_"
# Lines of the answer that stand in neither file.
SET_UP = "this host was set up"
OLD_SITE = "site of the old template: "
OLD_UNIT = "unit of the old template: "
THERE = "there: "
SITE = "site: "
# Which names and ports the sites of the role's endpoints have, a line each: the site, then nginx's words.
SITES_LOOK = (
    "for site in /etc/nginx/sites-enabled/*; do name=${site##*/}; "
    'test ! -e "/etc/systemd/system/$name@.service" || '
    'sed -nE "s/^[[:space:]]*((listen|server_name)[[:space:]].*);.*/'
    + SITE
    + '$name \\1/p" "$site"; done; '
)
DERIVED = ["__api_endpoint_usual_headers"]  # of what the rules look at


def question(name: str, paths: list[str]) -> str:
    """Return the command that looks at the host: its facts, whether it was set up, what of the old template is in use.

    And which of some paths are there: what has to be removed costs no look of its own.

    The old template's site is known by its socket, its service by its unit's name and the settings that the unit names.
    """
    unit, old_unit = f"/etc/systemd/system/{name}@.service", "/etc/systemd/system/model.service"
    return (
        "cat /etc/os-release /etc/resolv.conf 2>/dev/null; "
        f"test ! -e {shlex.quote(unit)} || echo {shlex.quote(SET_UP)}; "
        f"grep -lsF {shlex.quote(f'/srv/{name}/sock/')} /etc/nginx/sites-enabled/* | "
        f"sed 's|^/etc/nginx/|{OLD_SITE}|'; "
        f"grep -qsF {shlex.quote(f'/etc/{name}/')} {old_unit} && systemctl is-enabled --quiet model.service 2>/dev/null && "
        f"echo '{OLD_UNIT}model.service'; "
        + "".join(
            f"test ! -e {shlex.quote(path)} || printf '%s\\n' {shlex.quote(THERE + path)}; "
            for path in paths
        )
    )


def foreign_listeners(name: str, port: int | None, metrics: str) -> str:
    """Return the command that shows the ports on which something else may listen than what the endpoint has there.

    That nginx runs and that one of its sites has the port is known without root, and is the rule.
    """
    command = ""
    if port:
        nginx = (
            f"grep -qsE '^[[:space:]]*listen[[:space:]]+{port}[[:space:];]' /etc/nginx/sites-enabled/* && "
            "grep -qsx nginx /proc/$(cat /run/nginx.pid 2>/dev/null || echo none)/comm"
        )
        command = foreign_listener(port, nginx)
    address, _, number_of_port = metrics.rpartition(":")
    if number_of_port.isdecimal() and int(number_of_port) <= 65535:
        unit = shlex.quote(f"/etc/systemd/system/{name}-metrics.socket")
        # The endpoint's own one has the port, perhaps on another address until this run.
        own = f"grep -qsE '^ListenStream=.*:{int(number_of_port)}$' {unit}"
        command += foreign_listener(int(number_of_port), own, address)
    return command


def shared_names(settings: dict[str, Any], text: str) -> list[str]:
    """Check that no other endpoint of the host has one of the public names: nginx would take the requests of both to one."""
    sites: dict[str, dict[str, set[str]]] = {}
    for line in text.splitlines():
        if line.startswith(SITE):
            site, kind, *values = line.removeprefix(SITE).split()
            sites.setdefault(site, {}).setdefault(kind, set()).update(values)
    port = str(settings.get("api_endpoint_port"))
    return [
        f"api_endpoint_server_names has {name!r}, which the endpoint {site} on this host has too. "
        f"Give another, or remove {site}."
        for site, found in sorted(sites.items())
        if site != settings.get("api_endpoint_name")
        and port in {listen.rpartition(":")[2] for listen in found.get("listen", ())}
        for name in settings.get("api_endpoint_server_names") or []
        if name in found.get("server_name", ())
    ]


def hidden(settings: dict[str, Any], old: dict[str, Any]) -> list[str]:
    """Check that a volume does not hide the socket of the old template's service, while that serves."""
    volume, sock = (
        settings.get("api_endpoint_volume") or {},
        f"/srv/{settings.get('api_endpoint_name')}/sock/",
    )
    mount = str(volume.get("mount") or os.path.dirname(os.path.dirname(sock)))
    if not volume or not old["sites"] or not sock.startswith(f"{mount}/"):
        return []
    return [
        f"api_endpoint_volume.mount is {mount!r}, where the old template's service, which still serves, has its socket. "
        "Run without api_endpoint_volume first; the data moves to the volume later."
    ]


def old_of(text: str) -> dict[str, Any]:
    """Return what of the old template is in use: its sites in nginx's folder, its service; nothing after a take-over."""
    lines = text.splitlines()
    units = [line.removeprefix(OLD_UNIT) for line in lines if line.startswith(OLD_UNIT)]
    sites = [line.removeprefix(OLD_SITE) for line in lines if line.startswith(OLD_SITE)]
    return {"sites": sites, "unit": units[0] if units else ""}


class ActionModule(PreflightAction):
    """Check, and fail with every problem there is."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = self._task.args
        if arguments.get("settings_only"):
            settings, unknown, mistaken = self.checked(variables, PREFIX, argument_spec(ROLE))
            self.refuse(
                unknown + (mistaken or [*out_of_range(settings, RANGES), *server_names(settings)])
            )
            return {"changed": False}
        name = str(self._templar.template(variables.get("api_endpoint_name", "")))
        port = number(self.given(variables, "api_endpoint_port"))
        metrics = str(self.given(variables, "api_endpoint_metrics_listen") or "")
        asked = foreign_listeners(name, port, metrics)
        text, found = self.look(
            variables,
            asked + question(name, list(arguments.get("look_for") or [])) + SITES_LOOK,
        )
        looked, old = facts_of(text), old_of(text)
        # A host on which the old template still serves is not set up, however much of it is done.
        is_set_up = SET_UP in text.splitlines() and not old["sites"]
        facts = {**looked, **(variables.get("ansible_facts") or {})}
        settings, unknown, mistaken = self.checked(variables, PREFIX, argument_spec(ROLE))
        found += unknown + mistaken
        if not mistaken:
            settings |= {name: self._templar.template(variables[name]) for name in DERIVED}
            found += problems(settings, facts, variables, bool(arguments.get("rollback")))
            found += hidden(settings, old)
            if not arguments.get("rollback"):
                found += shared_names(settings, text)
            found += self._ports(settings, text)
        self.refuse([adapted(problem, variables) for problem in found])
        if arguments.get("part") and not is_set_up:
            raise AnsibleActionFail(
                f"Nothing was touched. This host was never set up for {settings['api_endpoint_name']}, so "
                f"{', '.join(variables['ansible_run_tags'])} alone has nothing to start from. "
                f"Run {adapted(f'`{USUAL}site.yml`', variables)} first."
            )
        there = [line.removeprefix(THERE) for line in text.splitlines() if line.startswith(THERE)]
        found_facts = {f"ansible_{name}": facts[name] for name in looked}
        return {
            "changed": False,
            "ansible_facts": found_facts,
            "old": old,
            "there": there,
            "is_set_up": is_set_up,
        }

    def _ports(self, settings: dict[str, Any], text: str) -> list[str]:
        """Check that the endpoint can have its ports."""
        port, metrics = (
            settings.get(name) for name in ("api_endpoint_port", "api_endpoint_metrics_listen")
        )
        address, _, metrics_port = str(metrics or "").rpartition(":")
        return (
            self.without_ipv6(text, "api_endpoint_metrics_listen", metrics)
            + self.listeners(text, "api_endpoint_port", port, port, "nginx.service")
            + self.listeners(
                text, "api_endpoint_metrics_listen", metrics, metrics_port, address=address
            )
        )
