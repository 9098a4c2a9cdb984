# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the host bring the volume, and show how far it is."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ask what is to be done; have it done; wait."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        if arguments.get("step", "bring") != "bring":
            return self._execute_module(module_args=arguments, task_vars=variables)
        planned = self._step("plan", arguments, variables)
        if planned.get("failed") or self._task.check_mode or not planned["changed"]:
            return planned
        for action in planned["actions"]:
            self._say(action)
        begun = self._step("begin", arguments, variables)
        while not begun.get("failed"):
            answer = self._step("wait", arguments, variables)
            if answer.get("failed") or answer.get("done"):
                return answer if answer.get("failed") else {**answer, "actions": planned["actions"]}
            self._say(answer.get("text", ""))
        return begun

    def _step(
        self, step: str, arguments: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Run a step on the host."""
        return self._execute_module(module_args={**arguments, "step": step}, task_vars=variables)

    def _say(self, text: str) -> None:
        """Show how far it is."""
        if text:
            self._display.display(f"  {time.strftime('%H:%M:%S')} {text}")
