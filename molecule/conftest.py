"""Fixtures of the scenarios' tests."""

import os
import subprocess
from pathlib import Path

import pytest
from outcomes import Run

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def playbook(host):
    """Return a function that runs site.yml against this host."""

    def run(*options: str) -> Run:
        command = [
            "ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"],
            "--limit", host.backend.get_hostname(), str(PROJECT / "site.yml"), *options,
        ]  # fmt: skip
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
        return Run(done.returncode, done.stdout + done.stderr)

    return run
