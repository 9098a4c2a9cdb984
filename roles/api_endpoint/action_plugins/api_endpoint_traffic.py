# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the host make a page about its traffic, and write it on the laptop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Ask for the page; write it to C(dest)."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        dest = Path(arguments.pop("dest")).resolve()
        result = self._execute_module(module_name="api_endpoint_traffic", module_args=arguments, task_vars=task_vars)
        if result.get("failed"):
            return result
        page = result.pop("page")
        if not self._task.check_mode:
            dest.parent.mkdir(parents=True, exist_ok=True)
            dest.write_text(page, encoding="utf-8")
        return {**result, "dest": str(dest)}
