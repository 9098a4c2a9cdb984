# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows a set-up script as far as it can be without running it: variables, folders, and what becomes of each file.

shlex splits the words. What is known of the host is what the script has said of it: where the clone is, which folders
were made, which file came from where. A line that says anything else is noted, never guessed at.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from old_template.lines import DOLLAR, Line, split, unrolled
from old_template.notes import Notes

# What the role does by itself, or what has no meaning for it.
NEEDLESS = {
    "echo", "printf", "chown", "chmod", "set", "exit", "deactivate", "source", ".", "true", "export", "sleep", "rmdir",
    "touch", "unlink", "ls", "pwd", "date", "hash", "wait", "shopt", "read", ":",
}  # fmt: skip
OWN_SERVICES = {"model", "model.service", "nginx", "nginx.service", "model.socket"}
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
PLACEHOLDER = re.compile(r"<[^>]*>|\.\.\.$|^\.+$|example\.org/path")
CONFIGURATION = (".service", ".nginx", ".conf", ".conf.py", ".ini")
WRITES = "This writes a file. If the API needs it, put it into the code, or translate it by hand."
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Archive:
    """An archive that is unpacked, with the options of tar that choose its members or change their paths."""

    path: str
    source: Source
    line: Line
    options: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the file."""
        return posixpath.basename(self.path)


@dataclass(frozen=True)
class Source:
    """Where a file on the host comes from: a URL, or a path within the clone; neither when people have put it there.

    What was unpacked comes from its archives, together: all of it, or after some steps there one member.
    """

    line: Line
    url: str = ""
    inside: str = ""
    unpack: bool = False
    command: str = ""  # downloads it, with its path as the last word
    archives: tuple[Archive, ...] = ()
    steps: tuple[str, ...] = ()
    member: str = "."


@dataclass
class Found:
    """What a script has said."""

    variables: dict[str, str] = field(default_factory=dict)
    repository: str = ""
    branch: str = ""
    clone: str = ""  # where it is on the host
    apt: list[str] = field(default_factory=list)
    pip: list[str] = field(default_factory=list)
    index_url: str = ""
    extra_indexes: list[str] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    commands: list[tuple[Line, str]] = field(
        default_factory=list
    )  # programs of the app, with the paths they have on the host
    files: dict[str, Source] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)  # paths of files of which nothing else is known
    written: dict[str, tuple[Line, str]] = field(
        default_factory=dict
    )  # files whose text stands in the script
    unpacked: dict[str, Source] = field(
        default_factory=dict
    )  # folders, with the archives that were unpacked there
    folders: set[str] = field(default_factory=lambda: {"/", "/etc", "/srv", "/extrastorage"})


class Script:
    """One script that is followed."""

    def __init__(self, found: Found, notes: Notes, in_clone: Callable[[str], list[str]]) -> None:
        self.found = found
        self.notes = notes
        self.in_clone = in_clone  # the clone's files that a path or pattern within it names
        self.cwd = "/root"
        self.services: set[str] = set()  # those that were noted already
        self.doubtful: set[str] = set()  # files that were noted already
        self.folders = found.folders

    def follow(self, text: str, file: str) -> None:
        """Follow a script from its first line to its last."""
        lines = [line for line in split(text, file, self.notes) if line.words]
        for line in unrolled(lines, self.notes):
            self.command(line)

    # --- one command

    def command(self, line: Line) -> None:
        """Note what one command does."""
        if {"|", "||", "&", "(", ")"} & set(line.words) or any(
            "$(" in word or "`" in word for word in line.words
        ):
            if line.words[0] not in NEEDLESS:
                self.unknown(
                    line,
                    "Pipes and substitutions are not followed. Translate what it does by hand.",
                )
            return
        words = [self.expand(word, line) for word in line.words]
        if words[0] == "sudo":
            words = words[1:]
        while words and (assigned := ASSIGNMENT.fullmatch(words[0])):
            self.found.variables[assigned[1]] = assigned[2]
            words = words[1:]
        target = written_to(words)
        words = without_redirection(words)
        if target and words and posixpath.basename(words[0]) in ("cat", "tee", "echo", "printf"):
            self.write(line, target)
            return
        if not words or words[0] in NEEDLESS:
            return
        name = posixpath.basename(words[0])
        action: Callable[[Line, list[str]], None] | None = getattr(
            self, f"do_{name.replace('-', '_')}", None
        )
        if name in ("pip3", "apt"):
            action = {"pip3": self.do_pip, "apt": self.do_apt_get}[name]
        if re.fullmatch(r"python[0-9.]*", name):
            action = self.do_python
        if action is None:
            self.unknown(line, "There is no translation for this command.")
        elif line.conditional and name not in ("rm", "mkdir", "cp", "mv", "cd", "systemctl"):
            self.unknown(line, "This happens under a condition only, so it was left out.")
        else:
            action(line, words[1:])

    def write(self, line: Line, target: str) -> None:
        """Note a file whose text stands in the script."""
        if line.body and (target.endswith(CONFIGURATION) or "/nginx/sites-" in target):
            known = self.found.variables
            text = VARIABLE.sub(lambda match: known.get(match[1] or match[2], match[0]), line.body)
            self.found.written[self.path(target)] = (line, text)
        else:
            self.unknown(line, WRITES)

    def unknown(self, line: Line, why: str) -> None:
        """Note that a command was not translated."""
        self.notes.add(line.file, line.number, line.text, why)

    def expand(self, word: str, line: Line) -> str:
        """Return a word with its variables, as far as they are known."""

        def value(match: re.Match[str]) -> str:
            name = match[1] or match[2]
            if name not in self.found.variables:
                self.unknown(line, f"The variable {name} is not known here.")
            return self.found.variables.get(name, match[0])

        return VARIABLE.sub(value, word).replace(DOLLAR, "$")

    def path(self, text: str) -> str:
        """Return an absolute path on the host."""
        return posixpath.normpath(posixpath.join(self.cwd, text))

    # --- folders and files

    def do_cd(self, _line: Line, words: list[str]) -> None:
        """Go to a folder."""
        self.cwd = self.path(words[0]) if words else "/root"

    def do_mkdir(self, _line: Line, words: list[str]) -> None:
        """Note folders, with those above them."""
        for path in (self.path(word) for word in words if not word.startswith("-")):
            while path not in self.folders:
                self.folders.add(path)
                path = posixpath.dirname(path)

    def do_rm(self, _line: Line, words: list[str]) -> None:
        """Forget files that are removed after they were fetched."""
        for word in words:
            self.found.files.pop(self.path(word), None)

    def do_git(self, line: Line, words: list[str]) -> None:
        """Note the app's repository; a second one is not ours to place."""
        if words[:1] != ["clone"]:
            self.unknown(line, "Of git only `clone` is followed.")
            return
        options, plain = options_of(
            words[1:], {"--branch", "-b", "--depth", "-c", "--config", "--origin", "-o"}
        )
        if not plain or (self.found.repository and self.found.clone):
            self.unknown(
                line, "A second repository. Bring it as part of the app's own, or as a requirement."
            )
            return
        self.found.repository = self.found.repository or plain[0]
        self.found.branch = self.found.branch or options.get("--branch", options.get("-b", ""))
        base = posixpath.basename(plain[0]).removesuffix(".git")
        self.found.clone = self.path(plain[1] if len(plain) > 1 else base)
        self.folders.add(self.found.clone)

    def do_wget(self, line: Line, words: list[str]) -> None:
        """Note a download."""
        options, plain = options_of(
            words,
            {
                "-O",
                "--output-document",
                "-P",
                "--directory-prefix",
                "-o",
                "-a",
                "-t",
                "--tries",
                "-T",
            },
        )
        for url in plain:
            name = posixpath.basename(urlsplit(url).path)
            folder = options.get("-P", options.get("--directory-prefix", "."))
            given = options.get("-O", options.get("--output-document", ""))
            self.fetched(line, url, given or posixpath.join(folder, name))

    def do_curl(self, line: Line, words: list[str]) -> None:
        """Note a download."""
        options, plain = options_of(
            words,
            {
                "-o",
                "--output",
                "-H",
                "--header",
                "-u",
                "--retry",
                "-A",
                "-C",
                "--max-time",
                "-d",
                "-X",
            },
        )
        for url in plain:
            name = posixpath.basename(urlsplit(url).path)
            self.fetched(line, url, options.get("-o", options.get("--output", name)))

    def do_gdown(self, line: Line, words: list[str]) -> None:
        """Note a download from Google Drive."""
        options, plain = options_of(words, {"-O", "--output", "--id"})
        target = options.get("-O", options.get("--output", ""))
        given = [options["--id"]] if "--id" in options else plain
        if not target or not given:
            self.unknown(line, "Where this goes is not known. Add the artifact by hand.")
            return
        self.found.files[self.path(target)] = Source(
            line, command=shlex.join(["gdown", *given[:1], "-O"])
        )

    def fetched(self, line: Line, url: str, target: str) -> None:
        """Note that a URL is at a path."""
        if not url.startswith(("http://", "https://")) or PLACEHOLDER.search(url):
            self.unknown(line, f"{url!r} is no address of a file. Add the artifact by hand.")
            self.doubtful.add(self.path(target))
            return
        self.found.files[self.path(target)] = Source(line, url=url)

    def do_mv(self, line: Line, words: list[str]) -> None:
        """Follow files to another place."""
        self.carry(line, words, stays=False)

    def do_cp(self, line: Line, words: list[str]) -> None:
        """Follow copies to another place."""
        self.carry(line, words, stays=True)

    do_install = do_ln = do_cp

    def do_scp(self, line: Line, words: list[str]) -> None:
        """Note files that come from another computer, which only people can reach."""
        plain = [word for word in words if not word.startswith("-")]
        self.unknown(
            line, "It came from another computer, and is taken from where it lies on the host now."
        )
        for given in plain[:-1]:
            target = self.path(plain[-1])
            name = posixpath.basename(given.rpartition(":")[2])
            is_folder = target in {*self.folders, *self.etc_folders()} or plain[-1].endswith("/")
            self.found.files[posixpath.join(target, name) if is_folder else target] = Source(line)

    def do_rsync(self, line: Line, words: list[str]) -> None:
        """Follow copies within the host; what comes from elsewhere only people can reach."""
        plain = [word for word in words if not word.startswith("-")]
        if any(":" in word for word in plain):
            self.do_scp(line, words)
        else:
            self.carry(
                line,
                [f"{word}." if word.endswith("/") else word for word in plain[:-1]] + plain[-1:],
                stays=True,
            )

    def carry(self, line: Line, words: list[str], *, stays: bool) -> None:
        """Note where files are from now on."""
        plain = [word for word in words if not word.startswith("-")]
        if len(plain) < 2:
            return
        # The content of a folder, however its name begins.
        *given, target = (
            self.path(f"{word[:-1]}*" if word.endswith("/.") else word) for word in plain
        )
        is_known = target in {*self.folders, *self.etc_folders()}
        is_folder = len(given) > 1 or is_known or plain[-1].endswith("/") or "*" in given[0]
        for path in given:
            known = self.known_at(path, line)
            if not known and self.taken_out(line, path, target, is_folder=is_folder):
                continue
            if not known and not target.startswith(("/etc/nginx", "/etc/systemd")):
                self.found.unknown.add(
                    posixpath.join(target, posixpath.basename(path)) if is_folder else target
                )
                if path not in self.doubtful:
                    self.unknown(line, f"Where {path} comes from is not known here.")
            for place, source in known.items():
                relative = posixpath.relpath(
                    place, path if "*" not in path else posixpath.dirname(path)
                )
                base = posixpath.basename(path) if "*" not in path else ""
                inner = posixpath.join(base, relative) if is_folder else relative
                self.found.files[posixpath.normpath(posixpath.join(target, inner))] = source
                if not stays:
                    self.found.files.pop(place, None)

    def known_at(self, path: str, line: Line) -> dict[str, Source]:
        """Return the files that are at a path, below it, or that a pattern names."""
        if self.found.clone and f"{path}/".startswith(f"{self.found.clone}/"):
            inside = posixpath.relpath(path, self.found.clone)
            return {
                posixpath.join(self.found.clone, name): Source(line, inside=name)
                for name in self.in_clone(inside)
            }
        form = re.compile(re.escape(path).replace(r"\*", "[^/]*") + r"(/.*)?")
        return {
            place: source for place, source in self.found.files.items() if form.fullmatch(place)
        }

    def taken_out(self, line: Line, path: str, target: str, *, is_folder: bool) -> bool:
        """Note that something of an unpacked archive goes elsewhere; tell whether it is of one."""
        folder = next((one for one in self.found.unpacked if f"{path}/".startswith(f"{one}/")), "")
        if not folder:
            return False
        source, member = self.found.unpacked[folder], posixpath.relpath(path, folder)
        if f"{target}/".startswith(f"{folder}/"):
            step = shlex.join(["mv", member, posixpath.relpath(target, folder)])
            self.found.unpacked[folder] = replace(source, steps=(*source.steps, step))
        elif member == "*":
            self.found.unpacked[target] = replace(source, line=line)
        else:
            place = posixpath.join(target, posixpath.basename(path)) if is_folder else target
            self.found.files[place] = replace(source, line=line, member=member)
        return True

    # --- unpacking

    def do_gunzip(self, line: Line, words: list[str]) -> None:
        """Note that a file is unpacked in its place."""
        for word in words:
            path = self.path(word)
            if path in self.found.files:
                source = self.found.files.pop(path)
                self.found.files[re.sub(r"\.(gz|bz2|xz|zst)$", "", path)] = replace(
                    source, unpack=True
                )
            elif not word.startswith("-"):
                self.unknown(line, f"Where {path} comes from is not known here.")

    do_bunzip2 = do_unxz = do_unzstd = do_gunzip

    def do_unzip(self, line: Line, words: list[str]) -> None:
        """Note that an archive is unpacked into a folder."""
        options, plain = options_of(words, {"-d"})
        self.unpacked(line, plain[0] if plain else "", options.get("-d", "."))

    def do_tar(self, line: Line, words: list[str]) -> None:
        """Note that an archive is unpacked into a folder."""
        options, plain = options_of(words, {"-C", "--directory", "-f", "--file"})
        given = [word for word in plain if word.endswith(ARCHIVES)] + [
            options.get("-f", options.get("--file", ""))
        ]
        choosing = tuple(
            word
            for word in words
            if word.startswith(("--exclude", "--strip-components", "--wildcards"))
        )
        self.unpacked(line, given[0], options.get("-C", options.get("--directory", ".")), choosing)

    def unpacked(
        self, line: Line, archive: str, target: str, options: tuple[str, ...] = ()
    ) -> None:
        """Note that the content of an archive is in a folder, perhaps with that of others."""
        path, folder = self.path(archive), self.path(target)
        source = self.found.files.get(path)
        if source is None:
            self.unknown(line, f"Where {path} comes from is not known here.")
            return
        known = self.found.unpacked.get(folder, Source(line))
        packed = Archive(path, source, line, options)
        self.found.unpacked[folder] = replace(known, archives=(*known.archives, packed))

    def etc_folders(self) -> list[str]:
        """Return the folders below which the app finds its files."""
        return [f"/etc/{self.found.variables.get('APP_LBL', 'api-endpoint')}", "/extrastorage"]

    # --- packages

    def do_apt_get(self, _line: Line, words: list[str]) -> None:
        """Note Debian packages."""
        _, plain = options_of(words, {"-t", "-o"})
        if plain[:1] == ["install"]:
            self.found.apt += plain[1:]

    def do_pip(self, line: Line, words: list[str]) -> None:
        """Note Python packages and where they come from."""
        if words[:1] != ["install"]:
            return
        several = [
            value for flag, value in itertools.pairwise(words) if flag == "--extra-index-url"
        ]
        options, plain = options_of(
            words[1:],
            {
                "-r",
                "--requirement",
                "-i",
                "--index-url",
                "--extra-index-url",
                "-f",
                "--find-links",
                "-c",
                "--constraint",
                "-t",
            },
        )
        index = options.get("-i", options.get("--index-url", ""))
        requirements = options.get("-r", options.get("--requirement", ""))
        self.found.extra_indexes += several
        if requirements:
            inside = (
                posixpath.relpath(self.path(requirements), self.found.clone)
                if self.found.clone
                else ""
            )
            self.found.requirements.append(inside)
            self.found.index_url = self.found.index_url or index
        elif index:
            # It is for these packages alone; the others still come from pip's own.
            self.found.extra_indexes.append(index)
        for odd in ("-f", "--find-links", "-c", "--constraint", "-t", "-e", "--editable"):
            if odd in options or odd in words:
                self.unknown(
                    line,
                    f"pip's option {odd}: see api_endpoint_pip_options and api_endpoint_pip_constraints.",
                )
        self.found.pip += [word for word in plain if not word.startswith((".", "/"))]
        if local := [word for word in plain if word.startswith((".", "/"))]:
            self.unknown(
                line,
                f"The package in {local[0]} is installed from a folder. Name it in the requirements.",
            )

    # --- programs

    def do_systemctl(self, line: Line, words: list[str]) -> None:
        """Note services that are not ours."""
        others = (
            {word for word in words[1:] if not word.startswith("-")} - OWN_SERVICES - self.services
        )
        self.services |= others
        if others:
            self.unknown(
                line,
                "A service besides the API. The role knows of none; set it up by a play of its own.",
            )

    do_service = do_systemctl

    def do_python(self, line: Line, words: list[str]) -> None:
        """Note a program of the app that makes or warms something."""
        if words[:2] == ["-m", "venv"]:
            return
        if words[:2] == ["-m", "pip"]:
            self.do_pip(line, words[2:])
            return
        self.found.commands.append(
            (line, shlex.join(["python", *(self.on_host(word) for word in words)]))
        )

    def on_host(self, word: str) -> str:
        """Return a path as it is within the app's folder, anything else as it is."""
        for folder in self.etc_folders():
            if word.startswith(f"{folder}/"):
                return posixpath.relpath(word, folder)
        return word


