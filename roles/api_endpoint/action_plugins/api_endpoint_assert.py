# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible.builtin.assert, with the commands of its message as they are for the inventory at hand."""

from __future__ import annotations

from typing import Any

from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.commands import adapted

ASSERT: Any = action_loader.get("ansible.builtin.assert", class_only=True)


class ActionModule(ASSERT):
    """Fail with the message, when the condition is not met."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if "msg" in result:
            result["msg"] = adapted(str(result["msg"]), task_vars or {})
        return result
