#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring model data into the store on the host, verified."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_artifacts
short_description: Bring model data into the store on the host, verified
description:
  - Makes sure that every artifact lies in O(data_dir) under its key, a digest of what it is or of what it is made of, as
    C(<key>/artifact), with its size and source in C(<key>/artifact.json). One that is there is not read again to find out
    that nothing changed; its size and time say so.
  - What arrives is written to C(.part-<digest>), verified while it arrives, and gets its place only when it is whole. A half
    is kept, and the next run goes on from there.
  - Work that takes long is done by a process of its own on the host, which goes on when the connection drops. The action
    plugin of the same name sends what lies on the controller, asks every ten seconds how far it is, and shows that.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  root:
    description: Absolute path of the endpoint's folder on the host.
    type: path
    required: true
  data_dir:
    description: Absolute path of the store.
    type: path
    required: true
  user:
    description: Account of the app; its group may read the data, and commands run as it.
    type: str
    default: www-data
  virtualenv:
    description: Absolute path of the virtualenv whose programs commands find first.
    type: path
    default: /usr
  command_timeout:
    description: Seconds within which a command must end.
    type: int
    default: 600
  environment:
    description: Environment variables for commands.
    type: dict
    default: {}
  verify:
    description: Read all data again and compare it, instead of looking at sizes and times.
    type: bool
    default: false
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
  step:
    description:
      - The action plugin of the same name turns C(bring) into C(plan) (say what is missing and what the controller has to
        send), C(begin) (start to bring it) and C(wait) (wait ten seconds for its end).
    type: str
    choices: [bring, plan, begin, wait]
    default: bring
  artifacts:
    description: The artifacts.
    type: list
    elements: dict
    required: true
    suboptions:
      dest:
        description: Where the app finds it, relative to the app's folder.
        type: str
        required: true
      src:
        description: File or folder on the controller.
        type: str
      url:
        description: Where to download it from (http or https), or a list of such mirrors.
        type: raw
      path:
        description: File on the host.
        type: str
      command:
        description: Shell command that makes it of O(artifacts[].inputs).
        type: str
      inputs:
        description: The C(dest) of the artifacts that O(artifacts[].command) reads.
        type: list
        elements: str
        default: []
      sha256:
        description: SHA-256 of what is fetched, 64 hexadecimal digits.
        type: str
      size:
        description: Size of what is fetched, in bytes.
        type: int
      headers:
        description: Further request headers.
        type: dict
        default: {}
      unpack:
        description: Unpack it (tar, also with gz, bz2, xz or zst; zip; a single gz, bz2, xz or zst file).
        type: bool
        default: false
      mode:
        description: Rights of the file or folder, in octal, instead of 0640 and 0750.
        type: str
      allow_unverified:
        description:
          - Take a download without O(artifacts[].sha256) as it comes. It is fetched once, and not again while its
            URL stays the same.
        type: bool
        default: false
      writable:
        description: Whether the app gets a copy of its own that it may write.
        type: bool
        default: false
      is_folder:
        description: Whether O(artifacts[].src) is a folder. Set by the action plugin.
        type: bool
        default: false
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Fetch the model
  api_endpoint_artifacts:
    name: api-endpoint
    root: /var/lib/api-endpoint
    data_dir: /srv/api-endpoint/data
    run: "{{ lock.token }}"
    artifacts:
      - dest: model.bin
        url: https://analytics.wikimedia.org/published/datasets/one-off/me/model.bin
        sha256: 8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83
"""

RETURN = r"""
artifacts:
  description: What a release needs to know of each artifact.
  type: list
  elements: dict
  returned: when it can be told without changing anything
  contains:
    dest:
      description: Where the app finds it.
      type: str
    digest:
      description: Its key in the store.
      type: str
    writable:
      description: Whether the app may write its copy.
      type: bool
missing:
  description: The C(dest) of what is not in the store.
  type: list
  elements: str
  returned: with O(step=plan)
uploads:
  description: The names below O(data_dir) under which the controller has to put what it has, by C(dest).
  type: dict
  returned: with O(step=plan)
