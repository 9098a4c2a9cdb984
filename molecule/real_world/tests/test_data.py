"""Data as people have it: links of Hugging Face, names of old systems, pointers, pages; and a host whose /tmp is memory."""

import bz2
import hashlib
import io
import json
import os
import subprocess
import tarfile

import pytest
from outcomes import PROJECT, ROOT

SCENARIO = PROJECT / "molecule" / "real_world"
APP = "molecule/real_world/apps/data"
HEALTH = {
    "api_endpoint_health_path": "/",
    "api_endpoint_health_status": [200],
    "api_endpoint_smoke_requests": [],
}
LATIN = os.fsdecode(b"gr\xf6\xdfe.txt")
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 104857600\n"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def deploy(playbook):
    """Return what deploys the app, or another one, with data."""

    def run(*artifacts, tags=(), app=APP, **more):
        variables = {
            "api_endpoint_app_dir": app,
            "api_endpoint_artifacts": artifacts,
            **HEALTH,
            **more,
        }
        return playbook("-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(variables), *tags)

    return run


def refused(run, words):
    assert run.status != 0
    assert words in run.said


def packed(**members):
    """Return a .tar.bz2 with these members, names in Latin-1."""
    made = io.BytesIO()
    with tarfile.open(
        fileobj=made, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape"
    ) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return bz2.compress(made.getvalue())


@pytest.mark.usefixtures("on_one_host")
def test_links_that_lead_out_of_a_folder_are_data_and_names_are_bytes(api, host, deploy, tmp_path):
    """On a host with little room in /tmp, where pip and the code have their temporary files on the disk."""
    snapshot = tmp_path / "models" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (tmp_path / "models" / "blobs").mkdir()
    blob = tmp_path / "models" / "blobs" / "bbbb"
    blob.write_bytes(b"first")
    (snapshot / "model.bin").symlink_to("../../blobs/bbbb")
    (snapshot / LATIN).write_bytes(b"old")
    (tmp_path / "archive.tar.bz2").write_bytes(
        packed(**{LATIN: b"packed", "__MACOSX/._x": b"junk"})
    )
    large = tmp_path / "app"
    subprocess.run(["cp", "-r", PROJECT / APP, large], check=True)
    (large / "assets.bin").write_bytes(os.urandom(12_000_000))
    hub = {"dest": "hub", "src": str(snapshot)}
    archive = {"dest": "archive", "src": str(tmp_path / "archive.tar.bz2"), "unpack": True}
    command = "head -c 12000000 /dev/zero >/tmp/a && head -c 12000000 /dev/zero >/var/tmp/b"
    host.check_output("mount -t tmpfs -o size=8m,mode=1777 small /tmp")
    try:
        run = deploy(hub, archive, app=str(large), api_endpoint_build_commands=[command])
    finally:
        host.check_output("umount /tmp")
    assert run.status == 0, run.output
    expected = {
        "b'hub/model.bin'": sha(b"first"), "b'hub/gr\\xf6\\xdfe.txt'": sha(b"old"),
        "b'archive/gr\\xf6\\xdfe.txt'": sha(b"packed"),
    }  # fmt: skip
    assert api.get("/").json == expected
    assert host.check_output(f"ls -A {ROOT}/work") == ""

    blob.write_bytes(b"other")
    run = deploy(
        hub,
        archive,
        app=str(large),
        api_endpoint_build_commands=[command],
        tags=("--tags", "model"),
    )
    assert run.status == 0, run.output
    assert api.get("/").json == {**expected, "b'hub/model.bin'": sha(b"other")}


@pytest.mark.full
@pytest.mark.usefixtures("on_one_host")
def test_what_is_no_data_is_refused_and_the_live_version_stays(api, host, deploy, tmp_path):
    before = api.get("/").json
    pointer, page = tmp_path / "model.bin", tmp_path / "page.bin"
    pointer.write_text(POINTER)
    page.write_text("<!DOCTYPE html><title>Sign in - Example</title>")
    refused(
        deploy({"dest": "model.bin", "src": str(pointer)}),
        "a pointer of git-lfs, not the file itself. Run `git lfs pull`",
    )
    refused(
        deploy({"dest": "model.bin", "src": str(page)}),
        "a web page, not a file. It begins 'Sign in - Example'",
    )
    host.check_output(
        "mkdir -p /srv/incoming && cat >/srv/incoming/model.bin <<'E'\n" + POINTER + "E"
    )
    refused(
        deploy({"dest": "model.bin", "path": "/srv/incoming/model.bin"}),
        "/srv/incoming/model.bin: a pointer of git-lfs",
    )
    (tmp_path / "packed.tar.bz2").write_bytes(packed(**{"a/model.bin": POINTER.encode()}))
    refused(
        deploy({"dest": "archive", "src": str(tmp_path / "packed.tar.bz2"), "unpack": True}),
        "a/model.bin: a pointer of git-lfs, not the file itself. Run `git lfs pull` where it is packed",
    )
    assert api.get("/").json == before


@pytest.mark.full
@pytest.mark.usefixtures("on_one_host")
def test_submodules_come_along_and_pointers_do_not(api, host, deploy):
    script = """
set -e
rm -rf /srv/repositories; mkdir -p /srv/repositories; cd /srv/repositories
export GIT_AUTHOR_NAME=me GIT_AUTHOR_EMAIL=me@example.org GIT_COMMITTER_NAME=me GIT_COMMITTER_EMAIL=me@example.org
for name in words app pointer; do git init -q -b main $name; done
echo 'def split(text): return text.split()' >words/__init__.py
cd words; git add -A; git commit -qm words; cd ../app
git -c protocol.file.allow=always submodule --quiet add /srv/repositories/words words
git config --file .gitmodules submodule.words.url ../words
printf 'from flask import Flask\nfrom words import split\napp = Flask(__name__)\n' >wsgi.py
printf '@app.get("/")\ndef index():\n    return {"words": split("a b")}\n' >>wsgi.py
echo Flask==3.1.3 >requirements.txt
git add -A; git commit -qm app; cd ../pointer
cp ../app/requirements.txt ../app/wsgi.py .
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 1\n' >titles.tsv
git add -A; git commit -qm pointer
"""
    host.check_output("bash -c %s", script)
    run = deploy(api_endpoint_git_url="file:///srv/repositories/app", app="")
    assert run.status == 0, run.output
    assert api.get("/").json == {"words": ["a", "b"]}
    run = deploy(api_endpoint_git_url="file:///srv/repositories/pointer", app="")
    refused(
        run,
        "titles.tsv: a pointer of git-lfs, not the file itself. Add git-lfs to api_endpoint_apt_packages",
    )
    host.check_output("rm -rf /srv/repositories/words")
    assert deploy(api_endpoint_git_url="file:///srv/repositories/app", app="").status == 0
    assert api.get("/").json == {"words": ["a", "b"]}
