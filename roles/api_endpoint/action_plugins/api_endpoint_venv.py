# SPDX-License-Identifier: GPL-3.0-or-later
"""Take users, passwords and tokens out of the URLs, so that no log, message or command line has them; show how far it is."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.progress import follow
from ansible.module_utils.api_endpoint.urls import Credentials, take

TEXTS = ("index_url", "gunicorn")
LISTS = ("extra_index_urls", "packages", "constraints", "options")


class ActionModule(ActionBase):
    """Split, run the module, and wait."""

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
        return follow(self, arguments, task_vars)
