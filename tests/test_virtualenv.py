"""What is installed, and when it is installed again."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from types import SimpleNamespace

import pytest
import yaml
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.release import virtualenv as venv
from ansible.module_utils.api_endpoint.release.source import lay_out
from ansible.module_utils.api_endpoint.sandbox import Outcome, Sandbox
from helpers import PROJECT, Stub
from outcomes import wait_until


@pytest.fixture
def code(tmp_path):
    """An app's code as it lies in the store."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "wsgi.py").write_text("")
    required(
        tmp_path,
        "-c limits.txt\nuWSGI == 2.0.18  # old\nFlask>=3 ; python_version > '3'\ngunicorn==20.1.0\n",
    )
    return tmp_path / "code" / "digest"


def required(tmp_path, text):
    """Put code with a requirements file into the store."""
    target = tmp_path / "code" / "digest"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (tmp_path / "app" / "limits.txt").write_text("numpy<2\n")
    (tmp_path / "app" / "requirements.txt").write_text(text)
    lay_out(tmp_path / "app", target, "", "", "wsgi:app", [])


def virtualenv(tmp_path, code, **more):
    given = {
        "root": str(tmp_path), "code": "digest", "python": sys.executable, "packages": [], "gunicorn": "gunicorn==27.0.1",
        "constraints": [], "exclude": [], "index_url": "", "extra_index_urls": [], "options": [], "user": "any",
        "credentials": {}, "name": "api",
    }  # fmt: skip
    module = Stub(**{**given, **more})
    found = venv.Virtualenv(module)
    found.read(code)
    return found


def test_the_server_comes_in_a_step_of_its_own(tmp_path, code):
    found = virtualenv(tmp_path, code, constraints=["scipy<2"])
    assert found.first == ["uWSGI == 2.0.18", "Flask>=3 ; python_version > '3'"]
    assert found.second == ["gunicorn==27.0.1"]
    assert found.constraints == ["numpy<2", "scipy<2"]


def test_leave_out_add_and_replace(tmp_path, code):
    found = virtualenv(
        tmp_path,
        code,
        exclude=["UWSGI", "not_there"],
        packages=["flask==3.1", "Gunicorn[gevent]==27.0.1"],
    )
    assert found.excluded == ["uWSGI == 2.0.18"]
    assert found.first == ["flask==3.1"]
    assert found.second == ["Gunicorn[gevent]==27.0.1"]
    assert found.module.warnings == [
        "api_endpoint_pip_exclude names 'not-there', which the app does not require."
    ]


def test_what_cannot_be_installed_is_refused_before_pip(tmp_path, code):
    required(tmp_path, "flask\nx @ file:///home/me/x\n")
    with pytest.raises(DeployError, match=r"requirements\.txt, line 2: .* path of the laptop"):
        virtualenv(tmp_path, code)


