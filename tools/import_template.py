#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a clone of research-api-endpoint-template, as people have changed it, and write the vars file that does the same.

    tools/import_template.py ../my-old-api                  # into imported/my-old-api.yml
    tools/import_template.py ../my-old-api --data-from-host # the data is taken from where it lies on the host

Nothing of the clone is run. What cannot be translated is listed on the screen and at the top of the vars file.
"""

from __future__ import annotations

import argparse
import configparser
import posixpath
import re
import shlex
import sys
import textwrap
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from old_template.code import App
from old_template.notes import Notes, printable
from old_template.settings import Reader
from old_template.shell import ARCHIVES, Found, Script, Source

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles" / "api_endpoint"
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
# What the defaults look up, by profile.
PROFILES = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))["__api_endpoint_profiles"]
LARGEST = 2_000_000  # bytes of a file that is read
# The set-up script first: what the others say is compared with it.
SCRIPTS = ("*setup*.sh", "release*.sh", "reset*.sh", "*data*.sh")
# Brought by the role, or needed by what it replaces.
NEEDLESS_APT = {
    "bzip2", "curl", "git", "iproute2", "logrotate", "nginx", "openssh-client", "python3-venv", "rsync", "rsyslog",
    "xz-utils", "zstd", "python3", "python3-pip", "python3-wheel", "python3-setuptools", "wget", "virtualenv",
    "python3-virtualenv", "gunicorn",
}  # fmt: skip
NEEDLESS_PIP = {"pip", "wheel", "setuptools", "gunicorn", "uwsgi"}
NOT_BEFORE_FORK = {"torch", "transformers", "sentence_transformers", "sentence-transformers", "tensorflow"}
OWN_FILES = ("*.sh", "*.nginx", "*.service", "*.ini", "gunicorn.conf.py", "__init__.py")
FOREIGN = re.compile(r"\{\{|\{%|\{#")  # what Ansible would evaluate
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


class Clone:
    """The files of a clone; what a link leads to outside of it is none of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.names = sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if ".git" not in path.parts and path.is_file() and path.resolve().is_relative_to(self.folder)
        )

    def text(self, name: str) -> str:
        """Return a file's content."""
        return (self.folder / name).read_bytes()[:LARGEST].decode(errors="replace").replace("\r\n", "\n")

    def named(self, *patterns: str) -> list[str]:
        """Return the files of certain names, in the order of the patterns, those in fewer folders first."""
        found = [
            name
            for pattern in patterns
            for name in sorted(self.names, key=lambda name: (name.count("/"), name))
            if fnmatch(posixpath.basename(name), pattern)
        ]
        return list(dict.fromkeys(found))

    def inside(self, path: str) -> list[str]:
        """Return the files that a path or pattern names, or that are in the folder that it names."""
        return [name for name in self.names if fnmatch(name, path) or f"{name}/".startswith(f"{path}/") or path == "."]

    @property
    def remote(self) -> str:
        """The URL that it was cloned from; git itself is not asked, since a clone can tell it to run something."""
        settings = configparser.ConfigParser(strict=False, interpolation=None)
        try:
            settings.read_string(re.sub(r"(?m)^\s+", "", (self.folder / ".git" / "config").read_text(encoding="utf-8")))
        except (OSError, configparser.Error):
            return ""
        return settings.get('remote "origin"', "url", fallback="")

    @property
    def branch(self) -> str:
        """The branch that is checked out."""
        try:
            head = (self.folder / ".git" / "HEAD").read_text(encoding="utf-8").strip()
        except OSError:
            return ""
        return head.removeprefix("ref: refs/heads/") if head.startswith("ref: ") else ""


