#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Drain a host, or have it rejoin the balancers."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_drain
short_description: Drain a host, or have it rejoin the balancers
description:
  - Writes or removes the drain flag, C(/run/<name>/draining). While it is there nginx answers a balancer's check with 404,
    so that the balancer sends no new requests and lets those in flight end.
  - Before it writes the flag, it sets a timer of systemd that removes it, so that a host whose run was cut off rejoins by
    itself. A reboot removes the flag too.
  - Nothing that lasts is changed, so no change is reported.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  state:
    description: Whether the flag is there. C(present) drains the host, C(absent) has it rejoin.
    type: str
    choices: [present, absent]
    default: present
  timeout:
    description: Seconds after which a drained host rejoins by itself.
    type: int
    default: 600
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Drain the host
  api_endpoint_drain:
    name: api-endpoint

- name: Rejoin the balancers
  api_endpoint_drain:
    name: api-endpoint
    state: absent
"""

RETURN = r"""
flag:
  description: The flag's path.
  type: str
  returned: always
"""

import subprocess
from pathlib import Path

from ansible.module_utils.api_endpoint_service import systemctl
from ansible.module_utils.api_endpoint_store import StoreError, in_words
from ansible.module_utils.basic import AnsibleModule

FOLDER = "/run"


def cancel_timer(unit: str) -> None:
    """End the timer; nothing happens when there is none."""
    systemctl("stop", f"{unit}.timer", f"{unit}.service")
    systemctl("reset-failed", f"{unit}.service")


def drain(flag: Path, unit: str, timeout: int) -> None:
    """Set the timer, then write the flag."""
    flag.parent.mkdir(mode=0o755, exist_ok=True)
    cancel_timer(unit)
    done = subprocess.run(
        [
            "systemd-run", "--quiet", f"--unit={unit}", f"--on-active={timeout}", "--timer-property=AccuracySec=1s",
            "/bin/rm", "--force", str(flag),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise StoreError(f"systemd-run failed: {done.stderr.strip()}")
    flag.touch(mode=0o644)


def rejoin(flag: Path, unit: str) -> None:
    """Remove the flag, then the timer."""
    flag.unlink(missing_ok=True)
    cancel_timer(unit)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    flag, unit = Path(FOLDER, name, "draining"), f"{name}-rejoin"
    try:
        if module.check_mode:
            pass
        elif module.params["state"] == "present":
            drain(flag, unit, module.params["timeout"])
        else:
            rejoin(flag, unit)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(changed=False, flag=str(flag))


if __name__ == "__main__":
    main()
