"""The API of the bundled app."""

import pytest
from outcomes import Api

NAME = "language.wmcloud.org"  # only tools/group_vars/api_endpoints.yml sets it


@pytest.fixture(scope="module")
def api(host):
    """Return the API on one host."""
    return Api(host, NAME)


@pytest.fixture(scope="module")
def apis(hosts):
    """Return the API on each host."""
    return [Api(host, NAME) for host in hosts]
