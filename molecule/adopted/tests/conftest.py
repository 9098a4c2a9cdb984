"""The API of an app made for the old template."""

import pytest
from outcomes import Api


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its main name."""
    return Api(host, "titles.wmcloud.org")
