# SPDX-License-Identifier: GPL-3.0-or-later
"""Say who deploys, and find out whether an earlier run of this computer that still holds the lock is gone."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import platform
import uuid
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.lock import Lock

WAIT_SECONDS = 600  # seconds to let what an own earlier run began on the host come to its end


def is_running(pid: int) -> bool:
    """Tell whether a process of this computer is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def this_computer() -> str:
    """Return what tells this computer, as long as its processes keep their numbers, from all others."""
    known = [str(uuid.getnode()), platform.node()]
    # In containers the network card may be the same on every computer.
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            known.append(
                os.readlink(path)
                if os.path.islink(path)
                else Path(path).read_text(encoding="ascii")
            )
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def user() -> str:
    """Return the name of whoever runs Ansible."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


class ActionModule(ActionBase):
    """Take the lock, or renew it."""

    _supports_check_mode = False

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        lock = Lock(arguments["name"])
        if run := arguments.get("run"):
            answer = self._low_level_execute_command(lock.renewing(run))
            if run in str(answer.get("stdout", "")).splitlines():
                return {"changed": False, "token": run}
            return self._execute_module(module_args=arguments, task_vars=task_vars)
        machine = this_computer()
        record = {
            "token": uuid.uuid4().hex,
            "who": user(),
            "computer": platform.node() or "unknown",
            "machine": machine,
            "pid": os.getppid(),
        }
        answer = self._low_level_execute_command(lock.taking(record))
        if record["token"] in str(answer.get("stdout", "")).splitlines():
            return {"changed": False, "token": record["token"]}
        arguments |= record
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        holder = result.get("holder") or {}
        pid = int(holder.get("pid") or 0)
        if result.get("failed") and holder.get("machine") == machine and not is_running(pid):
            if result.get("busy"):
                self._display.display(
                    "  an earlier run of yours was cut off; waiting until the host has finished its work ..."
                )
            arguments |= {"instead_of": holder["token"], "wait": WAIT_SECONDS}
            result = self._execute_module(module_args=arguments, task_vars=task_vars)
        # With its token anybody who reads this run's output could work as the run that holds the lock.
        (result.get("holder") or {}).pop("token", None)
        return result
