# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring model data into the store on the host, verified."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.artifacts.acquire import (
    Fetch,
    check_path,
    derived_key,
    digest_of_path,
)
from ansible.module_utils.api_endpoint.artifacts.store import Artifact, Store, extent, key_of, mib
from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.interpreter import python_changed, refuse_part
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.basic import AnsibleModule

LIVE_VIRTUALENV = "p3env"  # its link: this run makes none of its own
PASSING = ("step", "run")
POLL_SECONDS = 10  # seconds between two words on how far it is


def read(given: list[dict[str, Any]], store: Store) -> list[Artifact]:
    """Return the artifacts, with the keys that are known."""
    found: list[Artifact] = []
    keys: dict[str, str] = {}
    for entry in given:
        url = entry["secret_urls"] or entry["url"] or []
        urls = [str(mirror) for mirror in url] if isinstance(url, list) else [str(url)]
        sha256 = (entry["sha256"] or "").lower()
        if entry["path"] and not sha256:
            sha256 = digest_of_path(store, Path(entry["path"]))
        artifact = Artifact(
            dest=os.path.normpath(entry["dest"]),
            key=key_of(sha256, entry["unpack"], entry["mode"] or "") or store.unverified(urls),
            sha256=sha256,
            urls=urls,
            src=entry["src"] or "",
            path=entry["path"] or "",
            headers={str(name): str(value) for name, value in entry["headers"].items()},
            size=entry["size"],
            unpack=entry["unpack"],
            command=entry["command"] or "",
            inputs=[os.path.normpath(dest) for dest in entry["inputs"]],
            mode=entry["mode"] or "",
            writable=entry["writable"],
            is_folder=entry["is_folder"],
        )
        if artifact.command:
            artifact = artifact.with_key(derived_key(artifact, keys))
        keys[artifact.dest] = artifact.key
        found.append(artifact)
    return found


def told(artifacts: list[Artifact], keys: dict[str, str]) -> list[dict[str, Any]]:
    """Return what a release needs to know."""
    return [
        {"dest": artifact.dest, "digest": keys[artifact.dest], "writable": artifact.writable}
        for artifact in artifacts
    ]


def plan(module: AnsibleModule, store: Store, artifacts: list[Artifact]) -> dict[str, Any]:
    """Say what is missing, and what the controller has to send; refuse when it does not fit."""
    missing = [
        artifact for artifact in artifacts if not artifact.key or not store.has(artifact.key)
    ]
    uploads = {artifact.dest: artifact.part for artifact in missing if artifact.src}
    for artifact in missing:
        if artifact.path:
            check_path(artifact)
    needs = []
    for artifact in missing:
        part = store.folder / artifact.part
        there = extent(part)[0] if part.exists() else 0
        if artifact.src and artifact.size:
            needs.append((artifact.dest, max(0, artifact.size - there)))
    store.check_room(needs)
    result: dict[str, Any] = {
        "changed": bool(missing),
        "missing": [artifact.dest for artifact in missing],
        "uploads": uploads,
    }
    if all(artifact.key for artifact in artifacts) and not (missing and not module.check_mode):
        result["artifacts"] = told(
            artifacts, {artifact.dest: artifact.key for artifact in artifacts}
        )
    if missing:
        lines = "".join(
            f"{artifact.dest} from {artifact.source}{size(artifact)}\n" for artifact in missing
        )
        result["diff"] = {"before": "", "after": lines, "after_header": f"new in {store.folder}"}
    return result


def size(artifact: Artifact) -> str:
    """Return the size of an artifact for people, when it is known."""
    return f" ({mib(artifact.size)})" if artifact.size else ""


def refuse_lost_python(virtualenv: Path) -> None:
    """Raise DeployError before data is brought for a live release that cannot start again; a whole run has its own."""
    if virtualenv.name == LIVE_VIRTUALENV:
        refuse_part(python_changed(virtualenv))


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o077)
    given = module.params
    store = Store(given["data_dir"], given["user"])
    background = Background(f"{given['name']}-data")
    asked = {name: value for name, value in given.items() if name not in PASSING}
    task = value_digest(asked)
    try:
        with Lock(given["name"]).held(given["run"], module.check_mode):
            store.claim(given["name"], may_write=bool(given["artifacts"]) and not module.check_mode)
            refuse_lost_python(Path(given["virtualenv"]))
            artifacts = read(given["artifacts"], store)
            if given["step"] == "plan":
                module.exit_json(**plan(module, store, artifacts))
            if given["step"] == "begin":
                fetch = Fetch(
                    store,
                    given["name"],
                    given["root"],
                    given["user"],
                    given["command_timeout"],
                    given["environment"],
                )
                began = background.begin(
                    task,
                    lambda say: fetch.run(artifacts, given["virtualenv"], given["verify"], say),
                )
                module.exit_json(changed=False, began=began)
        answer = background.wait(task, POLL_SECONDS)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error, given["data_dir"]))
    if "text" in answer:
        module.exit_json(changed=False, text=answer["text"])
    result = answer["result"]
    module.exit_json(
        changed=bool(result["fetched"]),
        fetched=result["fetched"],
        artifacts=told(artifacts, result["keys"]),
        done=True,
    )
