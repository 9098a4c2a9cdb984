"""A host of the old template, and the vars file that the import makes of the app's clone."""

import shutil
import subprocess
import sys

import pytest
from outcomes import PROJECT, Api

NAME = "titles.wmcloud.org"


@pytest.fixture(scope="module")
def api(host):
    """Return the API, asked by its public name."""
    return Api(host, NAME)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Return a clone of the app's repository, as its owner has it."""
    folder = tmp_path_factory.mktemp("clones") / "titles-api"
    shutil.copytree(PROJECT / "molecule" / "migrate" / "repository", folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text('[remote "origin"]\n\turl = file:///srv/git/titles.git\n')
    return folder


@pytest.fixture(scope="module")
def imported(clone):
    """Return the options of site.yml that stand for the imported vars file."""
    output = clone.with_suffix(".yml")
    command = [PROJECT / "tools" / "import_template.py", clone, "--data-from-host", "--output", output]
    subprocess.run([sys.executable, *command], check=True)
    return ("-e", f"@{output}")
