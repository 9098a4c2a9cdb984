"""The API of the bundled app."""

import pytest
from outcomes import Api


@pytest.fixture(scope="module")
def api(host):
    """Return the API by the name that only group_vars/api_endpoints.yml sets: so each test shows that it arrives."""
    return Api(host, "language.wmcloud.org")
