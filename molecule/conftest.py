"""Fixtures of the scenarios' tests."""

import os
from collections.abc import Iterator

import load
import pytest
import testinfra
from playbook import Playbook


def pytest_configure(config) -> None:
    """Let the gate, which leaves out what is `full`, send fewer requests a second: a busy machine carries them."""
    if "not full" in config.option.markexpr:
        load.RATE = 25


@pytest.fixture(scope="module")
def playbook(host) -> Iterator[Playbook]:
    """Return what runs a playbook against this host, site.yml unless another one is named."""
    playbook = Playbook(host)
    yield playbook
    playbook.end()


@pytest.fixture(scope="module")
def everywhere() -> Iterator[Playbook]:
    """Return what runs a playbook against all hosts of the scenario."""
    playbook = Playbook()
    yield playbook
    playbook.end()


@pytest.fixture(scope="module")
def hosts() -> list:
    """Return all hosts of the scenario, for a test that looks at all of them after one run."""
    return testinfra.get_hosts(
        ["ansible://all"], ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]
    )


@pytest.fixture(scope="module")
def on_one_host(host) -> None:
    """Skip on all hosts but one: what does not depend on the Debian release is tested once."""
    if not host.backend.get_hostname().endswith("debian13"):
        pytest.skip("runs on Debian 13 only")
