"""A release is what its id says, whole, and the same for the same inputs."""

import json
import os
import shutil
import subprocess

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import builder as release
from helpers import Stub, make_virtualenv


@pytest.fixture
def host(tmp_path):
    """A host that has code c1 and c2, virtualenv v1 and artifact d1."""
    root = tmp_path / "root"
    for code in ("c1", "c2"):
        (root / "code" / code / "app").mkdir(parents=True)
        (root / "code" / code / "app" / "wsgi.py").write_text(f"# {code}\n")
        (root / "code" / code / "app" / "gunicorn.conf.py").write_text("# the app's own\n")
        (root / "code" / code / "app" / "cache").mkdir()
        (root / "code" / code / "app" / "cache" / "seed").write_text("seed")
    make_virtualenv(root / "venvs" / "v1")
    (tmp_path / "data" / "d1").mkdir(parents=True)
    (tmp_path / "data" / "d1" / "artifact").write_text("model")
    return tmp_path


def build(host, check_mode=False, secrets=None, **components):
    module = Stub(
        check_mode, name="api-endpoint-test", run="", root=str(host / "root"), data_dir=str(host / "data"), user="any",
        audit_log=str(host / "deploys.log"), revision="abc", components=components, secrets=secrets or {},
    )  # fmt: skip
    return release.Builder(module).build(), module


WHOLE = {
    "code": "c1",
    "virtualenv": "v1",
    "settings": {"gunicorn.conf.py": "workers = 1\n", "service.conf": "[Service]\n"},
    "artifacts": [{"dest": "models/model.bin", "digest": "d1", "writable": False}],
    "writable_paths": [],
}


def make_live(host, release_id):
    (host / "root" / "current").unlink(missing_ok=True)
    (host / "root" / "current").symlink_to(host / "root" / "releases" / release_id)


def test_a_release_has_all_its_parts(host):
    result, module = build(host, **WHOLE)
    folder = host / "root" / "releases" / result["release"]
    assert result["changed"]
    assert (folder / "wsgi.py").read_text() == "# c1\n"
    assert (folder / "models" / "model.bin").read_text() == "model"
    assert (folder / "gunicorn.conf.py").read_text() == "workers = 1\n"
    assert os.readlink(folder / "p3env") == str(host / "root" / "venvs" / "v1")
    record = json.loads((folder / "release.json").read_text())
    assert (record["id"], record["by"], record["revision"]) == (
        result["release"],
        "unknown@unknown",
        "abc",
    )
    assert module.warnings == [
        "The app's own gunicorn.conf.py is not used: that file is written from the role's variables."
    ]


@pytest.mark.parametrize(
    "name", ["api_endpoint_worker.py", "api_endpoint_worker", "api_endpoint_forks.py"]
)
def test_a_module_of_the_apps_that_has_the_name_of_the_roles_is_refused(host, name):
    (host / "root" / "code" / "c1" / "app" / name).mkdir()
    own = name.removesuffix(".py")
    with pytest.raises(
        DeployError, match=rf"The app's folder has {name}\. {own} is the role's own module"
    ):
        build(host, **WHOLE)
    assert os.listdir(host / "root" / "releases") == []


@pytest.mark.parametrize(
    ("code", "writable_paths", "is_said"),
    [
        ("os.replace(new, STATE)", ["state.json"], True),
        ("with NamedTemporaryFile(dir=HERE):", ["state.json"], True),
        ("os.replace(new, STATE)", ["state/"], False),
        ("text.replace('a', 'b')", ["state.json"], False),
    ],
)
def test_an_app_that_replaces_files_and_may_write_a_single_one_is_warned_about(
    host, code, writable_paths, is_said
):
    (host / "root" / "code" / "c1" / "app" / "wsgi.py").write_text(code)
    _, module = build(host, **{**WHOLE, "writable_paths": writable_paths})
    assert [
        warning.partition(",")[0] for warning in module.warnings if "writable_paths" in warning
    ] == ([f"wsgi.py has {code.removeprefix('with ').partition('(')[0]}"] if is_said else [])


