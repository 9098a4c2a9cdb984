"""What the import makes of an app of the old template is all that the app needs."""

import json
import shlex
import subprocess
import sys

import pytest
import yaml
from old_clone import described
from outcomes import PROJECT

DESCRIPTION = PROJECT / "molecule" / "real_world" / "apps" / "imported" / "clone.yml"
PUBLISH = """
import pathlib, tarfile, zipfile
pathlib.Path("/extrastorage").mkdir(exist_ok=True)
pathlib.Path("/extrastorage/old.txt").write_text("old")
for name in ("words", "names", "labels"):
    pathlib.Path(f"{name}.txt").write_text(name)
with tarfile.open("words.tar.xz", "w:xz") as archive:
    archive.add("words.txt")
with zipfile.ZipFile("names.zip", "w") as archive:
    archive.write("names.txt")
"""
# Where the code is, and the name that this scenario's host has.
OWN = {"api_endpoint_git_url": "", "api_endpoint_server_names": ["real-world.wmcloud.org"]}


@pytest.fixture
def published(host):
    """Publish the data on the host itself."""
    host.check_output("mkdir -p /srv/imported")
    host.check_output(f"cd /srv/imported && python3 -c {shlex.quote(PUBLISH)}")
    serve = "python3 -m http.server 8098 --bind 127.0.0.1 --directory /srv/imported"
    host.check_output(f"systemd-run --quiet --unit=published {serve}")
    yield
    host.check_output("systemctl stop published")


def test_an_imported_app_finds_all_that_it_needs(api, playbook, published, tmp_path):
    template = described(DESCRIPTION)
    clone = template.write(tmp_path / "checker", template.url)
    program = PROJECT / "tools" / "import_template.py"
    subprocess.run([sys.executable, program, clone, "--output", tmp_path / "vars.yml"], check=True)
    assert yaml.safe_load((tmp_path / "vars.yml").read_text())["api_endpoint_server_names"] == [
        "checker.wmcloud.org"
    ]
    run = playbook(
        "-e", f"@{tmp_path}/vars.yml", "-e", json.dumps({**OWN, "api_endpoint_app_dir": str(clone)})
    )
    assert run.status == 0, run.output
    for count in (1, 2):
        assert api.get("/api/v1/check").json == {
            "agent": "checker -- somebody@example.org",
            "data": ["words", "names", "labels", "old"],
            "seen": count,
            "words": ["a", "b"],
        }
