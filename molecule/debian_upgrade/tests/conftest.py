import pytest
from outcomes import Api


@pytest.fixture(scope="module")
def api(host):
    return Api(host, "debian-upgrade.wmcloud.org")
