"""Which files become an app's code."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.digests import tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import code
from ansible.module_utils.api_endpoint.release.requirements import Plan
from ansible.module_utils.api_endpoint.release.source import lay_out
from ansible.module_utils.api_endpoint.urls import git_environment
from helpers import Stub


@pytest.fixture
def source(tmp_path):
    """A repository as the old template's users have it: the code in model/, the requirements at the top."""
    root = tmp_path / "source"
    (root / "model" / "helpers").mkdir(parents=True)
    (root / "model" / "wsgi.py").write_text("app = None\n")
    (root / "model" / "helpers" / "__init__.py").write_text("")
    (root / "requirements.txt").write_text("-r more/base.txt\nflask\n")
    (root / "more").mkdir()
    (root / "more" / "base.txt").write_text("-c limits.txt\npyyaml\n")
    (root / "more" / "limits.txt").write_text("numpy<2\n")
    (root / "README.md").write_text("")
    return root


def laid_out(tmp_path, source, subdir="model", requirements="", wsgi="wsgi:app", exclude=()):
    target = tmp_path / "target"
    target.mkdir()
    lay_out(source, target, subdir, requirements, wsgi, list(exclude))
    return target


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 104857600\n"


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_old_templates_layout(tmp_path, source):
    target = laid_out(tmp_path, source)
    assert names(target) == [
        "app/helpers/__init__.py",
        "app/wsgi.py",
        "requirements.json",
    ]
    assert required(target) == ["pyyaml", "flask"]


def test_requirements_beside_the_wsgi_module_win(tmp_path, source):
    (source / "model" / "requirements.txt").write_text("bottle\n")
    assert required(laid_out(tmp_path, source)) == ["bottle"]


@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("env", ["pyvenv.cfg", "bin/python3", "lib/python3.13/site-packages/x.py"]),
        ("helpers/my env", ["pyvenv.cfg", "Scripts/python.exe", "Lib/site-packages/x.py"]),
        ("conda", ["conda-meta/history", "lib/x.py"]),
        (".pixi/envs/default", ["conda-meta/history", "lib/x.py"]),
        ("old", ["bin/activate_this.py", "lib/python2.7/x.py"]),
        (".tox", ["py313/pyvenv.cfg", "log/1.log"]),
        # Made around the app, with `python3 -m venv .`
        (
            ".",
            [
                "pyvenv.cfg",
                "bin/activate",
                "bin/flask",
                "lib/python3.13/site-packages/x.py",
                "include/python3.13/x.h",
            ],
        ),
    ],
)
def test_a_virtualenv_of_any_name_is_no_code(tmp_path, source, folder, files):
    for name in files:
        path = source / "model" / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    outward = source / "model" / folder / "bin"
    outward.mkdir(exist_ok=True)
    if not (outward / "python3").exists():
        (outward / "python3").symlink_to("/usr/bin/python3")
    (source / "model" / "lib").mkdir(exist_ok=True)
    (source / "model" / "lib" / "own.py").write_text("")
    target = laid_out(tmp_path, source)
    found = {
        path.relative_to(target / "app")
        for path in (target / "app").rglob("*")
        if not path.is_dir()
    }
    assert sorted(map(str, found)) == ["helpers/__init__.py", "lib/own.py", "wsgi.py"]


def test_a_link_to_a_virtualenv_is_no_code(tmp_path, source):
    (tmp_path / "environments" / "api").mkdir(parents=True)
    (tmp_path / "environments" / "api" / "pyvenv.cfg").write_text("")
    (source / "model" / "env").symlink_to(tmp_path / "environments" / "api")
    assert "app/env" not in names(laid_out(tmp_path, source))


def required(target):
    return [line.text for line in Plan.load(target).requirements]


def link_out(path):
    """Put a link to a file that somebody else owns."""
    path.unlink(missing_ok=True)
    path.symlink_to("/etc/passwd")


