# SPDX-License-Identifier: GPL-3.0-or-later
"""Write files on the host, unless one look says that all are there as they should be."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.host.file_state import is_as_wanted, question


class ActionModule(ActionBase):
    """Look; have the module write."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if is_as_wanted(arguments, look(self, question(arguments))):
            return {"changed": False, "written": [], "unused": []}
        return self._execute_module(module_args=arguments, task_vars=task_vars)
