#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a clone of research-api-endpoint-template, as people have changed it, and make an endpoint that does the same.

    tools/import_template.py ../my-old-api                  # into endpoints/my-old-api/
    tools/import_template.py ../my-old-api --data-from-host # the data is taken from where it lies on the host

Nothing of the clone is run. What cannot be translated is listed on the screen and at the top of the vars file.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import ansible.module_utils
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))

from old_template import identity
from old_template.clone import Clone
from old_template.code import App
from old_template.data import Data
from old_template.layout import Layout
from old_template.notes import Notes, printable
from old_template.packages import Packages
from old_template.settings import Reader
from old_template.shell import WRITES, Found, Script, Source

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles" / "api_endpoint"
SKELETON = PROJECT / "skeleton" / "common"
PLACEHOLDER = "my-api"  # of the skeleton
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
# What the defaults look up, by profile.
PROFILES = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))[
    "__api_endpoint_profiles"
]
# The set-up script first: what the others say is compared with it.
SCRIPTS = ("*setup*.sh", "release*.sh", "reset*.sh", "*data*.sh")
WIDEST = 130  # letters of a line, for yamllint
FOREIGN = re.compile(r"\{\{|\{%|\{#")  # what Ansible would evaluate
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def is_one(path: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether a file of the host is of a kind; nginx's sites have any name."""
    has_name = any(fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
    return has_name or ("*.nginx" in patterns and "/nginx/sites-" in path)


class Import:
    """Makes the variables of a clone."""

    def __init__(self, clone: Clone, *, data_from_host: bool) -> None:
        self.clone = clone
        self.data_from_host = data_from_host
        self.notes = Notes()
        self.variables: dict[str, Any] = {}
        self.found = Found()

    def make(self) -> dict[str, Any]:
        """Return the variables."""
        self.follow_scripts()
        reader = self.read_settings()
        layout = Layout(
            self.clone, self.found, reader.chdir, str(reader.gunicorn.get("wsgi_app", ""))
        )
        app = App(layout, self.notes, lambda line: self.brought_by(line, layout.cwd))
        app.read({file: self.clone.text(file) for file in layout.modules()})
        packages = Packages(self.found, layout, self.notes)
        data = Data(
            layout, self.found, app.files, self.notes, data_from_host=self.data_from_host
        ).variables()
        self.set_name(layout.name)
        self.set_site(reader, app)
        self.set_code(reader, layout, app)
        if "torch" in packages.names:
            self.variables["api_endpoint_profile"] = "pytorch"
        settings = self.variables.get("api_endpoint_service_settings", {}) | data.pop(
            "api_endpoint_service_settings", {}
        )
        self.add("api_endpoint_service_settings", settings)
        self.variables |= packages.variables(self.server(reader)) | data
        self.set_workers(reader)
        self.set_environment(reader, app, layout)
        self.set_proof(app)
        return {name: value for name, value in self.variables.items() if self.is_plain(name, value)}

    def decide(self, text: str, why: str, file: str = "", line: int = 0) -> None:
        """Note something that is for people to decide."""
        self.notes.add(file, line, text, why)

    def is_plain(self, name: str, value: Any) -> bool:
        """Tell whether a value says nothing to Ansible; what does is left out, as it would be run on the laptop."""
        if FOREIGN.search(yaml.safe_dump(value, width=10_000)):
            self.decide(
                f"{name}: {value}", "It has braces that Ansible would evaluate, so it was left out."
            )
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
            self.decide(
                str(self.clone.folder.name),
                "It has no set-up script: data and packages are not known.",
            )

    def brought_by(self, command: str, cwd: str) -> dict[str, Source]:
        """Return what a command that the app starts brings, by its path."""
        script = Script(Found(), Notes(), self.clone.inside)
        script.cwd = cwd
        script.follow(command, "")
        return {
            path: source
            for path, source in script.found.files.items()
            if source.url or source.command
        }

    def compare(self, other: Found, file: str) -> None:
        """Take what a further script adds, and note where it says something else."""
        mine = self.found
        known = {source.url: path for path, source in mine.files.items() if source.url}
        for path, source in other.files.items():
            if source.url and path in mine.files and mine.files[path].url not in ("", source.url):
                why = f"The set-up script brings {mine.files[path].url} there, which was taken."
                self.decide(source.url, why, file, source.line.number)
            elif source.url and known.get(source.url, path) != path:
                why = f"This goes to {path} here, and to {known[source.url]} in the set-up script, which was taken."
                self.decide(source.url, why, file, source.line.number)
            elif source.url:
                mine.files.setdefault(path, source)
        for folder, source in other.unpacked.items():
            mine.unpacked.setdefault(folder, source)
        for name in ("apt", "pip", "extra_indexes", "requirements"):
            mine_list: list[str] = getattr(mine, name)
            mine_list += [value for value in getattr(other, name) if value not in mine_list]
        if other.branch and mine.branch and other.branch != mine.branch:
            self.decide(
                f"--branch {other.branch}", f"The set-up script has the branch {mine.branch}.", file
            )
        mine.repository, mine.branch = (
            mine.repository or other.repository,
            mine.branch or other.branch,
        )
        commands = {command for _, command in mine.commands}
        mine.commands += [
            (line, command) for line, command in other.commands if command not in commands
        ]

    def read_settings(self) -> Reader:
        """Read the settings files. What the unit says wins, so it is read last."""
        reader = Reader(self.notes)
        unread = dict(self.found.written)
        for patterns, read in (
            (("gunicorn*.py",), reader.gunicorn_conf),
            (("*uwsgi*.ini",), reader.uwsgi_ini),
            (("model.service", "*.service"), reader.service),
            (("model.nginx", "*.nginx", "*nginx*.conf", "*.conf"), reader.nginx),
        ):
            texts = [(file, self.clone.text(file)) for file in self.clone.named(*patterns)]
            # A text that the script writes is the host's, whatever lies in the clone.
            texts = [
                (line.file, text)
                for path, (line, text) in self.found.written.items()
                if is_one(path, patterns)
            ] + texts
            if read == reader.nginx:
                texts = [(file, text) for file, text in texts if re.search(r"\bserver\s*\{", text)]
            for file, text in texts[:1]:
                read(text, file)
                unread = {path: it for path, it in unread.items() if it[1] != text}
            for file, _text in texts[1:]:
                self.decide(file, f"There are several of this kind; {texts[0][0]} was read.")
        for line, _text in unread.values():
            self.decide(line.text, WRITES, line.file, line.number)
        return reader

    # --- the variables, in the order of the vars file

    def set_name(self, name: str) -> None:
        """Keep the name that the folders on the host have."""
        if name != "api-endpoint" and NAME.fullmatch(name):
            self.variables["api_endpoint_name"] = name
        elif name != "api-endpoint":
            self.decide(
                f"APP_LBL={name}",
                "This cannot be the name of an endpoint. Choose an api_endpoint_name.",
            )

    def set_site(self, reader: Reader, app: App) -> None:
        """Set the public names and what nginx does."""
        names = reader.variables.pop("api_endpoint_server_names", [])
        branch = (
            self.clone.branch
            if self.clone.branch not in identity.USUAL_BRANCHES
            else self.found.branch
        )
        words = [branch, self.clone.remote or self.clone.folder.name, *app.imports, *app.routes]
        identity.ask_for_names(names, words, self.notes)
        self.variables |= {"api_endpoint_server_names": names, **reader.variables}

    def set_code(self, reader: Reader, layout: Layout, app: App) -> None:
        """Set where the code comes from, and what of it is the app."""
        url, branch = identity.source(self.clone, self.found, self.notes)
        if url:
            self.variables |= {"api_endpoint_git_url": url, "api_endpoint_git_version": branch}
            if re.match(r"https?://[^/]*@", url):
                self.decide(
                    "api_endpoint_git_url",
                    "It has a password or token in plain text. Move it to Ansible Vault, and renew it.",
                )
            if re.match(r"(ssh://|[\w.-]+@)", url):
                self.decide(url, "This needs a key that may read it: api_endpoint_git_key.")
        else:
            self.variables["api_endpoint_app_dir"] = str(self.clone.folder)
        self.add("api_endpoint_app_subdir", layout.subdir)
        if not layout.wsgi:
            self.decide(
                "wsgi.py",
                "The file is missing. Give api_endpoint_wsgi and api_endpoint_app_subdir.",
            )
        if app.imports & {"fastapi", "starlette"}:
            self.decide(
                "FastAPI",
                "This app speaks ASGI, and the role runs WSGI apps: wrap it, with a2wsgi for example.",
            )
        named = next((name for name in ("app", "application") if name in app.names), "app")
        given = str(reader.gunicorn.pop("wsgi_app", "")).partition(":")[2]
        wsgi = f"{layout.module}:{given or named}"
        if wsgi != DEFAULTS["api_endpoint_wsgi"]:
            self.variables["api_endpoint_wsgi"] = wsgi
        # Its own folder is on the path by itself.
        given_path = [
            layout.within(one.rstrip("/"))
            for one in str(reader.gunicorn.pop("pythonpath", "")).split(",")
        ]
        self.add("api_endpoint_gunicorn_settings", self.path([*given_path, layout.start]))
        if layout.start and layout.wsgi:
            why = "gunicorn started in this folder. The app is imported from there; a relative path begins one above now."
            self.decide(layout.cwd, why)

    def path(self, folders: list[str]) -> dict[str, str]:
        """Return the setting for the folders of the app from which it imports."""
        found = ",".join(dict.fromkeys(folder for folder in folders if folder))
        return {"pythonpath": found} if found else {}

    def server(self, reader: Reader) -> str:
        """Return the requirement for gunicorn, when it is another one than the role's own."""
        gunicorn = next((one for one in self.found.pip if one.startswith("gunicorn[")), "")
        if not gunicorn and str(reader.gunicorn.get("worker_class")) != "gevent":
            return ""
        extra = re.sub(r"^gunicorn|[<>=!~].*$", "", gunicorn) or "[gevent]"
        return str(DEFAULTS["api_endpoint_gunicorn"]).replace("gunicorn", f"gunicorn{extra}", 1)

    def number(self, name: str) -> int:
        """Return what a setting is, given or by the profile."""
        profile = PROFILES["plain"] | PROFILES[self.variables.get("api_endpoint_profile", "plain")]
        return int(self.variables.get(f"api_endpoint_{name}", profile[name]))

    def set_workers(self, reader: Reader) -> None:
        """Set what gunicorn does."""
        given = dict(reader.gunicorn)
        if not given:
            return
        settings = self.variables.pop("api_endpoint_gunicorn_settings", {})
        threads = int(given.pop("threads", 1))
        kind = str(given.pop("worker_class", "sync"))
        if kind == "gthread" or (kind == "sync" and threads > 1):
            self.variables |= {
                "api_endpoint_worker_class": "threads",
                "api_endpoint_threads": threads,
            }
        elif kind in ("sync", "gevent"):
            self.variables["api_endpoint_worker_class"] = kind
        else:
            self.decide(
                f"worker_class = {kind}",
                "The role has threads, sync and gevent. It was left at threads.",
            )
        for name in ("workers", "timeout", "graceful_timeout", "max_requests"):
            if name in given:
                self.variables[f"api_endpoint_{name}"] = given.pop(name)
        # Where the app was preloaded, the role finds out by itself whether that is safe.
        if given.pop("preload_app", None) is False:
            self.variables["api_endpoint_preload"] = False
        self.add("api_endpoint_gunicorn_settings", given | settings)
        timeout = self.number("timeout")
        if self.number("proxy_timeout") <= timeout:
            self.variables["api_endpoint_proxy_timeout"] = timeout + 30
        at_once = self.number("workers") * threads
        if at_once > DEFAULTS["api_endpoint_max_concurrency"]:
            self.variables["api_endpoint_max_concurrency"] = at_once

    def set_environment(self, reader: Reader, app: App, layout: Layout) -> None:
        """Set the environment, and the request headers that the app reads."""
        self.add("api_endpoint_environment", reader.environment)
        self.add("api_endpoint_request_headers", sorted(app.headers))
        if unknown := [name for name in app.variables if name not in reader.environment]:
            why = "The app reads these from its environment: api_endpoint_environment, or api_endpoint_secrets."
            self.decide(", ".join(unknown), why)
        for line, command in self.found.commands:
            program = shlex.split(command)[1]
            has_folder = self.variables.get("api_endpoint_release_mounts") != []
            if any(word.startswith("/") for word in shlex.split(command)) or not (
                has_folder and layout.has(program)
            ):
                why = (
                    "If it makes data of data: an artifact with a command. Otherwise api_endpoint_build_commands or "
                    "api_endpoint_warm_up."
                )
                self.decide(line.text, why, line.file, line.number)
                continue
            self.variables.setdefault("api_endpoint_build_commands", []).append(command)
            why = (
                "It runs when a release is built. The files that it writes can only be read afterwards, unless they are in "
                "api_endpoint_writable_paths."
            )
            self.decide(line.text, why, line.file, line.number)

    def set_proof(self, app: App) -> None:
        """Set what proves a version; the old template asked nothing."""
        if unverified := [
            one["dest"]
            for one in self.variables["api_endpoint_artifacts"]
            if one.get("allow_unverified")
        ]:
            self.decide(
                ", ".join(unverified),
                "No checksum is known: a damaged download is taken as it comes. Give sha256 instead.",
            )
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


def report(notes: Notes) -> str:
    """Return what is to be looked at, as text."""
    lines = []
    for note in notes.found:
        place = (
            f"{note.file}:{note.line}: " if note.line else (f"{note.file}: " if note.file else "")
        )
        lines += textwrap.wrap(
            f"- {place}{note.text}",
            116,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        lines += textwrap.wrap(
            note.why, 114, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "\n".join(lines)


class Indented(yaml.SafeDumper):
    """Writes YAML as yamllint wants it, with lists set in."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Begin a list or a dictionary."""
        super().increase_indent(flow, indentless=False)


def document(name: str, variables: dict[str, Any], notes: Notes) -> str:
    """Return the vars file."""
    comment = "\n".join(f"# {line}".rstrip() for line in report(notes).splitlines())
    body = yaml.dump(variables, Dumper=Indented, sort_keys=False, allow_unicode=True, width=110)
    is_wide = any(len(line) > WIDEST for line in [*comment.splitlines(), *body.splitlines()])
    rule = "# yamllint disable rule:line-length\n" if is_wide else ""
    return (
        f"---\n{rule}# Made of {printable(name)} by tools/import_template.py.\n"
        f"#\n# Please look at each of these, decide, and remove it:\n#\n{comment}\n\n{body}"
    )


def endpoint(folder: Path, clone: Clone, variables: dict[str, Any], notes: Notes) -> None:
    """Make an endpoint's folder, all of it or nothing: its inventory, its variables, and its files of the clone."""
    name = folder.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        made = Path(temporary) / name
        (made / "host_vars").mkdir(parents=True)
        inventory = (SKELETON / "inventory.yml").read_text(encoding="utf-8")
        (made / "inventory.yml").write_text(inventory.replace(PLACEHOLDER, name), encoding="utf-8")
        for artifact in variables.get("api_endpoint_artifacts", []):
            if "src" in artifact:
                target = made / "files" / artifact["dest"]
                target.parent.mkdir(parents=True, exist_ok=True)
                if Path(artifact["src"]).is_dir():
                    shutil.copytree(artifact["src"], target)
                else:
                    shutil.copyfile(artifact["src"], target)
                artifact["src"] = f"{{{{ inventory_dir }}}}/files/{artifact['dest']}"
        text = document(clone.folder.name, variables, notes)
        (made / "host_vars" / f"{name}.yml").write_text(text, encoding="utf-8")
        made.rename(folder)


def check_of(endpoint: Path) -> str:
    """Return the command that says what a deployment of the endpoint would do."""
    ansible.module_utils.__path__.append(str(ROLE / "module_utils"))
    from ansible.module_utils.api_endpoint.controller.commands import USUAL, command

    sources = [str((endpoint / "inventory.yml").resolve())]
    return str(command(f"{USUAL}site.yml --check", sources, str(PROJECT)))


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clone", type=Path, help="folder of the clone")
    parser.add_argument(
        "--endpoints",
        type=Path,
        default=PROJECT / "endpoints",
        help="folder in which the endpoint is made",
    )
    parser.add_argument("--output", type=Path, help="write the variables alone, into this file")
    parser.add_argument(
        "--data-from-host", action="store_true", help="take the data from where it lies on the host"
    )
    given = parser.parse_args(arguments)
    if not given.clone.is_dir():
        parser.error(f"{given.clone} is no folder")
    clone = Clone(given.clone)
    name = re.sub(r"[^a-z0-9]+", "-", clone.folder.name.lower()).strip("-")
    output: Path = given.output or given.endpoints / name
    if output.exists():
        parser.error(
            f"{output} is there already, and is not overwritten. Move it away, or give another --output."
        )
    work = Import(clone, data_from_host=given.data_from_host)
    variables = work.make()
    if given.output:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(document(clone.folder.name, variables, work.notes), encoding="utf-8")
    else:
        endpoint(output, clone, variables, work.notes)
    print(f"{report(work.notes)}\n\nWritten to {output}; what stands above stands there too.")
    if not given.output:
        print(f"Put the host into {output}/inventory.yml, then: {check_of(output)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
