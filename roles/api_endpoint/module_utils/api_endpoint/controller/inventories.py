# SPDX-License-Identifier: GPL-3.0-or-later
"""Check what Ansible passes over in silence: an inventory's keys and hosts, files of variables, tags.

Each problem is a sentence with the file, the line where there is one, and the remedy. `tools/run.py` checks the files
before it starts Ansible, and a callback plugin of the playbooks checks them, and the hosts, before the first task.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.api_endpoint.controller.paths import short

Groups = dict[str, set[str]]  # the hosts of each group, those of its children included

ENDPOINTS, BALANCERS = "api_endpoints", "load_balancers"
KNOWN_GROUPS = {"all", "ungrouped", ENDPOINTS, BALANCERS}
SECTIONS = ("hosts", "vars", "children")
VARIABLE = re.compile(r"(ansible|api_endpoint|load_balancer)_\w+|balancer_address")
YAML_SUFFIXES = ("", ".yml", ".yaml", ".json")
# What Ansible passes over in a folder of inventories; those that are no YAML are not read here.
IGNORED_SUFFIXES = (".pyc", ".pyo", ".swp", ".bak", "~", ".rpm", ".md", ".txt", ".rst", ".orig",
                    ".cfg", ".retry", ".ini")  # fmt: skip
EXAMPLES = {
    "my-instance.my-project.eqiad1.wikimedia.cloud": "the name of your instance",
    "my-shell-name": "your user name on the host",
}
SLIP = 0.8  # how alike two names are, of 1, when one is a slip of the other
SPECIAL_TAGS = {"all", "always", "never", "tagged", "untagged"}
# What PyYAML says, and what has led to it.
YAML_CAUSES = {
    r"character '\\t'": "A tab is in this line. Put spaces in its place; YAML takes no tabs",
    r"character '([@`%&*!|>])'": "A value begins with \\1. Put the value in quotes",
    "unhashable|found undefined alias|while scanning an alias|while scanning an anchor": (
        'A value begins with {, * or &. Put the value in quotes, as in "{{ name }}"'
    ),
    "unexpected end of stream|scanning a quoted scalar": (
        "A quote is opened and never closed. Close it"
    ),
    "mapping values are not allowed": (
        "This line or the one above lacks a colon, or the space after it, or the two are not "
        "indented alike; a text with a colon in it needs quotes"
    ),
    "could not find expected ':'": "A name lacks the colon after it. Write name: value",
    r"expected <block end>, but found '<scalar>'": (
        "Text follows a closing quote. Put the whole value into one pair of quotes"
    ),
    "expected <block end>": (
        "The line is not indented like those that it belongs to. Give them the same number of spaces"
    ),
    r"expected ',' or '[\]}]'": "A list or dictionary lacks a comma or its closing bracket",
    "expected the node content": "A value begins with , ] or }. Put the value in quotes",
}


def _value_of(_: Any, __: str, node: Any) -> Any:
    """Return what stands for a value with a tag of Ansible's, such as !vault."""
    return node.value


