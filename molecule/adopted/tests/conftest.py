"""The API of an app made for the old template."""

import pytest
from outcomes import Api

NAME = "titles.wmcloud.org"


@pytest.fixture(scope="module")
def api(host):
    """Return the API on one host, by its main name."""
    return Api(host, NAME)


@pytest.fixture(scope="module")
def apis(hosts):
    """Return the API on each host."""
    return [Api(host, NAME) for host in hosts]
