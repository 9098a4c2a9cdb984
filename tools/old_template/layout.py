# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the old scripts put the app on the host, and which folder of the repository is the same for a release."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from old_template.clone import Clone
from old_template.shell import Found

# Folders in which no model data is looked for.
SYSTEM = (
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/tmp",  # noqa: S108
    "/usr",
    "/var",
)
VOLUME = "/extrastorage"
BESIDE = "/.beside"  # the app's folder, where the code finds it by its own place, and not by name
USUAL_FILES = ("wsgi.py", "app.py", "main.py", "api.py", "server.py")


class Layout:
    """The folders of the app: on the old host, in the repository, and in a release."""

    def __init__(self, clone: Clone, found: Found, chdir: str, given: str) -> None:
        """Find them; gunicorn starts in `chdir`, if that is known, and loads `given`."""
        self.name = found.variables.get("APP_LBL", "api-endpoint")
        self.root = f"/etc/{self.name}"
        self.mounts: set[str] = set()
        self.clone = clone
        self.copied = {path: source.inside for path, source in found.files.items() if source.inside}
        if f"{found.clone}/".startswith(f"{self.root}/"):
            self.copied |= {posixpath.join(found.clone, name): name for name in clone.names}
        wanted = module_file(given)
        files = [
            name for name in clone.named("*.py") if wanted and f"/{name}".endswith(f"/{wanted}")
        ]
        self.wsgi = next(iter([*files, *clone.named(*USUAL_FILES)]), "")
        self.cwd = posixpath.normpath(chdir) if chdir.startswith(self.root) else self.root
        places = [
            path
            for path, inside in self.copied.items()
            if inside == self.wsgi and self.within(path)
        ]
        place = min(places, key=lambda path: posixpath.dirname(path) != self.cwd, default="")
        relative = self.within(place) or posixpath.basename(self.wsgi)
        if not f"/{self.wsgi}".endswith(f"/{relative}"):
            relative = posixpath.basename(self.wsgi)
        self.subdir = self.wsgi[: len(self.wsgi) - len(relative)].strip("/")
        # The folder below the app's that gunicorn starts in, from which it imports.
        self.start = (
            posixpath.dirname(relative) if "/" in relative and self.cwd != self.root else ""
        )
        self.module = relative.removesuffix(".py").replace("/", ".") if relative else "wsgi"

    def within(self, path: str) -> str:
        """Return where a release has what is at a path of the host; nothing for what is elsewhere."""
        for folder in [self.root, *sorted(self.mounts, key=len, reverse=True)]:
            if path.startswith(f"{folder}/"):
                return posixpath.relpath(path, folder)
        return ""

    def mount(self, path: str) -> str:
        """Let the app see its release where it looks for a file; return where that is in a release."""
        if not self.within(path):
            folder = VOLUME if path.startswith(f"{VOLUME}/") else posixpath.dirname(path)
            is_system = f"{folder}/".startswith(tuple(f"{one}/" for one in SYSTEM))
            if folder == VOLUME or (folder.count("/") > 1 and not is_system):
                self.mounts.add(folder)
        return self.within(path)

    def beside(self, file: str) -> str:
        """Return where a file of the repository finds itself."""
        place = next(
            (path for path, inside in self.copied.items() if inside == file and self.within(path)),
            "",
        )
        return posixpath.join(
            BESIDE, self.within(place) or posixpath.relpath(file, self.subdir or ".")
        )

    def is_code(self, inside: str, dest: str) -> bool:
        """Tell whether a release has a file of the repository in this place by itself."""
        return inside == posixpath.normpath(posixpath.join(self.subdir, dest))

    def has(self, dest: str) -> bool:
        """Tell whether a release has a file or folder in this place without any data."""
        path = posixpath.normpath(posixpath.join(self.subdir, dest))
        return any(f"{name}/".startswith(f"{path}/") for name in self.clone.names)

    def modules(self) -> Iterable[str]:
        """Return the Python files of the app."""
        for name in self.clone.named("*.py"):
            is_app = (
                not self.subdir
                or name.startswith(f"{self.subdir}/")
                or name in self.copied.values()
            )
            if is_app and not name.endswith(("gunicorn.conf.py", "setup.py")):
                yield name


def module_file(wsgi: str) -> str:
    """Return the end of the path of the file that gunicorn loads for `module:callable`."""
    module = wsgi.partition(":")[0]
    return (
        (posixpath.basename(module) if "/" in module else module.replace(".", "/")) + ".py"
        if module
        else ""
    )
