# SPDX-License-Identifier: GPL-3.0-or-later
"""Put a release together from code, virtualenv, settings and data.

A release is `<root>/releases/<id>`, where the id is a digest of all that goes in. It is built under another name and renamed
when it is whole; then it never changes. A component that is not given is taken from the live release.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import (
    chown_tree,
    escapes,
    is_within,
    read_json,
    staged_dir,
    write_json,
)
from ansible.module_utils.api_endpoint.interpreter import cannot_start, refuse_part
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.history import audit
from ansible.module_utils.api_endpoint.release.secrets import keep, place, seal
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.api_endpoint.sandbox import Sandbox, environment_of, run_command

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

COMPONENTS = ("code", "virtualenv", "artifacts", "settings", "writable_paths", "secrets")
OWN_MODULES = ("api_endpoint_worker", "api_endpoint_forks")  # those that gunicorn.conf.py imports
# Code that puts one file in the place of another; names that are methods of other things too are left out.
REPLACES = re.compile(
    r"\b(?:os\.replace|os\.rename|shutil\.move|atomic_write|NamedTemporaryFile)\b"
)
RESERVED = ("release.json", "rollout.json", "gunicorn.conf.py", "service.conf", "p3env")


class Builder:
    """Builds the release that the parameters describe."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.root = Path(module.params["root"])
        self.data = Path(module.params["data_dir"])
        self.user: str = module.params["user"]
        self.secrets = {name: str(value) for name, value in module.params["secrets"].items()}
        self.live = self.root / "current"
        if not self.live.exists():
            # Where somebody has removed the link `live`, the slot that serves has the live release.
            slot = Endpoint(module.params["name"], self.root).serving_slot
            self.live = self.root / "slots" / (slot or "none") / "release"
        self.live_record = read_json(self.live / "release.json") or {}
        self.components = self._components(module.params["components"])

    def _components(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the components, those that are not given from the live release."""
        known = {"secrets": "", **self.live_record.get("components", {})}
        components = dict(given)
        if "settings" in given:
            components["secrets"] = seal(self.secrets, self.module.params["name"])
        for name in COMPONENTS:
            if name in components:
                continue
            if name not in known:
                raise DeployError(
                    f"There is no live release on this host to take the {name} from. "
                    "Run site.yml without tags first; afterwards --tags app and --tags model work alone."
                )
            components[name] = known[name]
            if name == "virtualenv":
                refuse_part(cannot_start(self.root / "venvs" / known[name]))
            if name == "settings":
                components[name] = {
                    file: (self.live / file).read_text(encoding="utf-8") for file in known[name]
                }
        return components

    def record(self) -> dict[str, Any]:
        """Return what identifies the release: everything that goes in, settings by digest."""
        settings = {
            name: value_digest(content) for name, content in self.components["settings"].items()
        }
        return {**self.components, "settings": settings, "data_dir": str(self.data)}

    def write(self, folder: Path, record: dict[str, Any]) -> None:
        """Write the release into an empty folder."""
        code = self.root / "code" / self.components["code"] / "app"
        if taken := [path for path in code.iterdir() if path.name.partition(".")[0] in OWN_MODULES]:
            raise DeployError(
                f"The app's folder has {taken[0].name}. {taken[0].stem} is the role's own module, which each release gets. "
                "Rename the app's."
            )
        shutil.copytree(code, folder, symlinks=True, dirs_exist_ok=True)
        for name in RESERVED:
            if (folder / name).exists():
                self.module.warn(
                    f"The app's own {name} is not used: that file is written from the role's variables."
                )
                remove(folder / name)
        for artifact in self.components["artifacts"]:
            self.link(folder, artifact["dest"], self.place_of(artifact))
        for path in self.components["writable_paths"]:
            self.link(folder, os.path.normpath(path), self.state(folder, path))
        self.warn_of_replaced_files(folder)
        self.write_settings(folder, record)
        if commands := self.plan()["build_commands"]:
            chown_tree(folder, self.user, self.user)
            self.run_build_commands(folder, commands)
            # Whatever the commands did to them, root reads these.
            self.write_settings(folder, record)
        chown_tree(folder, "root", self.user)

    def warn_of_replaced_files(self, folder: Path) -> None:
        """Warn when the app may write a single file, and its code replaces files: the folder around it is read-only."""
        files = [path for path in self.components["writable_paths"] if not (folder / path).is_dir()]
        for source in sorted(folder.rglob("*.py")) if files else ():
            if source.is_file() and (
                found := REPLACES.search(source.read_text(encoding="utf-8", errors="replace"))
            ):
                self.module.warn(
                    f"{source.relative_to(folder)} has {found[0]}, and api_endpoint_writable_paths the file {files[0]}. The "
                    "app can write into that file, and can put no other in its place. If it does, let it keep the file in a "
                    "folder, and name the folder, with a slash at its end."
                )
                return

    def write_settings(self, folder: Path, record: dict[str, Any]) -> None:
        """Write the files of the release that the role, not the app, decides on."""
        for name, content in self.components["settings"].items():
            remove(folder / name)
            (folder / name).write_text(content, encoding="utf-8")
        remove(folder / "p3env")
        os.symlink(self.root / "venvs" / self.components["virtualenv"], folder / "p3env")
        remove(folder / "release.json")
        write_json(folder / "release.json", record, 0o640)

    def plan(self) -> dict[str, Any]:
        """Return how the release is built, proven and rolled out."""
        nothing: dict[str, Any] = {"build_commands": []}
        return {**nothing, **json.loads(self.components["settings"].get("rollout.json", "{}"))}

    def run_build_commands(self, folder: Path, commands: list[str]) -> None:
        """Run the user's commands in a release that is being built."""
        plan = self.plan()
        virtualenv = self.root / "venvs" / self.components["virtualenv"]
        sandbox = Sandbox(
            name=self.module.params["name"],
            task="build",
            root=self.root,
            user=self.user,
            folder=folder,
            environment=environment_of(
                self.root / "state" / "home", virtualenv, plan["environment"]
            ),
            writable=(str(folder), str(self.root / "state")),
            mounts=tuple(plan["mounts"]),
            timeout=plan["command_timeout"],
            secrets=place(self.root, self.components["secrets"])
            if self.components["secrets"]
            else None,
        )
        for command in commands:
            run_command(command, sandbox)

    def link(self, folder: Path, path: str, target: Path) -> None:
        """Make `path` in the release a link to `target`, in place of what the code has there."""
        link = folder / path
        if not is_within(folder, path) or escapes(folder, link.parent):
            raise DeployError(f"{path!r} does not stay inside the release.")
        link.parent.mkdir(parents=True, exist_ok=True)
        remove(link)
        os.symlink(target, link)

    def place_of(self, artifact: dict[str, Any]) -> Path:
        """Return where an artifact lies: in the shared store, or a copy for the app to write."""
        shared = self.data / artifact["digest"] / "artifact"
        if not shared.exists():
            raise DeployError(
                f"The artifact {artifact['dest']!r} ({artifact['digest']}) is not in {self.data}. "
                "Run site.yml without tags, or with --tags model."
            )
        if not artifact["writable"]:
            return shared
        return self.writable(artifact["digest"], "artifact", shared)

    def state(self, folder: Path, path: str) -> Path:
        """Return where a writable path lives, with the code's own file or folder as its first content."""
        clean = os.path.normpath(path)
        first = folder / clean
        if escapes(folder, first):
            raise DeployError(
                f"The writable path {path!r} leads out of the release, by a link in the code. Remove the link."
            )
        if path.endswith("/") and not first.exists():
            first.mkdir(parents=True)
        return self.writable(quote(clean, safe=""), os.path.basename(clean), first)

    def writable(self, entry: str, name: str, first: Path) -> Path:
        """Return the path of something that the app may write, made with its first content when it is not there.

        Each lies in a folder of its own, so that SQLite can put its journal beside it. Only that folder belongs to the
        app: what is above belongs to root, and root never follows a path that the app could have bent.
        """
        place = self.root / "state" / "app" / entry
        if not place.is_dir():
            with staged_dir(place) as new:
                if first.is_dir():
                    shutil.copytree(first, new / name, symlinks=True)
                elif first.exists():
                    shutil.copyfile(first, new / name)
                chown_tree(new, self.user, self.user)
        return place / name

    def build(self) -> dict[str, Any]:
        """Build the release when it is not there."""
        if any(self.components[name] is None for name in COMPONENTS):
            if self.module.check_mode:
                return {"changed": True}
            raise DeployError("A component of the release is unknown. Run site.yml without tags.")
        components = self.record()
        release = value_digest(components, 12)
        known = self.live_record.get("components", {})
        differs = [name for name in components if components[name] != known.get(name)]
        final = self.root / "releases" / release
        changed = not final.is_dir()
        if (
            "settings" in self.module.params["components"]
            and self.secrets
            and not self.module.check_mode
        ):
            keep(self.root, self.components["secrets"], self.secrets)
        if changed and not self.module.check_mode:
            record = {
                "id": release,
                "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "by": Lock(self.module.params["name"]).signature(),
                # Code of no repository has none; code that stays has the one that it had.
                "revision": self.module.params["revision"]
                if "code" in self.module.params["components"]
                else self.live_record.get("revision", ""),
                "differs": differs,
                "components": components,
            }
            try:
                with staged_dir(final) as folder:
                    self.write(folder, record)
            except (DeployError, OSError) as error:
                raise DeployError(self.failed(release, error)) from error
        return {
            "changed": changed,
            "release": release,
            "differs": differs,
            "diff": {
                "before_header": "live release",
                "after_header": f"release {release}",
                "before": known,
                "after": components,
            },
        }

    def failed(self, release: str, error: Exception) -> str:
        """Note that a release could not be built, and say so."""
        live = self.live_record.get("id", "")
        words = {
            "release": release,
            "result": "failed",
            "previous": live or "none",
            "step": "build",
        }
        with contextlib.suppress(OSError):  # the disk may be full, which is what the message says
            audit(self.module.params["audit_log"], self.module.params["name"], "rollout", words)
        serving = (
            f"Release {live} is still live." if live else "No release is live on this host yet."
        )
        reason = describe_error(error, self.root)
        return f'Release {release} was not brought live. It failed at the step "build": {reason}\n{serving}'


def remove(path: Path) -> None:
    """Remove a file, link or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
