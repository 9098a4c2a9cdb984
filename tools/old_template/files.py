# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds which files an app's code reads, writes and downloads, by the paths that they have on the host."""

from __future__ import annotations

import ast
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from old_template.layout import BESIDE
from old_template.shell import Source
from old_template.values import UNKNOWN, Bound, Module, dotted

READERS = re.compile(
    r"(load|read|connect|memmap|mmap|Dataset|from_file|get_model|import_graph|Process)", re.I
)
WRITERS = {
    "dump": 1,
    "save": -1,
    "savez": 0,
    "to_csv": 0,
    "to_pickle": 0,
    "to_parquet": 0,
    "to_json": 0,
    "on_disk_build": 0,
}
LOGS = {"FileHandler", "WatchedFileHandler"}
ROTATED_LOGS = {"RotatingFileHandler", "TimedRotatingFileHandler"}
STORES = {
    "SqliteDict",
    "TinyDB",
    "Rdict",
}  # files that a library opens for writing unless it is told otherwise
FOLDER_STORES = {"Cache", "FanoutCache", "Index", "PersistentClient"}  # the same, of folders
QUEUES = {
    "SQLiteQueue",
    "FIFOSQLiteQueue",
    "FILOSQLiteQueue",
    "UniqueQ",
    "Queue",
    "SQLiteAckQueue",
    "PDict",
}
REQUESTS = re.compile(
    r"((requests|session|http|httpx|client|s)\.(get|request)|(.*\.)?urlopen|.*\.request)", re.I
)
PROGRAMS = re.compile(
    r"(os\.(system|popen)|(subprocess\.)?(run|call|check_call|check_output|Popen|getoutput))"
)
HUBS = {
    "from_pretrained",
    "SentenceTransformer",
    "CrossEncoder",
    "pipeline",
    "hf_hub_download",
    "snapshot_download",
}
CACHES = {
    "HF_HOME", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE", "TRANSFORMERS_CACHE", "SENTENCE_TRANSFORMERS_HOME", "TORCH_HOME",
    "NLTK_DATA", "XDG_CACHE_HOME", "TFHUB_CACHE_DIR", "TIKTOKEN_CACHE_DIR", "STANZA_RESOURCES_DIR", "MPLCONFIGDIR",
}  # fmt: skip
SQL_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|REPLACE) (INTO|OR|FROM|\w+ SET)\b", re.I)
DATABASE_URL = re.compile(r"sqlite(?:\+\w+)?:///(.+)")
DRIVE = "https://drive.google.com/uc?id="


