# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring an app's code into the store on the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import chown_tree, staged_dir
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.source import lay_out
from ansible.module_utils.basic import AnsibleModule


def unpack(archive: str, target: Path) -> None:
    """Unpack a tar archive below `target`; GNU tar refuses members that would land elsewhere."""
    done = subprocess.run(
        ["tar", "--extract", "--no-same-owner", "--file", archive, "--directory", str(target)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DeployError(f"The code could not be unpacked: {done.stderr.strip()}")


class Git:
    """A bare repository on the host, used as a cache of the remote one."""

    def __init__(self, folder: Path, url: str, key: str | None) -> None:
        self.folder = folder
        self.url = url
        self.key = key

    def run(self, *arguments: str) -> str:
        """Run git and return what it prints; raise DeployError with its words when it fails."""
        environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"}
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
                check=False,
                stdin=subprocess.DEVNULL,
            )
        if done.returncode != 0:
            raise DeployError(
                f"git could not read {self.url}: {done.stderr.strip()[-1000:]}\n"
                "Check api_endpoint_git_url, and for a private repository api_endpoint_git_key."
            )
        return done.stdout.strip()

    def commit(self, version: str) -> str:
        """Fetch what is missing, and return the commit that a branch, tag or commit stands for."""
        if not (self.folder / "HEAD").exists():
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.run("init", "--quiet", "--bare", str(self.folder))
        remote = self.remote_commit(version)
        if not remote or not self.has(remote):
            self.run(
                "-C", str(self.folder), "fetch", "--quiet", "--force", "--prune", self.url,
                "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*",
            )  # fmt: skip
        commit = remote or version
        if not self.has(commit):
            raise DeployError(f"{self.url} has no branch, tag or commit {version!r}. Correct api_endpoint_git_version.")
        return self.run("-C", str(self.folder), "rev-parse", f"{commit}^{{commit}}")

    def remote_commit(self, version: str) -> str:
        """Ask the remote which commit a branch or tag stands for now; empty for a version that is itself a commit."""
        lines = (line.partition("\t") for line in self.run("ls-remote", self.url).splitlines())
        refs = {ref: commit for commit, _tab, ref in lines}
        for ref in (f"refs/heads/{version}", f"refs/tags/{version}^{{}}", f"refs/tags/{version}", version):
            if ref in refs:
                return refs[ref]
        return ""

    def has(self, commit: str) -> bool:
        """Tell whether a commit is here."""
        done = subprocess.run(
            ["git", "-C", str(self.folder), "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False
        )
        return done.returncode == 0

    def export(self, commit: str, target: Path) -> None:
        """Write the files of a commit to `target`."""
        archive = target.with_name(target.name + ".tar")
        self.run("-C", str(self.folder), "archive", "--format=tar", f"--output={archive}", commit)
        unpack(str(archive), target)
        archive.unlink()


def store(module: AnsibleModule, source: Path, ready: bool) -> tuple[str, bool]:
    """Put the code in `source` into the store; return its digest and whether it was new there."""
    given = module.params
    with tempfile.TemporaryDirectory() as temporary:
        target = Path(temporary, "laid-out")
        if ready:
            target = source
        else:
            target.mkdir()
            lay_out(source, target, given["subdir"], given["requirements_file"], given["wsgi"], given["exclude"])
        digest = tree_digest(target)
        final = Path(given["root"], "code", digest)
        if final.is_dir():
            return digest, False
        if not module.check_mode:
            with staged_dir(final) as folder:
                shutil.copytree(target, folder, symlinks=True, dirs_exist_ok=True)
                chown_tree(folder, "root", given["group"])
        return digest, True


def from_git(module: AnsibleModule) -> dict[str, object]:
    """Take the code from git."""
    given = module.params
    if module.check_mode and not (shutil.which("git") and Path(given["root"]).is_dir()):
        return {"changed": True, "revision": ""}
    git = Git(Path(given["root"], "git", "code.git"), given["git_url"], given["git_key"])
    commit = git.commit(given["git_version"])
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary, "source")
        source.mkdir()
        git.export(commit, source)
        digest, changed = store(module, source, ready=False)
    return {"changed": changed, "digest": digest, "revision": commit}


def from_archive(module: AnsibleModule) -> dict[str, object]:
    """Take the code from the archive that the action plugin sent, or say whether it is needed."""
    given = module.params
    if Path(given["root"], "code", given["digest"]).is_dir():
        return {"changed": False, "digest": given["digest"]}
    if module.check_mode or not given["archive"]:
        return {"changed": True, "digest": given["digest"], "missing": True}
    with tempfile.TemporaryDirectory() as temporary:
        unpack(given["archive"], Path(temporary))
        digest, changed = store(module, Path(temporary), ready=True)
    if digest != given["digest"]:
        raise DeployError(f"The code changed on its way: expected {given['digest']}, found {digest}. Run again.")
    return {"changed": changed, "digest": digest}


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o077)
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result = from_git(module) if module.params["git_url"] else from_archive(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(**result)
