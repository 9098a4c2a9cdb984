# SPDX-License-Identifier: GPL-3.0-or-later
"""Make accounts and folders and repair permissions, unless one look says that all are as they should be."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.host.permissions_look import is_as_wanted, question


class ActionModule(ActionBase):
    """Look; have the module repair."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folders = arguments.get("folders") or []
        asked = question(arguments.get("accounts") or {}, folders, arguments["trees"])
        if is_as_wanted(folders, look(self, asked)):
            return {"changed": False, "made": [], "repaired": []}
        return self._execute_module(module_args=arguments, task_vars=task_vars)
