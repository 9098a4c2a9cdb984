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

import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

ROLE = Path(__file__).resolve().parents[1]
action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.inputs import (
    number,
    refusal,
    typed,
    unknown_names,
)
from ansible.module_utils.api_endpoint.controller.processes import (
    IPV6_LOOK,
    NO_IPV6,
    in_the_way,
    is_listened_on,
    listeners_look,
    taken,
)
from ansible.module_utils.api_endpoint.controller.validate import problems

PREFIX = "api_endpoint_"
# Lines of the answer that stand in neither file.
SET_UP = "this host was set up"
OLD_SITE = "site of the old template: "
OLD_UNIT = "unit of the old template: "
THERE = "there: "
LISTENED_ON = "listened on, and not by this endpoint: "
NO_SUDO = "no sudo"
ASKS_FOR_MORE = "sudo asks for a password"
NO_ROOT = "this is not root"
NO_PYTHON = "no python3"
DERIVED = ["__api_endpoint_usual_headers"]  # of what the rules look at


def argument_spec() -> dict[str, Any]:
    """Return the role's variables with their types and choices."""
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    options: dict[str, Any] = specs["argument_specs"]["main"]["options"]
    return options


def facts_of(text: str) -> dict[str, Any]:
    """Return, under the names that Ansible gives them, the facts in /etc/os-release and /etc/resolv.conf."""
    named: dict[str, str] = {}
    servers: list[str] = []
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        words = line.split()
        if words[:1] == ["nameserver"]:
            servers += words[1:]
        elif equals and name.isidentifier():
            named[name] = value.strip().strip("\"'")
    return {
        "distribution": named.get("NAME", "an unknown system").removesuffix(" GNU/Linux"),
        "distribution_major_version": named.get("VERSION_ID", "").partition(".")[0],
        "dns": {"nameservers": servers},
    }


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
        + "true"
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
        command = f"{{ {nginx}; }} || {{ {is_listened_on(port)} && echo '{LISTENED_ON}{port}'; }}; "
    address, _, number_of_port = metrics.rpartition(":")
    if number_of_port.isdecimal() and int(number_of_port) <= 65535:
        unit = shlex.quote(f"/etc/systemd/system/{name}-metrics.socket")
        # The endpoint's own one has the port, perhaps on another address until this run.
        own = f"grep -qsE '^ListenStream=.*:{int(number_of_port)}$' {unit}"
        listens = is_listened_on(int(number_of_port), address)
        command += f"{own} || {{ {listens} && echo '{LISTENED_ON}{int(number_of_port)}'; }}; "
        command += IPV6_LOOK if address.startswith("[") else ""
    return command


def rights_look(method: str, has_password: bool, has_python: bool) -> str:
    """Return the command that shows why the run would not become root there, or why Ansible's modules would not run.

    `method` is how it becomes root, empty when it does not; `has_python` whether the inventory names the host's Python.
    """
    command = "" if has_python else f"command -v python3 >/dev/null || echo '{NO_PYTHON}'; "
    if not method:
        return f"{command}test \"$(id -u)\" = 0 || echo '{NO_ROOT}'; "
    if method != "sudo":
        return command
    asks = "LC_ALL=C sudo -n /bin/sh -c true 2>&1 </dev/null | grep -q 'password is required'"
    look = f"command -v sudo >/dev/null || echo '{NO_SUDO}'; "
    look += "" if has_password else f"{{ {asks} && echo '{ASKS_FOR_MORE}'; }}; "
    return f'{command}test "$(id -u)" = 0 || {{ {look}}}; '


def rights(text: str, user: str) -> list[str]:
    """Return why the run would not become root, or would not run there, from what the command has shown."""
    said = {
        NO_SUDO: "This host has no sudo, by which the run becomes root. Install it (as root: apt-get install sudo), or "
        "become root by su: -e ansible_become_method=su -K.",
        ASKS_FOR_MORE: "sudo asks for a password on this host. Run again with -K, and type it.",
        NO_ROOT: "The run needs root on the host, and ansible_become is false. Leave that out, or log in as root.",
        NO_PYTHON: "This host has no python3, which Ansible needs there. Install it: sudo apt-get install python3.",
    }
    found = [sentence for line, sentence in said.items() if line in text.splitlines()]
    if user not in ("", "root"):
        found.append(
            f"ansible_become_user is {user!r}, and the run needs root on the host. Leave it out."
        )
    return found


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


