# SPDX-License-Identifier: GPL-3.0-or-later
"""Give the lock of a host back, if it is still this run's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))
from ansible.module_utils.api_endpoint.lock import Lock


class ActionModule(ActionBase):
    """Give the lock back."""

    _supports_check_mode = True

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
