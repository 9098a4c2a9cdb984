# SPDX-License-Identifier: GPL-3.0-or-later
"""Before the first task of a playbook: refuse inventories and tags with which a run does nothing, or the wrong thing.

Ansible loads it because it lies beside the playbooks. It runs once, on the laptop, also when no host matches.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import constants, context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__

PROJECT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(PROJECT / "roles" / "api_endpoint" / "module_utils"))

DOCUMENTATION = r"""
name: api_endpoint_start_checks
type: aggregate
short_description: Check the inventory and the tags before the first task
description:
  - Refuses what Ansible passes over in silence.
  - Where skipped tasks are hidden, Ansible shows a task when it ends; this names one that takes longer.
"""
OLDEST = (2, 19)  # of ansible-core; an older one is refused by the first task
SLOW_SECONDS = 5.0  # after which a task is named that has not ended


class CallbackModule(CallbackBase):
    """Check, and end the run when something is wrong."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "api_endpoint_start_checks"

    def __init__(self) -> None:
        super().__init__()
        self._timer: threading.Timer | None = None
        # Another callback for the output, such as JSON, is left as it is.
        self._names_slow_tasks = constants.DEFAULT_STDOUT_CALLBACK == "default" and not (
            constants.config.get_config_value(
                "display_skipped_hosts", plugin_type="callback", plugin_name="default"
            )
        )

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Check once, before the first play."""
        given = [Path(one).resolve() for one in context.CLIARGS.get("args") or ()]
        own = {PROJECT / "site.yml", *(PROJECT / "playbooks").glob("*.yml")}
        # A playbook of somebody's own has hosts and tags of its own.
        if not set(given) <= own or tuple(map(int, __version__.split(".")[:2])) < OLDEST:
            return
        plays = playbook.get_plays()
        problems, warnings = found(plays[0].get_variable_manager()._inventory, given)
        for warning in warnings:
            self._display.warning(warning)
        if problems:
            from ansible.module_utils.api_endpoint.controller.inputs import refusal

            self._display.error(refusal(problems), wrap_text=False)
            sys.exit(1)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - Ansible calls it so
        """Name a task that takes long, where Ansible would name it only when it ends."""
        self._stop()
        if self._names_slow_tasks:
            words = f"... {task.get_name().strip()}"
            self._timer = threading.Timer(SLOW_SECONDS, self._display.display, (words,))
            self._timer.daemon = True
            self._timer.start()

    def _stop(self, *_: Any, **__: Any) -> None:
        """Forget the task: it has ended, on one host at least, and is named."""
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002 - Ansible calls it so
        """Say what to do about a missing password; playbooks that only look have no preflight."""
        self._stop()
        if "Missing sudo password" in str(result._result):
            self._display.error(
                "sudo asks for a password on this host. Run again with -K (with make: ARGS=-K), and type it.",
                wrap_text=False,
            )

    v2_runner_on_ok = v2_runner_on_skipped = _stop
    v2_runner_on_unreachable = v2_playbook_on_stats = _stop


def found(inventory: Any, playbooks: list[Path]) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings; `inventory` is Ansible's own."""
    from ansible.module_utils.api_endpoint.controller import inventories

    sources = [str(source) for source in inventory._sources]
    groups = {
        name: {host.name for host in group.get_hosts()} for name, group in inventory.groups.items()
    }
    group = (
        inventories.BALANCERS
        if {path.name for path in playbooks} == {"load_balancers.yml"}
        else inventories.ENDPOINTS
    )
    problems = tag_problems([path.name for path in playbooks])
    problems += inventories.Inventory(sources).problems
    problems += inventories.host_problems(sources, groups, group)
    problems += inventories.unread_files(PROJECT, sources)
    folders = inventories.folders_of(sources, [path.parent for path in playbooks])
    stray, warnings = inventories.stray_files(folders, set(inventory.hosts), groups)
    return problems + stray, warnings


def tag_problems(playbooks: list[str]) -> list[str]:
    """Return the problems with the tags of the command line."""
    from ansible.module_utils.api_endpoint.controller import inventories

    given = set(context.CLIARGS.get("tags", ())) - inventories.SPECIAL_TAGS
    skipped = set(context.CLIARGS.get("skip_tags", ()))
    if whole := sorted(skipped & {"all", "always", "tagged"}):
        return [f"--skip-tags {whole[0]} leaves out every task. Leave it out."]
    skipped -= inventories.SPECIAL_TAGS
    if not given | skipped:
        return []
    known = inventories.tags_of(PROJECT, playbooks)
    # Molecule skips some of its own.
    skipped = {tag for tag in skipped if inventories.nearest(tag, known)}
    return inventories.tag_problems(sorted(given | skipped), known)
