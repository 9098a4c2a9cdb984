# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring an app's code into the store on the host."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.api_endpoint.digests import tree_digest, value_digest, walk
from ansible.module_utils.api_endpoint.errors import (
    DeployError,
    describe_error,
    lacks_room,
    says_full,
)
from ansible.module_utils.api_endpoint.files import chown_tree, escapes, staged_dir, work_folder
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.placeholders import LFS, first_bytes, pointers
from ansible.module_utils.api_endpoint.release.requirements import FILE
from ansible.module_utils.api_endpoint.release.source import check_content, excludes, lay_out
from ansible.module_utils.api_endpoint.urls import Credentials, git_environment, hide, take
from ansible.module_utils.basic import AnsibleModule

# It asks nobody, and brings of git-lfs's files those that are needed, later.
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "LC_ALL": "C.UTF-8"}
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
LFS_OID = re.compile(rb"oid sha256:([0-9a-f]{64})")
LFS_REMEDY = (
    "Add git-lfs to api_endpoint_apt_packages, and the host fetches the files; or run `{command}` in a clone of your own "
    "and deploy that (api_endpoint_app_dir)."
)


def unpack(archive: str, target: Path) -> None:
    """Unpack a tar archive below `target`; GNU tar refuses members that would land elsewhere."""
    done = subprocess.run(
        ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", str(target)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        said = done.stderr.strip()
        raise DeployError(
            lacks_room(target, said)
            if says_full(said)
            else f"The code could not be unpacked: {said}"
        )


class Git:
    """A bare repository on the host, used as a cache of the remote one."""

    remedy = "Check api_endpoint_git_url, and for a private repository api_endpoint_git_key or the token in the URL."

    def __init__(
        self, folder: Path, url: str, key: str | None, credentials: Credentials | None = None
    ) -> None:
        self.folder = folder
        self.url, taken = take(url)
        self.key = key
        self.is_local = url.startswith(("/", "file:"))
        self.credentials = {**(credentials or {}), **taken}

    def run(self, *arguments: str) -> str:
        """Run git and return what it prints; raise DeployError with its words when it fails."""
        environment = {**os.environ, **QUIET, **git_environment(self.credentials)}
        with tempfile.TemporaryDirectory() as temporary:
            ssh = f"ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.folder}.known_hosts"
            if self.key:
                key = Path(temporary, "key")
                key.touch(mode=0o600)
                key.write_text(self.key.rstrip("\n") + "\n", encoding="utf-8")
                ssh += f" -i {key} -o IdentitiesOnly=yes"
            environment["GIT_SSH_COMMAND"] = ssh
            done = subprocess.run(
                ["git", *arguments],
                env=environment,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                check=False,
                stdin=subprocess.DEVNULL,
            )
        if done.returncode != 0 and says_full(done.stderr):
            raise DeployError(lacks_room(self.folder, done.stderr.strip()))
        if done.returncode != 0:
            said = hide(done.stderr.strip()[-1000:], self.credentials)
            raise DeployError(f"git could not read {self.url}: {said}\n{self.remedy}")
        return done.stdout.strip()

    def commit(self, version: str) -> str:
        """Fetch what is missing, and return the commit that a branch, tag or commit stands for."""
        if not (self.folder / "HEAD").exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.run("init", "--quiet", "--bare", str(self.folder))
        if COMMIT.fullmatch(version) and self.has(version):
            return version
        remote = self.remote_commit(version)
        if not remote or not self.has(remote):
            self.run(
                "-C", str(self.folder), "fetch", "--quiet", "--force", "--prune", self.url,
                "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*",
            )  # fmt: skip
        commit = remote or version
        if COMMIT.fullmatch(commit) and not self.has(commit):
            # No branch has it any more. Many servers give it all the same.
            with contextlib.suppress(DeployError):
                self.run("-C", str(self.folder), "fetch", "--quiet", self.url, commit)
        if not self.has(commit):
            raise DeployError(
                f"{self.url} has no branch, tag or commit {version!r}. Correct api_endpoint_git_version."
            )
        return self.run("-C", str(self.folder), "rev-parse", f"{commit}^{{commit}}")

    def remote_commit(self, version: str) -> str:
        """Ask the remote which commit a branch or tag stands for now; empty for a version that is itself a commit."""
        lines = (line.partition("\t") for line in self.run("ls-remote", self.url).splitlines())
        refs = {ref: commit for commit, _tab, ref in lines}
        for ref in (
            f"refs/heads/{version}",
            f"refs/tags/{version}^{{}}",
            f"refs/tags/{version}",
            version,
        ):
            if ref in refs:
                return refs[ref]
        return ""

    def has(self, commit: str) -> bool:
        """Tell whether a commit is here."""
        done = subprocess.run(
            ["git", "-C", str(self.folder), "cat-file", "-e", f"{commit}^{{commit}}"],
            capture_output=True,
            check=False,
        )
        return done.returncode == 0

    def export(
        self, commit: str, target: Path, needs: Callable[[str], bool], at: str = ""
    ) -> list[Part]:
        """Write the files of a commit to `target`, with those of its submodules below; return what came from where.

        `needs` tells whether a submodule's path, from the first repository, is one that the app cannot do without.
        """
        archive = target.with_name(f"{target.name}.tar")
        self.run("-C", str(self.folder), "archive", "--format=tar", f"--output={archive}", commit)
        unpack(str(archive), target)
        archive.unlink()
        parts = [Part(self, commit, target)]
        for path, revision, url in self.submodules(commit):
            place, whole = target / path, os.path.join(at, path)
            try:
                git = self.submodule(url, place)
                git.commit(revision)
            except DeployError as error:
                if needs(whole):
                    raise DeployError(
                        f"The submodule {whole} cannot be fetched: {error}"
                    ) from error
                continue
            place.mkdir(exist_ok=True)
            parts += git.export(revision, place, needs, whole)
        return parts

    def submodules(self, commit: str) -> list[tuple[str, str, str]]:
        """Return path, commit and URL of each submodule of a commit; the URL is empty where it is not known."""
        entries = [
            entry.partition("\t")
            for entry in self.run("-C", str(self.folder), "ls-tree", "-rz", commit).split("\0")
        ]
        links = {
            path: about.split()[2] for about, _tab, path in entries if about.startswith("160000 ")
        }
        if not links:
            return []
        known: dict[str, dict[str, str]] = {}
        with contextlib.suppress(DeployError):  # there is no .gitmodules
            listed = self.run(
                "-C", str(self.folder), "config", "--blob", f"{commit}:.gitmodules", "--list", "-z"
            )
            for name, _line, value in (
                entry.partition("\n") for entry in listed.split("\0") if entry
            ):
                section, _dot, key = name.rpartition(".")
                known.setdefault(section, {})[key] = value
        urls = {entry.get("path", ""): entry.get("url", "") for entry in known.values()}
        return [(path, revision, urls.get(path, "")) for path, revision in links.items()]

    def submodule(self, url: str, place: Path) -> Git:
        """Return the repository of a submodule, which gets the key, the user and the password of this one."""
        if not url:
            raise DeployError(
                "`.gitmodules` does not say from where. Add it by `git submodule add`."
            )
        if place.is_symlink() or escapes(place.parent, place):
            raise DeployError("its folder is a link.")
        whole = relative_url(self.url, url) if url.startswith(("./", "../")) else url
        # A repository from elsewhere does not reach into the host's files, and a path of the laptop leads nowhere there.
        if whole.startswith(("/", "file:")) and not self.is_local:
            raise DeployError(
                f"`.gitmodules` has the path {url}, which the host does not have. Give a URL there."
            )
        found = Git(
            self.folder.with_name(f"{value_digest(whole, 16)}.git"),
            whole,
            self.key,
            self.credentials,
        )
        found.remedy = (
            "Its URL in .gitmodules is a path, which must be there on the host: give the URL of a server. Or leave it out "
            "(api_endpoint_app_exclude)."
            if found.is_local
            else "Correct its URL in .gitmodules; a private one is read with the key or the password of the repository. "
            "Or leave it out (api_endpoint_app_exclude)."
        )
        return found

    def pull_lfs(self, commit: str, folder: Path, paths: list[str]) -> None:
        """Put the files themselves in the place of pointers of git-lfs in an exported commit."""
        objects = {}
        for path in paths:
            if found := LFS_OID.search(first_bytes(folder / path)):
                oid = found[1].decode()
                objects[path] = self.folder / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        if missing := [path for path, place in objects.items() if not place.exists()]:
            plain = not any(re.search(r"[],*?![\\]", path) for path in missing)
            only = ["--include", ",".join(f"/{path}" for path in missing)] if plain else []
            self.run("-C", str(self.folder), "lfs", "fetch", *only, self.url, commit)
        for path, place in objects.items():
            if place.exists():
                shutil.copyfile(place, folder / path)


class Part(NamedTuple):
    """The files of one repository in the code."""

    git: Git
    commit: str
    folder: Path


def relative_url(base: str, url: str) -> str:
    """Return what a relative URL of a submodule stands for, as git does."""
    base, separator = base.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        is_up, _, url = url.partition("/")
        if is_up == "..":
            separator = "/" if "/" in base else ":"
            base = base.rpartition(separator)[0]
    return f"{base}{separator}{url}"


def store(module: AnsibleModule, target: Path) -> tuple[str, bool]:
    """Put code that is laid out into the store; return its digest and whether it was new there."""
    given = module.params
    digest = tree_digest(target)
    final = Path(given["root"], "code", digest)
    if final.is_dir():
        return digest, False
    if not module.check_mode:
        with staged_dir(final) as folder:
            shutil.copytree(target, folder, symlinks=True, dirs_exist_ok=True)
            chown_tree(folder, "root", given["group"])
            (folder / FILE).chmod(0o600)
    return digest, True


def from_git(module: AnsibleModule) -> dict[str, object]:
    """Take the code from git."""
    given = module.params
    if module.check_mode and not (shutil.which("git") and Path(given["root"]).is_dir()):
        return {"changed": True, "revision": ""}
    git = Git(
        Path(given["root"], "git", "code.git"),
        given["git_url"],
        given["git_key"],
        given["git_credentials"],
    )
    commit = git.commit(given["git_version"])
    subdir, exclude = given["subdir"], given["exclude"]
    with work_folder(given["root"], "code") as work:
        source, target = work / "source", work / "laid-out"
        source.mkdir()
        target.mkdir()
        parts = git.export(commit, source, lambda path: is_needed(path, subdir, exclude))
        if shutil.which("git-lfs"):
            pull_lfs(parts, source / subdir, exclude)
        for warning in check_content(
            source, subdir, exclude, LFS_REMEDY, "Its repository is empty."
        ):
            module.warn(warning)
        lay_out(source, target, subdir, given["requirements_file"], given["wsgi"], exclude)
        digest, changed = store(module, target)
    return {"changed": changed, "digest": digest, "revision": commit}


def is_needed(path: str, subdir: str, exclude: list[str]) -> bool:
    """Tell whether something in a repository is part of the app."""
    inside = os.path.relpath(path, subdir or ".")
    return not inside.startswith("..") and not excludes(inside, exclude)


def pull_lfs(parts: list[Part], app: Path, exclude: list[str]) -> None:
    """Put the files themselves in the place of git-lfs's pointers in the app, each from its own repository."""
    wanted: dict[Part, list[str]] = {}
    for name, what, _command in pointers(app, walk(app, exclude) if app.is_dir() else ()):
        if what == LFS:
            path = app / name
            part = max(
                (one for one in parts if path.is_relative_to(one.folder)),
                key=lambda one: len(one.folder.parts),
            )
            wanted.setdefault(part, []).append(str(path.relative_to(part.folder)))
    for part, paths in wanted.items():
        part.git.pull_lfs(part.commit, part.folder, paths)


def from_archive(module: AnsibleModule) -> dict[str, object]:
    """Take the code from the archive that the action plugin sent."""
    given = module.params
    if Path(given["root"], "code", given["digest"]).is_dir():
        return {"changed": False, "digest": given["digest"]}
    with work_folder(given["root"], "code") as work:
        unpack(given["archive"], work)
        digest, changed = store(module, work)
    if digest != given["digest"]:
        raise DeployError(
            f"The code changed on its way: expected {given['digest']}, found {digest}. Run again."
        )
    return {"changed": changed, "digest": digest}


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o077)
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result = from_git(module) if module.params["git_url"] else from_archive(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error, module.params["root"]))
    module.exit_json(**result)
