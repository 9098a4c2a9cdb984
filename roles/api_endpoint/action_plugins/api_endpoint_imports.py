# SPDX-License-Identifier: GPL-3.0-or-later
"""Make the package importable on the laptop: the action plugins of both roles load this before they import from it.

Ansible finds a role's module_utils for modules on the host, but not for plugins on the laptop.
Its plugin loader finds this file by its name, wherever the role lies. Like every file here it is
an action plugin, but no task runs it. The role `load_balancer` has a link to it.
"""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils
from ansible.plugins.action import ActionBase

MODULE_UTILS = str(Path(__file__).resolve().parents[1] / "module_utils")
if MODULE_UTILS not in ansible.module_utils.__path__:
    ansible.module_utils.__path__.append(MODULE_UTILS)


class ActionModule(ActionBase):
    """The class that Ansible expects in the file of an action plugin."""