class _Loader(yaml.SafeLoader):
    """Says in which line and why something is not YAML."""


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads a large inventory in a tenth of the time."""


for loader in (_Loader, _FastLoader):
    loader.add_multi_constructor("!", _value_of)


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known name that a misspelt one may stand for; empty when none is near."""
    return "".join(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint that ends in a space; empty when no known name is near."""
    near = nearest(name, known)
    return f"Did you mean {near}? " if near else ""


def read(path: Path) -> tuple[Any, list[str]]:
    """Return what a YAML file holds, and the problem with its YAML if there is one."""
    try:
        text = path.read_text(encoding="utf-8")
        try:
            return yaml.load(text, _FastLoader), []  # noqa: S506 - a SafeLoader
        except yaml.YAMLError:
            return yaml.load(text, _Loader), []  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError:
        return None, [f"{short(path)} is not text in UTF-8. Save it as UTF-8."]
    except OSError as error:
        return None, [f"{short(path)} cannot be read: {error.strerror}."]
    except yaml.YAMLError as error:
        return None, [yaml_problem(path, error)]


def yaml_problem(path: Path, error: yaml.YAMLError) -> str:
    """Say what is wrong with a file's YAML, and in which line."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    words = f"{getattr(error, 'context', None) or ''} {getattr(error, 'problem', None) or error}"
    cause = f"This is not YAML: {words.strip()}"
    for pattern, meaning in YAML_CAUSES.items():
        if found := re.search(pattern, words):
            cause = found.expand(meaning)
            break
    if mark is None:
        return f"{short(path)}: {cause}."
    lines = path.read_text(encoding="utf-8").splitlines()
    number = min(mark.line + 1, len(lines))
    line = lines[number - 1].strip() if lines else ""
    return f"{short(path)} line {number}: {cause}.{f' The line: {line}' if line else ''}"


def line_of(path: Path, key: str) -> str:
    """Return where a key stands in a file: its path, and its first line when that is found."""
    pattern = re.compile(rf"\s*(- )?[\"']?{re.escape(str(key))}[\"']?\s*:")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if pattern.match(line):
            return f"{short(path)} line {number}"
    return short(path)


def sources_of(source: str) -> list[Path]:
    """Return the files of an inventory source: itself, or those of the folder."""
    path = Path(source)
    if not path.is_dir():
        return [path] if path.is_file() else []
    return sorted(
        one
        for one in path.iterdir()
        if one.is_file()
        and not one.name.startswith(".")
        and not one.name.endswith(IGNORED_SUFFIXES)
    )


def is_yaml(path: Path) -> bool:
    """Tell whether Ansible reads it as YAML; a script and an INI file have no suffix either."""
    if path.suffix not in YAML_SUFFIXES or os.access(path, os.X_OK):
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return not re.match(r"#!|(\s*[#;].*\n|\s*\n)*\[[\w:.-]+\]\s*(#.*)?\n", text)


class Inventory:
    """What the inventory's files say, without Ansible, and the problems with them."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.sources = list(sources)
        self.problems: list[str] = []
        self.hosts: set[str] = set()
        self._own: Groups = {}
        self._children: dict[str, set[str]] = {}
        self.is_static = True  # whether all hosts are known from YAML files
        for source in self.sources:
            files = sources_of(source)
            self.is_static = self.is_static and bool(files)
            for path in files:
                self._read(path)

    def _read(self, path: Path) -> None:
        self.problems += example_problems(path)
        if not is_yaml(path):
            self.is_static = False
            return
        content, problems = read(path)
        self.problems += problems
        if problems or content is None:
            self.is_static = self.is_static and not problems
            return
        if not isinstance(content, dict):
            self.problems.append(
                f"{short(path)} has no groups. Write api_endpoints:, below it hosts:, below that "
                "the names of your hosts, each with a colon."
            )
            return
        if "plugin" in content:
            self.is_static = False
            return
        for name, group in content.items():
            self._group(path, str(name), group, ())

    def _group(self, path: Path, name: str, group: Any, above: tuple[str, ...]) -> None:
        where = f"{line_of(path, name)}: {name}"
        for other in above:
            self._children.setdefault(other, set()).add(name)
        self._own.setdefault(name, set())
        is_group = isinstance(group, dict) and set(group) & set(SECTIONS)
        if VARIABLE.fullmatch(name) and name not in KNOWN_GROUPS and not above and not is_group:
            self.problems.append(
                f"{where} is a variable where a group is expected, and Ansible ignores it. "
                "Put it below vars: of the group."
            )
            return
        if group is None:
            return
        if not isinstance(group, dict):
            self.problems.append(
                f"{where} is {group!r}. Below a group stand hosts:, vars: and children:."
            )
            return
        for key in group:
            if key not in SECTIONS:
                self.problems.append(self._unknown_key(path, name, str(key)))
        self._hosts(path, name, group.get("hosts"))
        values = group.get("vars")
        if values is not None and not isinstance(values, dict):
            self.problems.append(
                f"{where}: vars has {values!r}. Write each variable as name: value, indented."
            )
        children = group.get("children")
        if isinstance(children, dict):
            for child, inner in children.items():
                self._group(path, str(child), inner, (name,))
        elif children is not None:
            self.problems.append(
                f"{where}: children has {children!r}. Write the name of each group with a colon."
            )

    def _unknown_key(self, path: Path, group: str, key: str) -> str:
        where = (
            f"{line_of(path, key)}: {key} stands in the group {group}, where Ansible ignores it."
        )
        if VARIABLE.fullmatch(key):
            return f"{where} Put it below vars: of the group, or below a host."
        return (
            f"{where} {did_you_mean(key, SECTIONS)}A group has hosts:, vars: and children:; "
            "a host stands below hosts:."
        )

    def _hosts(self, path: Path, group: str, hosts: Any) -> None:
        if isinstance(hosts, str) and " " not in hosts:
            hosts = {hosts: None}
        if hosts is None:
            return
        if not isinstance(hosts, dict):
            self.problems.append(
                f"{line_of(path, 'hosts')}: hosts of the group {group} is {hosts!r}. Write the name "
                "of each host with a colon after it and without a dash, indented below hosts:."
            )
            return
        for host, values in hosts.items():
            name = str(host)
            self._own.setdefault(group, set()).add(name)
            self.hosts.add(name)
            self.is_static = self.is_static and not re.search(r"[\[\]:]", name)
            if values is not None and not isinstance(values, dict):
                self.problems.append(
                    f"{line_of(path, name)}: the host {name} has {values!r}. Write its variables "
                    "below it, indented, each as name: value, such as ansible_host: 203.0.113.7."
                )
            for key in values if isinstance(values, dict) else ():
                if key in SECTIONS:
                    self.problems.append(
                        f"{line_of(path, name)}: {key} stands below the host {name}, where Ansible "
                        "ignores it. A host's variables stand right below its name."
                    )

    @property
    def groups(self) -> Groups:
        """The hosts of each group, those of its children included."""

        def hosts_of(name: str, seen: frozenset[str]) -> set[str]:
            found = set(self._own.get(name, ()))
            for child in self._children.get(name, set()) - seen:
                found |= hosts_of(child, seen | {child})
            return found

        return {name: hosts_of(name, frozenset({name})) for name in self._own}


def example_problems(path: Path) -> list[str]:
    """Check that no host of the example is left, to which nobody can log in."""
    found = []
    text = path.read_text(encoding="utf-8", errors="replace")
    for example, instead in EXAMPLES.items():
        numbers = [
            str(number)
            for number, line in enumerate(text.splitlines(), 1)
            if example in line.partition("#")[0]
        ]
        if numbers:
            lines = f"line{'s' if len(numbers) > 1 else ''} {' and '.join(numbers)}"
            found.append(
                f"{short(path)} {lines}: {example} is the example's. Put {instead} in its place."
            )
    return found


def host_problems(sources: Iterable[str], groups: Groups, group: str = ENDPOINTS) -> list[str]:
    """Check that the group to which a playbook goes has hosts."""
    if groups.get(group):
        return []
    where = " and ".join(short(source) for source in sources) or "The inventory"
    others = {name for name, hosts in groups.items() if hosts} - KNOWN_GROUPS
    near = nearest(group, others)
    if near:
        return [f"{where} has hosts in the group {near}. Did you mean {group}? Rename the group."]
    return [
        f"{where} has no host in the group {group}, to which this goes. Put your host below hosts: "
        f"of {group}."
    ]


def variable_files(folders: Iterable[Path]) -> Iterator[tuple[str, str, Path]]:
    """Yield each file of variables: its kind, the host or group it is for, and its path."""
    seen = set()  # playbooks/group_vars is a link
    for folder in folders:
        for kind in ("host_vars", "group_vars"):
            if (folder / kind).resolve() in seen or not (folder / kind).is_dir():
                continue
            seen.add((folder / kind).resolve())
            for path in sorted((folder / kind).iterdir()):
                if path.name.startswith(".") or path.name.endswith("~"):
                    continue
                if path.is_dir():
                    for inner in sorted(path.rglob("*")):
                        if inner.is_file() and inner.suffix in YAML_SUFFIXES:
                            yield kind, path.name, inner
                elif path.suffix in YAML_SUFFIXES[1:]:
                    yield kind, path.stem, path
                else:
                    yield kind, path.name, path


def folders_of(sources: Iterable[str], playbook_dirs: Iterable[Path] = ()) -> list[Path]:
    """Return the folders whose host_vars and group_vars Ansible reads."""
    beside = [Path(one) if Path(one).is_dir() else Path(one).parent for one in sources]
    return [*(one for one in beside if one.is_dir()), *playbook_dirs]


def content_problems(folders: Iterable[Path]) -> list[str]:
    """Check the YAML of files of variables."""
    found = []
    for _, _, path in variable_files(folders):
        if path.read_bytes()[:14] == b"$ANSIBLE_VAULT":
            continue
        content, problems = read(path)
        found += problems
        if not problems and content is not None and not isinstance(content, dict):
            found.append(
                f"{short(path)} has no variables. Write each as name: value, without a dash."
            )
    return found


def misspelt(name: str, known: Iterable[str]) -> str:
    """Return the known name that another is a slip of; empty when there is none.

    Names with other numbers are other hosts, and those of one domain differ in their first part.
    """
    for one in sorted(known):
        names = [name, one]
        if name.partition(".")[2] == one.partition(".")[2]:
            names = [each.partition(".")[0] for each in names]
        numbers = [re.findall(r"\d+", each) for each in names]
        if (
            numbers[0] == numbers[1]
            and difflib.SequenceMatcher(None, names[0], names[1]).ratio() >= SLIP
        ):
            return one
    return ""


def stray_files(
    folders: Iterable[Path], hosts: set[str], groups: Groups
) -> tuple[list[str], list[str]]:
    """Return problems and warnings: files of variables that are for no host or group of the inventory.

    One whose name is a slip of that of a host without a file is a mistake; another one may be for another inventory.
    """
    files = list(variable_files(folders))
    problems, warnings = [], []
    for kind, name, path in files:
        what, known = (
            ("host", hosts) if kind == "host_vars" else ("group", {*groups, *KNOWN_GROUPS})
        )
        if name in known:
            continue
        taken = {other for other_kind, other, at in files
                 if other_kind == kind and at.parent == path.parent}  # fmt: skip
        free = known - taken
        near = misspelt(name, free) or next(
            (one for one in sorted(free) if one.partition(".")[0] == name), ""
        )
        says = f"{short(path)} is for the {what} {name}, which the inventory does not have"
        if near:
            renamed = f"{near}{path.suffix}" if path.stem == name else near
            problems.append(f"{says}. Did you mean {near}? Rename it to {kind}/{renamed}.")
        elif kind == "host_vars":
            warnings.append(f"{says}: it sets nothing in this run.")
    return problems, warnings


def unread_files(project: Path, sources: Iterable[str]) -> list[str]:
    """Check host_vars/ beside site.yml: its plays are those of playbooks/, where Ansible looks instead."""
    beside = folders_of(sources)
    folder = project / "host_vars"
    if not folder.is_dir() or not beside or project in [one.resolve() for one in beside]:
        return []
    return [
        f"{short(path)} sets nothing: Ansible does not look there. Move it to {short(beside[0])}/host_vars/."
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    ]


def tags_of(project: Path, playbooks: Iterable[str]) -> set[str]:
    """Return the tags by which a run of the project's playbooks can be limited."""
    if not {"site.yml", "deploy.yml"} & {Path(one).name for one in playbooks}:
        return set()
    found: set[str] = set()
    for name in ("build", "activate"):
        path = project / "roles" / "api_endpoint" / "tasks" / f"{name}.yml"
        tasks = yaml.safe_load(path.read_text(encoding="utf-8"))
        for task in tasks:
            for inner in task.get("block", [task]):
                found |= set(inner.get("tags", []))
    return found - {"always"}


def tag_problems(given: Iterable[str], known: set[str]) -> list[str]:
    """Check the tags of a run, of which Ansible takes any: with an unknown one it does nothing, and succeeds."""
    unknown = [tag for tag in given if tag and tag not in known | SPECIAL_TAGS]
    if unknown and not known:
        return [f"The tag {unknown[0]} is given, but only a deployment has tags. Leave it out."]
    return [
        f"There is no tag {tag}. {did_you_mean(tag, known)}The tags are {', '.join(sorted(known))}."
        for tag in unknown
    ]
