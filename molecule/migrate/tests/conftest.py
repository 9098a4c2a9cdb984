"""A host of the old template, and the vars file that the import makes of the app's clone."""

import subprocess
import sys

import pytest
from old_clone import described
from outcomes import PROJECT, Api

NAME = "titles.wmcloud.org"


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its public name."""
    return Api(host, NAME)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return the owner's clone of the app's repository."""
    template = described(PROJECT / "molecule" / "migrate" / "clone.yml")
    return template.write(tmp_path_factory.mktemp("clones") / "titles-api", template.url)


@pytest.fixture(scope="module")
def imported(clone):
    """Return the options of site.yml that stand for the imported vars file."""
    output = clone.with_suffix(".yml")
    command = [
        PROJECT / "tools" / "import_template.py",
        clone,
        "--data-from-host",
        "--output",
        output,
    ]
    subprocess.run([sys.executable, *command], check=True)
    return ("-e", f"@{output}")
