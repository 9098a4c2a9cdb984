# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge what was found on several hosts: `question` says what is asked of `hosts`, which has it for each."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.commands import adapted
from ansible.module_utils.api_endpoint.controller.fleet import alike, one_release, summary, target
from ansible.module_utils.api_endpoint.errors import DeployError


class ActionModule(ActionBase):
    """Answer a question."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        hosts, question = self._task.args["hosts"], self._task.args["question"]
        try:
            if question == "one release":
                return {"changed": False, "release": one_release(hosts)}
            if question == "target":
                return {
                    "changed": False,
                    "release": target(hosts, str(self._task.args.get("release") or "")),
                }
            if question == "alike":
                return {"changed": False, "text": alike(hosts)}
        except DeployError as error:
            return {"failed": True, "msg": adapted(str(error), task_vars or {})}
        ok, text = summary(
            hosts,
            str(self._task.args.get("action") or "site.yml"),
            bool(self._task.args.get("dry")),
        )
        return {"changed": False, "ok": ok, "text": adapted(text, task_vars or {})}
