# SPDX-License-Identifier: GPL-3.0-or-later
"""Check every input before the host is touched: what the argument spec cannot, all at once, with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ROLE = Path(__file__).resolve().parents[1]
ansible.module_utils.__path__.append(str(ROLE / "module_utils"))
from ansible.module_utils.api_endpoint_rules import problems, unknown_names

PREFIX = "api_endpoint_"


def known_names() -> list[str]:
    """Return the names of the role's variables."""
    specs = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text(encoding="utf-8"))
    return sorted(specs["argument_specs"]["main"]["options"])


class ActionModule(ActionBase):
    """Check, and fail with every problem there is."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        rollback = bool(self._task.args.get("rollback"))
        known = known_names()
        found = unknown_names([name for name in variables if name.startswith(PREFIX)], known)
        settings = {name: self._templar.template(variables[name]) for name in known if name in variables}
        found += problems(settings, variables.get("ansible_facts") or {}, variables.get("playbook_dir") or ".", rollback)
        if found:
            lines = "\n".join(f"  - {problem}" for problem in found)
            raise AnsibleActionFail(f"Nothing was touched. Please correct:\n{lines}")
        return {"changed": False}
