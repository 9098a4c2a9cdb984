# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages, as the other role does."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

# It is in the other role.
ansible.module_utils.__path__.append(
    str(Path(__file__).resolve().parents[2] / "api_endpoint" / "module_utils")
)
from ansible.module_utils.api_endpoint.controller.packages import PackagesAction


class ActionModule(PackagesAction):
    """Look; install what is missing, when no other apt is at work."""
