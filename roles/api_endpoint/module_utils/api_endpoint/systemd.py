# SPDX-License-Identifier: GPL-3.0-or-later
"""One way to call systemctl."""

from __future__ import annotations

import subprocess

from ansible.module_utils.api_endpoint.errors import DeployError


def systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemctl and return what it said; a failure is the caller's to judge."""
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=False)


def must(*arguments: str) -> None:
    """Run systemctl and raise DeployError with its words when it fails."""
    done = systemctl(*arguments)
    if done.returncode != 0:
        words = done.stderr.strip() or done.stdout.strip()
        if "is masked" in words:
            raise DeployError(masked(arguments[-1]))
        raise DeployError(f"`systemctl {' '.join(arguments)}` failed: {words}")


def masked(*units: str) -> str:
    """Say that somebody has forbidden systemd to start units, and what allows it."""
    named, are = (
        ", ".join(units),
        "are masked, and so do" if units[1:] else "is masked, and so does",
    )
    return (
        f"{named} {are} not start. `sudo systemctl unmask {' '.join(units)}` on the host allows it. "
        "Then run this again."
    )


def main_process(unit: str) -> int:
    """Return the process id of a unit's main process; 0 when it has none."""
    return int(systemctl("show", "--property=MainPID", "--value", unit).stdout.strip() or 0)