def over_links(root):
    """Leave the code by a link that stays in it by its text: what it leads over leads up."""
    deep = root / "model" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (root / "model" / "top").mkdir()
    (deep / "up").symlink_to("../../../top")
    (root / "model" / "x").symlink_to("a/b/c/up/../../README.md")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (
            lambda root: (root / "model" / "wsgi.py").unlink(),
            {},
            r"no wsgi.py in its folder 'model'",
        ),
        (lambda root: None, {"wsgi": "main:app"}, r"no main.py"),
        (lambda root: None, {"subdir": "app"}, r"no folder 'app'"),
        (lambda root: None, {"requirements": "other.txt"}, r"other.txt does not exist"),
        (
            lambda root: (root / "requirements.txt").write_text("-r ../../etc/x\n"),
            {},
            r"etc/x does not exist",
        ),
        (
            lambda root: (root / "model" / "x").symlink_to("/etc/passwd"),
            {},
            r"link x in the code points out",
        ),
        (
            lambda root: (root / "model" / "x").symlink_to("../README.md"),
            {},
            r"link x in the code points out",
        ),
        (over_links, {}, r"link \S+ in the code points out"),
        (
            lambda root: link_out(root / "requirements.txt"),
            {},
            r"requirements.txt is a link that leads out of the code",
        ),
        (
            lambda root: (
                (root / "requirements.txt").write_text("-r more.txt\n")
                and link_out(root / "more.txt")
            ),
            {},
            r"more.txt is a link that leads out of the code",
        ),
    ],
)
def test_what_is_refused(tmp_path, source, change, options, words):
    change(source)
    with pytest.raises(DeployError, match=words):
        laid_out(tmp_path, source, **options)


def test_excluded_files_stay_behind(tmp_path, source):
    (source / "model" / "weights.bin").write_text("")
    assert "app/weights.bin" not in names(laid_out(tmp_path, source, exclude=["/weights.bin"]))


