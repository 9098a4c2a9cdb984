# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge what was found on several hosts: `question` says what is asked of `hosts`, which has it for each."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.commands import adapted
from ansible.module_utils.api_endpoint.controller.dry_run import how_to_ask, plan
from ansible.module_utils.api_endpoint.controller.rsync import ssh_command
from ansible.module_utils.api_endpoint.controller.fleet import alike, one_release, summary, target
from ansible.module_utils.api_endpoint.errors import DeployError


class ActionModule(ActionBase):
    """Answer a question."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        question = self._task.args["question"]
        if question == "outcome":
            return {"changed": False, "msg": self._outcome(), "_ansible_verbose_always": True}
        hosts = self._task.args["hosts"]
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

    def _outcome(self) -> str:
        """Return how a host ended: in a dry run with what the run would do, else with how to ask the API."""
        given = self._task.args
        text = str(given["text"]).rstrip()
        if self._task.check_mode:
            return f"{text}\n{plan(given['found'])}" if given.get("found") else text
        if ask := given.get("ask"):
            text += f"\n{how_to_ask(ask['url'], ask['path'], int(ask['port']), ssh_command(self._connection))}"
        return text
