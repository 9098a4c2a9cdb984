# SPDX-License-Identifier: GPL-3.0-or-later
"""The requirements of an app as people write them: files of any editor, pyproject.toml, and files of other tools.

Read on the laptop for a folder and on the host for git, before pip sees anything. Each line becomes a `Requirement` that
means the same on the host: a path within the code is carried along, a path of the laptop is a problem with a remedy. No
index is ever asked for a name that a file expects from a local place.
"""

from __future__ import annotations

import codecs
import glob
import json
import optparse
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote, unquote, urlsplit

from ansible.module_utils.api_endpoint.digests import walk
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import escapes, is_within
from ansible.module_utils.api_endpoint.urls import BROKEN_URL, has_broken_password, hide, take

FILE = "requirements.json"  # in the store: what was read
LOCAL = "@LOCAL@"  # in a requirement: the folder on the host with what was carried along
BOMS = (  # the longer first: one is the beginning of another
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
# Characters that word processors, chats and web pages put in the place of spaces and quotes, or between letters.
LOOKALIKES = {
    **dict.fromkeys(map(ord, "\u00a0\u2007\u202f\u3000"), " "),
    **dict.fromkeys(map(ord, "\u200b\u2060\ufeff\x1a"), ""),
    **dict.fromkeys(map(ord, "\u201c\u201d"), '"'),
    **dict.fromkeys(map(ord, "\u2018\u2019"), "'"),
    **dict.fromkeys(map(ord, "\u2013\u2014"), "--"),
}
NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?")
NAMED_URL = re.compile(NAMED.pattern + r"\s*@\s*(.+)")
BY_NAME = re.compile(
    NAMED.pattern + r"\s*\(?\s*((===?|[~!<>]=|[<>])\s*[^\s,;<>=~()]+\s*,?\s*)*\)?"
)  # with versions
SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9.+-]+:(?!\s)")  # of two letters at least: C: is a disk
SCP = re.compile(r"(?:git\+)?(?:ssh://)?[\w.-]+@[\w.-]+:(?!/|\d+/)")  # user@host:path
ARCHIVE = re.compile(r"(?i)\.(whl|zip|tgz|tbz|txz|tar(\.(gz|bz2|xz|lzma))?)$")
SETUP_NAME = re.compile(
    r"""(?m)^\s*(?:.*\bsetup\(\s*)?name\s*=\s*["']?([A-Za-z0-9][A-Za-z0-9._-]*)["']?\s*(?:[,)]|$)"""
)
FILE_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*?)-(\d[^-]*)(-.*)?$")
PATH = re.compile(r"[./~\\]|[A-Za-z]:[\\/]|[^\s=<>!~;]*[\\/]")
VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")  # as pip knows them
CONDA = re.compile(r"[\w.-]+=[\w.!+*]+(=\w+)?")
EDITABLE = re.compile(r"(?:-e|--e\w*)[\s=]*(.*?)(?:\s+(-\S.*))?")
# Names of the project's folder in several tools.
PROJECT = re.compile(r"(?:file:/{0,3})?\$\{(?:PROJECT_ROOT|PWD)\}/?|\{root:uri\}/?")
LAPTOP = re.compile(r"(?i)(localhost|127(\.\d+){3}|\[?::1\]?|0\.0\.0\.0|host\.docker\.internal)$")
# The Pythons and processors that a host may have.
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
MACHINES = ("x86_64", "aarch64")
# Of a file with hashes pip demands one for each line.
HASH = re.compile(r"(?:\s--hash[= ]|#(?:.*&)?(?:sha256|sha384|sha512)=)")

