# SPDX-License-Identifier: GPL-3.0-or-later
"""Have services run, now and at boot; one question tells whether they do already."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ask; start and enable what is not so."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        units = [str(unit) for unit in self._task.args["names"]]
        names = shlex.join(units)
        answer = self._low_level_execute_command(f"systemctl is-active {names}; systemctl is-enabled {names}")
        # One line for each unit and question, in the order of the units.
        if str(answer.get("stdout", "")).split() == ["active"] * len(units) + ["enabled"] * len(units):
            return {"changed": False}
        started: list[str] = []
        for unit in units:
            result = self._execute_module(
                module_name="ansible.legacy.systemd_service",
                module_args={"name": unit, "state": "started", "enabled": True},
                task_vars=task_vars,
            )
            if result.get("failed"):
                # A dry run on a clean host: the package that brings the unit is not there yet.
                if not self._task.check_mode:
                    return {**result, "msg": f"{unit}: {result.get('msg')}"}
                result["changed"] = True
            if result.get("changed"):
                started.append(unit)
        return {"changed": bool(started), "started": started}
