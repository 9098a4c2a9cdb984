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
from ansible.module_utils.api_endpoint.files import escapes, is_within
from ansible.module_utils.api_endpoint.placeholders import pointers, refuse

SUBMODULE = re.compile(r"(?m)^\s*path\s*=\s*\"?(.+?)\"?\s*$")
LEAVE_OUT = "Or leave out what the app does not need (api_endpoint_app_exclude)."
INCLUDE = re.compile(r"^\s*(?:-r|-c|--requirement|--constraint)[ =]\s*(\S+)")


def requirement_files(source: Path, first: str) -> list[str]:
    """Return a requirements file and all those that it includes, relative to `source`."""
    found: list[str] = []
    queue = [first]
    while queue:
        name = os.path.normpath(queue.pop(0))
        if name in found:
            continue
        if not is_within(source, name) or not (source / name).is_file():
            raise DeployError(f"The requirements file {name} does not exist in the code (it starts at {first}).")
        if escapes(source, source / name):
            raise DeployError(
                f"The requirements file {name} is a link that leads out of the code. Put the file itself there."
            )
        found.append(name)
        for line in (source / name).read_text(encoding="utf-8").splitlines():
            if (match := INCLUDE.match(line)) and "://" not in match[1]:
                queue.append(os.path.join(os.path.dirname(name), match[1]))
    return found


def find_requirements(source: Path, subdir: str, wanted: str) -> str:
    """Return the name of the requirements file, relative to `source`, or an empty string when there is none."""
    if wanted:
        return wanted
    for name in (os.path.join(subdir, "requirements.txt"), "requirements.txt"):
        if (source / name).is_file():
            return name
    return ""


def submodules(folder: Path) -> list[str]:
    """Return the paths of the submodules that a folder's `.gitmodules` lists."""
    try:
        return SUBMODULE.findall((folder / ".gitmodules").read_text(encoding="utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return []


def check_content(source: Path, subdir: str, exclude: list[str], pull: str, update: str) -> list[str]:
    """Raise DeployError for files of an app that only stand for others, and for submodules of its that are empty.

    `pull` and `update` say what to do about the one and the other. Return warnings: data of DVC that is not there.
    """
    app = (source / subdir).resolve()
    if not app.is_dir():
        return []
    paths = list(walk(app, exclude))
    refuse(pointers(app, paths), f"{pull} {LEAVE_OUT}")
    folder = app
    while not (folder / ".gitmodules").is_file() and not (folder / ".git").exists() and folder != folder.parent:
        folder = folder.parent
    for name in submodules(folder):
        inside = os.path.relpath(folder / name, app)
        # One that is left out has nothing that `walk` finds, and is not empty.
        if not inside.startswith("..") and not any((folder / name).glob("*")) and not excludes(inside, exclude):
            raise DeployError(f"The submodule {name} is empty. {update} {LEAVE_OUT}")
    missing = [path for path in paths if path.suffix == ".dvc" and path.stem and not (app / path).with_suffix("").exists()]
    return [
        f"{path} stands for data of DVC that is not in the code. If the app reads it, list it in api_endpoint_artifacts."
        for path in missing
        if not excludes(os.path.splitext(path)[0], exclude)
    ]


def excludes(path: str, exclude: list[str]) -> bool:
    """Tell whether a path, or a folder that it is in, is left out."""
    patterns = [pattern.rstrip("/") for pattern in exclude]
    return any(is_excluded(part, patterns) for part in (Path(path), *Path(path).parents))


def lay_out(source: Path, target: Path, subdir: str, requirements: str, wsgi: str, exclude: list[str]) -> None:
    """Copy the code of `source` to `target` in the store's layout: app/, requirements/ and which file to start from."""
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
    for path in walk(app, exclude):
        found, copy = app / path, target / "app" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        if found.is_symlink():
            if leads_out(app, path):
                raise DeployError(
                    f"The link {path} in the code points out of it, to {os.readlink(found)}. Put there what it points to, "
                    "list it in api_endpoint_artifacts, or leave the link out (api_endpoint_app_exclude)."
                )
        elif not found.is_file():
            raise DeployError(f"{path} in the code is neither a file nor a folder nor a link. Remove it.")
        shutil.copy2(found, copy, follow_symlinks=False)
    first = find_requirements(source, subdir, requirements)
    names = requirement_files(source, first) if first else []
    for name in names:
        copy = target / "requirements" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy)
    (target / "first_requirements_file").write_text(first, encoding="utf-8")
