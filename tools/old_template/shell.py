# SPDX-License-Identifier: GPL-3.0-or-later
"""Follows a set-up script as far as it can be without running it: variables, folders, and what becomes of each file.

Words are told apart by shlex. What is known of the host is what the script has said of it: where the clone is, which folders
were made, which file came from where. A line that says anything else is noted, never guessed at.
"""

from __future__ import annotations

import itertools
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from old_template.notes import Notes

# What the role does by itself, or what has no meaning for it.
NEEDLESS = {
    "echo", "printf", "chown", "chmod", "set", "exit", "deactivate", "source", ".", "true", "export", "sleep", "rmdir",
    "touch", "unlink", "ln", "ls", "pwd", "date", "hash", "wait", "shopt", "read", ":",
}  # fmt: skip
OWN_SERVICES = {"model", "model.service", "nginx", "nginx.service", "model.socket"}
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.S)
PLACEHOLDER = re.compile(r"<[^>]*>|\.\.\.$|^\.+$|example\.org/path")
DOLLAR = "\ue000"  # a dollar sign that starts no variable
DOUBLED = re.compile(r"\s\d?>&\d\b")  # one output sent after another
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")


@dataclass(frozen=True)
class Line:
    """A command with the place where it stands; words still have their variables."""

    file: str
    number: int
    text: str
    words: tuple[str, ...]
    conditional: bool = False


@dataclass(frozen=True)
class Source:
    """Where a file on the host comes from: a URL, or a path within the clone; neither when people have put it there."""

    line: Line
    url: str = ""
    inside: str = ""
    unpack: bool = False


@dataclass
class Found:
    """What a script has said."""

    variables: dict[str, str] = field(default_factory=dict)
    repository: str = ""
    branch: str = ""
    apt: list[str] = field(default_factory=list)
    pip: list[str] = field(default_factory=list)
    index_url: str = ""
    extra_indexes: list[str] = field(default_factory=list)
    requirements: list[str] = field(default_factory=list)
    commands: list[tuple[Line, str]] = field(
        default_factory=list
    )  # programs of the app, with the paths they have on the host
    files: dict[str, Source] = field(default_factory=dict)
    folders: set[str] = field(default_factory=lambda: {"/", "/etc", "/srv"})


