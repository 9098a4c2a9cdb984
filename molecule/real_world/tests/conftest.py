from pathlib import Path

import pytest
from outcomes import Api

VARIABLES = Path(__file__).resolve().parents[1] / "vars.yml"


@pytest.fixture(scope="module")
def api(host):
    return Api(host, "real-world.wmcloud.org")


@pytest.fixture(scope="module", autouse=True)
def _plain(request, playbook):
    """Begin each file of tests with the smallest app, whatever was deployed before."""
    if request.path.stem != "test_plain":
        run = playbook("--extra-vars", f"@{VARIABLES}")
        assert run.status == 0, run.output


def pytest_collection_modifyitems(items):
    """Ask the app of the first run before another one is deployed over it."""
    items.sort(key=lambda item: item.path.stem != "test_plain")
