# SPDX-License-Identifier: GPL-3.0-or-later
"""How the preflights of both roles look at a host: one command, as the account that logs in, before the run becomes root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.module_utils.api_endpoint.controller.inputs import (
    Settings,
    near_names,
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
from ansible.module_utils.api_endpoint.controller.rsync import ssh_command
from ansible.plugins.action import ActionBase

# Lines of the answer that stand in no file.
LISTENED_ON = "listened on, and not by the role: "
NO_SUDO = "no sudo"
ASKS_FOR_MORE = "sudo asks for a password"
NO_ROOT = "this is not root"
NO_PYTHON = "no python3"


def argument_spec(role: Path) -> dict[str, Any]:
    """Return a role's variables with their types and choices."""
    specs = yaml.safe_load((role / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
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


def foreign_listener(port: int, own: str, address: str = "") -> str:
    """Return the command that shows a line where a program listens on a port, unless the condition `own` holds.

    It needs no root: who that is only root sees, and is asked only then.
    """
    listens = is_listened_on(port, address)
    look = IPV6_LOOK if address.startswith("[") else ""
    return f"{{ {own}; }} || {{ {listens} && echo '{LISTENED_ON}{port}'; }}; {look}"


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
        ASKS_FOR_MORE: "sudo asks for a password on this host. Run again with -K (with make: ARGS=-K), and type it.",
        NO_ROOT: "The run needs root on the host, and ansible_become is false. Leave that out, or log in as root.",
        NO_PYTHON: "This host has no python3, which Ansible needs there. Install it: sudo apt-get install python3.",
    }
    found = [sentence for line, sentence in said.items() if line in text.splitlines()]
    if user not in ("", "root"):
        found.append(
            f"ansible_become_user is {user!r}, and the run needs root on the host. Leave it out."
        )
    return found


class PreflightAction(ActionBase):
    """The base of the preflights of both roles."""

    def checked(
        self, variables: dict[str, Any], prefix: str, spec: dict[str, Any]
    ) -> tuple[Settings, list[str], list[str]]:
        """Return the role's variables, templated, the problems with their names, and those with their types."""
        given = [name for name in variables if name.startswith(prefix)]
        given += near_names(variables, prefix, sorted(spec))
        settings, mistaken = typed(self._templar, variables, spec)
        return settings, unknown_names(given, sorted(spec)), mistaken

    def refuse(self, problems: list[str]) -> None:
        """Fail with every problem there is."""
        if problems:
            raise AnsibleActionFail(refusal(problems))

    def look(self, variables: dict[str, Any], command: str) -> tuple[str, list[str]]:
        """Return what a command shows on the host, and why the run would not be root there."""
        method, user, has_password = self._become()
        python = str(self.given(variables, "ansible_python_interpreter") or "auto")
        command = rights_look(method, has_password, not python.startswith("auto")) + command
        way = ssh_command(self._connection)
        hint = f"\nTry, on this computer: {way}" if way else ""
        try:
            answer = self._low_level_execute_command(f"{command} true", sudoable=False)
        except AnsibleConnectionFailure as error:
            raise AnsibleConnectionFailure(f"{str(error).rstrip()}{hint}") from None
        if answer.get("rc"):
            # The command cannot fail: not every kind of connection notices that nobody is there.
            raise AnsibleConnectionFailure(
                f"The host does not answer: {answer.get('stderr') or answer.get('rc')}{hint}"
            )
        text = str(answer.get("stdout", ""))
        return text, rights(text, user)

    def given(self, variables: dict[str, Any], name: str) -> Any:
        """Return a variable before the variables are checked; None when it cannot be told."""
        try:
            return self._templar.template(variables.get(name))
        except AnsibleError:
            return None

    def listeners(
        self, text: str, name: str, value: Any, port: Any, unit: str = "", address: str = ""
    ) -> list[str]:
        """Check that no program but those of a unit has the port of a variable; root alone sees who that is."""
        if f"{LISTENED_ON}{number(port)}" not in text.splitlines():
            return []
        look = listeners_look(number(port) or 0, address)
        answer = str(self._low_level_execute_command(look).get("stdout", ""))
        others = in_the_way(answer, number(port) or 0, unit)
        return [taken(name, value, others)] if others else []

    def without_ipv6(self, text: str, name: str, value: Any) -> list[str]:
        """Check that a host has IPv6 where a variable is an address of IPv6."""
        if NO_IPV6 not in text.splitlines() or not str(value).startswith("["):
            return []
        return [f"{name} is {value!r}, and this host has no IPv6. Give another address."]

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
