# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages, in one go, and only when one of them is not there: asking dpkg is much faster than asking apt."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

# Ansible puts a role's module_utils on the path of modules, but not on that of action plugins.
ansible.module_utils.__path__.append(str(Path(__file__).resolve().parents[1] / "module_utils"))
from ansible.module_utils.api_endpoint.controller.packages import PackagesAction


class ActionModule(PackagesAction):
    """Look; install what is missing, when no other apt is at work."""
