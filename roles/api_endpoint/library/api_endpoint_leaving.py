#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have a host leave the balancers, or return to them."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_leaving
short_description: Have a host leave the balancers, or return to them
description:
  - Writes or removes a mark, C(/run/<name>/leaving). While it is there nginx answers a balancer's check with 404, which
    means to it that the host gets no new requests, and that those which are under way may end.
  - Before it writes the mark, it sets a timer of systemd that removes it, so that a host whose run was cut off returns by
    itself. A restart of the host removes it too.
  - Nothing that lasts is changed, so no change is reported.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  state:
    description: C(left) or C(back).
    type: str
    choices: [left, back]
    required: true
  lease:
    description: Seconds after which a host that has left returns by itself.
    type: int
    default: 600
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Leave the balancers
  api_endpoint_leaving:
    name: api-endpoint
    state: left

- name: Return to them
  api_endpoint_leaving:
    name: api-endpoint
    state: back
"""

RETURN = r"""
mark:
  description: The mark's path.
  type: str
  returned: always
"""

import subprocess
from pathlib import Path

from ansible.module_utils.api_endpoint_service import systemctl
from ansible.module_utils.api_endpoint_store import StoreError, in_words
from ansible.module_utils.basic import AnsibleModule

FOLDER = "/run"


def call_off(unit: str) -> None:
    """End the timer; nothing happens when there is none."""
    systemctl("stop", f"{unit}.timer", f"{unit}.service")
    systemctl("reset-failed", f"{unit}.service")


def leave(mark: Path, unit: str, lease: int) -> None:
    """Set the timer, then write the mark."""
    mark.parent.mkdir(mode=0o755, exist_ok=True)
    call_off(unit)
    done = subprocess.run(
        [
            "systemd-run", "--quiet", f"--unit={unit}", f"--on-active={lease}", "--timer-property=AccuracySec=1s",
            "/bin/rm", "--force", str(mark),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise StoreError(f"systemd-run failed: {done.stderr.strip()}")
    mark.touch(mode=0o644)


def come_back(mark: Path, unit: str) -> None:
    """Remove the mark, then the timer."""
    mark.unlink(missing_ok=True)
    call_off(unit)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["left", "back"], "required": True},
            "lease": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    mark, unit = Path(FOLDER, name, "leaving"), f"{name}-return"
    try:
        if module.check_mode:
            pass
        elif module.params["state"] == "left":
            leave(mark, unit, module.params["lease"])
        else:
            come_back(mark, unit)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(changed=False, mark=str(mark))


if __name__ == "__main__":
    main()
