# SPDX-License-Identifier: GPL-3.0-or-later
"""Make accounts and folders and repair permissions, unless one look says that all are as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))
from ansible.module_utils.api_endpoint.host.permissions_look import is_as_wanted, question


class ActionModule(ActionBase):
    """Look; have the module repair."""

    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folders = arguments.get("folders") or []
        asked = question(arguments.get("accounts") or {}, folders, arguments["trees"])
        answer = self._low_level_execute_command(asked)
        if is_as_wanted(folders, str(answer.get("stdout", ""))):
            return {"changed": False, "made": [], "repaired": []}
        return self._execute_module(module_args=arguments, task_vars=task_vars)
