# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands of the user's, run on the host as the app's account, in the app's sandbox, with an end."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from ansible.module_utils.api_endpoint_store import StoreError

EXCERPT = 6000  # characters of a command's output that a message shows at most


@dataclass(frozen=True)
class Sandbox:
    """Where and as whom a command runs."""

    unit: str  # name of the transient systemd unit
    user: str
    folder: Path  # where it starts
    environment: dict[str, str] = field(default_factory=dict)
    writable: list[str] = field(default_factory=list)  # paths that it may write, `folder` is one only when named here
    mounts: list[str] = field(default_factory=list)  # where it sees `folder` as well
    timeout: int = 600  # seconds
    secrets: Path | None = None  # file of further environment variables, which only root can read

    def arguments(self, command: str) -> list[str]:
        """Return the call of systemd-run."""
        kind = "BindPaths" if str(self.folder) in self.writable else "BindReadOnlyPaths"
        properties = {
            "User": self.user,
            "Group": self.user,
            "UMask": "0027",
            "WorkingDirectory": str(self.folder),
            "RuntimeMaxSec": str(self.timeout),
            "TimeoutStopSec": "5",
            "ProtectSystem": "strict",
            "ProtectHome": "true",
            "PrivateTmp": "true",
            "PrivateDevices": "true",
            "NoNewPrivileges": "true",
            "RestrictSUIDSGID": "true",
            "CapabilityBoundingSet": "",
        }
        call = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", f"--unit={self.unit}", "--service-type=exec"]
        call += [f"--property={name}={value}" for name, value in properties.items()]
        call += [f"--property=ReadWritePaths={path}" for path in self.writable]
        call += [f"--property={kind}={self.folder}:{mount}" for mount in self.mounts]
        call += [f"--property=EnvironmentFile={self.secrets}"] if self.secrets else []
        call += [f"--setenv={name}={value}" for name, value in self.environment.items()]
        # systemd would expand variables by itself, before the shell sees them.
        return [*call, "/bin/sh", "-c", command.replace("$", "$$")]


def run_command(command: str, sandbox: Sandbox) -> str:
    """Run a shell command and return its output; raise StoreError with the output when it fails or takes too long."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as spool:
        done = subprocess.run(
            sandbox.arguments(command),
            stdin=subprocess.DEVNULL,
            stdout=spool,
            stderr=subprocess.STDOUT,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        spool.seek(max(0, spool.seek(0, os.SEEK_END) - EXCERPT))
        output = spool.read().decode(errors="replace").strip()
    if done.returncode != 0:
        if time.monotonic() - begun >= sandbox.timeout:
            reason = f"was stopped after api_endpoint_command_timeout = {sandbox.timeout} s"
        else:
            reason = f"ended with status {done.returncode}"
        raise StoreError(f"the command {command!r} {reason}.\n--- its output\n{output or '(nothing)'}")
    return output


def environment_of(home: Path, virtualenv: Path, more: dict[str, str]) -> dict[str, str]:
    """Return the environment of a command: the virtualenv's programs first, and what the app gets."""
    path = f"{virtualenv}/bin:/usr/local/bin:/usr/bin:/bin"
    return {"HOME": str(home), "PATH": path, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", **more}
