# SPDX-License-Identifier: GPL-3.0-or-later
"""Look for causes on the host, and show the laptop's commands as they are for the inventory at hand."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.commands import USUAL, adapted

READ_ALL_DATA = f"{USUAL}site.yml --tags model -e api_endpoint_verify_artifacts=true"


class ActionModule(ActionBase):
    """Run the module of the same name."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        result: dict[str, Any] = self._execute_module(task_vars=variables)
        result["read_all_data"] = adapted(READ_ALL_DATA, variables)
        if "summary" in result:
            result["summary"] = adapted(result["summary"], variables)
        for finding in result.get("findings", []):
            finding["remedy"] = [adapted(command, variables) for command in finding["remedy"]]
        return result
