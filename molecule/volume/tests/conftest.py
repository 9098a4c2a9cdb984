"""The API of the scenario, its disks, and runs that bring the volume."""

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest
from load import REPORTS
from outcomes import Api, Run

SCENARIO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCENARIO))
from disks import SIZES, attach, backing, detach, device  # noqa: E402


class Disk:
    """A disk of the host, from outside of it."""

    def __init__(self, host, number: int) -> None:
        self.host = host
        self.number = number
        self.path = device(number)
        self.image = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"disk-{number}.img")

    @property
    def is_attached(self) -> bool:
        return bool(backing(self.number))

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.image.read_bytes()).hexdigest()

    def attach(self, *options: str) -> None:
        attach(self.number, self.image, *options)

    def detach(self) -> None:
        detach(self.number)

    def empty(self) -> None:
        """Make it a new disk."""
        self.detach()
        self.image.unlink()
        with self.image.open("wb") as file:
            file.truncate(SIZES[self.number])
        self.attach()


class Deploy:
    """Runs site.yml with the scenario's variables."""

    def __init__(self, playbook) -> None:
        self.playbook = playbook

    def start(self, *options: str, **volume):
        """Start a run with a volume, or with none. Do not wait for it."""
        given = {"api_endpoint_volume": volume}
        return self.playbook.start(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options
        )

    def __call__(self, *options: str, **volume) -> Run:
        """Run site.yml with a volume, or with none."""
        return self.start(*options, **volume).wait()


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "volume.wmcloud.org")


@pytest.fixture(scope="module")
def deploy(playbook):
    """Return what runs site.yml."""
    return Deploy(playbook)


@pytest.fixture(scope="module")
def disks(host):
    """Return the host's disks."""
    return [Disk(host, number) for number in SIZES]


def pytest_terminal_summary(terminalreporter):
    """Show what the load measured."""
    terminalreporter.section("what clients noticed")
    for result in REPORTS:
        terminalreporter.write_line(str(result))
