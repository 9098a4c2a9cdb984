"""How many rounds, from which seed, and on which hosts."""

import os
import random

import pytest
import rounds

SEED = os.environ.get("SEED") or str(random.randrange(10**6))
ONE = os.environ.get("ROUND")
NUMBERS = [int(ONE)] if ONE else list(range(1, int(os.environ.get("ROUNDS") or 30) + 1))


@pytest.fixture(scope="session")
def prepared() -> dict[str, rounds.Host]:
    """Return the hosts that have what rounds begin with."""
    return {}


@pytest.fixture
def on_host(hosts, choices, prepared, tmp_path_factory) -> rounds.Host:
    """Return the host of a round; the rounds take the hosts in turn."""
    host = hosts[choices.number % len(hosts)]
    name = host.backend.get_hostname()
    if name not in prepared:
        prepared[name] = rounds.Host(host, tmp_path_factory.mktemp(name))
    if not prepared[name].sound:
        prepared[name].prepare()
    return prepared[name]


def pytest_generate_tests(metafunc):
    """Make a test of each round."""
    if "choices" in metafunc.fixturenames:
        chosen = [rounds.choose(SEED, number) for number in NUMBERS]
        metafunc.parametrize(
            "choices", chosen, ids=[f"seed={SEED},round={number}" for number in NUMBERS]
        )


def pytest_collection_finish(session):
    """Say the seed before anything happens."""
    session.config.get_terminal_writer().line(f"seed {SEED}, {len(NUMBERS)} rounds")


def pytest_terminal_summary(terminalreporter):
    """Show what was done, and what clients noticed."""
    terminalreporter.section(f"rounds of seed {SEED}")
    for line in rounds.summary():
        terminalreporter.write_line(line)