class Import:
    """Makes a vars file of a clone."""

    def __init__(self, clone: Clone, *, data_from_host: bool) -> None:
        self.clone = clone
        self.data_from_host = data_from_host
        self.notes = Notes()
        self.variables: dict[str, Any] = {}
        self.found = Found()
        wsgi = clone.named("wsgi.py", "app.py")
        self.subdir = posixpath.dirname(wsgi[0]) if wsgi else ""
        self.wsgi = wsgi[0] if wsgi else ""

    def make(self) -> dict[str, Any]:
        """Return the variables."""
        self.follow_scripts()
        reader = self.read_settings()
        name = self.found.variables.get("APP_LBL", "api-endpoint")
        app = App(name, self.notes)
        for file in (
            file for file in self.clone.named("*.py") if f"{file}/".startswith(f"{self.subdir}/") or not self.subdir
        ):
            if not file.endswith(("gunicorn.conf.py", "setup.py")):
                app.read(self.clone.text(file), file, is_wsgi=file == self.wsgi)
        self.set_name(name)
        self.set_site(reader)
        self.set_code(reader, app)
        self.set_profile()
        self.set_packages(reader)
        self.set_data(name, app)
        self.set_workers(reader, app)
        self.set_environment(reader, app)
        self.set_proof(app)
        return {name: value for name, value in self.variables.items() if self.is_plain(name, value)}

    def decide(self, text: str, why: str, file: str = "", line: int = 0) -> None:
        """Note something that is for people to decide."""
        self.notes.add(file, line, text, why)

    def is_plain(self, name: str, value: Any) -> bool:
        """Tell whether a value says nothing to Ansible; what does is left out, as it would be run on the laptop."""
        if FOREIGN.search(yaml.safe_dump(value, width=10_000)):
            self.decide(f"{name}: {value}", "It has braces that Ansible would evaluate, so it was left out.")
            return False
        return True

    # --- reading

    def follow_scripts(self) -> None:
        """Follow the scripts; the first one says what is, the others are compared."""
        for number, file in enumerate(self.clone.named(*SCRIPTS)):
            # Further scripts find the folders that the first one has made.
            found = Found(folders=set(self.found.folders))
            Script(found, self.notes, self.clone.inside).follow(self.clone.text(file), file)
            if number == 0:
                self.found = found
            else:
                self.compare(found, file)
        if not self.clone.named(*SCRIPTS):
            self.decide(str(self.clone.folder.name), "It has no set-up script: data and packages are not known.")

    def compare(self, other: Found, file: str) -> None:
        """Take what a further script adds, and note where it says something else."""
        mine = self.found
        if other.branch and mine.branch and other.branch != mine.branch:
            self.decide(
                f"--branch {other.branch}", f"The set-up script has the branch {mine.branch}, which was taken.", file
            )
        for path, source in other.files.items():
            if source.url and path in mine.files and mine.files[path].url not in ("", source.url):
                self.decide(
                    source.url,
                    f"The set-up script brings {mine.files[path].url} there, which was taken.",
                    file,
                    source.line.number,
                )
            elif source.url:
                mine.files.setdefault(path, source)
        for name in ("apt", "pip", "extra_indexes", "requirements"):
            mine_list: list[str] = getattr(mine, name)
            mine_list += [value for value in getattr(other, name) if value not in mine_list]
        mine.repository, mine.branch = mine.repository or other.repository, mine.branch or other.branch
        known = {command for _, command in mine.commands}
        mine.commands += [(line, command) for line, command in other.commands if command not in known]

    def read_settings(self) -> Reader:
        """Read the settings files. What the unit says wins, so it is read last."""
        reader = Reader(self.notes)
        for pattern, read in (
            ("gunicorn*.py", reader.gunicorn_conf),
            ("*uwsgi*.ini", reader.uwsgi_ini),
            ("model.service", reader.service),
            ("model.nginx", reader.nginx),
        ):
            for file in self.clone.named(pattern)[:1]:
                read(self.clone.text(file), file)
        return reader

    # --- the variables, in the order of the vars file

    def set_name(self, name: str) -> None:
        """Keep the name that the folders on the host have."""
        if name != "api-endpoint" and NAME.fullmatch(name):
            self.variables["api_endpoint_name"] = name
        elif name != "api-endpoint":
            self.decide(f"APP_LBL={name}", "This cannot be the name of an endpoint. Choose an api_endpoint_name.")

    def set_site(self, reader: Reader) -> None:
        """Set the public names and what nginx does."""
        names = reader.variables.pop("api_endpoint_server_names", [])
        if not names:
            self.decide("api_endpoint_server_names", "No name was found. Give the public name of the API.")
        self.variables |= {"api_endpoint_server_names": names, **reader.variables}

    def set_code(self, reader: Reader, app: App) -> None:
        """Set where the code comes from."""
        scripted, cloned = self.found.repository, self.clone.remote
        url, branch = scripted or cloned, (self.found.branch if scripted else "") or self.clone.branch
        if scripted and cloned and plain_url(scripted) != plain_url(cloned):
            self.decide(cloned, f"This is where the clone is from; the set-up script has {scripted}, which was taken.")
        if url:
            self.variables |= {"api_endpoint_git_url": url, "api_endpoint_git_version": branch or "HEAD"}
            if re.match(r"(ssh://|[\w.-]+@)", url):
                self.decide(url, "This needs a key that may read it: api_endpoint_git_key.")
        else:
            self.variables["api_endpoint_app_dir"] = str(self.clone.folder)
        if self.subdir:
            self.variables["api_endpoint_app_subdir"] = self.subdir
        if not self.wsgi:
            self.decide("wsgi.py", "There is none. Give api_endpoint_wsgi and api_endpoint_app_subdir.")
        given = reader.gunicorn.pop("wsgi_app", "")
        module = posixpath.basename(self.wsgi).removesuffix(".py") or "wsgi"
        named = next((name for name in ("app", "application") if name in app.names), "app")
        wsgi = given or f"{module}:{named}"
        if wsgi != DEFAULTS["api_endpoint_wsgi"]:
            self.variables["api_endpoint_wsgi"] = wsgi

    def set_packages(self, reader: Reader) -> None:
        """Set Debian's packages and Python's."""
        apt = [name for name in dict.fromkeys(self.found.apt) if name not in NEEDLESS_APT and "uwsgi" not in name]
        self.add("api_endpoint_apt_packages", apt)
        files = [name for name in dict.fromkeys(self.found.requirements) if name]
        usual = posixpath.join(self.subdir, "requirements.txt")
        if files and files[0] not in ("requirements.txt", usual):
            self.add("api_endpoint_requirements_file", files[0])
        for name in files[1:]:
            self.decide(f"pip install -r {name}", "A second file of requirements: name it in the first one with -r.")
        self.add(
            "api_endpoint_pip_packages", [one for one in dict.fromkeys(self.found.pip) if name_of(one) not in NEEDLESS_PIP]
        )
        gunicorn = next((one for one in self.found.pip if one.startswith("gunicorn[")), "")
        if gunicorn or str(reader.gunicorn.get("worker_class")) == "gevent":
            extra = re.sub(r"^gunicorn|[<>=!~].*$", "", gunicorn) or "[gevent]"
            self.add("api_endpoint_gunicorn", DEFAULTS["api_endpoint_gunicorn"].replace("gunicorn", f"gunicorn{extra}", 1))
        if "uwsgi" in self.required():
            self.add("api_endpoint_pip_exclude", ["uwsgi"])
        if self.required() & {"fasttext", "fasttext-wheel"}:
            self.decide(
                "fasttext",
                'It does not get along with numpy 2, unless it was fixed: api_endpoint_pip_constraints: ["numpy<2"].',
            )
        self.add("api_endpoint_pip_index_url", self.found.index_url)
        self.add("api_endpoint_pip_extra_index_urls", list(dict.fromkeys(self.found.extra_indexes)))

    def set_profile(self) -> None:
        """Set the framework, where the role knows that it needs something of the sandbox."""
        if "torch" in self.required():
            self.variables["api_endpoint_profile"] = "pytorch"

    def number(self, name: str) -> int:
        """Return what a setting is, given or by the profile."""
        profile = PROFILES["plain"] | PROFILES[self.variables.get("api_endpoint_profile", "plain")]
        return int(self.variables.get(f"api_endpoint_{name}", profile[name]))

    def required(self) -> set[str]:
        """Return the names of the packages in the requirements file, and of those that the scripts install."""
        files = [
            name for name in [*self.found.requirements, *self.clone.named("requirements.txt")] if name in self.clone.names
        ]
        lines = self.clone.text(files[0]).splitlines() if files else []
        return {name_of(line) for line in [*lines, *self.found.pip]} - {""}

    def set_data(self, name: str, app: App) -> None:
        """Set the model data, and where the app looks for it."""
        roots, mounts = [f"/etc/{name}", *sorted(app.mounts)], set(app.mounts)
        artifacts: list[dict[str, Any]] = []
        for path, source in self.found.files.items():
            root = next((root for root in [*roots, "/extrastorage"] if path.startswith(f"{root}/")), "")
            if root == "/extrastorage":
                mounts.add(root)
            if root:
                artifacts += self.artifact(posixpath.relpath(path, root), path, source, app)
            elif source.url:
                self.decide(
                    source.line.text,
                    f"It ends at {path}, where the app does not look.",
                    source.line.file,
                    source.line.number,
                )
        artifacts = [one for one in artifacts if self.has_room(one, artifacts)]
        self.variables["api_endpoint_artifacts"] = artifacts
        if unverified := [one["dest"] for one in artifacts if one.get("allow_unverified")]:
            self.decide(
                ", ".join(unverified), "No checksum is known: a damaged download is taken as it comes. Give sha256 instead."
            )
        for missing in sorted(app.opened_for_writing - {one["dest"] for one in artifacts}):
            self.decide(
                missing, "It opens this for writing: api_endpoint_writable_paths, or an artifact with writable: true."
            )
        written = sorted(path for path in app.written if not any(f"{one['dest']}/".startswith(path) for one in artifacts))
        self.add("api_endpoint_writable_paths", written)
        if mounts:
            self.variables["api_endpoint_release_mounts"] = [f"/etc/{name}", *sorted(mounts)]
        if "/extrastorage" in mounts:
            self.decide(
                "/extrastorage",
                "The app sees its release there, so what lay on that volume must be an artifact. For large data on the "
                "volume itself: api_endpoint_volume, or an api_endpoint_data_dir on another mount of it.",
            )

    def has_room(self, artifact: dict[str, Any], others: list[dict[str, Any]]) -> bool:
        """Tell whether nothing else is in the place of an artifact; an archive that lands among other files is noted."""
        dest = artifact["dest"]
        within = [other for other in others if other is not artifact and f"{other['dest']}/".startswith(f"{dest}/")]
        if within:
            self.decide(artifact.get("url", dest), f"It goes to {dest}, among other files. Give it a folder of its own.")
        return not within

    def artifact(self, dest: str, path: str, source: Source, app: App) -> list[dict[str, Any]]:
        """Return a file on the host as an artifact; nothing for what is code or the role's business."""
        if source.inside:
            is_code = source.inside == posixpath.join(self.subdir, dest)
            if is_code or any(fnmatch(posixpath.basename(dest), pattern) for pattern in OWN_FILES):
                return []
            return [{"dest": dest, "src": str(self.clone.folder / source.inside)}]
        is_file = not source.unpack or not source.url.endswith(ARCHIVES)
        made: dict[str, Any] = {"dest": dest}
        if (self.data_from_host and is_file) or not source.url:
            made["path"] = path
        else:
            made |= {"url": source.url, "allow_unverified": True}
            if source.unpack:
                made["unpack"] = True
        if dest in app.opened_for_writing | app.written:
            made["writable"] = True
        return [made]

    def set_workers(self, reader: Reader, app: App) -> None:
        """Set what gunicorn does."""
        given = dict(reader.gunicorn)
        if not given:
            return
        threads = int(given.pop("threads", 1))
        kind = str(given.pop("worker_class", "sync"))
        if kind == "gthread" or (kind == "sync" and threads > 1):
            self.variables |= {"api_endpoint_worker_class": "threads", "api_endpoint_threads": threads}
        elif kind in ("sync", "gevent"):
            self.variables["api_endpoint_worker_class"] = kind
        else:
            self.decide(f"worker_class = {kind}", "The role has threads, sync and gevent. It was left at threads.")
        for name in ("workers", "timeout", "graceful_timeout", "max_requests"):
            if name in given:
                self.variables[f"api_endpoint_{name}"] = given.pop(name)
        # gunicorn's own default, which the role turned round.
        self.variables["api_endpoint_preload"] = bool(given.pop("preload_app", False))
        self.add("api_endpoint_gunicorn_settings", given)
        timeout = self.number("timeout")
        if self.number("proxy_timeout") <= timeout:
            self.variables["api_endpoint_proxy_timeout"] = timeout + 30
        at_once = self.number("workers") * threads
        if at_once > DEFAULTS["api_endpoint_max_concurrency"]:
            self.variables["api_endpoint_max_concurrency"] = at_once
        if self.variables["api_endpoint_preload"] and (NOT_BEFORE_FORK & (app.imports | self.required())):
            self.decide(
                "preload_app = True",
                "PyTorch and its kin may hang when they are loaded before the fork: api_endpoint_preload: false.",
            )

    def set_environment(self, reader: Reader, app: App) -> None:
        """Set the environment, and the request headers that the app reads."""
        self.add("api_endpoint_environment", reader.environment)
        self.add("api_endpoint_request_headers", sorted(app.headers))
        for line, command in self.found.commands:
            if any(word.startswith("/") for word in shlex.split(command)) or not self.is_there(command):
                why = (
                    "If it makes data of data: an artifact with a command. Otherwise api_endpoint_build_commands or "
                    "api_endpoint_warm_up."
                )
                self.decide(line.text, why, line.file, line.number)
                continue
            self.variables.setdefault("api_endpoint_build_commands", []).append(command)
            why = (
                "It runs when a release is built. What it writes can only be read afterwards, unless it is in "
                "api_endpoint_writable_paths."
            )
            self.decide(line.text, why, line.file, line.number)

    def is_there(self, command: str) -> bool:
        """Tell whether the program that a command runs is in the app's folder."""
        return posixpath.join(self.subdir, shlex.split(command)[1]) in self.clone.names

    def set_proof(self, app: App) -> None:
        """Set what proves a version; the old template asked nothing."""
        self.variables |= {
            "api_endpoint_health_path": "/",
            "api_endpoint_health_status": [],
            "api_endpoint_smoke_requests": [],
        }
        routes = ", ".join(app.routes[:6]) or "none found"
        self.decide(
            f"api_endpoint_smoke_requests (routes: {routes})",
            "Give one real question with a piece of its answer: it proves each new version.",
        )

    def add(self, name: str, value: Any) -> None:
        """Set a variable that has a value."""
        if value:
            self.variables[name] = value