def written_to(words: list[str]) -> str:
    """Return the file into which a command writes; empty for none, and for what is no file."""
    if words[:1] == ["tee"]:
        return next((word for word in words[1:] if not word.startswith(("-", "<", ">"))), "")
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if match := re.fullmatch(r"1?>>?([^&>].*)?", word):
            target = match[1] or following
            return "" if target.startswith("/dev/") else target
    return ""


def without_redirection(words: list[str]) -> list[str]:
    """Return a command without where its output goes."""
    return list(itertools.takewhile(lambda word: not re.match(r"\d?>", word), words))


def options_of(words: list[str], with_value: set[str]) -> tuple[dict[str, str], list[str]]:
    """Tell options from the rest; `with_value` are the options that take the next word."""
    options: dict[str, str] = {}
    plain: list[str] = []
    left = iter(words)
    for word in left:
        name, equals, value = word.partition("=")
        if word in with_value:
            options[word] = next(left, "")
        elif equals and name in with_value:
            options[name] = value
        elif word.startswith("--"):
            options[word] = ""
        elif word.startswith("-") and len(word) > 1:
            # Letters together, the last of which may take a value, at once or as the next word: -qO model.bin
            taking = next(
                (place for place in range(1, len(word)) if f"-{word[place]}" in with_value), 0
            )
            if taking:
                options[f"-{word[taking]}"] = word[taking + 1 :] or next(left, "")
            else:
                options[word] = ""
        else:
            plain.append(word)
    return options, plain
