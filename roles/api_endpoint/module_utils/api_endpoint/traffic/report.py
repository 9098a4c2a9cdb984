# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a page about the endpoint's traffic, of all that the access log has."""

from __future__ import annotations

from ansible.module_utils.api_endpoint.traffic.access_log import ACCESS_LOG, lines_of
from ansible.module_utils.api_endpoint.traffic.page import page
from ansible.module_utils.api_endpoint.traffic.stats import Traffic
from ansible.module_utils.basic import AnsibleModule


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    traffic = Traffic(module.params["path"]).count(lines_of(ACCESS_LOG))
    module.exit_json(changed=False, page=page(module.params["title"], traffic), requests=traffic.all.requests)