class ActionModule(ActionBase):
    """Check, and fail with every problem there is."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = self._task.args
        name = str(self._templar.template(variables.get("api_endpoint_name", "")))
        port, metrics = (
            self._given(variables, "api_endpoint_port"),
            self._given(variables, "api_endpoint_metrics_listen"),
        )
        asked = foreign_listeners(name, number(port), str(metrics or "")) + question(
            name, list(arguments.get("look_for") or [])
        )
        method, user, has_password = self._become()
        python = str(self._given(variables, "ansible_python_interpreter") or "auto")
        asked = rights_look(method, has_password, not python.startswith("auto")) + asked
        answer = self._low_level_execute_command(asked, sudoable=False)
        if answer.get("rc"):
            # The question cannot fail: not every kind of connection notices that nobody is there.
            raise AnsibleConnectionFailure(
                f"The host does not answer: {answer.get('stderr') or answer.get('rc')}"
            )
        text = str(answer.get("stdout", ""))
        looked, old = facts_of(text), old_of(text)
        # A host on which the old template still serves is not set up, however much of it is done.
        is_set_up = SET_UP in text.splitlines() and not old["sites"]
        facts = {**looked, **(variables.get("ansible_facts") or {})}
        spec = argument_spec()
        known = sorted(spec)
        rollback = bool(arguments.get("rollback"))
        found = rights(text, user)
        found += unknown_names([name for name in variables if name.startswith(PREFIX)], known)
        settings, mistaken = typed(self._templar, variables, spec)
        found += mistaken
        if not mistaken:
            settings |= {name: self._templar.template(variables[name]) for name in DERIVED}
            found += problems(
                settings, facts, variables.get("playbook_dir") or ".", rollback
            ) + hidden(settings, old)
            found += self._listeners(settings, text)
        if found:
            raise AnsibleActionFail(refusal(found))
        if arguments.get("part") and not is_set_up:
            raise AnsibleActionFail(
                f"Nothing was touched. This host was never set up for {settings['api_endpoint_name']}, so "
                f"{', '.join(variables['ansible_run_tags'])} alone has nothing to start from. "
                "Run site.yml without tags first."
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

    def _become(self) -> tuple[str, str, bool]:
        """Return how the run becomes another user on the host (empty when it does not), which, and whether by a password."""
        become = self._connection.become
        if not become:
            return "", "", False
        name = become.name.rsplit(".", 1)[-1]
        return (
            name,
            str(become.get_option("become_user") or ""),
            bool(become.get_option("become_pass")),
        )

    def _given(self, variables: dict[str, Any], name: str) -> Any:
        """Return a variable before the variables are checked; None when it cannot be told."""
        try:
            return self._templar.template(variables.get(name))
        except AnsibleError:
            return None

    def _listeners(self, settings: dict[str, Any], text: str) -> list[str]:
        """Check that no other program has the endpoint's ports; root alone sees who that is."""
        found = []
        metrics = str(settings.get("api_endpoint_metrics_listen") or "")
        address, _, metrics_port = metrics.rpartition(":")
        if NO_IPV6 in text.splitlines():
            found.append(
                f"api_endpoint_metrics_listen is {metrics!r}, and this host has no IPv6. Give another address."
            )
        for name, given, at, unit in (
            ("api_endpoint_port", settings.get("api_endpoint_port"), "", "nginx.service"),
            ("api_endpoint_metrics_listen", metrics_port, address, ""),
        ):
            port = number(given) or 0
            if f"{LISTENED_ON}{port}" in text.splitlines():
                answer = self._low_level_execute_command(listeners_look(port, at))
                if others := in_the_way(str(answer.get("stdout", "")), port, unit):
                    found.append(taken(name, settings[name], others))
        return found