def split(text: str, file: str, notes: Notes) -> Iterator[Line]:
    """Return the commands of a script, one by one."""
    number, held, started = 0, "", 1
    for raw in text.splitlines():
        number += 1
        started = started if held else number
        held += raw
        if raw.endswith("\\") and not raw.lstrip().startswith("#"):
            held = held[:-1] + " "
            continue
        lexer = shlex.shlex(sealed(DOUBLED.sub(" ", held)), posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        lexer.commenters = ""
        try:
            words = list(without_comment(list(lexer)))
        except ValueError:
            # Perhaps a text that goes on in the next line.
            if held.count("\n") < 20 and not re.match(r"\s*#", held):
                held += "\n"
                continue
            words = []
        for command in between(words, {";", "&&", "\n", ";;"}):
            yield Line(file, started, " ".join(held.split()), tuple(command))
        held = ""
    if held.strip():
        notes.add(file, started, held[:200], "A quote that has no end: what follows was not read.")


def sealed(text: str) -> str:
    """Return a text whose dollar signs in single quotes are no variables; shlex does not tell which quotes a word had."""
    quote, done = "", []
    for letter in text:
        if letter in "\"'" and quote in ("", letter):
            quote = "" if quote else letter
        done.append(DOLLAR if letter == "$" and quote == "'" else letter)
    return "".join(done)


def without_comment(words: list[str]) -> Iterator[str]:
    """Return the words before a comment."""
    return itertools.takewhile(lambda word: not word.startswith("#"), words)


def between(words: list[str], separators: set[str]) -> Iterator[list[str]]:
    """Return the parts between separators, but for empty ones."""
    part: list[str] = []
    for word in [*words, ";"]:
        if word in separators:
            if part:
                yield part
            part = []
        else:
            part.append(word)


def unrolled(lines: list[Line], notes: Notes) -> list[Line]:
    """Return the commands with loops over plain words written out, and those marked that depend on a condition."""
    done: list[Line] = []
    depth = 0
    index = 0
    while index < len(lines):
        line = lines[index]
        word = line.words[0]
        if word == "for" and line.words[2:3] == ("in",):
            end = closing(lines, index, "for", "done")
            body = [strip(inner, "do") for inner in lines[index + 1 : end]]
            body = [inner for inner in body if inner.words]
            for value in line.words[3:]:
                setting = Line(line.file, line.number, line.text, (f"{line.words[1]}={value}",), depth > 0)
                done += [setting, *unrolled(body, notes)]
            index = end
        elif word in ("while", "until", "case", "function", "for", "select") or line.words[1:2] == ("()",):
            ends = "}" if word == "function" or line.words[1:2] == ("()",) else {"case": "esac"}.get(word, "done")
            end = closing(lines, index, word, ends)
            notes.add(line.file, line.number, line.text, "This is not followed. Translate what it does by hand.")
            index = end
        elif word in ("if", "elif", "else", "then", "fi", "[[", "["):
            depth += {"if": 1, "fi": -1}.get(word, 0)
            rest = strip(line, "then", "else")
            if word in ("then", "else") and rest.words:
                done.append(replace(rest, conditional=True))
        else:
            done.append(replace(line, conditional=depth > 0))
        index += 1
    return done


def strip(line: Line, *leading: str) -> Line:
    """Return a command without a word of the grammar before it."""
    return replace(line, words=line.words[1:]) if line.words[0] in leading else line


def closing(lines: list[Line], index: int, opening: str, end: str) -> int:
    """Return where a block ends; the last line when it does not."""
    depth = 0
    for number in range(index, len(lines)):
        words = lines[number].words
        depth += (words[0] == opening) + (words[:2] == ("do", opening))
        if words[0] == end:
            depth -= 1
            if depth == 0:
                return number
    return len(lines) - 1


class Script:
    """One script that is followed."""

    def __init__(self, found: Found, notes: Notes, in_clone: Callable[[str], list[str]]) -> None:
        self.found = found
        self.notes = notes
        self.in_clone = in_clone  # the clone's files that a path or pattern within it names
        self.cwd = "/root"
        self.services: set[str] = set()  # those that were noted already
        self.doubtful: set[str] = set()  # files that were noted already
        self.clone = ""  # where the clone is on the host
        self.folders = found.folders

    def follow(self, text: str, file: str) -> None:
        """Follow a script from its first line to its last."""
        lines = [line for line in split(text, file, self.notes) if line.words]
        for line in unrolled(lines, self.notes):
            self.command(line)

    # --- one command

    def command(self, line: Line) -> None:
        """Note what one command does."""
        if {"|", "||", "&", "(", ")"} & set(line.words) or any("$(" in word or "`" in word for word in line.words):
            if line.words[0] not in NEEDLESS:
                self.unknown(line, "Pipes and substitutions are not followed. Translate what it does by hand.")
            return
        words = [self.expand(word, line) for word in line.words]
        if words[0] == "sudo":
            words = words[1:]
        while words and (assigned := ASSIGNMENT.fullmatch(words[0])):
            self.found.variables[assigned[1]] = assigned[2]
            words = words[1:]
        words = without_redirection(words)
        if not words or words[0] in NEEDLESS:
            return
        name = posixpath.basename(words[0])
        action: Callable[[Line, list[str]], None] | None = getattr(self, f"do_{name.replace('-', '_')}", None)
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
        options, plain = options_of(words[1:], {"--branch", "-b", "--depth", "-c", "--config", "--origin", "-o"})
        if not plain or (self.found.repository and self.clone):
            self.unknown(line, "A second repository. Bring it as part of the app's own, or as a requirement.")
            return
        self.found.repository = self.found.repository or plain[0]
        self.found.branch = self.found.branch or options.get("--branch", options.get("-b", ""))
        base = posixpath.basename(plain[0]).removesuffix(".git")
        self.clone = self.path(plain[1] if len(plain) > 1 else base)
        self.folders.add(self.clone)

    def do_wget(self, line: Line, words: list[str]) -> None:
        """Note a download."""
        options, plain = options_of(
            words, {"-O", "--output-document", "-P", "--directory-prefix", "-o", "-a", "-t", "--tries", "-T"}
        )
        for url in plain:
            name = posixpath.basename(urlsplit(url).path)
            folder = options.get("-P", options.get("--directory-prefix", "."))
            given = options.get("-O", options.get("--output-document", ""))
            self.fetched(line, url, given or posixpath.join(folder, name))

    def do_curl(self, line: Line, words: list[str]) -> None:
        """Note a download."""
        options, plain = options_of(
            words, {"-o", "--output", "-H", "--header", "-u", "--retry", "-A", "-C", "--max-time", "-d", "-X"}
        )
        for url in plain:
            name = posixpath.basename(urlsplit(url).path)
            self.fetched(line, url, options.get("-o", options.get("--output", name)))

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

    do_install = do_cp

    def do_scp(self, line: Line, words: list[str]) -> None:
        """Note files that come from another computer, which only people can reach."""
        plain = [word for word in words if not word.startswith("-")]
        self.unknown(line, "It came from another computer, and is taken from where it lies on the host now.")
        for given in plain[:-1]:
            target = self.path(plain[-1])
            name = posixpath.basename(given.rpartition(":")[2])
            self.found.files[posixpath.join(target, name) if target in self.folders else target] = Source(line)

    do_rsync = do_scp

    def carry(self, line: Line, words: list[str], *, stays: bool) -> None:
        """Note where files are from now on."""
        plain = [word for word in words if not word.startswith("-")]
        if len(plain) < 2:
            return
        *given, target = (self.path(word) for word in plain)
        is_folder = len(given) > 1 or target in self.folders or plain[-1].endswith("/") or "*" in given[0]
        for path in given:
            known = self.known_at(path, line)
            if not known and path not in self.doubtful and not target.startswith(("/etc/nginx", "/etc/systemd")):
                self.unknown(line, f"Where {path} comes from is not known here.")
            for place, source in known.items():
                relative = posixpath.relpath(place, path if "*" not in path else posixpath.dirname(path))
                base = posixpath.basename(path) if "*" not in path else ""
                inner = posixpath.join(base, relative) if is_folder or relative != "." else "."
                self.found.files[posixpath.normpath(posixpath.join(target, inner))] = source
                if not stays:
                    self.found.files.pop(place, None)

    def known_at(self, path: str, line: Line) -> dict[str, Source]:
        """Return the files that are at a path, below it, or that a pattern names."""
        if self.clone and f"{path}/".startswith(f"{self.clone}/"):
            inside = posixpath.relpath(path, self.clone)
            return {posixpath.join(self.clone, name): Source(line, inside=name) for name in self.in_clone(inside)}
        form = re.compile(re.escape(path).replace(r"\*", "[^/]*") + r"(/.*)?")
        return {place: source for place, source in self.found.files.items() if form.fullmatch(place)}

    # --- unpacking

    def do_gunzip(self, line: Line, words: list[str]) -> None:
        """Note that a file is unpacked in its place."""
        for word in words:
            path = self.path(word)
            if path in self.found.files:
                source = self.found.files.pop(path)
                self.found.files[re.sub(r"\.(gz|bz2|xz|zst)$", "", path)] = replace(source, unpack=True)
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
        given = [word for word in plain if word.endswith(ARCHIVES)] + [options.get("-f", "")]
        self.unpacked(line, given[0], options.get("-C", options.get("--directory", ".")))

    def unpacked(self, line: Line, archive: str, target: str) -> None:
        """Note that the content of an archive is a folder."""
        path, folder = self.path(archive), self.path(target)
        source = self.found.files.pop(path, None)
        if source is None:
            self.unknown(line, f"Where {path} comes from is not known here.")
        elif any(f"{folder}/".startswith(f"{known}/") and folder != known for known in self.etc_folders()):
            self.found.files[folder] = replace(source, unpack=True)
        else:
            self.unknown(line, "This unpacks among other files. Give the archive a folder of its own: unpack: true.")

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
        several = [value for flag, value in itertools.pairwise(words) if flag == "--extra-index-url"]
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
            inside = posixpath.relpath(self.path(requirements), self.clone) if self.clone else ""
            self.found.requirements.append(inside)
            self.found.index_url = self.found.index_url or index
        elif index:
            # It is for these packages alone; the others still come from pip's own.
            self.found.extra_indexes.append(index)
        for odd in ("-f", "--find-links", "-c", "--constraint", "-t", "-e", "--editable"):
            if odd in options or odd in words:
                self.unknown(line, f"pip's option {odd}: see api_endpoint_pip_options and api_endpoint_pip_constraints.")
        self.found.pip += [word for word in plain if not word.startswith((".", "/"))]
        if local := [word for word in plain if word.startswith((".", "/"))]:
            self.unknown(line, f"The package in {local[0]} is installed from a folder. Name it in the requirements.")

    # --- programs

    def do_systemctl(self, line: Line, words: list[str]) -> None:
        """Note services that are not ours."""
        others = {word for word in words[1:] if not word.startswith("-")} - OWN_SERVICES - self.services
        self.services |= others
        if others:
            self.unknown(line, "A service besides the API. The role knows of none; set it up by a play of its own.")

    do_service = do_systemctl

    def do_python(self, line: Line, words: list[str]) -> None:
        """Note a program of the app that makes or warms something."""
        if words[:2] == ["-m", "venv"]:
            return
        if words[:2] == ["-m", "pip"]:
            self.do_pip(line, words[2:])
            return
        self.found.commands.append((line, shlex.join(["python", *(self.on_host(word) for word in words)])))

    def on_host(self, word: str) -> str:
        """Return a path as it is within the app's folder, anything else as it is."""
        for folder in self.etc_folders():
            if word.startswith(f"{folder}/"):
                return posixpath.relpath(word, folder)
        return word


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
            taking = next((place for place in range(1, len(word)) if f"-{word[place]}" in with_value), 0)
            if taking:
                options[f"-{word[taking]}"] = word[taking + 1 :] or next(left, "")
            else:
                options[word] = ""
        else:
            plain.append(word)
    return options, plain
