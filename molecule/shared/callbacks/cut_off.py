"""Cuts a run of Ansible off where a task begins: the one that API_ENDPOINT_CUT_OFF_AT names."""

import os
import signal

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Kills the run, as a power failure does."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "cut_off"

    def v2_playbook_on_task_start(self, task, is_conditional) -> None:
        """Kill it before the task does anything."""
        if task.name == os.environ.get("API_ENDPOINT_CUT_OFF_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
