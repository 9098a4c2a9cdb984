"""Which files become an app's code."""

import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import code
from ansible.module_utils.api_endpoint.release.source import lay_out
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


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_old_templates_layout(tmp_path, source):
    target = laid_out(tmp_path, source)
    assert names(target) == [
        "app/helpers/__init__.py",
        "app/wsgi.py",
        "first_requirements_file",
        "requirements/more/base.txt",
        "requirements/more/limits.txt",
        "requirements/requirements.txt",
    ]
    assert (target / "first_requirements_file").read_text() == "requirements.txt"


def test_requirements_beside_the_wsgi_module_win(tmp_path, source):
    (source / "model" / "requirements.txt").write_text("flask\n")
    assert (laid_out(tmp_path, source) / "first_requirements_file").read_text() == "model/requirements.txt"


def test_an_app_without_requirements(tmp_path, source):
    (source / "requirements.txt").unlink()
    assert (laid_out(tmp_path, source) / "first_requirements_file").read_text() == ""


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
        (lambda root: (root / "model" / "wsgi.py").unlink(), {}, r"no wsgi.py in its folder 'model'"),
        (lambda root: None, {"wsgi": "main:app"}, r"no main.py"),
        (lambda root: None, {"subdir": "app"}, r"no folder 'app'"),
        (lambda root: None, {"requirements": "other.txt"}, r"other.txt does not exist"),
        (lambda root: (root / "requirements.txt").write_text("-r ../../etc/x\n"), {}, r"etc/x does not exist"),
        (lambda root: (root / "model" / "x").symlink_to("/etc/passwd"), {}, r"link x in the code points out"),
        (lambda root: (root / "model" / "x").symlink_to("../README.md"), {}, r"link x in the code points out"),
        (over_links, {}, r"link \S+ in the code points out"),
        (lambda root: link_out(root / "requirements.txt"), {}, r"requirements.txt is a link that leads out of the code"),
        (
            lambda root: (root / "requirements.txt").write_text("-r more.txt\n") and link_out(root / "more.txt"),
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
            git_url=str(repository), git_version=version, git_key=None, **more,
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

    def test_the_same_files_have_the_same_digest_from_git_and_from_a_folder(self, tmp_path, repository):
        from ansible.module_utils.api_endpoint.digests import tree_digest

        from_git = code.from_git(self.module(tmp_path, repository))["digest"]
        assert from_git == tree_digest(laid_out(tmp_path, repository))

    def test_a_version_that_is_not_there(self, tmp_path, repository):
        with pytest.raises(DeployError, match="no branch, tag or commit 'nope'"):
            code.from_git(self.module(tmp_path, repository, "nope"))

    def test_a_repository_that_is_not_there(self, tmp_path):
        with pytest.raises(DeployError, match="Check api_endpoint_git_url"):
            code.from_git(self.module(tmp_path, tmp_path / "nowhere"))

    def test_check_mode_on_a_clean_host(self, tmp_path, repository):
        assert code.from_git(self.module(tmp_path, repository, check_mode=True)) == {"changed": True, "revision": ""}
        assert not (tmp_path / "root").exists()


def test_a_path_of_the_laptop_is_found_from_the_project(tmp_path, monkeypatch):
    (tmp_path / "project" / "playbooks").mkdir(parents=True)
    (tmp_path / "project" / "app").mkdir()
    monkeypatch.chdir(tmp_path)
    variables = {"playbook_dir": str(tmp_path / "project" / "playbooks")}
    assert local_path("app", variables, "x") == (tmp_path / "project" / "app").resolve()
    with pytest.raises(DeployError, match=r"x is 'nope', which is not on this computer\. Looked for: .*project/nope"):
        local_path("nope", variables, "x")
    assert Path(local_path(str(tmp_path), variables, "x")) == tmp_path.resolve()
