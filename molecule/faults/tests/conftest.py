"""The API of the scenario, runs that bring versions of it live, and the table of what the faults meant for the clients."""

import json
from pathlib import Path

import pytest
from faults import FAULTS
from outcomes import Api, Run

SCENARIO = Path(__file__).resolve().parents[1]


class Deploy:
    """Runs site.yml with the scenario's variables."""

    def __init__(self, playbook) -> None:
        self.playbook = playbook

    def __call__(self, *options: str, **variables) -> Run:
        """Run site.yml; `variables` are the role's, without their prefix."""
        given = {f"api_endpoint_{name}": value for name, value in variables.items()}
        return self.playbook("-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options)


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "faults.wmcloud.org")


@pytest.fixture(scope="module")
def deploy(playbook):
    """Return what runs site.yml."""
    return Deploy(playbook)


@pytest.fixture(autouse=True)
def _one_slot_runs_as_www_data(api):
    """Whatever a test breaks: afterwards one slot runs, with all its workers, for the right account."""
    yield
    assert api.running == api.enabled == [api.unit], (
        f"running: {api.running}, enabled: {api.enabled}, live: {api.unit}"
    )
    main, workers = api.processes
    assert len(workers) == 2
    owners = api.host.check_output(f"ps -o user= -p {','.join(map(str, [main, *workers]))}").split()
    assert set(owners) == {"www-data"}


def pytest_terminal_summary(terminalreporter):
    """Show how long it took until the API answered again."""
    terminalreporter.section("faults")
    terminalreporter.write_line(
        "| fault | requests | failed | longest without an answer | slowest answer | |"
    )
    terminalreporter.write_line("|---|---|---|---|---|---|")
    for found in FAULTS:
        terminalreporter.write_line(str(found))