class TestGit:
    """Code from a repository, branch, tag or commit."""

    @pytest.fixture
    def repository(self, source):
        self.git(source, "init", "--quiet", "--initial-branch=main")
        self.commit(source, "first")
        self.git(source, "tag", "--annotate", "v1", "--message", "v1")
        return source

    @staticmethod
    def git(folder, *arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(folder), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, folder, message):
        self.git(folder, "add", "--all")
        self.git(folder, "commit", "--quiet", "--message", message)
        return self.git(folder, "rev-parse", "HEAD")

    @staticmethod
    def module(tmp_path, repository, version="main", **more):
        return Stub(
            root=str(tmp_path / "root"), group="any", subdir="model", requirements_file="", wsgi="wsgi:app", exclude=[],
            git_url=str(repository), git_version=version, git_key=None, git_credentials={}, **more,
        )  # fmt: skip

    def test_a_branch_follows_its_repository(self, tmp_path, repository):
        first = code.from_git(self.module(tmp_path, repository))
        assert first["changed"]
        assert first["revision"] == self.git(repository, "rev-parse", "HEAD")
        assert (tmp_path / "root" / "code" / first["digest"] / "app" / "wsgi.py").exists()
        assert not code.from_git(self.module(tmp_path, repository))["changed"]
        (repository / "model" / "wsgi.py").write_text("app = 2\n")
        commit = self.commit(repository, "second")
        second = code.from_git(self.module(tmp_path, repository))
        assert second["changed"]
        assert second["revision"] == commit
        assert second["digest"] != first["digest"]

    def test_tag_commit_and_default_branch(self, tmp_path, repository):
        commit = self.git(repository, "rev-parse", "HEAD")
        (repository / "README.md").write_text("changed")
        self.commit(repository, "second")
        assert code.from_git(self.module(tmp_path, repository, "v1"))["revision"] == commit
        assert code.from_git(self.module(tmp_path, repository, commit))["revision"] == commit
        assert code.from_git(self.module(tmp_path, repository, "HEAD"))["revision"] != commit

    def test_the_same_files_have_the_same_digest_from_git_and_from_a_folder(
        self, tmp_path, repository
    ):
        from_git = code.from_git(self.module(tmp_path, repository))["digest"]
        assert from_git == tree_digest(laid_out(tmp_path, repository))

    def test_a_version_that_is_not_there(self, tmp_path, repository):
        with pytest.raises(DeployError, match="no branch, tag or commit 'nope'"):
            code.from_git(self.module(tmp_path, repository, "nope"))

    def test_a_repository_that_is_not_there(self, tmp_path):
        with pytest.raises(DeployError, match="Check api_endpoint_git_url"):
            code.from_git(self.module(tmp_path, tmp_path / "nowhere"))

    def submodule(self, repository, path, url, name="words"):
        """Make a repository with a package beside another one, and enter it there as a submodule."""
        inner = repository.parent / "group" / name
        inner.mkdir(parents=True)
        (inner / "__init__.py").write_text(f"name = '{name}'\n")
        self.git(inner, "init", "--quiet", "--initial-branch=main")
        self.commit(inner, name)
        allow = ["-c", "protocol.file.allow=always"]
        self.git(repository, *allow, "submodule", "--quiet", "add", str(inner), path)
        self.git(
            repository,
            "config",
            "--file",
            ".gitmodules",
            f"submodule.{path}.url",
            url.format(inner=inner),
        )
        self.commit(repository, f"with {path}")
        return inner

    @pytest.mark.parametrize(
        "url", ["{inner}", "file://{inner}", "../group/words", "./../group/../group/words"]
    )
    def test_submodules_are_fetched(self, tmp_path, repository, url):
        self.submodule(repository, "model/words", url)
        found = code.from_git(self.module(tmp_path, repository))
        app = tmp_path / "root" / "code" / found["digest"] / "app"
        assert (app / "words" / "__init__.py").read_text() == "name = 'words'\n"
        assert os.listdir(tmp_path / "root" / "work") == []
        assert found["digest"] == tree_digest(laid_out(tmp_path, repository))

    def test_submodules_of_submodules_and_commits_that_no_branch_has(self, tmp_path, repository):
        inner = self.submodule(repository, "model/words", "{inner}")
        self.submodule(inner, "deep/er", "../group/letters", name="letters")
        self.git(
            repository / "model" / "words",
            "-c",
            "protocol.file.allow=always",
            "pull",
            "--quiet",
            "origin",
            "main",
        )
        self.commit(repository, "newer words")
        self.git(inner, "checkout", "--quiet", "--orphan", "other")
        self.git(inner, "branch", "--delete", "--force", "main")
        self.git(inner, "config", "uploadpack.allowAnySHA1InWant", "true")
        (inner / "__init__.py").write_text("changed")
        self.commit(inner, "history is another one")
        found = code.from_git(self.module(tmp_path, repository))
        app = tmp_path / "root" / "code" / found["digest"] / "app"
        assert (app / "words" / "deep" / "er" / "__init__.py").read_text() == "name = 'letters'\n"

    def test_with_nothing_new_no_submodule_is_asked_for(self, tmp_path, repository):
        inner = self.submodule(repository, "model/words", "{inner}")
        first = code.from_git(self.module(tmp_path, repository))
        inner.rename(inner.with_name("gone"))
        again = code.from_git(self.module(tmp_path, repository))
        assert (again["digest"], again["changed"]) == (first["digest"], False)

    @pytest.mark.parametrize(
        ("url", "words"),
        [
            (
                "/nowhere/words",
                r"git could not read /nowhere/words: .*\nIts URL in .gitmodules is a path, which must be there",
            ),
            (
                "https://127.0.0.1:1/words",
                r"git could not read https://127.0.0.1:1/words: .*Correct its URL in .gitmodules",
            ),
            ("../missing", "git could not read .*missing"),
            ("ext::sh -c touch% /tmp/x", "git could not read ext::sh .*not allowed"),
            ("", r"`.gitmodules` does not say from where"),
        ],
    )
    def test_a_submodule_that_cannot_be_fetched(self, tmp_path, repository, url, words):
        self.submodule(repository, "model/words", url)
        with pytest.raises(
            DeployError, match=f"(?s)The submodule model/words cannot be fetched: .*{words}"
        ):
            code.from_git(self.module(tmp_path, repository))
        module = self.module(tmp_path, repository)
        module.params["exclude"] = ["/words"]
        assert code.from_git(module)["changed"]

    def test_a_submodule_beside_the_app_may_be_missing(self, tmp_path, repository):
        self.submodule(repository, "docs/words", "/nowhere")
        assert code.from_git(self.module(tmp_path, repository))["changed"]

    def test_a_repository_from_elsewhere_does_not_read_the_hosts(self, tmp_path, repository):
        git = code.Git(tmp_path / "x", "https://example.org/a/b.git", None)
        for url in (str(repository), f"file://{repository}"):
            with pytest.raises(DeployError, match="which the host does not have"):
                git.submodule(url, tmp_path / "place")

    def test_pointers_are_refused_before_anything_is_built(self, tmp_path, repository):
        (repository / "model" / "titles.tsv").write_text(POINTER)
        self.commit(repository, "with a pointer")
        with pytest.raises(
            DeployError,
            match=r"^titles.tsv: a pointer of git-lfs, .*Add git-lfs to api_endpoint_apt_pack",
        ):
            code.from_git(self.module(tmp_path, repository))
        assert not (tmp_path / "root" / "code").exists()

    def test_where_git_lfs_is_the_files_themselves_are_fetched(
        self, tmp_path, repository, monkeypatch
    ):
        """Of the app alone, and once. The program is a stand-in: it has one object."""
        (repository / "model" / "titles.tsv").write_text(POINTER)
        (repository / "training.bin").write_text(POINTER.replace("7", "8"))
        self.commit(repository, "with pointers")
        program = tmp_path / "bin" / "git-lfs"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\necho "$@" >>{tmp_path}/asked\nmkdir -p lfs/objects/77/77\n'
            f"echo titles >lfs/objects/77/77/{'7' * 64}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        for _ in range(2):
            found = code.from_git(self.module(tmp_path, repository))
        app = tmp_path / "root" / "code" / found["digest"] / "app"
        assert (app / "titles.tsv").read_text() == "titles\n"
        commit = self.git(repository, "rev-parse", "HEAD")
        assert (
            tmp_path / "asked"
        ).read_text() == f"fetch --include /model/titles.tsv {repository} {commit}\n"

    def test_a_disk_that_is_full_is_named(self, tmp_path, repository, monkeypatch):
        git = code.Git(tmp_path / "code.git", str(repository), None)
        program = tmp_path / "bin" / "git"
        program.parent.mkdir()
        program.write_text(
            "#!/bin/sh\necho 'fatal: write error: No space left on device' >&2\nexit 128\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent) + ":" + os.environ["PATH"])
        with pytest.raises(
            DeployError,
            match=r"No space was left on the disk at /.* of the host: fatal: write error",
        ):
            git.commit("main")

    def test_names_in_any_bytes(self, tmp_path, repository):
        (repository / "model" / os.fsdecode(b"gr\xf6\xdfe.py")).write_text("")
        self.commit(repository, "from an old system")
        found = code.from_git(self.module(tmp_path, repository))
        assert os.fsdecode(b"gr\xf6\xdfe.py") in os.listdir(
            tmp_path / "root" / "code" / found["digest"] / "app"
        )

    def test_a_password_is_on_no_command_line_and_in_no_message(self, tmp_path, monkeypatch):
        called = []
        run = subprocess.run

        def recorded(command, **options):
            called.append((command, options["env"]))
            return run(command, **options)

        monkeypatch.setattr(code.subprocess, "run", recorded)
        with pytest.raises(DeployError) as raised:
            code.from_git(self.module(tmp_path, "http://oauth2:hunter22@127.0.0.1:9/me/api.git"))
        assert "http://127.0.0.1:9/me/api.git" in str(raised.value)
        assert "hunter22" not in str([raised.value, [command for command, _environment in called]])
        environment = called[-1][1]
        assert environment["GIT_CONFIG_KEY_0"] == "credential.http://127.0.0.1:9.helper"
        assert environment["API_ENDPOINT_PASSWORD_0"] == "hunter22"

    def test_check_mode_on_a_clean_host(self, tmp_path, repository):
        assert code.from_git(self.module(tmp_path, repository, check_mode=True)) == {
            "changed": True,
            "revision": "",
        }
        assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("base", "url", "whole"),
    [
        ("https://example.org/me/app.git", "../words.git", "https://example.org/me/words.git"),
        ("https://example.org/me/app/", "../../you/words", "https://example.org/you/words"),
        ("https://example.org/me/app", "./words", "https://example.org/me/app/words"),
        ("git@example.org:me/app.git", "../words.git", "git@example.org:me/words.git"),
        ("git@example.org:app.git", "../words.git", "git@example.org:words.git"),
        ("ssh://git@example.org/me/app", "../words", "ssh://git@example.org/me/words"),
        ("file:///srv/repos/sub", "../words", "file:///srv/repos/words"),
        ("/srv/repos/sub", "../words", "/srv/repos/words"),
    ],
)
def test_relative_urls_of_submodules(base, url, whole):
    assert code.relative_url(base, url) == whole


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("https://example.org/b", "pass"),
        ("https://you:own@example.org/b", "own"),
        ("https://example.com/b", ""),
        ("http://example.org/b", ""),
        ("https://example.org:8443/b", ""),
    ],
)
def test_submodules_of_the_same_server_get_the_password(tmp_path, url, password):
    git = code.Git(tmp_path / "code.git", "https://me:pass@example.org/a", None)
    found = git.submodule(url, tmp_path / "place")
    assert "@" not in found.url
    parts = urlsplit(found.url)
    asked = f"protocol={parts.scheme}\nhost={parts.netloc}\npath={parts.path[1:]}\n\n"
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": "/nowhere",
    }
    environment |= git_environment(found.credentials)
    said = subprocess.run(
        ["git", "credential", "fill"],
        env=environment,
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert said.partition("password=")[2].strip() == password


@pytest.mark.parametrize(
    ("given", "there", "expected"),
    [
        # The endpoint's folder, which has the inventory; the playbook's, the project's, the current one.
        ("m.bin", ["endpoints/a/m.bin"], "endpoints/a/m.bin"),
        ("m.bin", ["playbooks/m.bin", "m.bin"], "playbooks/m.bin"),
        ("data/m.bin", ["data/m.bin"], "data/m.bin"),
        ("m.bin", ["here/m.bin"], "here/m.bin"),
        ("m.bin", ["endpoints/a/m.bin", "m.bin"], "is in two places: {0}/endpoints/a/m.bin and {0}/m.bin. Write './m.bin'"),
        ("m.bin", ["endpoints/a/m.bin", "here/m.bin"], "is in two places"),
        ("./m.bin", ["endpoints/a/m.bin", "m.bin"], "endpoints/a/m.bin"),
        ("./m.bin", ["m.bin"], "m.bin"),
        ("app", ["endpoints/a/app/", "app/"], "is in two places: {0}/endpoints/a/app and {0}/app. Write './app'"),
        # What an endpoint shares with the example, byte by byte.
        ("m.bin", ["endpoints/a/m.bin=same", "m.bin=same"], "endpoints/a/m.bin"),
        ("m.bin", [], "is not on this computer. Looked for: {0}/endpoints/a/m.bin, {0}/playbooks/m.bin"),
    ],
)  # fmt: skip
def test_a_relative_path_of_the_laptop(tmp_path, monkeypatch, given, there, expected):
    for folder in ("playbooks", "endpoints/a", "here"):
        (tmp_path / folder).mkdir(parents=True)
    for number, one in enumerate(there):
        path = tmp_path / one.partition("=")[0]
        if one.endswith("/"):
            path.mkdir()
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(one.partition("=")[2] or str(number))
    monkeypatch.chdir(tmp_path / "here")
    variables = {
        "playbook_dir": f"{tmp_path}/playbooks",
        "inventory_dir": f"{tmp_path}/endpoints/a",
    }
    if (tmp_path / expected).exists():
        assert local_path(given, variables, "x") == (tmp_path / expected).resolve()
    else:
        with pytest.raises(DeployError) as refused:
            local_path(given, variables, "x")
        said = str(refused.value).replace("which is not", "is not").replace("which is in", "is in")
        assert said.startswith(f"x is {given!r}, ")
        assert expected.format(tmp_path) in said


def test_a_path_of_the_laptop_is_found_from_the_project(tmp_path, monkeypatch):
    (tmp_path / "project" / "playbooks").mkdir(parents=True)
    (tmp_path / "project" / "app").mkdir()
    monkeypatch.chdir(tmp_path)
    variables = {"playbook_dir": str(tmp_path / "project" / "playbooks")}
    assert local_path("app", variables, "x") == (tmp_path / "project" / "app").resolve()
    with pytest.raises(
        DeployError,
        match=r"x is 'nope', which is not on this computer\. Looked for: .*project/nope",
    ):
        local_path("nope", variables, "x")
    assert Path(local_path(str(tmp_path), variables, "x")) == tmp_path.resolve()
