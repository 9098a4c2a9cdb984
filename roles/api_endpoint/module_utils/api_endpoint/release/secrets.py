# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of the app: a file for systemd that only root can read, and a name for it that does not give them away."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

from ansible.module_utils.api_endpoint.files import write_file

# Of scrypt: 16 MiB and some 50 ms for each guess. The name of the file is in release.json, which the app can read.
COST, BLOCK, PARALLEL = 2**14, 8, 1


def seal(secrets: dict[str, str], endpoint: str) -> str:
    """Return the name under which secrets are kept, 16 hexadecimal digits, the same on every host; empty when none."""
    if not secrets:
        return ""
    text = json.dumps(secrets, sort_keys=True).encode()
    return hashlib.scrypt(text, salt=endpoint.encode(), n=COST, r=BLOCK, p=PARALLEL, dklen=8).hex()


def place(root: Path, name: str) -> Path:
    """Return the file of secrets."""
    return root / "secrets" / name


def setting(root: Path, name: str) -> str:
    """Return what a unit needs to get the secrets; empty when there are none."""
    return f"[Service]\nEnvironmentFile={place(root, name)}\n" if name else ""


def quote(value: str) -> str:
    """Return a value as systemd reads it in an environment file, where a few characters mean something."""
    return '"' + "".join(f"\\{letter}" if letter in '\\"$`' else letter for letter in value) + '"'


def keep(root: Path, name: str, secrets: dict[str, str]) -> None:
    """Write the file of secrets, for root alone, unless it is there as it should be."""
    file = place(root, name)
    file.parent.mkdir(mode=0o700, exist_ok=True)
    os.chmod(file.parent, 0o700)
    content = "".join(f"{key}={quote(value)}\n" for key, value in sorted(secrets.items()))
    if not file.exists() or file.read_bytes() != content.encode():
        write_file(file, content, 0o600)


def unquote(content: str) -> list[str]:
    """Return the values in such a file."""
    values = re.findall(r'^\w+="((?:\\.|[^"\\])*)"$', content, re.M | re.S)
    return [re.sub(r"\\(.)", r"\1", value, flags=re.S) for value in values]
