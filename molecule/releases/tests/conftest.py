"""The API of the scenario, versions of its app, and runs that bring them live."""

from pathlib import Path

import pytest
from load import REPORTS
from outcomes import Api
from versions import App, Deploy

SCENARIO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "releases.wmcloud.org")


@pytest.fixture(scope="module")
def deploy(playbook, api):
    """Return what brings versions live on this host."""
    return Deploy(playbook, api, SCENARIO)


@pytest.fixture
def new_app(tmp_path):
    """Return a function that makes a version of the app, with a name of its own."""

    def make(version: str, is_held: bool = False) -> App:
        return App(tmp_path / version, version, is_held)

    return make


@pytest.fixture
def offline(host):
    """Cut the host off from every network but the one that the test asks over."""
    routes = [
        (family, host.check_output(f"ip {family} route show default")) for family in ("-4", "-6")
    ]
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route del default")
    assert (
        host.run("python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'").rc
        != 0
    )
    yield
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route add {route}")


def pytest_terminal_summary(terminalreporter):
    """Show what the load measured."""
    terminalreporter.section("what clients noticed")
    for result in REPORTS:
        terminalreporter.write_line(str(result))
