# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the variables of Debian's and Python's packages; what no longer installs as it was pinned gets what does."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import Version

from old_template.clone import Clone
from old_template.layout import Layout
from old_template.notes import Notes
from old_template.shell import Found

# Brought by the role, or needed by what it replaces.
NEEDLESS_APT = {
    "bzip2", "curl", "git", "iproute2", "logrotate", "nginx", "openssh-client", "python3-venv", "rsync", "rsyslog",
    "xz-utils", "zstd", "python3", "python3-pip", "python3-wheel", "python3-setuptools", "wget", "virtualenv",
    "python3-virtualenv", "gunicorn",
}  # fmt: skip
NEEDLESS_PIP = {"pip", "wheel", "setuptools", "gunicorn", "uwsgi"}


@dataclass(frozen=True)
class Remedy:
    """What helps a package that is pinned below a version; the last one that fits is taken."""

    package: str
    below: str  # no version helps it
    why: str  # nothing when nobody needs to know
    at_least: str = ""
    constraints: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


# Tried on Debian 12 and 13 (Python 3.11 and 3.13). NO_BUILD has what only a note can tell.
REMEDIES = (
    Remedy("uwsgi", "", "", exclude=("uwsgi",)),
    Remedy(
        "flask", "2", "This Flask fails with companions of today.",
        constraints=("Werkzeug<2.1", "Jinja2<3.1", "itsdangerous<2.1"),
    ),
    Remedy("flask", "2.3", "This Flask fails with Werkzeug 3.", at_least="2", constraints=("Werkzeug<3",)),
    Remedy("jinja2", "3", "This Jinja2 fails with MarkupSafe of today.", constraints=("MarkupSafe<2.1",)),
    Remedy("pyyaml", "6.0.1", "This PyYAML no longer compiles.", at_least="5.4", packages=("PyYAML>=6.0.1",)),
    Remedy("requests", "2.26", "This requests needs an urllib3 that fails with Python 3.12.", packages=("requests>=2.26",)),
    Remedy("hydra-core", "1.3", "This hydra-core fails with Python 3.11.", packages=("hydra-core>=1.3",)),
    Remedy(
        "fasttext", "", "It fails with numpy 2. For Debian 13, whose Python has no older numpy, a fork takes its place.",
        constraints=('numpy<2; python_version < "3.13"',),
        packages=('fasttext>=0.9.2; python_version < "3.13"', 'fasttext-community; python_version >= "3.13"'),
    ),
    Remedy("fasttext-wheel", "", "It fails with numpy 2.", constraints=("numpy<2",)),
)  # fmt: skip
# The first version that has a build for the Python of Debian 12, and of Debian 13.
NO_BUILD = {
    "tensorflow": ("2.12", "2.20"), "scikit-learn": ("1.2", "1.5.2"), "scipy": ("1.9.3", "1.14.1"), "pillow": ("9.3", "11"),
    "numpy": ("1.23.2", "2.1"), "pandas": ("1.5.1", "2.2.3"), "torch": ("2", "2.5"), "h5py": ("3.8", "3.12"),
    "grpcio": ("1.49.1", "1.66.2"), "lxml": ("4.9.2", "5.3"), "spacy": ("3.5", "3.8.2"), "transformers": ("4.21", "4.46"),
}  # fmt: skip


@dataclass
class Python:
    """What is added to the app's requirements."""

    packages: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)


