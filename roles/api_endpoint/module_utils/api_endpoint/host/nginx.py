# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace nginx's configuration as a whole, or not at all."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import read_json, replace_symlink, write_file, write_json
from ansible.module_utils.api_endpoint.host.nginx_note import NOTE, digests_of, stand_in
from ansible.module_utils.basic import AnsibleModule

FOREIGN = ".before-api-endpoint"  # ending of the file in which content from before the role is kept
EDITED = ".edited-by-hand"  # ending of the file in which the last edit by hand is kept
CACHES = re.compile(r"^(\s*proxy_cache_path\s+)/(?:\S*/)?", re.MULTILINE)  # up to the last part of a cache's folder

ACCOUNT = re.compile(r"^user\s+\S+;", re.MULTILINE)  # whose nginx's workers are


def current(path: Path) -> str | None:
    """Return what is at a path: a file's content, or a link's target behind an arrow; None when there is nothing."""
    if path.is_symlink():
        return stand_in(os.readlink(path))
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def kept_as(name: str, before: str | None, wanted: str | None, noted: dict[str, str]) -> str:
    """Return the name under which content is kept before it is replaced; empty when it is the role's own, or a link."""
    if before is None or before.startswith("-> "):
        return ""
    folder, base = os.path.split(name)
    beside = os.path.join(folder.replace("-enabled", "-available"), base)
    if name in noted:
        return "" if value_digest(before) == noted[name] else beside + EDITED
    # Nothing is noted: the role's own files are known by their first line, which never changes.
    return "" if before.splitlines()[:1] == (wanted or "").splitlines()[:1] else beside + FOREIGN


def keep(folder: Path, name: str, kept: str) -> None:
    """Keep a file: what was before the role once, the last edit by hand."""
    place = folder / kept
    place.parent.mkdir(parents=True, exist_ok=True)
    if kept.endswith(EDITED) or not place.exists():
        shutil.copy2(folder / name, place)


def apply(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Write, link and remove."""
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in links:
            replace_symlink(path, links[name])
        elif content is None:
            path.unlink()
        else:
            write_file(path, content, 0o644)


def judge(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Let nginx judge the wanted configuration in a copy of the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "nginx")
        shutil.copytree(folder, copy, symlinks=True)
        beside = {name: content and CACHES.sub(rf"\1{temporary}/", content) for name, content in wanted.items()}
        # `nginx -t` gives the folders of uploads to the account that it reads, under workers that may have another one;
        # and in a dry run that account may not be there.
        account = ACCOUNT.search(current(folder / "nginx.conf") or "")
        if account and beside.get("nginx.conf"):
            beside["nginx.conf"] = ACCOUNT.sub(account[0], str(beside["nginx.conf"]))
        apply(copy, beside, links)
        done = subprocess.run(
            ["nginx", "-t", "-q", "-c", str(copy / "nginx.conf")], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            words = done.stderr.strip().replace(str(copy), str(folder))
            raise DeployError(f"nginx rejects the new configuration; the old one is in place.\n{words}")


def ensure(module: AnsibleModule) -> dict[str, object]:
    """Bring the files to what is wanted."""
    folder = Path(module.params["folder"])
    links = {name: str(target) for name, target in module.params["links"].items()}
    wanted: dict[str, str | None] = {
        **module.params["files"],
        **{name: stand_in(target) for name, target in links.items()},
        **dict.fromkeys(module.params["absent"]),
    }
    before = {name: current(folder / name) for name in wanted}
    changes = {name: content for name, content in wanted.items() if content != before[name]}
    installed = shutil.which("nginx") is not None and folder.is_dir()
    if changes and installed:
        judge(folder, changes, links)
    noted: dict[str, str] = read_json(folder / NOTE) or {}
    kept = {name: kept_as(name, before[name], content, noted) for name, content in changes.items()}
    pending = Path(module.params["pending"])
    if changes and not module.check_mode:
        pending.touch()
        for name in changes:
            if kept[name]:
                keep(folder, name, kept[name])
                module.warn(f"{folder / name} was not the role's own; it is kept as {folder / kept[name]}.")
        apply(folder, changes, links)
    digests = digests_of(module.params["files"], links)
    if {**noted, **digests} != noted and installed and not module.check_mode:
        write_json(folder / NOTE, {**noted, **digests}, 0o644)
    return {
        "changed": bool(changes) or pending.exists(),
        "written": sorted(changes),
        "pending": pending.exists(),
        "diff": [
            {
                "before_header": str(folder / name),
                "after_header": str(folder / name),
                "before": before[name] or "",
                "after": content or "",
            }
            for name, content in changes.items()
        ],
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)
