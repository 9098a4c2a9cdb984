# SPDX-License-Identifier: GPL-3.0-or-later
"""Follow work that a module has started on the host, and show how far it is."""

from __future__ import annotations

import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


def follow(
    action: ActionBase, arguments: dict[str, Any], task_vars: dict[str, Any] | None
) -> dict[str, Any]:
    """Run an action's module until its answer names no C(task) to wait for any more; return that answer.

    It has the warnings of all answers.
    """
    answer = action._execute_module(module_args=arguments, task_vars=task_vars)
    warnings = list(answer.get("warnings", []))
    while answer.get("task") and not answer.get("failed"):
        if text := answer.get("text"):
            host = (task_vars or {}).get("inventory_hostname", "")
            Display().display(f"  {time.strftime('%H:%M:%S')} {host}: {text}")
        arguments["task"] = answer["task"]
        answer = action._execute_module(module_args=arguments, task_vars=task_vars)
        warnings += answer.get("warnings", [])
    return {**answer, **({"warnings": warnings} if warnings else {})}
