# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a source tree make up an app's code, and how they lie in the store.

Used on the laptop for a folder and on the host for git, so that the same files have the same digest either way.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import is_excluded, leads_out, walk
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.placeholders import pointers, refuse
from ansible.module_utils.api_endpoint.release.requirements import decode, read
from ansible.module_utils.api_endpoint.urls import take

SUBMODULE = re.compile(r"(?m)^\s*path\s*=\s*\"?(.+?)\"?\s*$")
LEAVE_OUT = "Or leave out what the app does not need (api_endpoint_app_exclude)."


def submodules(folder: Path) -> list[str]:
    """Return the paths of the submodules that a folder's `.gitmodules` lists."""
    try:
        return SUBMODULE.findall(
            (folder / ".gitmodules").read_text(encoding="utf-8", errors="surrogateescape")
        )
    except FileNotFoundError:
        return []


def check_content(
    source: Path, subdir: str, exclude: list[str], pull: str, update: str
) -> list[str]:
    """Raise DeployError for files of an app that only stand for others, and for submodules of its that are empty.

    `pull` and `update` say what to do about the one and the other. Return warnings: data of DVC that is not there.
    """
    app = (source / subdir).resolve()
    if not app.is_dir():
        return []
    paths = list(walk(app, exclude))
    refuse(pointers(app, paths), f"{pull} {LEAVE_OUT}")
    folder = app
    while (
        not (folder / ".gitmodules").is_file()
        and not (folder / ".git").exists()
        and folder != folder.parent
    ):
        folder = folder.parent
    for name in submodules(folder):
        inside = os.path.relpath(folder / name, app)
        # One that is left out has nothing that `walk` finds, and is not empty.
        if (
            not inside.startswith("..")
            and not any((folder / name).glob("*"))
            and not excludes(inside, exclude)
        ):
            raise DeployError(f"The submodule {name} is empty. {update} {LEAVE_OUT}")
    missing = [
        path
        for path in paths
        if path.suffix == ".dvc" and path.stem and not (app / path).with_suffix("").exists()
    ]
    return [
        f"{path} stands for data of DVC that is not in the code. If the app reads it, list it in api_endpoint_artifacts."
        for path in missing
        if not excludes(os.path.splitext(path)[0], exclude)
    ]


def excludes(path: str, exclude: list[str]) -> bool:
    """Tell whether a path, or a folder that it is in, is left out."""
    patterns = [pattern.rstrip("/") for pattern in exclude]
    return any(is_excluded(part, patterns) for part in (Path(path), *Path(path).parents))


def lay_out(
    source: Path, target: Path, subdir: str, wanted: str, wsgi: str, exclude: list[str]
) -> None:
    """Copy the code of `source` to `target` in the store's layout: app/, what it requires, and local/ that this names.

    `wanted` is the requirements file, where the user names it.
    """
    app = source / subdir if subdir else source
    if not app.is_dir():
        raise DeployError(f"The code has no folder {subdir!r}. Correct api_endpoint_app_subdir.")
    module = wsgi.partition(":")[0].replace(".", "/")
    if not ((app / f"{module}.py").is_file() or (app / module / "__init__.py").is_file()):
        where = f"its folder {subdir!r}" if subdir else "its top folder"
        raise DeployError(
            f"The code has no {module}.py in {where}. "
            "Correct api_endpoint_wsgi (module:callable), api_endpoint_app_subdir or the code itself."
        )
    copy_code(app, target / "app", exclude)
    plan = read(source, subdir, wanted, exclude)
    for local in sorted(
        {line.local for line in (*plan.requirements, *plan.constraints, *plan.options)} - {""}
    ):
        place = target / local
        if place.exists():
            continue
        found = source / os.path.relpath(local, "local")
        place.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            copy_code(found, place, [])
        else:
            shutil.copy2(found, place)
    for name in (*plan.files, ".gitmodules"):
        for copy in (
            target / "app" / os.path.relpath(name, subdir or "."),
            target / "local" / name,
        ):
            # The app has no need of what pip and git log in with.
            text, credentials = take(decode(copy.read_bytes())) if copy.is_file() else ("", {})
            if credentials:
                copy.write_text(text, encoding="utf-8")
    plan.write(target)


def copy_code(app: Path, target: Path, exclude: list[str]) -> None:
    """Copy what is code in a folder."""
    for path in walk(app, exclude):
        found, copy = app / path, target / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if found.is_symlink():
            if leads_out(app, path):
                raise DeployError(
                    f"The link {path} in the code points out of it, to {os.readlink(found)}. Put there what it points to, "
                    "list it in api_endpoint_artifacts, or leave the link out (api_endpoint_app_exclude)."
                )
        elif not found.is_file():
            raise DeployError(
                f"{path} in the code is neither a file nor a folder nor a link. Remove it, or leave it out "
                "(api_endpoint_app_exclude)."
            )
        shutil.copy2(found, copy, follow_symlinks=False)
