# SPDX-License-Identifier: GPL-3.0-or-later
"""Drain a host, or have it rejoin the balancers."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.systemd import systemctl
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
        raise DeployError(f"systemd-run failed: {done.stderr.strip()}")
    flag.touch(mode=0o644)


def rejoin(flag: Path, unit: str) -> None:
    """Remove the flag, then the timer."""
    flag.unlink(missing_ok=True)
    cancel_timer(unit)


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    name = module.params["name"]
    flag, unit = Path(FOLDER, name, "draining"), f"{name}-rejoin"
    try:
        if module.check_mode:
            pass
        elif module.params["state"] == "present":
            drain(flag, unit, module.params["timeout"])
        else:
            rejoin(flag, unit)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(changed=False, flag=str(flag))
