"""The API of the bundled app."""

import pytest
from outcomes import Api

NAME = "language.wmcloud.org"  # only group_vars/api_endpoints.yml sets it: so each test shows that it reaches the hosts


@pytest.fixture(scope="module")
def api(host):
    """Return the API on one host."""
    return Api(host, NAME)


@pytest.fixture(scope="module")
def apis(hosts):
    """Return the API on each host."""
    return [Api(host, NAME) for host in hosts]
