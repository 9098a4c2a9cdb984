# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages, in one go, and only when one of them is not there: asking dpkg is much faster than asking apt."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible.plugins.action import ActionBase

PLAIN = re.compile(r"[a-z0-9][a-z0-9+.-]+")  # a name without a version, an architecture or a wildcard
POLICY = "/usr/sbin/policy-rc.d"
LEFT = "packages may not start services"  # a line of the answer that is no package's


class ActionModule(ActionBase):
    """Look; install what is missing."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        names = arguments["name"] = sorted({str(name) for name in arguments["name"]})
        plain = [name for name in names if PLAIN.fullmatch(name)]
        answer = self._low_level_execute_command(
            # That file is what a run leaves that was killed while it installed packages.
            f"if grep -qsx 'exit 101' {POLICY}; then echo {shlex.quote(LEFT)}; fi; "
            f"dpkg-query --show --showformat '${{db:Status-Status}} ${{Package}}\\n' {shlex.join(plain)} 2>/dev/null"
        )
        lines = str(answer.get("stdout", "")).splitlines()
        changed = False
        if LEFT in lines:
            changed = True
            removed = self._run("ansible.legacy.file", {"path": POLICY, "state": "absent"}, task_vars)
            if removed.get("failed"):
                return removed
        if all(f"installed {name}" in lines for name in names):
            return {"changed": changed}
        installed = self._run("ansible.legacy.apt", arguments, task_vars)
        return {**installed, "changed": changed or installed.get("changed", False)}

    def _run(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run a module on the host."""
        return self._execute_module(module_name=module, module_args=arguments, task_vars=task_vars)
