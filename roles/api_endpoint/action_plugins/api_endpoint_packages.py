# SPDX-License-Identifier: GPL-3.0-or-later
"""Install Debian packages, in one go, and only when one of them is not there: asking dpkg is much faster than asking apt."""

from __future__ import annotations

from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.packages import PackagesAction


class ActionModule(PackagesAction):
    """Look; install what is missing, when no other apt is at work."""
