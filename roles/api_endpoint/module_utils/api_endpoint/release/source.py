# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files of a source tree make up an app's code, and how they lie in the store.

Used on the laptop for a folder and on the host for git, so that the same files have the same digest either way.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import walk
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import escapes, is_within

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
        # By its text, which is what it will be in a release, and in truth, for links that lead over links.
        if found.is_symlink() and (not is_within(app, os.path.join(path.parent, os.readlink(found))) or escapes(app, found)):
            raise DeployError(f"The link {path} in the code points out of it, to {os.readlink(found)}.")
        shutil.copy2(found, copy, follow_symlinks=False)
    first = find_requirements(source, subdir, requirements)
    names = requirement_files(source, first) if first else []
    for name in names:
        copy = target / "requirements" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, copy)
    (target / "first_requirements_file").write_text(first, encoding="utf-8")