def test_equal_inputs_are_the_same_release(host):
    first, _ = build(host, **WHOLE)
    second, _ = build(host, **WHOLE)
    assert first["release"] == second["release"]
    assert not second["changed"]


@pytest.mark.parametrize(
    "change",
    [
        {"code": "c2"},
        {"settings": {"gunicorn.conf.py": "workers = 2\n", "service.conf": "[Service]\n"}},
        {"artifacts": []},
        {"artifacts": [{"dest": "other.bin", "digest": "d1", "writable": False}]},
        {"writable_paths": ["cache/"]},
    ],
)
def test_every_input_makes_another_release(host, change):
    assert build(host, **{**WHOLE, **change})[0]["release"] != build(host, **WHOLE)[0]["release"]


def test_a_component_that_is_not_given_is_the_live_ones(host):
    first, _ = build(host, **WHOLE)
    make_live(host, first["release"])
    code_alone, _ = build(
        host, code="c2", virtualenv="v1", settings=WHOLE["settings"], writable_paths=[]
    )
    folder = host / "root" / "releases" / code_alone["release"]
    assert (folder / "wsgi.py").read_text() == "# c2\n"
    assert (folder / "models" / "model.bin").exists()
    assert code_alone["differs"] == ["code"]
    data_alone, _ = build(host, artifacts=[])
    folder = host / "root" / "releases" / data_alone["release"]
    assert (folder / "wsgi.py").read_text() == "# c1\n"
    assert (folder / "gunicorn.conf.py").read_text() == "workers = 1\n"
    assert not (folder / "models").exists()


def test_where_live_was_removed_the_other_components_are_those_of_the_slot_that_serves(
    host, monkeypatch
):
    first, _ = build(host, **WHOLE)
    (host / "root" / "slots" / "green").mkdir(parents=True)
    (host / "root" / "slots" / "green" / "release").symlink_to(f"../../releases/{first['release']}")
    (host / "root" / "current").symlink_to("live/release")
    monkeypatch.setattr(
        release.Endpoint,
        "properties",
        lambda *_: {"ActiveState": "active", "UnitFileState": "enabled"},
    )
    again, _ = build(host, artifacts=WHOLE["artifacts"])
    assert (again["release"], again["differs"]) == (first["release"], [])


def test_new_data_alone_is_refused_when_the_live_release_cannot_start_again(host):
    first, _ = build(host, **WHOLE)
    make_live(host, first["release"])
    (host / "root/venvs/v1/bin/gunicorn").unlink()
    with pytest.raises(
        DeployError,
        match=r"^Run site\.yml without tags: .*/bin/gunicorn is gone\. .*Nothing live was touched",
    ):
        build(host, artifacts=[])
    assert build(host, **WHOLE)[0]["release"] == first["release"]


def test_one_component_alone_needs_a_live_release(host):
    with pytest.raises(DeployError, match="no live release on this host to take the code from"):
        build(host, artifacts=[])


def test_an_interrupted_build_leaves_no_release(host, monkeypatch):
    monkeypatch.setattr(
        release, "write_json", lambda *_: (_ for _ in ()).throw(OSError("No space left on device"))
    )
    with pytest.raises(
        DeployError,
        match=r'failed at the step "build": No space was left on the disk at /.* of the host: No space left',
    ):
        build(host, **WHOLE)
    assert os.listdir(host / "root" / "releases") == []


def test_data_in_the_code_is_replaced_by_the_artifact(host):
    (host / "root" / "code" / "c1" / "app" / "models").mkdir()
    (host / "root" / "code" / "c1" / "app" / "models" / "model.bin").write_text("a sample")
    result, _ = build(host, **WHOLE)
    assert (
        host / "root" / "releases" / result["release"] / "models" / "model.bin"
    ).read_text() == "model"


