# SPDX-License-Identifier: GPL-3.0-or-later
"""Take users, passwords and tokens out of the URLs, so that no log, message or command line has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))
from ansible.module_utils.api_endpoint.urls import Credentials, take

TEXTS = ("index_url", "gunicorn")
LISTS = ("extra_index_urls", "packages", "constraints", "options")


class ActionModule(ActionBase):
    """Split, and run the module."""

    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        credentials: Credentials = {}

        def cleaned(text: Any) -> str:
            clean, found = take(str(text))
            credentials.update(found)
            return clean

        for name in TEXTS:
            arguments[name] = cleaned(arguments.get(name) or "")
        for name in LISTS:
            arguments[name] = [cleaned(text) for text in arguments.get(name) or []]
        arguments["credentials"] = credentials
        return self._execute_module(module_args=arguments, task_vars=task_vars)
