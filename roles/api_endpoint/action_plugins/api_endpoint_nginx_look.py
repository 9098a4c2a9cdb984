# SPDX-License-Identifier: GPL-3.0-or-later
"""Tell whether nginx, its configuration and what it needs are as they should be: one look in place of one for each task."""

from __future__ import annotations

import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.controller import nginx_look
from ansible.module_utils.api_endpoint.host import file_state

END = "end of this look"  # between the answers


class ActionModule(ActionBase):
    """Look. What is not as it should be is for the tasks that see to it."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action, with the arguments of api_endpoint_nginx and of calls of api_endpoint_managed_files."""
        super().run(tmp, task_vars)
        nginx, given, units = (self._task.args[name] for name in ("nginx", "files", "services"))
        asked = [
            nginx_look.question(nginx),
            *(file_state.question(arguments) for arguments in given),
            file_state.services_question(units),
        ]
        # Each in a shell of its own, so that none changes what another one sees.
        text = look(
            self,
            f"\necho; echo {shlex.quote(END)}\n".join(f"( {question}\n)" for question in asked),
        )
        told = text.split(f"\n{END}\n")
        is_as_wanted = len(told) == len(asked) and (
            nginx_look.is_as_wanted(*nginx_look.fitted(nginx, told[0]))
            and all(map(file_state.is_as_wanted, given, told[1:]))
            and file_state.services_are_up(units, told[-1])
        )
        return {"changed": False, "is_as_wanted": is_as_wanted}