@dataclass(frozen=True)
class Use:
    """A line of the app."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Download:
    """What the app downloads to a path: from a URL, or by a command that gets the path as its last word."""

    use: Use
    url: str = ""
    command: str = ""


@dataclass
class Files:
    """What the code does with files; a folder ends in a slash."""

    read: dict[str, Use] = field(default_factory=dict)
    written: dict[str, Use] = field(default_factory=dict)
    databases: dict[str, Use] = field(
        default_factory=dict
    )  # read, but opened so that they must be writable
    downloads: dict[str, Download] = field(default_factory=dict)
    tested: set[str] = field(default_factory=set)  # what it looks for before it uses it
    extracted: dict[str, str] = field(
        default_factory=dict
    )  # folders, with the archive that it unpacks there
    caches: dict[str, set[str]] = field(
        default_factory=dict
    )  # folders of downloaded models, with their variables
    models: dict[str, Use] = field(default_factory=dict)  # of Hugging Face, by name
    named: set[str] = field(
        default_factory=set
    )  # what it finds in its folder by the folder's absolute path
    scattered: dict[str, Use] = field(
        default_factory=dict
    )  # folders in which it writes at names that it makes
    unclear: list[tuple[Use, str]] = field(
        default_factory=list
    )  # what is done at a path that is not known

    def is_made(self, path: str) -> bool:
        """Tell whether the app makes a file itself, when it is not there."""
        return path in self.written or any(
            path.startswith(folder) for folder in self.written if folder.endswith("/")
        )


class FileReader:
    """Reads modules into Files; `follow` tells what a command of the shell brings, by path."""

    def __init__(
        self, found: Files, root: str, cwd: str, follow: Callable[[str], dict[str, Source]]
    ) -> None:
        self.found, self.root, self.cwd, self.follow = found, root, cwd, follow
        self.module = Module(ast.Module([], []), "", cwd)
        self.file, self.lines = "", [""]

    def look(self, module: Module, file: str, lines: list[str]) -> None:
        """Read one module, with a call as often as its arguments have other values."""
        self.module, self.file, self.lines = module, file, lines
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                for bound in module.bindings(node):
                    Call(self, node, bound).look()
            elif isinstance(node, ast.Assign):
                self.assigned(node)
            elif isinstance(node, ast.Constant) and (
                match := DATABASE_URL.fullmatch(str(node.value))
            ):
                self.found.databases.setdefault(self.place(match[1]), self.use(node))

    def assigned(self, node: ast.Assign) -> None:
        """Note where the app keeps what its libraries download."""
        for target in node.targets:
            if isinstance(target, ast.Subscript) and dotted(target.value) == "os.environ":
                name = self.module.text(target.slice)
                if name in CACHES and (folder := self.place(self.module.text(node.value))):
                    self.found.caches.setdefault(folder, set()).add(name)

    def use(self, node: ast.AST) -> Use:
        """Return the line on which something stands."""
        number = getattr(node, "lineno", 1)
        return Use(self.file, number, self.lines[number - 1])

    def place(self, text: str) -> str:
        """Return the absolute path of what the code calls so; nothing when that is not known."""
        if not text or UNKNOWN in text or "://" in text or "\n" in text or text == ":memory:":
            return ""
        path = posixpath.normpath(posixpath.join(self.cwd, text))
        if path.startswith(f"{self.root}/"):
            self.found.named.add(path)
        return (
            self.root + path.removeprefix(BESIDE) if f"{path}/".startswith(f"{BESIDE}/") else path
        )


class Call:
    """One call with one set of values."""

    def __init__(self, reader: FileReader, node: ast.Call, bound: Bound) -> None:
        self.reader, self.node, self.bound = reader, node, bound
        self.module, self.found = reader.module, reader.found
        self.name = dotted(node.func)
        self.last = self.name.rpartition(".")[2]
        self.use = reader.use(node)

    def argument(self, place: int, *keywords: str) -> ast.expr | None:
        """Return an argument by its place or by one of its names."""
        named = [one.value for one in self.node.keywords if one.arg in keywords]
        given = self.node.args[place : place + 1] if place >= 0 else []
        return next(iter(named + given), None)

    def text(self, place: int, *keywords: str) -> str:
        """Return an argument as text; UNKNOWN when it is not known, nothing when it is not given."""
        node = self.argument(place, *keywords)
        return "" if node is None else self.module.text(node, self.bound)

    def path(self, place: int, *keywords: str) -> str:
        """Return an argument that is a path, as it is on the host."""
        return self.reader.place(self.text(place, *keywords))

    def owner(self) -> str:
        """Return the path whose method is called; nothing when the method is of something else."""
        held = self.node.func.value if isinstance(self.node.func, ast.Attribute) else None
        text = self.module.text(held, self.bound) if held is not None else UNKNOWN
        return self.reader.place(text) if "/" in text or "." in text else ""

    def look(self) -> None:
        """Note what the call does with files."""
        if self.last in ("exists", "isfile", "isdir", "is_file", "is_dir", "access"):
            self.found.tested.add(self.path(0) or self.owner())
        elif self.last in ("makedirs", "mkdir"):
            self.writes(self.path(0, "name") or self.owner(), self.text(0, "name"), is_folder=True)
        elif self.last in LOGS or (
            self.name == "logging.basicConfig" and self.text(-1, "filename")
        ):
            self.writes(self.path(0, "filename"))
        elif self.last in ROTATED_LOGS:
            self.writes(posixpath.dirname(self.path(0, "filename")), is_folder=True)
        elif self.last in ("write_bytes", "write_text", "touch") and (path := self.owner()):
            self.received(path, self.argument(0, "data"))
        elif self.last == "open":
            self.opened()
        elif self.last == "write" or self.name == "shutil.copyfileobj":
            self.written()
        elif not (self.downloads() or self.databases() or self.models()):
            self.others()

    def writes(self, path: str, text: str = "", *, is_folder: bool = False) -> None:
        """Note a file or folder that the app writes; of one whose name is made as the app runs, the folder that it is in."""
        folder = posixpath.dirname(text)
        if not path and folder in (self.reader.root, BESIDE):
            self.found.scattered.setdefault(folder, self.use)
        elif not path and folder and posixpath.basename(text) != UNKNOWN:
            path, is_folder = self.reader.place(folder), True
        if path:
            self.found.written.setdefault(f"{path.rstrip('/')}/" if is_folder else path, self.use)
        elif folder not in self.found.scattered:
            self.found.unclear.append((self.use, "write"))

    # --- files

    def opened(self) -> None:
        """Note what is opened, and how."""
        is_method = isinstance(self.node.func, ast.Attribute) and self.owner()
        path = self.owner() if is_method else self.path(0, "file", "filename", "name", "path")
        text = "" if is_method else self.text(0, "file", "filename", "name", "path")
        mode = self.text(0 if is_method else 1, "mode")
        if self.name in ("Image.open", "webbrowser.open"):
            return
        if self.name in ("shelve.open", "dbm.open"):
            # They add to the name, each in its own way.
            self.found.unclear.append((self.use, "write"))
        elif any(letter in mode.replace(UNKNOWN, "") for letter in "wax+"):
            self.writes(path, text)
        elif path:
            self.found.read.setdefault(path, self.use)

    def written(self) -> None:
        """Note a download where an answer's content is written to a file."""
        is_copy = self.name == "shutil.copyfileobj"
        file = self.argument(1) if is_copy else getattr(self.node.func, "value", None)
        opening = (
            self.module.expression(dotted(file), self.node)
            if file is not None and dotted(file)
            else file
        )
        if isinstance(opening, ast.Call) and dotted(opening.func).rpartition(".")[2] == "open":
            inner = Call(self.reader, opening, self.bound)
            self.received(inner.owner() or inner.path(0, "file", "filename"), self.argument(0))

    def received(self, path: str, content: ast.expr | None) -> None:
        """Note that some content is written to a path: a download when it comes from a URL."""
        if not path:
            return
        if content is not None and (url := next(self.urls(content), "")):
            self.downloaded(path, url)
        else:
            self.writes(path)

    def urls(self, content: ast.expr, depth: int = 0) -> Iterator[str]:
        """Return the URLs that an expression's value comes from."""
        for node in ast.walk(content):
            if isinstance(node, ast.Call) and REQUESTS.fullmatch(dotted(node.func)) and node.args:
                yield self.module.text(
                    node.args[-1] if dotted(node.func).endswith("request") else node.args[0],
                    self.bound,
                )
            elif isinstance(node, ast.Name) and depth < 4:
                given = self.module.expression(node.id, node)
                if given is not None and given is not content:
                    yield from self.urls(given, depth + 1)

    # --- downloads

    def downloaded(self, path: str, url: str = "", command: str = "") -> None:
        """Note a download; one whose URL is not known is something that the app writes."""
        if not path:
            self.writes(path)
        elif command or (url.startswith(("http://", "https://")) and UNKNOWN not in url):
            self.found.downloads.setdefault(path, Download(self.use, url, command))
        else:
            self.writes(path)

    def downloads(self) -> bool:
        """Note what is downloaded; tell whether the call is of that kind."""
        if self.last == "urlretrieve":
            self.downloaded(self.path(1, "filename"), self.text(0, "url"))
        elif self.last == "download_url_to_file":
            self.downloaded(self.path(1, "dst"), self.text(0, "url"))
        elif self.name == "wget.download":
            self.downloaded(self.path(1, "out"), self.text(0, "url"))
        elif self.name in ("gdown.download", "gdown.cached_download"):
            url = self.text(0, "url") or DRIVE + self.text(-1, "id")
            command = "" if UNKNOWN in url else shlex.join(["gdown", url, "-O"])
            self.downloaded(self.path(1, "output", "path"), command=command)
        elif PROGRAMS.fullmatch(self.name):
            self.program()
        elif self.last in ("extractall", "unpack_archive"):
            self.unpacked()
        elif self.name == "nltk.download":
            self.writes(self.path(1, "download_dir"), is_folder=True)
        else:
            return False
        return True

    def program(self) -> None:
        """Follow a program that is started, as a script's line."""
        node = self.argument(0, "args", "command")
        words = self.module.value(node, self.bound)
        line = (
            shlex.join([str(word) for word in words])
            if isinstance(words, list) and None not in words
            else words
        )
        if isinstance(line, str) and UNKNOWN not in line:
            for path, source in self.reader.follow(line).items():
                self.downloaded(self.reader.place(path), source.url, source.command)

    def unpacked(self) -> None:
        """Note a folder into which an archive is unpacked."""
        archive = self.path(0, "filename") if self.last == "unpack_archive" else ""
        held = getattr(self.node.func, "value", None)
        if self.last == "extractall" and held is not None:
            opening = self.module.expression(dotted(held), self.node) if dotted(held) else held
            if isinstance(opening, ast.Call):
                archive = Call(self.reader, opening, self.bound).path(0, "name", "file")
        where = ("extract_dir",) if self.last == "unpack_archive" else ("path",)
        folder = self.text(1 if self.last == "unpack_archive" else 0, *where) or "."
        if archive and (place := self.reader.place(folder)):
            self.found.extracted[place] = archive

    # --- libraries

    def databases(self) -> bool:
        """Note databases that are opened so that they must be writable; tell whether the call opens one."""
        path = self.path(0, "filename", "database", "path", "directory")
        if self.last in STORES:
            self.opened_for_writing(path, is_read=self.text(1, "flag") == "r")
        elif self.name.endswith("sqlite3.connect") or self.name == "apsw.Connection":
            name = self.text(0, "database").removeprefix("file:")
            is_read = "mode=ro" in name or not SQL_WRITES.search("\n".join(self.reader.lines))
            self.opened_for_writing(self.reader.place(name.partition("?")[0]), is_read=is_read)
        elif self.last in FOLDER_STORES and path:
            self.writes(path, is_folder=True)
        elif self.last in QUEUES and "persistqueue" in (
            self.name + str(self.module.imported.get(self.last))
        ):
            self.writes(path, self.text(0, "path"), is_folder=True)
        else:
            return False
        return True

    def opened_for_writing(self, path: str, *, is_read: bool) -> None:
        """Note a database."""
        if not path:
            self.found.unclear.append((self.use, "read" if is_read else "database"))
        elif is_read:
            self.found.read.setdefault(path, self.use)
        else:
            self.found.databases.setdefault(path, self.use)

    def models(self) -> bool:
        """Note a model of Hugging Face, and where it is kept; tell whether the call loads one."""
        if self.last not in HUBS:
            return False
        names = [self.text(0, "repo_id", "pretrained_model_name_or_path", "model_name_or_path")]
        if self.last == "pipeline":
            names = [self.text(1, "model"), self.text(3, "tokenizer")]
        if self.last in ("SentenceTransformer", "CrossEncoder"):
            names = [one if "/" in one else f"sentence-transformers/{one}" for one in names if one]
        for name in names:
            if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) and not name.startswith("."):
                self.found.models.setdefault(name, self.use)
            elif name.startswith(("/", ".")) and (path := self.reader.place(name)):
                self.found.read.setdefault(path, self.use)
        if folder := self.path(-1, "cache_folder", "cache_dir"):
            self.found.caches.setdefault(folder, set())
        if folder := self.path(-1, "local_dir"):
            self.writes(folder, is_folder=True)
        return True

    def others(self) -> None:
        """Note what other libraries read and write."""
        if self.last in WRITERS:
            place = WRITERS[self.last]
            path = self.path(place) if place >= 0 else self.path(1) or self.path(0)
            if path and posixpath.splitext(path)[1]:
                self.writes(path)
        elif READERS.search(self.last):
            for node in [*self.node.args[:2], *(one.value for one in self.node.keywords)]:
                text = self.module.text(node, self.bound)
                path = self.reader.place(text)
                if (
                    path
                    and (text.startswith("/") or re.search(r"\w\.\w{1,8}$", text))
                    and " " not in text
                ):
                    self.found.read.setdefault(path, self.use)