def test_a_writable_artifact_is_a_copy_that_survives_and_new_content_starts_anew(host):
    artifact = {"dest": "model.bin", "digest": "d1", "writable": True}
    first, _ = build(host, **{**WHOLE, "artifacts": [artifact]})
    seen = host / "root" / "releases" / first["release"] / "model.bin"
    seen.write_text("written by the app")
    assert (host / "data" / "d1" / "artifact").read_text() == "model"
    second, _ = build(host, **{**WHOLE, "code": "c2", "artifacts": [artifact]})
    assert (
        host / "root" / "releases" / second["release"] / "model.bin"
    ).read_text() == "written by the app"
    shutil.copytree(host / "data" / "d1", host / "data" / "d2")
    third, _ = build(host, **{**WHOLE, "artifacts": [{**artifact, "digest": "d2"}]})
    assert (host / "root" / "releases" / third["release"] / "model.bin").read_text() == "model"


def test_writable_paths_outlive_releases_and_start_with_what_the_code_has(host):
    paths = ["cache/", "queue/", "jobs/db.sqlite"]
    first, _ = build(host, **{**WHOLE, "writable_paths": paths})
    folder = host / "root" / "releases" / first["release"]
    assert (folder / "cache" / "seed").read_text() == "seed"
    (folder / "cache" / "seed").write_text("changed by the app")
    (folder / "queue" / "job").write_text("1")
    (folder / "jobs" / "db.sqlite").write_text("2")
    second, _ = build(host, **{**WHOLE, "code": "c2", "writable_paths": paths})
    folder = host / "root" / "releases" / second["release"]
    assert (folder / "cache" / "seed").read_text() == "changed by the app"
    assert (folder / "queue" / "job").read_text() == "1"
    assert (folder / "jobs" / "db.sqlite").read_text() == "2"


@pytest.mark.parametrize("dest", ["../x", "/etc/x", "a/../../x"])
def test_nothing_leaves_the_release(host, dest):
    with pytest.raises(DeployError, match="does not stay inside"):
        build(host, **{**WHOLE, "artifacts": [{"dest": dest, "digest": "d1", "writable": False}]})


def test_data_that_is_not_there(host):
    with pytest.raises(DeployError, match=r"'x' \(d9\) is not in"):
        build(host, **{**WHOLE, "artifacts": [{"dest": "x", "digest": "d9", "writable": False}]})


def test_data_in_another_folder_is_another_release(host):
    first, _ = build(host, **WHOLE)
    make_live(host, first["release"])
    (host / "data").rename(host / "larger")
    (host / "data").mkdir()
    module = Stub(
        name="api-endpoint-test", run="", root=str(host / "root"), data_dir=str(host / "larger"), user="any",
        audit_log=str(host / "deploys.log"), revision="", components=WHOLE, secrets={},
    )  # fmt: skip
    moved = release.Builder(module).build()
    assert moved["release"] != first["release"]
    assert moved["differs"] == ["data_dir"]
    link = host / "root" / "releases" / moved["release"] / "models" / "model.bin"
    assert link.read_text() == "model"


def test_check_mode_builds_nothing(host):
    result, _ = build(host, check_mode=True, **WHOLE)
    assert result["changed"]
    assert not (host / "root" / "releases").exists()
    assert build(host, check_mode=True, **{**WHOLE, "code": None})[0] == {"changed": True}


def plan(*commands):
    return json.dumps(
        {
            "build_commands": commands,
            "environment": {"A": "1"},
            "mounts": ["/etc/api"],
            "command_timeout": 5,
        }
    )