HASHED = f"flask==3 --hash=sha256:{'0' * 64}\ngunicorn==20.1.0 --hash=sha256:{'1' * 64}\n"


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Build virtualenvs without a host: what would run, with the files that it would read."""
    called = []

    def run(self, command, watch=None):
        folder = self.folder
        texts = {
            path.name: path.read_text()
            for path in (*folder.glob("*.t*"), *(tmp_path / "cache").glob("netrc"))
        }
        called.append(
            {
                "command": command,
                "files": texts,
                "secrets": self.secrets.read_text(),
                "all": str(self),
            }
        )
        return Outcome(0, "", False)

    monkeypatch.setattr(Sandbox, "run", run)
    monkeypatch.setattr(Sandbox, "end", lambda _self: None)
    monkeypatch.setattr(venv, "RUN", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(venv.uv, "HOST_FILES", ())
    (tmp_path / "uv").mkdir()
    venv.uv.program(tmp_path).write_text("")
    account = SimpleNamespace(pw_uid=os.getuid(), pw_gid=os.getgid())
    monkeypatch.setattr(venv.pwd, "getpwnam", lambda _name: account)
    (tmp_path / "venvs").mkdir()
    return called


PIP = ["--prefer-binary"]  # an option that only pip has


def built(tmp_path, code, calls, **more):
    calls.clear()
    virtualenv(tmp_path, code, **more).build(tmp_path / "venvs" / "key", tmp_path / "cache")
    assert not (tmp_path / "cache" / "netrc").exists()
    if more.get("options") == PIP:
        return calls
    # uv's own steps: the virtualenv with pip in it, the bytecode, the cache
    assert [call["command"][1] for call in calls[-2:]] == ["-m", "cache"]
    assert "--without-pip" in calls[0]["command"]
    assert "--no-index" in calls[1]["command"]
    return calls[1:-2]


BOTH = pytest.mark.parametrize("options", [[], PIP], ids=["uv", "pip"])


@BOTH
def test_a_file_with_hashes_is_installed_as_it_is(tmp_path, code, calls, options):
    required(tmp_path, HASHED)
    _make, first, second = built(tmp_path, code, calls, packages=["numpy==2"], options=options)
    assert first["files"]["requirements.txt"] == f"flask==3 --hash=sha256:{'0' * 64}\n"
    assert "--require-hashes" in first["command"]
    assert "--no-deps" not in first["command"]
    assert second["files"]["server.txt"] == "numpy==2\ngunicorn==27.0.1\n"
    assert "--require-hashes" not in second["command"]
    assert second["files"]["pins.txt"] == "flask==3\n"
    _make, first, _second = built(tmp_path, code, calls, packages=["flask==3.1"], options=options)
    assert {"--require-hashes", "--no-deps"} <= set(first["command"])


@BOTH
def test_packages_of_the_app_beside_hashes_come_in_a_step_of_their_own(
    tmp_path, code, calls, options
):
    (tmp_path / "app" / "setup.py").write_text("")
    required(tmp_path, f"{HASHED}-e .\n")
    _make, first, own, server = built(tmp_path, code, calls, options=options)
    assert first["files"]["requirements.txt"] == f"flask==3 --hash=sha256:{'0' * 64}\n"
    assert own["files"]["own.txt"] == f"{tmp_path}/venvs/key/local/app\n"
    assert "own.txt" in own["command"]
    assert server["files"]["server.txt"] == "gunicorn==27.0.1\n"
    # A file that is not in this list would get other permissions from the next run.
    known = yaml.safe_load((PROJECT / "roles/api_endpoint/vars/main.yml").read_text())[
        "__api_endpoint_notes"
    ]
    assert set(server["files"]) - {"netrc"} <= set(known)


@BOTH
def test_packages_for_another_computer_are_named(tmp_path, code, calls, monkeypatch, options):
    (tmp_path / "app" / "wheels").mkdir()
    (tmp_path / "app" / "wheels" / "mylib-1.0-cp39-cp39-win_amd64.whl").write_text("")
    required(tmp_path, "--find-links wheels\nmylib\n")

    def run(_self, command, watch=None):
        if command[1] == "-c":
            return Outcome(
                0,
                subprocess.run(
                    [sys.executable, *command[1:]], capture_output=True, text=True
                ).stdout,
                False,
            )
        fails = {"--requirement", "--requirements"} & set(command)
        return Outcome(int(bool(fails)), "something that nobody knows", False)

    monkeypatch.setattr(Sandbox, "run", run)
    with pytest.raises(
        DeployError, match=r"so not installed: mylib-1\.0-cp39-cp39-win_amd64\.whl\. `pip download "
    ):
        built(tmp_path, code, calls, options=options)


def test_what_a_file_expects_from_a_folder_comes_from_there(tmp_path, code, calls):
    (tmp_path / "app" / "wheels").mkdir()
    (tmp_path / "app" / "wheels" / "mylib-1.0-py3-none-any.whl").write_text("")
    required(
        tmp_path,
        "--extra-index-url https://example.org/simple\n--no-index\n--find-links wheels\n-e .\nmylib\n",
    )
    (tmp_path / "app" / "setup.py").write_text("")
    required(tmp_path, (tmp_path / "app" / "requirements.txt").read_text())
    _make, look, first, second = built(
        tmp_path, code, calls, index_url="https://example.org/own", options=PIP
    )
    carried = tmp_path / "venvs" / "key" / "local"
    assert look["command"][-1] == f"{carried}/app/wheels"
    assert ["--constraint", f"{carried}/found.txt"] == first["command"][-3:-1]
    assert first["files"]["requirements.txt"].splitlines() == [
        "--index-url https://example.org/own",
        "--extra-index-url https://example.org/simple",
        "--no-index",
        f"--find-links {carried}/app/wheels",
        f"{carried}/app",
        "mylib",
    ]
    assert "--no-index" not in second["files"]["server.txt"]
    assert f"--find-links {carried}/app/wheels" in second["files"]["server.txt"]
    assert not carried.exists()


def test_and_so_it_is_with_uv(tmp_path, code, calls):
    (tmp_path / "app" / "wheels").mkdir()
    (tmp_path / "app" / "wheels" / "mylib-1.0-py3-none-any.whl").write_text("")
    required(
        tmp_path,
        "--extra-index-url https://example.org/simple\n--no-index\n--find-links wheels\nmylib\n",
    )
    _make, look, first, second = built(tmp_path, code, calls, index_url="https://example.org/own")
    carried = tmp_path / "venvs" / "key" / "local"
    assert look["command"][-1] == f"{carried}/app/wheels"
    assert ("--constraints", f"{carried}/found.txt") in pairs(first["command"])
    assert "--no-index" in first["command"]
    assert first["files"]["requirements.txt"] == "mylib\n"
    told = tomllib.loads(first["files"]["uv.toml"])
    assert told["pip"]["find-links"] == [f"{carried}/app/wheels"]
    assert told["index"] == [
        {"url": "https://example.org/own", "default": True},
        {"url": "https://example.org/simple"},
    ]
    assert not told["pip"]["no-index"]
    assert "--no-index" not in second["command"]


def pairs(command):
    return list(itertools.pairwise(command))


def test_files_of_the_cache_are_in_no_virtualenv(tmp_path, code, calls):
    """A setup.py may write the cache, so a file that both have could change under a live release."""
    _make, first, _server = built(tmp_path, code, calls)
    assert tomllib.loads(first["files"]["uv.toml"])["pip"]["link-mode"] == "copy"


@pytest.mark.parametrize(
    ("path", "is_compiled"),
    [
        ("numpy/linalg/_linalg.py", True),
        ("numpy/tests/test_ctypeslib.py", False),
        ("numpy/linalg/tests/test_linalg.py", False),
        ("pip/_vendor/rich/console.py", False),
        ("pipeline/run.py", True),
        ("pytest/__init__.py", True),
        ("_pytest/tests.py", True),
    ],
)
def test_what_is_compiled(path, is_compiled):
    path = f"/var/lib/x/venvs/0/lib/python3.13/site-packages/{path}"
    assert (re.search(venv.NOT_COMPILED, path) is None) == is_compiled


def test_an_index_that_refuses_access_is_named(tmp_path, code, calls, monkeypatch):
    """Where all indexes are equal, uv says only that none has the package."""
    hint = "hint: An index URL (https://a.example.org) could not be queried"

    def run(_self, command, watch=None):
        said = "error: No solution\n  cause: Because x was not found in the package registry"
        if "--dry-run" in command:
            said += f"\n{hint} (401 Unauthorized)"
        return Outcome(int("requirements.txt" in command), said, False)

    monkeypatch.setattr(Sandbox, "run", run)
    with pytest.raises(DeployError) as raised:
        virtualenv(tmp_path, code).build(tmp_path / "venvs" / "key", tmp_path / "cache")
    assert hint in str(raised.value)
    assert "may have expired" in str(raised.value)


@pytest.mark.parametrize(("free", "stays"), [(10**9, True), (1000, False)])
def test_a_failed_build_gives_its_cache_back_where_the_disk_is_nearly_full(
    tmp_path, monkeypatch, free, stays
):
    cache = venv.uv.cache(tmp_path)
    cache.mkdir(parents=True)
    (cache / "a.whl").write_bytes(b"x" * 100_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=free))
    venv.drop_large_cache(tmp_path)
    assert cache.exists() == stays


@pytest.mark.parametrize(
    ("said", "does_pip_try"),
    [
        ("error: Couldn't parse requirement in `requirements.txt` at position 0", True),
        ("hint: Pre-releases are available for `x` in the requested range", True),
        ("error: Failed to download `x`\n  cause: Hash mismatch for `x`", False),
        ("cause: Because x was not found in the package registry and you require x", False),
    ],
)
def test_pip_tries_what_uv_cannot(tmp_path, code, calls, monkeypatch, said, does_pip_try):
    commands = []

    def run(_self, command, watch=None):
        commands.append(command)
        return Outcome(int("requirements.txt" in command and command[1] == "pip"), said, False)

    monkeypatch.setattr(Sandbox, "run", run)
    found = virtualenv(tmp_path, code)
    places = (tmp_path / "venvs" / "key", tmp_path / "cache")
    if does_pip_try:
        found.build(*places)
        assert len(found.notes) == 1
        assert found.notes[0].startswith("pip built the virtualenv, which takes longer: uv could")
        assert any(command[1:4] == ["-m", "pip", "install"] for command in commands)
    else:
        with pytest.raises(DeployError, match=r"Installing the requirements failed"):
            found.build(*places)
        assert found.notes == []


@pytest.mark.parametrize(
    ("output", "wheel", "why"),
    [
        ("ERROR: No matching distribution found for uv==0.13.9", b"", "No matching distribution"),
        ("", b"another wheel", "has another digest"),
    ],
)
def test_without_uv_pip_does_it_and_the_run_says_so(
    tmp_path, code, calls, monkeypatch, output, wheel, why
):
    venv.uv.program(tmp_path).unlink()

    def run(self, command, watch=None):
        if "download" in command and wheel:
            (self.folder / "uv").mkdir()
            (self.folder / "uv" / "uv-0.13.9-py3-none-any.whl").write_bytes(wheel)
        return Outcome(int("download" in command and not wheel), output, False)

    monkeypatch.setattr(Sandbox, "run", run)
    found = virtualenv(tmp_path, code)
    found.build(tmp_path / "venvs" / "key", tmp_path / "cache")
    (note,) = found.notes
    assert why in note
    assert "\n" not in note
    assert not venv.uv.program(tmp_path).exists()


def test_the_build_goes_on_without_its_run_and_the_next_one_waits_for_it(
    tmp_path, code, monkeypatch
):
    started = []

    def build(self, folder, _home, say):
        started.append(1)
        say("half way")
        while not (tmp_path / "go").exists():
            time.sleep(0.02)
        folder.mkdir(parents=True)
        self.notes.append("as it is")

    monkeypatch.setattr(venv.Virtualenv, "build", build)
    for name in ("refuse_unusable", "probe"):
        monkeypatch.setattr(venv, name, lambda *_: None)
    work = Background("api-virtualenv", str(tmp_path))
    monkeypatch.setattr(venv, "background", lambda _module: work)
    given = {"root": str(tmp_path), "code": "digest", "part": False, "user": "any"}
    module = virtualenv(tmp_path, code).module
    module.params |= given
    try:
        first = venv.ensure(module)
        wait_until(lambda: work.state().get("text") == "half way", "it is at work")
        pid = work.state()["pid"]
        assert venv.ensure(module) == first
        assert work.state()["pid"] == pid
        (tmp_path / "go").touch()
        result = work.wait(first["task"], 60)["result"]
    finally:
        work.end()
    assert result["changed"]
    assert result["notes"] == ["as it is"]
    assert venv.ensure(module) == {"changed": False, "key": result["key"], "excluded": []}


def test_a_build_that_the_next_run_does_not_need_is_ended(tmp_path, code, monkeypatch):
    work = Background("api-virtualenv", str(tmp_path))
    stopped = []
    monkeypatch.setattr(venv, "background", lambda _module: work)
    monkeypatch.setattr(venv, "systemctl", lambda *words: stopped.append(words))
    for name in ("refuse_unusable", "probe"):
        monkeypatch.setattr(venv, name, lambda *_: None)
    found = virtualenv(tmp_path, code)
    found.module.params |= {"part": False}
    (tmp_path / "venvs" / found.key()).mkdir(parents=True)
    (tmp_path / "venvs" / found.key() / venv.COMPLETE).touch()
    assert not venv.ensure(found.module)["changed"]
    assert stopped == []

    def endless(say):
        say("at work")
        time.sleep(600)
        return {}

    (tmp_path / "cache").mkdir(exist_ok=True)
    (tmp_path / "cache" / "netrc").write_text("machine a login b password c")
    work.begin("another", endless)
    try:
        wait_until(lambda: work.state().get("text") == "at work", "it is at work")
        assert not venv.ensure(found.module)["changed"]
        assert not work.is_alive()
        assert stopped == [("stop", "api-virtualenv.service")]
        assert not (tmp_path / "cache" / "netrc").exists()
    finally:
        work.end()


@pytest.mark.parametrize(
    ("files", "chosen"),
    [
        (
            ["my_lib-1.0-py3-none-any.whl", "my_lib-2.0-py3-none-any.whl"],
            ["my-lib @ my_lib-2.0-py3-none-any.whl"],
        ),
        (
            ["x-2.0-cp39-cp39-win_amd64.whl", "x-1.0-py3-none-any.whl"],
            ["x @ x-1.0-py3-none-any.whl"],
        ),
        (
            ["x-2.0-cp39-cp39-win_amd64.whl"],
            ["x @ x-2.0-cp39-cp39-win_amd64.whl"],
        ),  # pip refuses it by name
        (["x-1.0.tar.gz", "x-1.0-py3-none-any.whl"], ["x @ x-1.0-py3-none-any.whl"]),
        (
            ["x-1.0.tar.gz", "y-1.zip", "README.md", "no wheel.whl"],
            ["x @ x-1.0.tar.gz", "y @ y-1.zip"],
        ),
        (["gunicorn-21.2.0-py3-none-any.whl"], []),
    ],
)
def test_one_package_of_each_name_in_a_folder(tmp_path, files, chosen):
    for name in files:
        (tmp_path / name).write_text("")
    subprocess.run(
        [sys.executable, "-c", venv.FOUND_LOCALLY, tmp_path / "found.txt", tmp_path], check=True
    )
    assert (tmp_path / "found.txt").read_text().replace(
        f"file://{tmp_path}/", ""
    ).splitlines() == chosen


@BOTH
def test_credentials_are_in_no_command_and_in_no_file_that_stays(tmp_path, code, calls, options):
    required(
        tmp_path,
        "--extra-index-url https://u:file-hunter22@a.example.org/simple\n"
        "-e git+https://vcs-hunter22@git.example.org/a/b.git@v1#egg=b\n",
    )
    found = built(
        tmp_path, code, calls, index_url="https://c.example.org/simple",
        credentials={"https://c.example.org/simple": "bot:var%40hunter22"}, options=options,
    )  # fmt: skip
    for call in found:
        kept = {name: text for name, text in call["files"].items() if name != "netrc"}
        assert "hunter22" not in str([call["command"], call["all"], kept])
    netrc = found[-1]["files"]["netrc"]
    assert 'machine a.example.org login "u" password "file-hunter22"' in netrc
    assert 'machine c.example.org login "bot" password "var@hunter22"' in netrc
    assert 'GIT_CONFIG_KEY_0="credential.https://git.example.org.helper"' in found[-1]["secrets"]
    assert 'API_ENDPOINT_USER_0="vcs-hunter22"' in found[-1]["secrets"]


def test_credentials_of_the_hosts_own_settings_are_in_no_file_that_stays(
    tmp_path, code, calls, monkeypatch
):
    monkeypatch.setenv("PIP_INDEX_URL", "https://bot:hunter22@c.example.org/simple")
    monkeypatch.setenv("PIP_PROXY", "http://me:hunter23@proxy.example.org:3128")
    _make, first, _server = built(tmp_path, code, calls)
    kept = {name: text for name, text in first["files"].items() if name != "netrc"}
    assert "hunter2" not in str([first["command"], first["all"], kept])
    assert 'machine c.example.org login "bot" password "hunter22"' in first["files"]["netrc"]
    assert "me:hunter23@proxy" in first["secrets"]
    told = tomllib.loads(first["files"]["uv.toml"])["index"]
    assert told == [
        {"url": "https://c.example.org/simple", "default": True, "authenticate": "always"}
    ]
    assert not list((tmp_path / "venvs" / "key").glob("uv.*"))


def test_two_passwords_for_one_host_of_which_the_host_has_one_are_pips(
    tmp_path, code, calls, monkeypatch
):
    monkeypatch.setenv("PIP_INDEX_URL", "https://bot:hunter22@c.example.org/simple")
    found = virtualenv(tmp_path, code, credentials={"https://c.example.org/x": "me:hunter23"})
    found.build(tmp_path / "venvs" / "key", tmp_path / "cache")
    assert "one password or token for c.example.org" in found.notes[0]
    assert 'login "me" password "hunter23"' in calls[-1]["files"]["netrc"]


def test_two_passwords_for_one_host_are_refused(tmp_path, code, calls):
    given = {"https://example.org/a": "one:hunter22", "https://example.org/b": "two:hunter22"}
    with pytest.raises(DeployError, match=r"two passwords or tokens for example\.org") as raised:
        built(tmp_path, code, calls, credentials=given)
    assert "hunter22" not in str(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"packages": ["x"]},
        {"constraints": ["x<1"]},
        {"index_url": "https://example.org/simple"},
        {"extra_index_urls": ["https://example.org/simple"]},
        {"options": ["--no-binary=x"]},
        {"exclude": ["flask"]},
        {"gunicorn": "gunicorn==26.1"},
    ],
)
def test_the_key_changes_with_every_input(tmp_path, code, change):
    assert virtualenv(tmp_path, code, **change).key() != virtualenv(tmp_path, code).key()


def test_the_key_stays_with_equal_inputs(tmp_path, code):
    before = virtualenv(tmp_path, code).key()
    required(tmp_path, "# the same\n" + (tmp_path / "app" / "requirements.txt").read_text())
    assert (
        virtualenv(tmp_path, code, credentials={"https://example.org": "a:new-token"}).key()
        == before
    )


def test_the_key_changes_with_what_is_carried_along(tmp_path, code):
    (tmp_path / "app" / "lib").mkdir()
    (tmp_path / "app" / "lib" / "setup.py").write_text("one")
    required(tmp_path, "-e ./lib\n")
    before = virtualenv(tmp_path, code).key()
    (tmp_path / "app" / "wsgi.py").write_text("other code")
    required(tmp_path, "-e ./lib\n")
    assert virtualenv(tmp_path, code).key() == before
    (tmp_path / "app" / "lib" / "setup.py").write_text("two")
    required(tmp_path, "-e ./lib\n")
    assert virtualenv(tmp_path, code).key() != before


@pytest.mark.parametrize(("version", "is_same"), [((3, 11, 9), True), ((3, 13, 2), False)])
def test_a_correction_of_python_is_the_same_python_on_every_host_and_another_one_is_not(
    tmp_path, code, version, is_same
):
    python = tmp_path / "python"

    def key(version):
        python.write_text(
            f"#!{sys.executable}\nimport sys\nsys.version = 'built {version}'\nsys.version_info = {version}\n"
            "exec(sys.argv[2])\n"
        )
        python.chmod(0o755)
        return virtualenv(tmp_path, code, python=str(python)).key()

    assert (key(version) == key((3, 11, 2))) == is_same


def test_a_python_that_does_not_run(tmp_path, code):
    with pytest.raises(DeployError, match="api_endpoint_python is '/nowhere/python'"):
        virtualenv(tmp_path, code, python="/nowhere/python").key()


def test_check_mode_on_a_clean_host(tmp_path):
    assert venv.ensure(Stub(check_mode=True, root=str(tmp_path), code="")) == {"changed": True}


def test_the_umask_of_the_host_leaves_nothing_for_setup_to_repair(tmp_path, code, monkeypatch):
    """Ansible's modules have the umask of the user who logs in."""
    built = SimpleNamespace(
        read=lambda _code: None, key=lambda: "k", choice=SimpleNamespace(note=""), excluded=[],
        build=lambda folder, _cache, _say: folder.mkdir(parents=True), credentials={}, notes=[],
    )  # fmt: skip
    monkeypatch.setattr(venv, "Virtualenv", lambda _module: built)
    for name in ("refuse_unusable", "probe"):
        monkeypatch.setattr(venv, name, lambda *_: None)
    here = SimpleNamespace(begin=lambda _task, work: work(print))
    monkeypatch.setattr(venv, "background", lambda _module: here)
    (tmp_path / "code" / "its").mkdir(parents=True)
    params = {
        "root": str(tmp_path),
        "code": "its",
        "part": False,
        "python": "",
        "user": "",
        "name": "",
    }
    before = os.umask(0o077)
    try:
        venv.ensure(SimpleNamespace(params=params, check_mode=False))
    finally:
        os.umask(before)
    assert (tmp_path / "venvs" / "k" / venv.COMPLETE).stat().st_mode & 0o777 == 0o644
