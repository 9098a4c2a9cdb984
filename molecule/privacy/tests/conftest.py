"""The API of the scenario, what calls it with marks, and what searches its host for them."""

import pytest
from attack import DONE, Attack, bring_search
from outcomes import Api


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    api = Api(host, "privacy.wmcloud.org")
    bring_search(api.container)
    return api


@pytest.fixture(scope="module")
def attacks(api) -> list[Attack]:
    """Return the attacks on this host so far, in order."""
    return []


@pytest.fixture
def attack(api, attacks) -> Attack:
    """Return a new attack, with marks of its own."""
    attacks.append(Attack(api))
    return attacks[-1]


def pytest_terminal_summary(terminalreporter):
    """Show what was sent and searched."""
    terminalreporter.section("marked requests, and searches for the marks")
    for line in DONE:
        terminalreporter.write_line(line)
