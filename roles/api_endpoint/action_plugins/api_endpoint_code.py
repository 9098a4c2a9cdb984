# SPDX-License-Identifier: GPL-3.0-or-later
"""Send the app's folder from the laptop to the host, packed, and only when the host does not have it."""

from __future__ import annotations

import platform
import shlex
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.release.source import check_content, lay_out
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.digests import tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError, lacks_room, says_full
from ansible.module_utils.api_endpoint.urls import take

# Options that say what to take from the laptop; the module on the host does not need them then.
LOCAL_OPTIONS = ("folder", "exclude", "subdir", "requirements_file", "wsgi")


THIS = f"this computer ({platform.node()})"
PULL = "Run `{command}` in that folder."
UPDATE = "Run `git submodule update --init --recursive` there."


def revision(folder: Path) -> str:
    """Return the git commit of the repository that tracks a folder on the laptop, marked when the folder has changes.

    It is empty without git, and for a folder that merely lies in a repository which tracks nothing of it.
    """

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit or not git("ls-files", "--", "."):
        return ""
    return f"{commit}+changes" if git("status", "--porcelain", "--", ".") else commit


class ActionModule(ActionBase):
    """Pack, compare, send."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        if arguments.get("git_url"):
            arguments.pop("folder", None)
            # By itself, so that no log and no message has it.
            arguments["git_url"], arguments["git_credentials"] = take(str(arguments["git_url"]))
            return self._execute_module(module_args=arguments, task_vars=variables)

        try:
            folder = local_path(arguments.get("folder") or "", variables, "api_endpoint_app_dir")
            subdir, exclude = arguments.get("subdir") or "", arguments.get("exclude") or []
            for warning in check_content(folder, subdir, exclude, PULL, UPDATE):
                self._display.warning(warning)
            with tempfile.TemporaryDirectory() as temporary:
                laid_out = Path(temporary, "code")
                laid_out.mkdir()
                lay_out(
                    folder,
                    laid_out,
                    subdir,
                    arguments.get("requirements_file") or "",
                    arguments.get("wsgi") or "wsgi:app",
                    exclude,
                )
                result = self._send(laid_out, temporary, arguments, variables)
        except (DeployError, OSError) as error:
            raise AnsibleActionFail(
                self._described(error)
            ) from None  # Ansible would say the cause as well
        result["revision"] = revision(folder)
        return result

    @staticmethod
    def _described(error: Exception) -> str:
        """Say an error of this computer in words that a user can act on."""
        if isinstance(error, OSError) and says_full(str(error)):
            return (
                f"{lacks_room(tempfile.gettempdir(), str(error), THIS)}\nThe code is packed there before it is sent. Make "
                "room, name a folder on a larger disk in the environment variable TMPDIR, or leave out what the app does "
                "not need (api_endpoint_app_exclude)."
            )
        return str(error)

    def _send(
        self, laid_out: Path, temporary: str, arguments: dict[str, Any], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Ask the host whether it has this code, and send it when it has not."""
        remote = {name: value for name, value in arguments.items() if name not in LOCAL_OPTIONS}
        remote["digest"] = digest = tree_digest(laid_out)
        # What has its final name is whole. Mostly it is there, and this look needs no Python on the host.
        final = shlex.quote(f"{arguments['root']}/code/{digest}")
        if self._low_level_execute_command(f"test -d {final}").get("rc") == 0:
            return {"changed": False, "digest": digest}
        if self._task.check_mode:
            return {"changed": True, "digest": digest}
        packed = Path(temporary, "code.tar.gz")
        with tarfile.open(packed, "w:gz", format=tarfile.GNU_FORMAT) as tar:
            for entry in sorted(laid_out.iterdir()):
                tar.add(entry, arcname=entry.name)
        self._make_tmp_path()
        archive = self._connection._shell.join_path(self._connection._shell.tmpdir, "code.tar.gz")
        self._transfer_file(str(packed), archive)
        return self._execute_module(
            module_name="api_endpoint_code",
            module_args={**remote, "archive": archive},
            task_vars=variables,
        )