class Packages:
    """The packages that the scripts and the app's requirements name."""

    def __init__(self, found: Found, layout: Layout, notes: Notes) -> None:
        self.found, self.layout, self.notes = found, layout, notes
        clone = layout.clone
        named = [
            *found.requirements,
            posixpath.join(layout.subdir, "requirements.txt"),
            *clone.named("requirements.txt"),
        ]
        file = next((name for name in named if name in clone.names), "")
        self.lines = [*included(clone, file, set()), *found.pip]
        self.names = {name_of(line) for line in self.lines} - {""}

    def variables(self, server: str) -> dict[str, Any]:
        """Return the role's variables; `server` is the role's own requirement for gunicorn, with what the app needs."""
        python = Python(
            [one for one in dict.fromkeys(self.found.pip) if name_of(one) not in NEEDLESS_PIP]
        )
        for line in self.lines:
            self.remedied(line, python)
        self.note_builds()
        apt = [
            name
            for name in dict.fromkeys(self.found.apt)
            if name not in NEEDLESS_APT and "uwsgi" not in name
        ]
        given = {
            "api_endpoint_apt_packages": apt,
            "api_endpoint_requirements_file": self.file(),
            "api_endpoint_gunicorn": server,
            "api_endpoint_pip_packages": list(dict.fromkeys(python.packages)),
            "api_endpoint_pip_constraints": list(dict.fromkeys(python.constraints)),
            "api_endpoint_pip_exclude": list(dict.fromkeys(python.exclude)),
            "api_endpoint_pip_index_url": self.found.index_url,
            "api_endpoint_pip_extra_index_urls": list(dict.fromkeys(self.found.extra_indexes)),
        }
        return {name: value for name, value in given.items() if value}

    def file(self) -> str:
        """Return the requirements file, if it is another one than the role takes by itself."""
        files = [name for name in dict.fromkeys(self.found.requirements) if name]
        for name in files[1:]:
            self.notes.add(
                "",
                0,
                f"pip install -r {name}",
                "A second file of requirements: name it in the first one with -r.",
            )
        usual = ("requirements.txt", posixpath.join(self.layout.subdir, "requirements.txt"))
        return files[0] if files and files[0] not in usual else ""

    def remedied(self, line: str, python: Python) -> None:
        """Add what helps one requirement; leave alone what the app pins itself."""
        requirement = parsed(line)
        if requirement is None:
            return
        name = name_of(requirement.name)
        for one in REMEDIES:
            if one.package == name and is_within(requirement, one.at_least, one.below):
                python.exclude += one.exclude
                constraints = [limit for limit in one.constraints if not self.pins(name_of(limit))]
                python.constraints += constraints
                replaced = [package for package in python.packages if name_of(package) == name]
                python.packages = [
                    package for package in python.packages if package not in replaced
                ] + list(one.packages)
                if one.why and (constraints or one.packages):
                    self.notes.add("", 0, line.strip(), one.why)

    def note_builds(self) -> None:
        """Note what has no build for the Python of Debian, which only a decision can help."""
        newer, newest = [], []
        for line in self.lines:
            requirement, (first, second) = parsed(line), NO_BUILD.get(name_of(line), ("", ""))
            if requirement is not None and first and is_below(requirement, first):
                newer.append(f"{line.strip()} (first: {first})")
            elif requirement is not None and first and is_below(requirement, second):
                newest.append(f"{line.strip()} (first: {second})")
        if newer:
            why = "No build for the Python of Debian 12 or 13. Loosen the pins, or give an older api_endpoint_python."
            self.notes.add("", 0, ", ".join(newer), why)
        if newest:
            why = "No build for the Python of Debian 13. Deploy to Debian 12, or loosen the pins."
            self.notes.add("", 0, ", ".join(newest), why)

    def pins(self, name: str) -> bool:
        """Tell whether the app itself says which version of a package it takes."""
        known = [parsed(line) for line in self.lines if name_of(line) == name]
        return any(one.specifier for one in known if one is not None)


def included(clone: Clone, file: str, seen: set[str]) -> list[str]:
    """Return the lines of a requirements file, and of those that it includes."""
    if file not in clone.names or file in seen:
        return []
    seen.add(file)
    lines: list[str] = []
    for line in clone.text(file).splitlines():
        include = re.match(r"\s*(?:-r|--requirement)[\s=]*(\S+)", line)
        name = (
            posixpath.normpath(posixpath.join(posixpath.dirname(file), include[1]))
            if include
            else ""
        )
        lines += included(clone, name, seen) if include else [line]
    return lines


def parsed(line: str) -> Requirement | None:
    """Return a line of a requirements file; nothing for an option, a comment or what is no requirement."""
    try:
        return Requirement(re.sub(r"(^|\s)#.*$|\s--hash=\S+", "", line).strip(" \\\t"))
    except InvalidRequirement:
        return None


def is_within(requirement: Requirement, at_least: str, below: str) -> bool:
    """Tell whether a requirement keeps a package below a version, and not below another one."""
    return (not below or is_below(requirement, below)) and not (
        at_least and is_below(requirement, at_least)
    )


def is_below(requirement: Requirement, version: str) -> bool:
    """Tell whether a requirement admits nothing from a version on."""
    bounds = {"==": -1, "===": -1, "~=": -1, "<=": -1, "<": 0}
    for one in requirement.specifier:
        given = Version(one.version.removesuffix(".*"))
        if one.operator in bounds and (
            given < Version(version) or (one.operator == "<" and given == Version(version))
        ):
            return True
    return False


def name_of(requirement: str) -> str:
    """Return the name of the package that a requirement is about; empty for an option or a comment."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    return re.sub(r"[-_.]+", "-", match[1]).lower() if match else ""