text:
  description: How far it is.
  type: str
  returned: with O(step=wait), until it is done
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint_background import Background
from ansible.module_utils.api_endpoint_data import Artifact, Store, extent, key_of, mib
from ansible.module_utils.api_endpoint_fetch import Fetch, derived_key, digest_of_path
from ansible.module_utils.api_endpoint_lock import Lock
from ansible.module_utils.api_endpoint_store import StoreError, in_words, value_digest
from ansible.module_utils.basic import AnsibleModule

PASSING = ("step", "run")
POLL = 10  # seconds between two words on how far it is


def read(given: list[dict[str, Any]], store: Store) -> list[Artifact]:
    """Return the artifacts, with the keys that are known."""
    found: list[Artifact] = []
    keys: dict[str, str] = {}
    for entry in given:
        url = entry["url"] or []
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
    return [{"dest": artifact.dest, "digest": keys[artifact.dest], "writable": artifact.writable} for artifact in artifacts]


def plan(module: AnsibleModule, store: Store, artifacts: list[Artifact]) -> dict[str, Any]:
    """Say what is missing, and what the controller has to send; refuse when it does not fit."""
    missing = [artifact for artifact in artifacts if not artifact.key or not store.has(artifact.key)]
    uploads = {artifact.dest: artifact.part for artifact in missing if artifact.src}
    for artifact in missing:
        if artifact.path and not os.path.exists(artifact.path):
            raise StoreError(
                f"The artifact {artifact.dest!r} should be at {artifact.path} on the host, and is not. Copy it there."
            )
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
        result["artifacts"] = told(artifacts, {artifact.dest: artifact.key for artifact in artifacts})
    if missing:
        lines = "".join(f"{artifact.dest} from {artifact.source}{size(artifact)}\n" for artifact in missing)
        result["diff"] = {"before": "", "after": lines, "after_header": f"new in {store.folder}"}
    return result


def size(artifact: Artifact) -> str:
    """Return the size of an artifact for people, when it is known."""
    return f" ({mib(artifact.size)})" if artifact.size else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "data_dir": {"type": "path", "required": True},
            "user": {"type": "str", "default": "www-data"},
            "virtualenv": {"type": "path", "default": "/usr"},
            "command_timeout": {"type": "int", "default": 600},
            "environment": {"type": "dict", "default": {}},
            "verify": {"type": "bool", "default": False},
            "run": {"type": "str", "default": ""},
            "step": {"type": "str", "choices": ["bring", "plan", "begin", "wait"], "default": "bring"},
            "artifacts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "dest": {"type": "str", "required": True},
                    "src": {"type": "str"},
                    "url": {"type": "raw"},
                    "path": {"type": "str"},
                    "command": {"type": "str"},
                    "inputs": {"type": "list", "elements": "str", "default": []},
                    "sha256": {"type": "str"},
                    "size": {"type": "int"},
                    "headers": {"type": "dict", "default": {}, "no_log": True},
                    "unpack": {"type": "bool", "default": False},
                    "mode": {"type": "str"},
                    "allow_unverified": {"type": "bool", "default": False},
                    "writable": {"type": "bool", "default": False},
                    "is_folder": {"type": "bool", "default": False},
                },
            },
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    given = module.params
    store = Store(given["data_dir"], given["user"])
    background = Background(f"{given['name']}-data")
    asked = {name: value for name, value in given.items() if name not in PASSING}
    task = value_digest(asked)
    try:
        with Lock(given["name"]).held(given["run"], module.check_mode):
            store.claim(given["name"], may_write=bool(given["artifacts"]) and not module.check_mode)
            artifacts = read(given["artifacts"], store)
            if given["step"] == "plan":
                module.exit_json(**plan(module, store, artifacts))
            if given["step"] == "begin":
                fetch = Fetch(
                    store, given["name"], given["root"], given["user"], given["command_timeout"], given["environment"]
                )
                began = background.begin(task, lambda say: fetch.run(artifacts, given["virtualenv"], given["verify"], say))
                module.exit_json(changed=False, began=began)
        answer = background.wait(task, POLL)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    if "text" in answer:
        module.exit_json(changed=False, text=answer["text"])
    result = answer["result"]
    module.exit_json(
        changed=bool(result["fetched"]), fetched=result["fetched"], artifacts=told(artifacts, result["keys"]), done=True
    )


if __name__ == "__main__":
    main()
