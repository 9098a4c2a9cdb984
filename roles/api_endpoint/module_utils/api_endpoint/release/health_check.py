# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask the endpoint through nginx, as a client would."""

from __future__ import annotations

from ansible.module_utils.api_endpoint.errors import StoreError
from ansible.module_utils.api_endpoint.release.health import ask_through_nginx
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.basic import AnsibleModule


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    given = module.params
    endpoint = Endpoint(given["name"], given["root"])
    if module.check_mode and not endpoint.release_of(endpoint.live_slot):
        module.exit_json(changed=False, release="")
    try:
        module.exit_json(changed=False, **ask_through_nginx(endpoint, given))
    except StoreError as error:
        module.fail_json(msg=str(error))
