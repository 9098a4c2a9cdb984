# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the host bring a release live, and show how far it is."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.progress import follow


class ActionModule(ActionBase):
    """Run the module, and wait."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        return follow(self, dict(self._task.args), task_vars)