@pytest.fixture
def commands(monkeypatch):
    """Run build commands without systemd; return the sandboxes that they asked for."""
    asked = []

    def run_command(command, sandbox):
        asked.append(sandbox)
        done = subprocess.run(
            ["sh", "-c", command], cwd=sandbox.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DeployError(
                f"the command {command!r} ended with status {done.returncode}. {done.stderr}"
            )

    monkeypatch.setattr(release, "run_command", run_command)
    return asked


def test_what_build_commands_make_is_part_of_the_release(host, commands):
    settings = {
        **WHOLE["settings"],
        "rollout.json": plan("cat models/model.bin > index", "mkdir empty"),
    }
    result, _ = build(host, **{**WHOLE, "settings": settings})
    folder = host / "root" / "releases" / result["release"]
    assert (folder / "index").read_text() == "model"
    assert (folder / "empty").is_dir()
    assert commands[0].environment["A"] == "1"
    assert str(commands[0].folder) in commands[0].writable
    assert commands[0].mounts == ("/etc/api",)


def test_a_writable_path_that_leads_out_by_links_is_refused(host):
    """Root copies its first content, and gives it to the app."""
    app = host / "root" / "code" / "c1" / "app"
    (app / "grab").symlink_to("/etc/passwd")
    with pytest.raises(DeployError, match="The writable path 'grab' leads out of the release"):
        build(host, **{**WHOLE, "writable_paths": ["grab"]})
    assert not list((host / "root" / "state").rglob("grab"))


def test_a_build_command_that_fails_leaves_no_release(host, commands):
    settings = {**WHOLE["settings"], "rollout.json": plan("echo no such table >&2; exit 3")}
    with pytest.raises(
        DeployError, match=r'failed at the step "build": the command .* status 3. no such table'
    ):
        build(host, **{**WHOLE, "settings": settings})
    assert os.listdir(host / "root" / "releases") == []
    assert "result=failed previous=none step=build" in (host / "deploys.log").read_text()


def test_build_commands_cannot_replace_what_root_reads(host, commands):
    tamper = "for f in service.conf release.json rollout.json p3env; do rm -f $f; ln -s /etc/passwd $f; done; mkfifo pipe"
    settings = {**WHOLE["settings"], "rollout.json": plan(tamper)}
    result, _ = build(host, **{**WHOLE, "settings": settings})
    folder = host / "root" / "releases" / result["release"]
    assert (folder / "service.conf").read_text() == "[Service]\n"
    assert not (folder / "service.conf").is_symlink()
    assert json.loads((folder / "release.json").read_text())["id"] == result["release"]
    assert json.loads((folder / "rollout.json").read_text())["build_commands"] == [tamper]
    assert os.readlink(folder / "p3env") == str(host / "root" / "venvs" / "v1")


SECRETS = {"API_KEY": "hunter2-hunter2"}


def test_secrets_are_for_root_alone_and_another_secret_is_another_release(host):
    without, _ = build(host, **WHOLE)
    first, _ = build(host, secrets=SECRETS, **WHOLE)
    again, _ = build(host, secrets=SECRETS, **WHOLE)
    other, _ = build(host, secrets={"API_KEY": "hunter3-hunter3"}, **WHOLE)
    assert len({without["release"], first["release"], other["release"]}) == 3
    assert not again["changed"]
    record = (host / "root" / "releases" / first["release"] / "release.json").read_text()
    assert "hunter2" not in record + json.dumps(first)
    file = host / "root" / "secrets" / json.loads(record)["components"]["secrets"]
    assert file.read_text() == 'API_KEY="hunter2-hunter2"\n'
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_new_data_alone_keeps_the_live_secrets(host):
    first, _ = build(host, secrets=SECRETS, **WHOLE)
    make_live(host, first["release"])
    changed, _ = build(host, secrets={}, artifacts=[])
    records = [
        json.loads((host / "root" / "releases" / result["release"] / "release.json").read_text())[
            "components"
        ]
        for result in (first, changed)
    ]
    assert records[0]["secrets"] == records[1]["secrets"] != ""


def test_a_file_of_secrets_that_was_lost_is_written_again(host):
    build(host, secrets=SECRETS, **WHOLE)
    shutil.rmtree(host / "root" / "secrets")
    assert not build(host, secrets=SECRETS, **WHOLE)[0]["changed"]
    assert len(list((host / "root" / "secrets").iterdir())) == 1


def test_a_dry_run_writes_no_secrets(host):
    build(host, check_mode=True, secrets=SECRETS, **WHOLE)
    assert not (host / "root" / "secrets").exists()


def test_a_live_release_from_before_there_were_secrets_has_none(host):
    first, _ = build(host, **WHOLE)
    file = host / "root" / "releases" / first["release"] / "release.json"
    record = json.loads(file.read_text())
    del record["components"]["secrets"]
    file.write_text(json.dumps(record))
    make_live(host, first["release"])
    assert build(host, artifacts=[])[0]["changed"]
