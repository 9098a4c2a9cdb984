# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes artifacts and writable paths of what the scripts bring and what the code reads, writes and downloads."""

from __future__ import annotations

import posixpath
import shlex
from fnmatch import fnmatch
from typing import Any

import yaml

from old_template.files import Download, Files
from old_template.layout import VOLUME, Layout
from old_template.lines import Line
from old_template.notes import Notes
from old_template.shell import ARCHIVES, Archive, Found, Source

WRITTEN = "written/"  # a folder of a release: what the app writes at names that it makes
OWN_FILES = ("*.sh", "*.nginx", "*.service", "*.ini", "gunicorn.conf.py", "__init__.py")
SETTINGS = "flask_config.yaml"
ARCHIVES_FOLDER = "archives"  # of a release: archives that a command unpacks
NO_LINE = Line("", 0, "", ())
Artifact = dict[str, Any]


class Data:
    """The artifacts, in the order in which they are made, by their place in a release."""

    def __init__(
        self, layout: Layout, found: Found, files: Files, notes: Notes, *, data_from_host: bool
    ) -> None:
        self.layout, self.found, self.files, self.notes = layout, found, files, notes
        self.data_from_host = data_from_host
        self.artifacts: dict[str, Artifact] = {}
        self.writable: set[str] = set()
        self.settings: dict[str, Any] = {}  # of the app: flask_config.yaml from another folder
        self.is_slow = False  # the app downloads at its start
        self.used: set[str] = set()  # paths of archives

    def variables(self) -> dict[str, Any]:
        """Return the role's variables for data."""
        self.see_volumes()
        for folder in sorted(self.found.unpacked):
            if dest := self.layout.within(folder):
                self.unpacked(dest, folder, self.found.unpacked[folder])
        self.from_clone()
        for path, source in self.found.files.items():
            self.scripted(path, source)
        for path, download in self.files.downloads.items():
            self.downloaded(path, download)
        self.read()
        self.written()
        self.cached()
        self.note_archives()
        self.note_unclear()
        given: dict[str, Any] = {"api_endpoint_artifacts": list(self.artifacts.values())}
        if self.settings:
            given["api_endpoint_flask_config"] = self.settings
        if self.writable:
            given["api_endpoint_writable_paths"] = sorted(self.writable)
        if self.layout.mounts:
            given["api_endpoint_release_mounts"] = [self.layout.root, *sorted(self.layout.mounts)]
        if self.is_slow:
            given["api_endpoint_start_timeout"] = 900
        return given | self.scattered()

    def scattered(self) -> dict[str, Any]:
        """Let the app write at names that it makes in the old folder, where it reads nothing by that folder's path."""
        root = self.layout.root
        for folder, use in self.files.scattered.items():
            if folder != root or self.files.named or self.layout.mounts:
                why = (
                    "It writes into its own folder, at names that it makes: "
                    "give each as one of api_endpoint_writable_paths."
                )
                self.notes.add(use.file, use.line, use.text, why)
                return {}
        if not self.files.scattered:
            return {}
        use = self.files.scattered[root]
        self.notes.add(
            use.file,
            use.line,
            use.text,
            f"{root} is a folder of its own now, which the app may write.",
        )
        state = f"/var/lib/{self.layout.name}/state/app/{WRITTEN}{WRITTEN}".rstrip("/")
        return {
            "api_endpoint_writable_paths": sorted({*self.writable, WRITTEN}),
            "api_endpoint_release_mounts": [],
            "api_endpoint_service_settings": {"BindPaths": f"{state}:{root}"},
        }

    def see_volumes(self) -> None:
        """Let the app see its release in each folder in which the scripts or the code have data."""
        brought = [*self.found.files, *self.found.unpacked]
        used = self.files.read | self.files.databases
        mine = [
            path
            for path, use in used.items()
            if path.startswith(f"{VOLUME}/") or use.file == self.layout.wsgi
        ]
        for path in [one for one in brought if one.startswith(f"{VOLUME}/")] + mine:
            self.layout.mount(path)
        if VOLUME in self.layout.mounts:
            why = (
                "The app sees its release there, so what lay on that volume must be an artifact. For large data on the "
                "volume itself: api_endpoint_volume, or an api_endpoint_data_dir on another mount of it."
            )
            self.notes.add("", 0, VOLUME, why)

    def taken(self, dest: str) -> str:
        """Return the artifact that is in a place, or around or inside of it; nothing when there is none."""
        near = (
            one
            for one in self.artifacts
            if f"{dest}/".startswith(f"{one}/") or f"{one}/".startswith(f"{dest}/")
        )
        return next(near, "")

    def put(self, artifact: Artifact) -> None:
        """Add an artifact, unless its place is taken."""
        dest = artifact["dest"]
        if other := self.taken(dest):
            source = next(
                (artifact[key] for key in ("url", "path", "src", "command") if key in artifact),
                dest,
            )
            self.notes.add(
                "",
                0,
                str(source),
                f"It goes to {dest}, where {other} is already. Give it a folder of its own.",
            )
            return
        if "drive.google.com" in artifact.get("url", ""):
            why = "Google Drive answers with a web page when a file is large. Then download it, and give src or path."
            self.notes.add("", 0, artifact["url"], why)
        self.artifacts[dest] = artifact

    # --- what scripts bring

    def scripted(self, path: str, source: Source) -> None:
        """Add what a script has put somewhere."""
        dest = self.layout.within(path)
        archives = [
            archive.source for one in self.found.unpacked.values() for archive in one.archives
        ]
        if source in archives:
            return
        if not dest:
            if source.url:
                place = f"It ends at {path}, where the app does not look."
                self.notes.add(source.line.file, source.line.number, source.line.text, place)
        elif source.archives:
            self.unpacked(dest, path, source)
        elif not source.inside and not self.taken_by_unpacked(dest):
            self.put(self.downloadable(dest, path, source))

    def from_clone(self) -> None:
        """Add the files of the repository that a release does not have in their place by itself, whole packages together."""
        files: dict[str, str] = {}
        for path, source in self.found.files.items():
            dest = self.layout.within(path)
            is_own = not posixpath.dirname(dest) and any(
                fnmatch(dest, pattern) for pattern in OWN_FILES
            )
            if (
                dest
                and source.inside
                and not is_own
                and not self.layout.is_code(source.inside, dest)
            ):
                files[dest] = source.inside
        if SETTINGS in files and isinstance(settings := self.yaml(files[SETTINGS]), dict):
            self.settings = settings
            del files[SETTINGS]
        for dest, inside in files.items():
            top = dest.split("/")[0]
            folder = inside.removesuffix(dest.removeprefix(top)) if "/" in dest else ""
            copied = {one for name, one in files.items() if name.startswith(f"{top}/")}
            is_package = folder and any(name.endswith(".py") for name in copied)
            is_whole = is_package and copied == set(self.layout.clone.inside(folder))
            if not self.taken(top if is_whole else dest):
                place, source_path = (top, folder) if is_whole else (dest, inside)
                self.put({"dest": place, "src": str(self.layout.clone.folder / source_path)})
        if code := [dest for dest in files if dest.endswith(".py")]:
            why = "Code from outside of the app's folder: a copy of the clone's. New code in git does not bring it."
            self.notes.add("", 0, ", ".join(code), why)

    def yaml(self, name: str) -> Any:
        """Return the content of a settings file; nothing when it is none."""
        try:
            return yaml.safe_load(self.layout.clone.text(name))
        except yaml.YAMLError:
            return None

    def downloadable(self, dest: str, path: str, source: Source | Download) -> Artifact:
        """Return an artifact of what is downloaded, or lies on the host."""
        unpack = isinstance(source, Source) and source.unpack
        made: Artifact = {"dest": dest}
        if source.command:
            made["command"] = f"{source.command} {shlex.quote(dest)}"
        elif not source.url or (
            self.data_from_host and not (unpack and source.url.endswith(ARCHIVES))
        ):
            made["path"] = path
        else:
            made |= {"url": source.url, "allow_unverified": True}
            if unpack:
                made["unpack"] = True
        if path in self.files.databases or (
            path in self.files.written and path not in self.files.downloads
        ):
            made["writable"] = True
        return made

    # --- archives

    def inside(self, folder: str) -> dict[str, Source]:
        """Return what else the scripts put into a folder in which an archive is unpacked."""
        unknown = {
            path: Source(NO_LINE) for path in sorted(self.found.unknown & self.files.read.keys())
        }
        return {
            path: source
            for path, source in {**self.found.unpacked, **unknown, **self.found.files}.items()
            if path.startswith(f"{folder}/") and not source.inside
        }

    def taken_by_unpacked(self, dest: str) -> bool:
        """Tell whether a command already puts a file into the folder of an archive."""
        return any(
            dest.startswith(f"{one}/") and "inputs" in made for one, made in self.artifacts.items()
        )

    def unpacked(self, dest: str, path: str, source: Source) -> None:
        """Add what comes from archives: one for a folder of its own, or by a command that puts several together."""
        self.used |= {archive.path for archive in source.archives}
        inner = self.inside(path) if source.member == "." else {}
        archive = source.archives[0]
        if self.taken_by_unpacked(dest):
            return
        if len(source.archives) == 1 and not (
            archive.options or source.steps or inner or source.member != "."
        ):
            self.put({"dest": dest, **self.fetched(archive), "unpack": True})
            return
        self.notes.add(
            source.line.file,
            source.line.number,
            ", ".join(one.name for one in source.archives),
            f"Unpacked into one folder, with what else is there: the command of {dest} puts it together. Look at it.",
        )
        folder = dest if source.member == "." else "unpacked"
        commands = [f"mkdir -p {shlex.quote(folder)}"]
        inputs: list[str] = []
        for one in source.archives:
            self.extract(one, folder, commands, inputs)
        commands += [f"(cd {shlex.quote(folder)} && {step})" for step in source.steps]
        for place, one in inner.items():
            target = posixpath.join(folder, posixpath.relpath(place, path))
            if one.archives and one.member == ".":
                commands.append(f"mkdir -p {shlex.quote(target)}")
                for archive in one.archives:
                    self.extract(archive, target, commands, inputs)
                continue
            inputs.append(f"{ARCHIVES_FOLDER}/{posixpath.relpath(place, path)}")
            self.put(self.downloadable(inputs[-1], place, one))
            commands += [
                f"mkdir -p {shlex.quote(posixpath.dirname(target))}",
                f"cp {shlex.join([inputs[-1], target])}",
            ]
        if source.member != ".":
            commands.append(f"mv {shlex.join([posixpath.join(folder, source.member), dest])}")
        self.put({"dest": dest, "command": " && ".join(dict.fromkeys(commands)), "inputs": inputs})

    def extract(
        self, archive: Archive, folder: str, commands: list[str], inputs: list[str]
    ) -> None:
        """Add an archive, and the command that unpacks it into a folder."""
        place = f"{ARCHIVES_FOLDER}/{archive.name}"
        if place not in inputs and place not in self.artifacts:
            self.put({"dest": place, **self.fetched(archive)})
        inputs += [place] if place not in inputs else []
        commands.append(extraction(archive, place, folder))

    def note_archives(self) -> None:
        """Note archives of which it is not known where the app looks for their content."""
        for folder, source in self.found.unpacked.items():
            if unused := [
                archive.path for archive in source.archives if archive.path not in self.used
            ]:
                line = source.archives[0].line
                why = f"Unpacked in {folder}. Which of its files the app reads is not known: add the artifact by hand."
                self.notes.add(
                    line.file, line.number, ", ".join(map(posixpath.basename, unused)), why
                )

    def fetched(self, archive: Archive) -> Artifact:
        """Return where an archive comes from."""
        if archive.source.command:
            target = shlex.quote(f"{ARCHIVES_FOLDER}/{archive.name}")
            return {"command": f"{archive.source.command} {target}"}
        if archive.source.inside:
            return {"src": str(self.layout.clone.folder / archive.source.inside)}
        if not archive.source.url:
            return {"path": archive.path}
        return {"url": archive.source.url, "allow_unverified": True}

    # --- what the code does

    def downloaded(self, path: str, download: Download) -> None:
        """Add what the code downloads when it does not find it; what it downloads each time is written."""
        folders = [folder for folder, archive in self.files.extracted.items() if archive == path]
        tested = {path, posixpath.dirname(path)} & self.files.tested
        dest = self.layout.within(path)
        if folders:
            self.extracted(path, folders[0], download)
        elif dest and tested and not self.taken(dest) and not self.layout.has(dest):
            self.put(self.downloadable(dest, path, download))
        elif dest and not self.taken(dest) and not self.layout.has(dest):
            self.files.written.setdefault(path, download.use)
            self.is_slow = True

    def extracted(self, path: str, folder: str, download: Download) -> None:
        """Add an archive that the code downloads and unpacks when it does not find its content."""
        archive = Archive(
            path, Source(NO_LINE, url=download.url, command=download.command), NO_LINE
        )
        known = sorted(
            one
            for one in [*self.files.tested, *self.files.read]
            if one.startswith(f"{folder}/") and one != path
        )
        dest = self.layout.within(folder)
        if folder in self.files.tested and dest:
            self.unpacked(dest, folder, Source(NO_LINE, archives=(archive,)))
            return
        for one in known:
            top = posixpath.join(folder, posixpath.relpath(one, folder).split("/")[0])
            if (place := self.layout.within(top)) and not self.taken(place):
                member = posixpath.basename(top)
                self.unpacked(place, top, Source(NO_LINE, archives=(archive,), member=member))
        if not known and dest:
            self.files.written |= {path: download.use, f"{folder}/": download.use}
            self.is_slow = True

    def read(self) -> None:
        """Add what the code reads and nothing brings: it lies on the old host."""
        missing = []
        for path in [*self.files.read, *self.files.databases]:
            dest = self.layout.within(path)
            if not dest or self.taken(dest) or self.layout.has(dest) or self.files.is_made(path):
                continue
            if (dest == SETTINGS and self.settings) or path in self.files.downloads:
                continue
            if root := self.found.unpacked.get(self.layout.root):
                self.unpacked(
                    dest,
                    path,
                    Source(root.line, archives=root.archives, steps=root.steps, member=dest),
                )
            elif path in self.files.tested:
                self.notes.add(
                    *self.place(path),
                    "It reads this if it is there. If it was there, add an artifact.",
                )
            else:
                missing.append(dest)
                self.put(self.downloadable(dest, path, Source(NO_LINE)))
        if missing:
            why = "The app reads this, and nothing brings it. It is taken from where it lies on the old host."
            self.notes.add("", 0, ", ".join(missing), why)

    def place(self, path: str) -> tuple[str, int, str]:
        """Return the line that uses a path."""
        use = (self.files.read | self.files.databases | self.files.written)[path]
        return use.file, use.line, use.text

    def written(self) -> None:
        """Add what the code writes beside itself."""
        for path in self.files.written:
            dest = self.layout.within(path.rstrip("/"))
            if dest and not self.taken(dest):
                self.writable.add(dest + ("/" if path.endswith("/") else ""))
            elif not dest and not path.startswith(("/tmp/", "/var/tmp/", "/dev/")):  # noqa: S108
                self.notes.add(
                    *self.place(path), "It writes outside of its folder, which is read-only now."
                )
        folders = {one for one in self.writable if one.endswith("/")}
        self.writable -= {
            one
            for one in self.writable
            for folder in folders
            if one != folder and one.startswith(folder)
        }

    def cached(self) -> None:
        """Let the app's libraries keep what they download."""
        for folder, variables in self.files.caches.items():
            if folder == self.layout.root and "HF_HOME" in variables:
                self.writable |= {"hub/", "xet/"}
            elif folder == self.layout.root and self.files.models:
                self.writable |= {
                    ".locks/",
                    *(f"models--{name.replace('/', '--')}/" for name in self.files.models),
                }
            elif folder == self.layout.root:
                why = "Libraries keep what they download beside the code, which is read-only now: give each as one of "
                self.notes.add(
                    "",
                    0,
                    ", ".join(sorted(variables)) or folder,
                    why + "api_endpoint_writable_paths.",
                )
            elif dest := self.layout.within(folder):
                self.writable.add(f"{dest}/")
        if self.files.models:
            self.is_slow = True
            names = ", ".join(self.files.models)
            why = "Downloaded at the first start, and kept. Another host downloads it again, perhaps a newer one."
            self.notes.add("", 0, names, why)

    def note_unclear(self) -> None:
        """Note what is done at a path that is not known."""
        whys = {
            "write": "It writes here. What lies beside the code is read-only now: see api_endpoint_writable_paths.",
            "database": "It opens this so that it must be writable: writable: true on the artifact.",
            "read": "SQLite. If it writes there: writable: true on the artifact, or api_endpoint_writable_paths.",
        }
        for use, kind in self.files.unclear:
            self.notes.add(use.file, use.line, use.text, whys[kind])


def extraction(archive: Archive, place: str, folder: str) -> str:
    """Return the command that unpacks an archive into a folder."""
    if archive.name.endswith(".zip") or ".zip" in archive.source.url:
        return f"python -m zipfile -e {shlex.join([place, folder])}"
    return shlex.join(["tar", "-xf", place, "-C", folder, *archive.options])