def plain_url(url: str) -> str:
    """Return a repository's URL as it is compared with another."""
    return (
        re.sub(r"^(https?://|ssh://|git://|[\w.-]+@)", "", url)
        .removesuffix("/")
        .removesuffix(".git")
        .replace(":", "/")
        .lower()
    )


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about; empty for an option or a comment."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""


def report(notes: Notes) -> str:
    """Return what is to be looked at, as text."""
    lines = []
    for note in notes.found:
        place = f"{note.file}:{note.line}: " if note.line else (f"{note.file}: " if note.file else "")
        lines += textwrap.wrap(
            f"- {place}{note.text}", 116, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
        lines += textwrap.wrap(note.why, 114, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def document(name: str, variables: dict[str, Any], notes: Notes) -> str:
    """Return the vars file."""
    comment = "\n".join(f"# {line}".rstrip() for line in report(notes).splitlines())
    body = yaml.safe_dump(variables, sort_keys=False, allow_unicode=True, width=110)
    return (
        f"---\n# Made of {printable(name)} by tools/import_template.py.\n"
        f"#\n# Please look at each of these, decide, and remove it:\n#\n{comment}\n\n{body}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="folder of the clone")
    parser.add_argument("--output", type=Path, help="file to write, instead of imported/<name of the folder>.yml")
    parser.add_argument("--data-from-host", action="store_true", help="take the data from where it lies on the host")
    given = parser.parse_args(arguments)
    if not given.clone.is_dir():
        parser.error(f"{given.clone} is no folder")
    name = given.clone.resolve().name
    output: Path = given.output or PROJECT / "imported" / f"{name}.yml"
    if output.exists():
        parser.error(f"{output} is there already, and is not overwritten. Move it away, or give another --output.")
    work = Import(Clone(given.clone), data_from_host=given.data_from_host)
    text = document(name, work.make(), work.notes)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    print(f"{report(work.notes)}\n\nWritten to {output}; what stands above stands there too.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
