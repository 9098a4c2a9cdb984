# SPDX-License-Identifier: GPL-3.0-or-later
"""Send the model data that lies on the laptop, have the host fetch the rest, and show how far it is."""

from __future__ import annotations

import json
import os
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import action_loader

action_loader.get("api_endpoint_imports", class_only=True)
from ansible.module_utils.api_endpoint.controller.look import look
from ansible.module_utils.api_endpoint.artifacts.store import fingerprint_of_file, key_of
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.controller.pieces import Pieces, Remote
from ansible.module_utils.api_endpoint.controller.rsync import NoWayError, send
from ansible.module_utils.api_endpoint.digests import file_digest, tree_digest, walk
from ansible.module_utils.api_endpoint.errors import DeployError, lacks_room, says_full
from ansible.module_utils.api_endpoint.placeholders import check_file, check_folder, check_size
from ansible.module_utils.api_endpoint.urls import shown_url
from ansible.module_utils.parsing.convert_bool import boolean

LARGE_BYTES = 100_000_000  # bytes of a file that takes a moment to read
MOST = 200  # artifacts that one shell command can ask for
BEGIN = "The output begins here:"
PULL = "Run `{command}` in its folder."
Local = tuple[Path, bool]  # a file or folder, and whether links in it are followed
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    / "api_endpoint"
    / "digests.json"
)


class Digests:
    """The digests of files of the laptop, by path, size and time, so that a large one is read once."""

    def __init__(self, path: Path = CACHE) -> None:
        self.path = path
        try:
            self.known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def of(self, path: Path, *, follow: bool = False) -> str:
        """Return the digest of a file, or of a folder, in which links are perhaps followed."""
        if path.is_dir():
            return tree_digest(path, follow=follow, digest=self._of_large)
        found = path.stat()
        stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
        entry = self.known.get(str(path))
        # A file that was written a moment ago may be written again with the same time.
        if entry and entry[:-1] == stamp:
            return str(entry[-1])
        digest = file_digest(path)
        if time.time() - found.st_mtime > 2:
            self.known[str(path)] = [*stamp, digest]
            self.save()
        return digest

    def _of_large(self, path: Path) -> str:
        """Return the digest of a file in a folder: of a small one it is quicker read than looked up."""
        return self.of(path.resolve()) if path.stat().st_size > LARGE_BYTES else file_digest(path)

    def save(self) -> None:
        """Write the digests down; a cache that cannot be written is no error."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.known, file)
            os.replace(temporary, self.path)
        except OSError:
            return


def known(artifacts: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
    """Return what a release needs to know of the artifacts, where that is known without the host; None where it is not."""
    found = []
    try:
        for artifact in artifacts:
            if not artifact.get("sha256") or artifact.get("command"):
                return None
            key = key_of(
                artifact["sha256"].lower(),
                boolean(artifact.get("unpack", False)),
                artifact.get("mode") or "",
            )
            writable = boolean(artifact.get("writable", False))
            found.append(
                {"dest": os.path.normpath(artifact["dest"]), "digest": key, "writable": writable}
            )
    except TypeError:
        return None
    return found


def question(data_dir: str, keys: list[str]) -> str:
    """Return the command that asks whose the store is and, for each key, what is there and what was noted of it."""
    command = f"cd {shlex.quote(data_dir)} && cat .endpoint"
    if not keys:
        return command
    places, notes = (
        shlex.join(f"{key}/{name}" for key in keys) for name in ("artifact", "artifact.json")
    )
    return f"{command} && stat --format '%s %.9Y %f' {places} && cat {notes}"


def is_whole(answer: str, name: str, keys: list[str]) -> bool:
    """Tell whether the host answered that the store is this endpoint's and that every artifact is a file, untouched."""
    owner, *lines = answer.splitlines() or [""]
    if owner != name or len(lines) < len(keys):
        return False
    found, text = lines[: len(keys)], "\n".join(lines[len(keys) :])
    end = 0
    try:
        for line in found:
            size, time_of_change, mode = line.split()
            seconds, nanoseconds = time_of_change.split(".")
            noted, end = json.JSONDecoder().raw_decode(text, end)
            end += 1
            fingerprint = fingerprint_of_file(int(size), int(seconds + nanoseconds), int(mode, 16))
            if noted["fingerprint"] != fingerprint:
                return False
    except (ValueError, KeyError, TypeError):
        return False
    return True


