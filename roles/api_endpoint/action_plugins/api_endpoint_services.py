# SPDX-License-Identifier: GPL-3.0-or-later
"""Have services run, now and at boot; one question tells whether they do already."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.host.file_state import services_are_up, services_question
from ansible.module_utils.api_endpoint.http import listeners, programs_in
from ansible.module_utils.api_endpoint.systemd import masked


class ActionModule(ActionBase):
    """Ask; start and enable what is not so."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        units = [str(unit) for unit in self._task.args["names"]]
        answer = look(self, services_question(units))
        if services_are_up(units, answer):
            return {"changed": False}
        # A dry run of the module passes over it.
        if "masked" in answer.split():
            found = [unit for unit in units if self._is(unit, "masked")]
            return {"failed": True, "changed": False, "msg": masked(*found)}
        # Mostly one command starts them all; what does not start is the module's, which tells why.
        command = f"systemctl enable --quiet --now {shlex.join(units)}"
        if not self._task.check_mode and self._low_level_execute_command(command).get("rc") == 0:
            return {"changed": True, "started": units}
        started: list[str] = []
        for unit in units:
            result = self._execute_module(
                module_name="ansible.legacy.systemd_service",
                module_args={"name": unit, "state": "started", "enabled": True},
                task_vars=task_vars,
            )
            # To the module a unit that systemd starts again and again has started.
            if not self._task.check_mode and (result.get("failed") or not self._is(unit, "active")):
                reason = self._reason(unit) or result.get("msg")
                return {**result, "failed": True, "msg": f"{unit} does not start. {reason}"}
            if result.get("failed"):
                # A dry run on a clean host: the package that brings the unit is not there yet.
                result["changed"] = True
            if result.get("changed"):
                started.append(unit)
        return {"changed": bool(started), "started": started}

    def _is(self, unit: str, state: str) -> bool:
        """Tell whether a unit is in a state: "active" as it runs, "masked" where it is forbidden to."""
        query = "is-active" if state == "active" else "is-enabled"
        return state in look(self, f"systemctl {query} {shlex.quote(unit)}").split()

    def _reason(self, unit: str) -> str:
        """Return the last lines of a unit's journal, and who has the port that it wants."""

        def shown(command: str) -> str:
            return look(self, command).strip()

        journal = shown(f"journalctl --unit={shlex.quote(unit)} --lines=8 --output=cat --no-pager")
        journal = re.sub(r"\x1b\[[0-9;:]*m", "", journal)  # systemd's colours
        ports = sorted(set(re.findall(r"bind\(\) to \S*:(\d+) failed \(98", journal)))
        users = {
            port: ", ".join(programs_in(shown(shlex.join(listeners(int(port)))))) for port in ports
        }
        taken = [
            f"Port {port} is taken by {users[port] or 'another program'}. Stop it, then run this again."
            for port in ports
        ]
        return "\n".join([*taken, journal]).strip()
