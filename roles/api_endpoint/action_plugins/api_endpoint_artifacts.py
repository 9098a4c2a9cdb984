# SPDX-License-Identifier: GPL-3.0-or-later
"""Send the model data that lies on the laptop to the host, when the host does not have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))
from ansible.module_utils.api_endpoint_local import local_path
from ansible.module_utils.api_endpoint_store import StoreError, file_digest


class ActionModule(ActionBase):
    """Hash, compare, send."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments = dict(self._task.args)
        try:
            artifacts, local = self._hash(arguments.get("artifacts") or [], variables)
        except (StoreError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error

        # Ask for the files of the laptop first: most runs find them all there, and downloads need no question.
        asked = [artifact for artifact in artifacts if artifact.get("src")]
        result = self._execute_module(
            module_args={**arguments, "artifacts": asked if local else artifacts}, task_vars=variables
        )
        if not local or result.get("failed"):
            return result
        for digest in {} if self._task.check_mode else dict.fromkeys(result["missing"]):
            self._make_tmp_path()
            upload = self._connection._shell.join_path(self._connection._shell.tmpdir, digest)
            self._display.display(f"  sending {local[digest]} ({local[digest].stat().st_size:,} bytes) ...")
            self._transfer_file(str(local[digest]), upload)
            for artifact in asked:
                if artifact["sha256"] == digest:
                    artifact["upload"] = upload
        if len(asked) == len(artifacts) and not any("upload" in artifact for artifact in asked):
            return result
        return self._execute_module(module_args={**arguments, "artifacts": artifacts}, task_vars=variables)

    def _hash(self, given: list[dict[str, Any]], variables: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
        """Return the artifacts with the digests of those on the laptop, and where these lie by digest."""
        artifacts: list[dict[str, Any]] = []
        local: dict[str, Path] = {}
        for number, entry in enumerate(given):
            artifact = dict(entry)
            if artifact.get("src"):
                path = local_path(artifact["src"], variables, f"api_endpoint_artifacts[{number}].src")
                digest = file_digest(path)
                expected = (artifact.get("sha256") or digest).lower()
                if digest != expected:
                    raise StoreError(
                        f"api_endpoint_artifacts[{number}] ({artifact['dest']}): {path} is not the expected file. "
                        f"Its SHA-256 is {digest}, sha256 says {expected}. Correct the one or the other."
                    )
                artifact["sha256"] = digest
                local[digest] = path
            artifacts.append(artifact)
        return artifacts, local
