# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages, in one go, and only when one of them is not there: asking dpkg is much faster than asking apt."""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.packages import PackagesAction
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release.requirements import needs_git, read

GIT = [
    "git",
    "openssh-client",
]  # a fifth of what a first deployment installs, and most apps have no use for it


class ActionModule(PackagesAction):
    """Look; install what is missing, when no other apt is at work."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action; C(app) tells where the app comes from, and so whether it needs git on the host."""
        arguments = dict(self._task.args)
        if self._needs_git(arguments.pop("app"), task_vars or {}):
            arguments["name"] = [*arguments["name"], *GIT]
        self._task.args = arguments
        return super().run(tmp, task_vars)

    @staticmethod
    def _needs_git(app: dict[str, Any], variables: dict[str, Any]) -> bool:
        """Tell whether git is needed for the code, or for what it requires."""
        if app["git_url"]:
            return True
        # What is wrong with the app's folder is said when its code is sent.
        with contextlib.suppress(DeployError, OSError, ValueError):
            folder = local_path(app["folder"], variables, "api_endpoint_app_dir")
            plan = read(folder, app["subdir"], app["requirements_file"], app["exclude"])
            return needs_git(plan, [*app["packages"], *app["constraints"]])
        return True
