import pytest
from outcomes import Api


@pytest.fixture(scope="module")
def api(host):
    return Api(host, "real-world.wmcloud.org")


def pytest_collection_modifyitems(items):
    """Ask the app of the first run before another one is deployed over it."""
    items.sort(key=lambda item: item.path.stem != "test_plain")