class ActionModule(ActionBase):
    """Hash, compare, send, wait."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the action."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        self._host = variables.get("inventory_hostname", "")
        arguments = dict(self._task.args)
        try:
            arguments["artifacts"], local = self._hash(arguments.get("artifacts") or [], variables)
            return self._bring(arguments, local, variables)
        except OSError as error:
            place = error.filename or tempfile.gettempdir()
            said = (
                lacks_room(place, str(error), "this computer")
                if says_full(str(error))
                else f"On this computer: {error}"
            )
            raise AnsibleActionFail(said) from None
        except DeployError as error:
            raise AnsibleActionFail(str(error)) from error

    def _bring(
        self, arguments: dict[str, Any], local: dict[str, Local], variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Have the host bring what it lacks."""
        verify = boolean(arguments.get("verify", False))
        if not verify and (there := self._look(arguments)) is not None:
            return {"changed": False, "missing": [], "uploads": {}, "artifacts": there}
        planned = self._module(arguments, "plan", variables)
        if planned.get("failed") or self._task.check_mode:
            return planned
        if not planned["missing"] and not verify:
            return planned
        for dest, name in planned["uploads"].items():
            self._send(*local[dest], name, arguments)
        begun = self._module(arguments, "begin", variables)
        if begun.get("failed"):
            return begun
        while True:
            answer = self._module(arguments, "wait", variables)
            if answer.get("failed") or answer.get("done"):
                return answer
            self._say(answer.get("text", ""))

    def _look(self, arguments: dict[str, Any]) -> list[dict[str, Any]] | None:
        """Return what a release needs to know of the artifacts when all are there; None when that is for the module to see.

        The commonest run brings no data. This look needs no Python on the host.
        """
        artifacts = known(arguments["artifacts"])
        if artifacts is None or len(artifacts) > MOST:
            return None
        keys = [artifact["digest"] for artifact in artifacts]
        answer = look(self, question(arguments["data_dir"], keys))
        return artifacts if is_whole(answer, arguments["name"], keys) else None

    def _module(
        self, arguments: dict[str, Any], step: str, variables: dict[str, Any]
    ) -> dict[str, Any]:
        """Run a step on the host."""
        return self._execute_module(module_args={**arguments, "step": step}, task_vars=variables)

    def _say(self, text: str) -> None:
        """Show how far it is."""
        if text:
            self._display.display(f"  {time.strftime('%H:%M:%S')} {self._host}: {text}")

    def _send(self, source: Path, follow: bool, name: str, arguments: dict[str, Any]) -> None:
        """Send a file or folder, its links perhaps followed, to its half's place on the host."""
        target = f"{arguments['data_dir']}/{name}"
        self._say(f"sending {source}")
        try:
            busy = f"/run/{arguments['name']}.busy"
            send(
                source,
                target,
                self._connection,
                bool(self._task.become),
                busy,
                self._say,
                follow=follow,
            )
        except NoWayError as reason:
            self._say(f"{reason}: {source} goes over Ansible's connection")
            remote = Remote(self._put, lambda command: self._as_root(command, arguments), self._say)
            Pieces(source, target, remote, follow=follow).send()

    def _put(self, path: Path) -> str:
        """Send a piece to Ansible's temporary folder on the host, over the one before; return its path there."""
        if not self._connection._shell.tmpdir:
            self._make_tmp_path()
        there = self._connection._shell.join_path(self._connection._shell.tmpdir, "piece")
        self._transfer_file(str(path), there)
        return str(there)

    def _as_root(self, command: str, arguments: dict[str, Any]) -> str:
        """Run a shell command on the host as long as this run has the lock, which it renews; return its output."""
        record, busy = (
            shlex.quote(f"/run/{arguments['name']}.{kind}") for kind in ("lock", "busy")
        )
        renewed = (
            f"grep -qsF {shlex.quote(arguments['run'])} {record} && "
            f"""sed --in-place 's/"touched": *[0-9.]*/"touched": '$(date +%s)/ {record}"""
        )
        done = self._low_level_execute_command(
            f"flock --nonblock {busy} sh -c {shlex.quote(f'umask 077 && {renewed} && echo {BEGIN} && {command}')}"
        )
        if done["rc"] != 0:
            words = (
                done["stderr"].strip()
                or done["stdout"].strip()
                or "this run no longer has the lock of this host."
            )
            raise DeployError(
                f"Sending the model data failed (exit status {done['rc']}): {words}\n"
                "The part that has arrived is kept: run again, and the transfer resumes."
            )
        # sudo may have said something before, such as that it cannot resolve the host's name.
        return str(done["stdout"]).partition(BEGIN)[2].lstrip("\r\n")

    @staticmethod
    def _check(path: Path, artifact: dict[str, Any], number: int) -> bool:
        """Raise DeployError for what is no data; return whether links must be followed, for a folder."""
        try:
            if path.is_dir():
                return check_folder(path, PULL)
            check_file(path, artifact["dest"], PULL)
            size = artifact.get("size")
            check_size(
                path,
                None if size is None else int(size),
                str(artifact.get("sha256") or ""),
                may_be_empty=boolean(artifact.get("writable", False)),
            )
        except DeployError as error:
            raise DeployError(
                f"api_endpoint_artifacts[{number}] ({artifact['dest']}), on this computer: {error}"
            ) from error
        return False

    def _hash(
        self, given: list[dict[str, Any]], variables: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], dict[str, Local]]:
        """Return the artifacts with the digests of those on the laptop, and where these lie by dest."""
        digests = Digests()
        artifacts: list[dict[str, Any]] = []
        local: dict[str, Local] = {}
        for number, entry in enumerate(given):
            artifact = dict(entry)
            url = artifact.get("url") or []
            urls = [str(mirror) for mirror in url] if isinstance(url, list) else [str(url)]
            if (shown := [shown_url(mirror) for mirror in urls]) != urls:
                artifact["url"], artifact["secret_urls"] = shown, urls
            if artifact.get("src"):
                path = local_path(
                    artifact["src"], variables, f"api_endpoint_artifacts[{number}].src"
                )
                if path.is_file() and path.stat().st_size > LARGE_BYTES:
                    self._say(f"looking whether {path} is new")
                follow = self._check(path, artifact, number)
                digest = digests.of(path, follow=follow)
                expected = (artifact.get("sha256") or digest).lower()
                if digest != expected:
                    raise DeployError(
                        f"api_endpoint_artifacts[{number}] ({artifact['dest']}): {path} is not the expected file. "
                        f"Its SHA-256 is {digest}, sha256 says {expected}. Correct the one or the other."
                    )
                artifact["sha256"] = digest
                artifact["is_folder"] = path.is_dir()
                files = (
                    [path / file for file in walk(path, follow=follow)] if path.is_dir() else [path]
                )
                artifact["size"] = sum(
                    (file.stat() if follow else file.lstat()).st_size for file in files
                )
                local[os.path.normpath(artifact["dest"])] = (path, follow)
            artifacts.append(artifact)
        return artifacts, local
