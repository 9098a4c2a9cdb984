# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace nginx's configuration, unless one look says that all of it is as it should be."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.controller.nginx_look import fitted, is_as_wanted, question


class ActionModule(ActionBase):
    """Look; have the module write."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments, told = fitted(arguments, look(self, question(arguments)))
        if is_as_wanted(arguments, told):
            return {"changed": False, "written": []}
        return self._execute_module(module_args=arguments, task_vars=task_vars)