FREEZE = "`pip list --format=freeze > requirements.txt` writes names and versions where conda's `pip freeze` writes paths"
CARRY = "Put it into the app's folder and give its path from there, or name a package of an index"
LEAD = "The code has no requirements.txt, which says what the app needs."
EXPORT_CONDA = "conda run --name NAME pip list --format=freeze > requirements.txt"
# Files that say what an app requires, in the order in which they are looked for, and what makes a requirements.txt of each.
COMMANDS = {
    "poetry.lock": "poetry export --format requirements.txt --output requirements.txt",
    "uv.lock": "uv export --no-dev --no-emit-project --output-file requirements.txt",
    "pdm.lock": "pdm export --prod --output requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
    "pylock.toml": "uv pip compile pylock.toml --output-file requirements.txt",
    "pixi.lock": "pixi run pip list --format=freeze > requirements.txt",
    "conda-lock.yml": EXPORT_CONDA,
    "Pipfile": "pipenv lock && pipenv requirements > requirements.txt",
    "environment.yml": EXPORT_CONDA,
    "environment.yaml": EXPORT_CONDA,
    "requirements.in": "pip-compile requirements.in",
    "setup.py": "echo . > requirements.txt",
    "setup.cfg": "echo . > requirements.txt",
}
# Tables of tools that say, beside a project's own dependencies, where packages are or which there are more.
SOURCES: dict[str, Callable[[dict[str, Any]], bool]] = {
    "uv": lambda uv: bool(
        {"sources", "index", "index-url", "extra-index-url", "find-links", "no-index"} & set(uv)
    ),
    "Poetry": lambda poetry: (
        "source" in poetry
        or any(
            {"path", "git", "url", "file", "source"} & set(_table(it))
            for it in poetry.get("dependencies", {}).values()
        )
    ),
    "PDM": lambda pdm: "source" in pdm,
    "Pixi": lambda pixi: (
        bool(set(pixi.get("dependencies", {})) - {"python"})
        or any(_table(it).get("path") != "." for it in pixi.get("pypi-dependencies", {}).values())
    ),
}
LOCKS = tuple(name for name in COMMANDS if "lock" in name)
PRODUCTION = (
    "prod",
    "main",
    "deploy",
    "base",
    "default",
)  # in names of files, of which one is likely to be for a host


USERS_OF_GIT = {"dvc", "gitpython", "mlflow", "setuptools-scm", "wandb"}  # they run it


@dataclass
class Requirement:
    """One line, as pip gets it."""

    text: str  # as pip gets it
    where: str = ""  # file and line
    name: str = ""  # canonical; empty where it cannot be told
    extras: list[str] = field(default_factory=list)
    problem: str = ""  # why it cannot be installed on a host, with the remedy
    local: str = ""  # what is carried along, by its place in the store

    @property
    def pin(self) -> str:
        """The same as a constraint, where it is a name with versions; empty where it is not."""
        match = re.fullmatch(NAMED.pattern + r"\s*([=<>!~].*)", self.text.partition(" --")[0])
        return f"{match[1]}{match[3]}" if match else ""


@dataclass
class Plan:
    """All that an app requires."""

    requirements: list[Requirement] = field(default_factory=list)
    constraints: list[Requirement] = field(default_factory=list)
    options: list[Requirement] = field(default_factory=list)
    files: list[str] = field(default_factory=list)  # that were read, from the top of the code
    missing: str = ""  # why nothing says what the app requires, with the remedy

    @property
    def has_hashes(self) -> bool:
        """Whether pip demands a hash for each requirement."""
        texts = [line.text for line in (*self.requirements, *self.constraints, *self.options)]
        return any(" --hash" in text or text == "--require-hashes" for text in texts)

    def write(self, folder: Path) -> None:
        """Write the plan into an entry of the store. Only root reads it there: URLs in it have their credentials."""
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        (folder / FILE).chmod(0o600)

    @classmethod
    def load(cls, folder: Path) -> Plan:
        """Read the plan of an entry of the store."""
        given = json.loads((folder / FILE).read_text(encoding="utf-8"))
        lists = ("requirements", "constraints", "options")
        return cls(
            files=given["files"],
            missing=given["missing"],
            **{kind: [Requirement(**line) for line in given[kind]] for kind in lists},
        )


def needs_git(plan: Plan, added: list[str]) -> bool:
    """Tell whether git may be needed: to fetch a package, to build one that came with the code, by a package itself."""
    lines = [*plan.requirements, *plan.constraints, *plan.options]
    texts = [*(line.text for line in lines), *added]
    names = {line.name for line in plan.requirements} | {name_of(text) for text in added}
    return (
        any("git+" in text for text in texts)
        or any(line.local for line in lines)
        or not USERS_OF_GIT.isdisjoint(names)
    )


