# SPDX-License-Identifier: GPL-3.0-or-later
"""Give the lock of a host back, if it is still this run's."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.lock import Lock


class ActionModule(ActionBase):
    """Give the lock back."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        given = self._task.args
        command = Lock(given["name"]).giving_back(given["token"])
        done = self._low_level_execute_command(command)
        if done.get("rc") != 0:
            return {
                "failed": True,
                "msg": f"Could not release the deployment lock of this host: {done.get('stderr')}",
            }
        return {"changed": False}
