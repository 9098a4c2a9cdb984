#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring model data into the store on the host, verified."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_artifacts
short_description: Bring model data into the store on the host, verified
description:
  - Makes sure that every artifact lies in O(data_dir) under its SHA-256, as C(<digest>/artifact), with its size, time and
    source in C(<digest>/artifact.json). An artifact that is there is not read again.
  - A file is written under a temporary name on the same filesystem, verified while it arrives, synced, and renamed; what
    does not have the expected digest never gets a name in the store.
  - Files of the controller (C(src)) are hashed and sent by the action plugin of the same name.
options:
  data_dir:
    description: Absolute path of the store.
    type: path
    required: true
  group:
    description: Group that may read the data.
    type: str
    default: www-data
  timeout:
    description: Seconds without an answer or a byte after which a download is given up.
    type: int
    default: 60
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
        description: File on the controller.
        type: str
      url:
        description: Where to download it from (http or https).
        type: str
      sha256:
        description: Its SHA-256, 64 hexadecimal digits.
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
      upload:
        description: Where the action plugin put the file on the host.
        type: path
  name:
    description: Name of the endpoint.
    type: str
    required: true
  run:
    description: Token of this run, from M(api_endpoint_lock). Not needed in check mode.
    type: str
    default: ""
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Fetch the model
  api_endpoint_artifacts:
    name: api-endpoint
    data_dir: /srv/api-endpoint/data
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
      description: Its SHA-256.
      type: str
    writable:
      description: Whether the app may write its copy.
      type: bool
missing:
  description: The digests of files of the controller that the host does not have.
  type: list
  elements: str
  returned: always
"""

import os
import shutil
import urllib.error
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO

from ansible.module_utils.api_endpoint_lock import Lock
from ansible.module_utils.api_endpoint_store import (
    BUILDING,
    CHUNK,
    StoreError,
    building,
    file_digest,
    in_words,
    own,
    read_json,
    write_json,
)
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url


def receive(source: BinaryIO, target: Path, expected_size: int | None) -> str:
    """Write a stream to a file and return its SHA-256; raise StoreError when it ends too early."""
    with open(target, "wb") as file:
        shutil.copyfileobj(source, file, CHUNK)
        size = file.tell()
    if expected_size is not None and size != expected_size:
        raise StoreError(f"the server promised {expected_size:,} bytes and sent {size:,}")
    return file_digest(target)


class Store:
    """The artifacts on the host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.check_mode: bool = module.check_mode
        self.folder = Path(module.params["data_dir"])
        self.group: str = module.params["group"]
        self.timeout: int = module.params["timeout"]

    def has(self, digest: str) -> bool:
        """Tell whether an artifact is here and still has the size that it had when it was verified."""
        stamp = read_json(self.folder / digest / "artifact.json")
        try:
            return stamp is not None and (self.folder / digest / "artifact").stat().st_size == stamp["size"]
        except FileNotFoundError:
            return False

    def digest_of_url(self, url: str) -> str:
        """Return the digest of what was fetched, unverified, from a URL; empty when nothing was."""
        for path in sorted(self.folder.glob("*/artifact.json")):
            stamp = read_json(path)
            if stamp and stamp["source"] == url and stamp["unverified"] and self.has(stamp["digest"]):
                return str(stamp["digest"])
        return ""

    def add(self, artifact: dict[str, Any], write: Callable[[Path], str], source: str) -> str:
        """Write an artifact, verify it and give it its name; return its digest."""
        expected = artifact["sha256"]
        temporary = self.folder / f"{BUILDING}{os.getpid()}"
        temporary.unlink(missing_ok=True)
        try:
            digest = write(temporary)
            if expected and digest != expected.lower():
                raise StoreError(
                    f"it is not the expected file: its SHA-256 is {digest}, expected {expected.lower()}. Either it was "
                    "damaged on its way or on the server, or the file was replaced there and sha256 is out of date"
                )
            final = self.folder / digest
            if not self.has(digest):
                shutil.rmtree(final, ignore_errors=True)
                with building(final) as folder:
                    os.rename(temporary, folder / "artifact")
                    stamp = {
                        "digest": digest,
                        "size": (folder / "artifact").stat().st_size,
                        "source": source,
                        "unverified": not expected,
                    }
                    write_json(folder / "artifact.json", stamp, 0o640, self.group)
                    own(folder, "root", self.group)
            return digest
        except (StoreError, OSError, HTTPException) as error:
            raise StoreError(
                f"The artifact {artifact['dest']!r} could not be taken from {source}: {error}. "
                "Nothing was changed for the running version."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)

    def download(self, artifact: dict[str, Any]) -> str:
        """Download an artifact and return its digest."""

        def write(target: Path) -> str:
            try:
                with open_url(artifact["url"], timeout=self.timeout, http_agent="api_endpoint") as answer:
                    length = answer.headers.get("Content-Length")
                    return receive(answer, target, int(length) if length else None)
            except urllib.error.HTTPError as error:
                raise StoreError(f"the server answered {error.code} {error.reason}") from error
            except urllib.error.URLError as error:
                raise StoreError(f"no answer: {error.reason}") from error

        return self.add(artifact, write, artifact["url"])

    def take(self, artifact: dict[str, Any]) -> str:
        """Take a file that the action plugin sent and return its digest."""

        def write(target: Path) -> str:
            with open(artifact["upload"], "rb") as source:
                return receive(source, target, None)

        return self.add(artifact, write, artifact["src"])


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Make sure that every artifact is in the store."""
    store = Store(module)
    found: list[dict[str, Any]] = []
    missing: list[str] = []
    changed = False
    for artifact in module.params["artifacts"]:
        digest = (artifact["sha256"] or "").lower() or store.digest_of_url(artifact["url"] or "")
        if not digest or not store.has(digest):
            changed = True
            if artifact["src"] and not artifact["upload"]:
                missing.append(digest)
            elif not module.check_mode:
                digest = store.take(artifact) if artifact["upload"] else store.download(artifact)
        found.append({"dest": os.path.normpath(artifact["dest"]), "digest": digest, "writable": artifact["writable"]})
    result: dict[str, Any] = {"changed": changed, "missing": missing}
    if all(entry["digest"] for entry in found):
        result["artifacts"] = found
    return result


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "run": {"type": "str", "default": ""},
            "data_dir": {"type": "path", "required": True},
            "group": {"type": "str", "default": "www-data"},
            "timeout": {"type": "int", "default": 60},
            "artifacts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "dest": {"type": "str", "required": True},
                    "src": {"type": "str"},
                    "url": {"type": "str"},
                    "sha256": {"type": "str"},
                    "allow_unverified": {"type": "bool", "default": False},
                    "writable": {"type": "bool", "default": False},
                    "upload": {"type": "path"},
                },
            },
        },
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result = ensure(module)
    except (StoreError, OSError) as error:
        module.fail_json(msg=in_words(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