def canonical(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """Return the canonical name of the package that a text asks for; empty for an option, a path or a URL without one."""
    return _Reader.remote(requirement).name if not requirement.startswith("-") else ""


def decode(content: bytes) -> str:
    """Return the text of a file in whatever encoding an editor or a shell has written it."""
    for mark, encoding in BOMS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    if content[1:2] == b"\0" or content[:1] == b"\0":
        return content.decode(
            "utf-16-be" if content[:1] == b"\0" else "utf-16-le", errors="replace"
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield a requirements file's lines, each with the number of its first: continued ones joined, comments dropped."""
    number = 0
    parts: list[str] = []
    for count, raw in enumerate([*text.translate(LOOKALIKES).splitlines(), ""], 1):
        line, is_comment = raw.rstrip(), raw.lstrip().startswith("#")
        if not parts:
            number = count
        if line.endswith("\\") and not is_comment:
            parts.append(line.rstrip("\\"))
            continue
        # As pip has it, a comment ends what goes on.
        whole = re.sub(r"(^|\s+)#.*$", "", " ".join([*parts, f" {line}"])).strip()
        parts = []
        if whole:
            yield number, whole


def applies(marker: str) -> bool:
    """Tell whether an environment marker may hold on a host."""
    if not marker:
        return True
    try:
        from packaging.markers import InvalidMarker, Marker
    except ImportError:  # on a host: what Debian's virtualenvs are made of has it
        sys.path += glob.glob("/usr/share/python-wheels/pip-*.whl")
        try:
            from pip._vendor.packaging.markers import InvalidMarker, Marker  # type: ignore[assignment]
        except ImportError:
            return True
    host = {
        "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux", "implementation_name": "cpython",
        "platform_python_implementation": "CPython", "extra": "",
    }  # fmt: skip
    try:
        return any(
            Marker(marker).evaluate(
                {**host, "python_version": python, "python_full_version": f"{python}.0"} | machine
            )
            for python in PYTHONS
            for machine in ({"platform_machine": name} for name in MACHINES)
        )
    except InvalidMarker:
        return True


class _Options(optparse.OptionParser):
    """The options of requirements files, read as pip reads them, abbreviations included."""

    def __init__(self) -> None:
        super().__init__(add_help_option=False)
        for *names, target in (
            ("-r", "--requirement", "requirement"), ("-c", "--constraint", "constraint"), ("-e", "--editable", "editable"),
            ("-f", "--find-links", "find_links"), ("-i", "--index-url", "--pypi-url", "index"),
            ("--extra-index-url", "extra"),
            ("--hash", "own"), ("--global-option", "own"), ("--install-option", "own"),
            ("-C", "--config-settings", "--config-setting", "own"),
        ):  # fmt: skip
            self.add_option(*names, dest=target, action="append", default=[])
        # These are passed on as they stand.
        self.set_defaults(passed=[])
        for name in ("--trusted-host", "--no-binary", "--only-binary", "--use-feature"):
            self.add_option(name, action="callback", type="string", callback=self._pass)
        for name in ("--no-index", "--pre", "--prefer-binary", "--require-hashes"):
            self.add_option(name, action="callback", callback=self._pass)

    @staticmethod
    def _pass(
        _option: optparse.Option, name: str, value: str | None, parser: optparse.OptionParser
    ) -> None:
        if parser.values is not None:
            parser.values.passed.append(name if value is None else f"{name} {shlex.quote(value)}")

    def error(self, msg: str) -> NoReturn:
        raise ValueError(msg)


def words(text: str) -> list[str]:
    """Return the words of a line; a backslash is one, as in paths of Windows."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return list(lexer)


class _Reader:
    """Reads the files of one source."""

    def __init__(self, source: Path, subdir: str, exclude: list[str]) -> None:
        self.source = source
        self.subdir = os.path.normpath(subdir) if subdir else ""
        self.exclude = exclude
        self.plan = Plan()
        self.seen: set[tuple[str, bool]] = set()
        self.placed: list[
            tuple[Requirement, set[str]]
        ] = []  # packages of the app, with what they have from no index

    def file(self, name: str, by: str, is_constraint: bool = False) -> None:
        """Read a requirements file and those that it includes."""
        name = os.path.normpath(name)
        if (name, is_constraint) in self.seen:
            return
        self.seen.add((name, is_constraint))
        if not is_within(self.source, name) or not (self.source / name).is_file():
            raise DeployError(
                f"The requirements file {name} does not exist in the code ({by}). Put it there, or correct its name: "
                "only what lies in the code gets to a host."
            )
        if escapes(self.source, self.source / name):
            raise DeployError(
                f"The requirements file {name} is a link that leads out of the code. Put the file itself there."
            )
        self.plan.files.append(name)
        for number, line in logical_lines(decode((self.source / name).read_bytes())):
            self.line(line, name, f"{name}, line {number}", is_constraint)

    def line(self, line: str, file: str, where: str, is_constraint: bool) -> None:
        """Read one line."""
        begin = re.search(r"(^|\s)-(?=\S)", line)
        before, rest = (
            (line[: begin.start()].strip(), line[begin.start() :].strip()) if begin else (line, "")
        )
        into = self.plan.constraints if is_constraint else self.plan.requirements
        try:
            found, _left = _Options().parse_args(words(rest))
        except ValueError:
            # Of a newer pip, or a slip: pip itself says what it is.
            (into if before else self.plan.options).append(
                Requirement(line, where, name_of(before))
            )
            return
        if before:
            # Ubuntu's pip freeze makes up a package of the system's own modules.
            if not re.fullmatch(r"pkg[-_]resources\s*==\s*0\.0\.0", before):
                into += self.requirement(before, rest, file, where)
            return
        for path in found.requirement:
            self.include(path.removeprefix("="), file, where, is_constraint)
        for path in found.constraint:
            self.include(path.removeprefix("="), file, where, True)
        if found.editable and (match := EDITABLE.fullmatch(rest)):
            # Nobody edits a package on a host; what is installed as it is cannot change under a release.
            into += self.requirement(match[1], match[2] or "", file, where, is_editable=True)
        for text in found.find_links:
            self.plan.options.append(self.links(text.removeprefix("="), file, where))
        for option, urls in (("--index-url", found.index), ("--extra-index-url", found.extra)):
            self.plan.options += [self.index(option, url.removeprefix("="), where) for url in urls]
        self.plan.options += [Requirement(text, where) for text in found.passed]

    def include(self, path: str, file: str, where: str, is_constraint: bool) -> None:
        """Read a file that another includes; what lies on the web is for pip."""
        if SCHEME.match(path) and not path.lower().startswith("file:"):
            option = "--constraint" if is_constraint else "--requirement"
            self.plan.options.append(self.index(option, path, where))
            return
        inner = path.replace("\\", "/")
        found = self.locate(path, file) if inner.startswith(("/", "file:")) else None
        self.file(found or os.path.join(os.path.dirname(file), inner), where, is_constraint)

    def index(self, option: str, url: str, where: str) -> Requirement:
        """Return an option with a URL of something that pip looks into."""
        found = Requirement(f"{option} {url}", where)
        if has_broken_password(url):
            found.problem = f"{where}: the URL {BROKEN_URL}"
        elif not re.match(r"(?i)https?://", url) or LAPTOP.match(urlsplit(url).hostname or ""):
            found.problem = (
                f"{where}: {hide(url)!r} is a place of the laptop, which the host does not have. Put the files into a "
                "folder of the app and name it with --find-links; an index of the host's own belongs into "
                "api_endpoint_pip_index_url."
            )
        return self.without_variable(found, url)

    @staticmethod
    def without_variable(found: Requirement, text: str) -> Requirement:
        """Note a variable that pip on the host does not have."""
        variable = VARIABLE.search(text)
        if variable and not variable[1].startswith("PIP_") and not found.problem:
            found.problem = (
                f"{found.where}: {hide(text)!r} takes {variable[0]} from the laptop. Leave the line out and give it in "
                "api_endpoint_pip_packages or api_endpoint_pip_extra_index_urls, which can read the vault and the laptop's "
                "environment."
            )
        return found

    def links(self, text: str, file: str, where: str) -> Requirement:
        """Return an option that names a folder with packages."""
        if re.match(r"(?i)https?:", text):
            return self.index("--find-links", text, where)
        path = self.locate(text, file)
        if path is None or not _has_packages(self.source / path):
            return Requirement(
                f"--find-links {text}",
                where,
                problem=f"{where}: {text!r} is no folder with packages in the code. pip would look on an index instead, "
                "where packages of these names may be a stranger's. Put the folder into the app's folder and give its path "
                "from there.",
            )
        stored = self.stored(path)
        return Requirement(f"--find-links {shlex.quote(f'{LOCAL}/{stored}')}", where, local=stored)

    def requirement(
        self, text: str, rest: str, file: str, where: str, is_editable: bool = False
    ) -> list[Requirement]:
        """Return what a line asks for; nothing for a file or folder that no host is to have."""
        text = PROJECT.sub(
            lambda _: f"file://{quote(str(self.source))}/",
            re.sub(r"^([\"'])(.*)\1$", r"\2", text).strip(),
        )
        found = self.remote(text, rest, where)
        named = NAMED_URL.fullmatch(text)
        target, marker = _split_marker(named[3] if named else text)
        scheme = match[0].lower() if (match := SCHEME.match(target)) else ""
        is_path = not scheme and (is_editable or _is_path(target))
        if has_broken_password(text):
            # Its parts are no names.
            return [Requirement("", where, problem=f"{where}: the URL {BROKEN_URL}")]
        if any(SCP.match(part) for part in (text, target)):
            found.problem = f"{where}: {hide(text)!r} is git's notation, which pip does not read. Write git+ssh://USER@HOST/PATH."
        elif scheme.endswith("file:") or is_path:
            if not applies(marker):
                return []
            self.carry(found, target, marker, rest, file, named)
        elif CONDA.fullmatch(text):
            found.problem = (
                f"{where}: {text!r} is conda's notation, which pip does not read. {FREEZE}."
            )
        elif scheme and LAPTOP.match(urlsplit(target).hostname or ""):
            found.problem = f"{where}: {hide(target)!r} is a server on the laptop, which the host does not reach. {CARRY}."
        elif re.match(r"(hg|svn|bzr)\+", scheme) and take(target)[1]:
            found.problem = (
                f"{where}: {hide(target)!r} has a password, which would be on a command line of the host. "
                "Use git+https, or an archive by https."
            )
        elif not scheme and not VARIABLE.search(text) and (named or not BY_NAME.fullmatch(target)):
            found.problem = f"{where}: {hide(text)!r} is no requirement. Write one on each line: NAME, or NAME==VERSION."
        return [self.without_variable(found, text)]

    @staticmethod
    def remote(text: str, rest: str = "", where: str = "") -> Requirement:
        """Return what a line asks for by name, or by a URL that it may stand in."""
        whole = f"{text} {rest}".strip()
        named = NAMED_URL.fullmatch(text)
        if not named and SCHEME.match(text):
            target, _marker = _split_marker(text)
            egg = re.search(r"[#&]egg=([A-Za-z0-9._-]+)(\[[^\]]*\])?", unquote(target))
            last = (
                unquote(urlsplit(target).path)
                .rstrip("/")
                .rpartition("/")[2]
                .partition("@")[0]
                .removesuffix(".git")
            )
            name, extras = (
                (egg[1], egg[2])
                if egg
                else (_name_of_file(last)[0] or (last if "+" in target else ""), "")
            )
        elif _is_path(text) and not named:
            path = re.sub(r"\[[^\]]*\]$", "", _split_marker(text)[0]).replace("\\", "/")
            name, extras = _name_of_file(path.rpartition("/")[2])[0], ""
        else:
            match = named or NAMED.match(text)
            name, extras = (match[1], match[2]) if match else ("", "")
        listed = [extra.strip() for extra in (extras or "").strip("[]").split(",") if extra.strip()]
        return Requirement(whole, where, canonical(name), listed)

    def carry(
        self,
        found: Requirement,
        target: str,
        marker: str,
        rest: str,
        file: str,
        named: re.Match[str] | None,
    ) -> None:
        """Make a requirement that names a local file or folder mean the one that is carried along, or say what to do."""
        before, hashmark, fragment = target.partition("#")
        match = re.fullmatch(r"(.*?)(\[[^\]]*\])?", before.strip())
        given, extras = (match[1], match[2] or "") if match else (target, "")
        path = self.locate(given, file)
        kind = self.source / path if path is not None else None
        if path is None or kind is None or re.match(r"(?i)\w+\+file:", target):
            found.problem = _stranger(found.where, target, found.name)
            return
        if kind.is_dir():
            project = _project_name(kind)
            if project is None:
                found.problem = (
                    f"{found.where}: {given!r} has neither pyproject.toml nor setup.py, so pip cannot install it. "
                    "Packages beside wsgi.py are imported without being installed: leave the line out."
                )
                return
            found.name = found.name if named else canonical(project)
            self.placed.append((found, _placed(kind)))
        found.local = self.stored(path)
        tail = f" ; {marker}" if marker else ""
        if named:
            text = f"{named[1]}{named[2] or ''} @ file://{LOCAL}/{quote(found.local)}{hashmark}{fragment}{tail}"
        else:
            text = f"{LOCAL}/{found.local}{extras}{tail}"
        found.text = f"{text} {rest}".strip()

    def locate(self, given: str, file: str) -> str | None:
        """Return the path, from the top of the code, of what a line means; None where it is not in the code."""
        text = re.sub(r"(?i)^(\w+\+)?file:(//localhost(?=/)|//(?=/)|//(?=\.)|)", "", given)
        text = unquote(text).replace("\\", "/") if text != given else text.replace("\\", "/")
        beside = os.path.join(self.source, os.path.dirname(file))
        for base in (beside, str(self.source), str(self.source / self.subdir)):
            path = os.path.normpath(os.path.join(base, text))
            top = os.path.realpath(self.source)
            inner = os.path.relpath(os.path.realpath(path), top)
            if os.path.exists(path) and inner.split("/")[0] != "..":
                return inner
        return None

    def stored(self, path: str) -> str:
        """Return the place in the store of something in the code: among the app's files, or beside them."""
        app = os.path.normpath(self.subdir or ".")
        inner = path if app == "." else os.path.relpath(path, app)
        if inner.split("/")[0] != ".." and self.is_code(inner):
            return os.path.normpath(f"app/{inner}")
        return os.path.normpath(f"local/{path}")

    def is_code(self, path: str) -> bool:
        """Tell whether the whole of a file or folder of the app's becomes part of a release."""
        app = self.source / self.subdir
        if path == ".":
            return True
        kept = set(walk(app, self.exclude))
        return all(file in kept for file in _below(app, Path(path)))


def _below(app: Path, path: Path) -> list[Path]:
    if not (app / path).is_dir():
        return [path]
    return [path / file for file in walk(app / path)]


def _has_packages(folder: Path) -> bool:
    return folder.is_dir() and any(ARCHIVE.search(name) for name in os.listdir(folder))


def _is_path(text: str) -> bool:
    target = _split_marker(text)[0]
    return bool(PATH.match(target) or ARCHIVE.search(re.sub(r"\[[^\]]*\]$", "", target)))


def _split_marker(text: str) -> tuple[str, str]:
    """Return a URL or path, and the environment marker behind it."""
    match = re.match(r"(.*?)(?:\s+;|;\s+)(.*)", text) or re.match(r"([^;]*);(.*[\"'].*)", text)
    return (match[1].strip(), match[2].strip()) if match else (text.strip(), "")


def _name_of_file(name: str) -> tuple[str, str]:
    """Return the name and version of a package that a file name says; empty where it says none."""
    match = FILE_NAME.match(ARCHIVE.sub("", name)) if ARCHIVE.search(name) else None
    return (match[1], match[2]) if match else ("", "")


def _project_name(folder: Path) -> str | None:
    """Return the name of the package that pip makes of a folder; None where it makes none."""
    if (folder / "pyproject.toml").is_file():
        with open(folder / "pyproject.toml", "rb") as file:
            found = _toml(file.read())
        project = found.get("project") or found.get("tool", {}).get("poetry") or {}
        return str(project.get("name") or folder.name)
    return folder.name if (folder / "setup.py").is_file() else None


def _table(given: Any) -> dict[str, Any]:
    """Return a dependency of Poetry's, of which several are for several platforms, as one table."""
    tables = given if isinstance(given, list) else [given]
    return {
        key: value for table in tables if isinstance(table, dict) for key, value in table.items()
    }


def _toml(content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(decode(content))
    except tomllib.TOMLDecodeError as error:
        raise DeployError(f"The app's pyproject.toml is damaged: {error}. Correct it.") from error


def _stranger(where: str, target: str, known: str) -> str:
    """Say that something is of the laptop, and what to write instead."""
    path = unquote(target.partition("#")[0]).replace("\\", "/")
    name, version = _name_of_file(path.rstrip("/").rpartition("/")[2])
    name, version = name or known, version or "VERSION"
    remedy = CARRY
    if re.search(r"/croot/|feedstock_root|conda", path):
        remedy = FREEZE
    instead = f"{name}=={version}" if name else "the package's name and version"
    return f"{where}: {target!r} is a path of the laptop, which the host does not have. Write {instead} instead. {remedy}."


def _first_of(source: Path, subdir: str, names: tuple[str, ...]) -> str:
    """Return the first of some files that is there, beside the WSGI module or else at the top; empty for none."""
    places = [os.path.join(place, name) for name in names for place in dict.fromkeys((subdir, ""))]
    return next((path for path in places if (source / path).is_file()), "")


def read(
    source: Path, subdir: str = "", wanted: str = "", exclude: list[str] | None = None
) -> Plan:
    """Return what an app requires.

    `wanted` is the requirements file, where the user names it; `exclude` holds patterns of files that are no code.
    Raises DeployError for a file that is not there.
    """
    reader = _Reader(source, subdir, exclude or [])
    first = wanted or _first_of(source, subdir, ("requirements.txt",))
    other = (
        first or _first_of(source, subdir, LOCKS) or _first_of(source, subdir, ("pyproject.toml",))
    )
    name = os.path.basename(other)
    if name == "pyproject.toml":
        reader.plan.missing = _project(reader, other)
        name = "" if reader.plan.missing else name
    elif name in COMMANDS and not (wanted and name.endswith(".in")):
        reader.plan.missing = _by_command(other)
    elif name:
        reader.file(other, "api_endpoint_requirements_file names it")
    if not name and reader.plan.missing in ("", LEAD):
        reader.plan.missing = _nothing(source, subdir)
    _refuse_own_names(reader)
    _refuse_placed(reader)
    return reader.plan


def _placed(folder: Path) -> set[str]:
    """Return what a project requires by name alone, while a tool of the laptop knows that it is on no index."""
    if not (folder / "pyproject.toml").is_file():
        return set()
    found = _toml((folder / "pyproject.toml").read_bytes())
    tool, required = found.get("tool", {}), found.get("project", {}).get("dependencies", [])
    sources = {
        **tool.get("poetry", {}).get("dependencies", {}),
        **tool.get("uv", {}).get("sources", {}),
    }
    elsewhere = {"path", "workspace", "git", "url", "file"}
    names = {canonical(name) for name, source in sources.items() if elsewhere & set(_table(source))}
    return names & {name_of(str(text)) for text in required if not NAMED_URL.match(str(text))}


def _refuse_placed(reader: _Reader) -> None:
    """Note each package of the app whose own requirements would be looked for on an index, though they are on none."""
    given = {line.name for line in reader.plan.requirements if line.local or "://" in line.text}
    for line, names in reader.placed:
        if missing := ", ".join(sorted(names - given - {line.name})):
            folder = line.local.partition("/")[2] or "the app"
            line.problem = (
                f"{line.where}: the pyproject.toml of {folder} takes {missing} from a folder or repository, which pip does "
                "not read: it would install an index's package of that name. Give a line for it here, such as ./FOLDER or "
                f"{missing.partition(',')[0]} @ git+https://….git; `uv export` and `poetry export` write them."
            )


def _refuse_own_names(reader: _Reader) -> None:
    """Note each line that names the app's own package, as lists of what is installed do, as if an index had it."""
    own = {
        canonical(name): os.path.normpath(place or ".")
        for place in dict.fromkeys((reader.subdir, ""))
        if (name := _own_name(reader.source / place))
    }
    for line in reader.plan.requirements:
        if (
            line.name in own
            and not line.local
            and not line.problem
            and not NAMED_URL.match(line.text)
        ):
            place = own[line.name]
            line.problem = (
                f"{line.where}: {hide(line.text)!r} is the app's own package, which no index has; one of that name would be "
                f"a stranger's. Leave the line out if the app imports its code from its folder, or write "
                f"{'.' if place == '.' else f'./{place}'} to install it. If an index's package is meant, give it in "
                "api_endpoint_pip_packages."
            )


def _own_name(folder: Path) -> str:
    """Return the name that a project gives itself; empty for none, or one that only a build knows."""
    if (folder / "pyproject.toml").is_file():
        found = _toml((folder / "pyproject.toml").read_bytes())
        name = (found.get("project") or found.get("tool", {}).get("poetry") or {}).get("name")
        if name:
            return str(name)
    for file in ("setup.cfg", "setup.py"):
        if (folder / file).is_file():
            text = decode((folder / file).read_bytes())
            if match := SETUP_NAME.search(text):
                return match[1]
    return ""


def _by_command(file: str) -> str:
    return f"{LEAD} It has {file}: `{COMMANDS[os.path.basename(file)]}`, run in its folder, writes one."


def _project(reader: _Reader, file: str) -> str:
    """Read what pyproject.toml lists; return why nothing of it can be used, `LEAD` alone where it is of other things."""
    found = _toml((reader.source / file).read_bytes())
    tool, project = found.get("tool", {}), found.get("project", {})
    if other := next(
        (known for known, has in SOURCES.items() if has(tool.get(known.lower(), {}))), ""
    ):
        command = COMMANDS[f"{other.lower()}.lock"]
        return f"{LEAD} {file} says where packages are in a way of {other}'s own: `{command}` writes one with them."
    if "dependencies" in project:
        reader.plan.files.append(file)
        for line in project["dependencies"]:
            reader.plan.requirements += reader.requirement(str(line), "", file, file)
        return ""
    if tool.get("poetry", {}).get("dependencies"):
        return f"{LEAD} It has Poetry's list in {file}: `{COMMANDS['poetry.lock']}` writes one."
    if "dependencies" in project.get("dynamic", []):
        return f"{LEAD} {file} leaves the dependencies to a build: `{COMMANDS['setup.py']}` lets pip ask for them."
    if project:
        return f"{LEAD} {file} has a [project] without dependencies. Add them; dependencies = [] says that there are none."
    return LEAD


def _nothing(source: Path, subdir: str) -> str:
    """Say what makes a requirements file, where nothing that can be read says what the app requires."""
    if other := _first_of(source, subdir, tuple(COMMANDS)):
        return _by_command(other)
    if near := _near(source, subdir):
        return f"{LEAD} It has {', '.join(near)}. Set api_endpoint_requirements_file to one of them, such as {near[0]}."
    return f"{LEAD} `pip freeze > requirements.txt` writes one. An empty file says that the app needs nothing."


def _near(source: Path, subdir: str) -> list[str]:
    """Return files that may be requirements files by another name, the one that is for a host first."""
    found = [
        os.path.relpath(path, source)
        for place in dict.fromkeys((source / subdir, source))
        for pattern in ("[Rr]eq*.txt", "requirements/*.txt", "deps/*.txt", "dependencies.txt")
        for path in glob.glob(str(place / pattern))
    ]
    rank = {path: [word in os.path.basename(path).lower() for word in PRODUCTION] for path in found}
    return sorted(
        dict.fromkeys(found), key=lambda path: ([not is_it for is_it in rank[path]], path)
    )


@dataclass
class Choice:
    """The requirements that are installed, those that the role adds, and why some cannot be."""

    requirements: list[Requirement] = field(default_factory=list)
    added: list[str] = field(default_factory=list)  # what comes of the variables
    constraints: list[Requirement] = field(default_factory=list)
    server: str = ""  # the requirement for gunicorn
    excluded: list[Requirement] = field(default_factory=list)
    replaced: list[Requirement] = field(default_factory=list)  # what the variables replace
    servers: list[Requirement] = field(
        default_factory=list
    )  # the app's own requirements for gunicorn
    problems: list[str] = field(default_factory=list)

    @property
    def requirements_without_hash(self) -> list[Requirement]:
        """The packages of the app's folder, which no tool gives a hash: they are code as the app is."""
        return [line for line in self.requirements if line.local and not HASH.search(line.text)]

    @property
    def note(self) -> str:
        """One line on a server that is another than the app's file says; empty where it is the same."""
        pins = [line for line in self.servers if not NAMED.fullmatch(_split_marker(line.text)[0])]
        if not pins or all(_plain(line.text) == _plain(self.server) for line in pins):
            return ""
        text = hide(pins[0].text.partition(" --")[0])
        return f"{pins[0].where}: {text!r} gives way to {self.server}, the role's server (api_endpoint_gunicorn)."


def _plain(requirement: str) -> str:
    return canonical(requirement.partition(" --")[0]).replace(" ", "")


def choose(plan: Plan, exclude: list[str], packages: list[str], gunicorn: str) -> Choice:
    """Return what is installed: without what the user leaves out, with what they add, with the role's gunicorn."""
    found = Choice()
    unwanted = {canonical(name) for name in exclude}
    named_twice = {name_of(text) for text in packages} - {"", "gunicorn"}
    for line in plan.requirements:
        if line.name == "gunicorn":
            found.servers.append(line)
        elif line.name in unwanted:
            found.excluded.append(line)
        elif line.name in named_twice:
            found.replaced.append(line)
        elif line.text not in {other.text for other in found.requirements}:
            found.requirements.append(line)
    found.constraints = [
        line for line in plan.constraints if line.name not in {"gunicorn", *unwanted}
    ]
    own = [text for text in packages if name_of(text) == "gunicorn"]
    found.added = [text for text in packages if text not in own]
    found.server = _with_extras(own[-1] if own else gunicorn, found.servers)
    if plan.missing and not packages:
        found.problems.append(plan.missing)
    lines = [*found.requirements, *found.constraints, *plan.options]
    found.problems += [line.problem for line in lines if line.problem]
    found.problems += _without_hash(plan, found)
    return found


def _with_extras(server: str, apps: list[Requirement]) -> str:
    """Return the requirement for gunicorn with the extras that the app's own asks for."""
    match = NAMED.match(server)
    if not match:
        return server
    own = _Reader.remote(server).extras
    extras = sorted({*own, *(extra for line in apps for extra in line.extras)})
    return f"{match[1]}{'[' + ','.join(extras) + ']' if extras else ''}{server[match.end() :]}"


def _without_hash(plan: Plan, choice: Choice) -> list[str]:
    """Return a problem for each line without a hash in a file with hashes, which pip refuses."""
    if not plan.has_hashes:
        return []
    hashed = {
        line.name for line in (*choice.requirements, *choice.constraints) if HASH.search(line.text)
    }
    return [
        f"{line.where}: {hide(line.text)!r} has no hash, and other lines have: pip demands all or none. "
        "Have the tool that wrote the file add it, or move the line into api_endpoint_pip_packages."
        for line in choice.requirements
        if line.name not in hashed
        and not line.local
        and not HASH.search(line.text)
        and applies(_split_marker(line.text)[1])
    ]
