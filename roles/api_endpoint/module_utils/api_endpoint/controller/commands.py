# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands of the laptop that messages name: as they are for the inventory at hand, ready to be copied."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.controller.paths import short

# The targets of the Makefile, with the playbook that each runs and its options.
TARGETS = {
    "check": ("site.yml", "--check"),
    "deploy": ("site.yml",),
    "status": ("playbooks/status.yml",),
    "logs": ("playbooks/logs.yml",),
    "releases": ("playbooks/releases.yml",),
    "rollback": ("playbooks/rollback.yml",),
    "diagnose": ("playbooks/diagnose.yml",),
    "traffic": ("playbooks/traffic_report.yml",),
    "audit": ("playbooks/privacy_audit.yml",),
    "remove": ("playbooks/remove.yml",),
}
USUAL = "ansible-playbook -i inventory "  # how commands begin that know no inventory
# What stands for `-e <variable>=`: the option of make, and the target that takes it.
RELEASE = "api_endpoint_release="
SHORT = {RELEASE: ("RELEASE", "rollback"), "api_endpoint_remove=": ("CONFIRM", "remove")}
COMMAND = re.compile(rf"{USUAL}(?=site\.yml|playbooks/\w+\.yml)[^\n`]*")
PLAIN = re.compile(r"[\w@%+=:,./<>-]+")


def quoted(word: str) -> str:
    """Return a word for a shell, and one such as <id>, which a person replaces, as it is."""
    return word if PLAIN.fullmatch(word) else shlex.quote(word)


def joined(words: Sequence[str]) -> str:
    """Return a command line."""
    return " ".join(quoted(word) for word in words)


def project_of(playbook_dir: str) -> Path | None:
    """Return the folder of the project in which a playbook lies; None when it is a playbook of one's own."""
    folder = Path(playbook_dir or ".").resolve()
    folder = folder.parent if folder.name == "playbooks" else folder
    return folder if (folder / "tools" / "run.py").is_file() else None


def name_of(sources: Sequence[str], project: Path) -> str | None:
    """Return the name of the endpoint whose inventory this is, empty for the one at the root; None for another."""
    if len(sources) != 1:
        return None
    path = Path(sources[0]).resolve()
    if path == project / "inventory":
        return ""
    folder = path.parent if path.name == "inventory.yml" else path
    is_own = folder.parent == project / "endpoints" and (folder / "inventory.yml").is_file()
    return folder.name if is_own else None


def as_target(words: Sequence[str], name: str) -> str | None:
    """Return a playbook with its options as `make` has it; None when it has no such target."""
    fitting = [
        target
        for target, usual in TARGETS.items()
        if words[0] == usual[0] and set(usual[1:]) <= set(words)
    ]
    # make would take a dollar sign for a variable of its own.
    if not fitting or any("$" in word for word in words):
        return None
    given = [f"NAME={name}"] if name else []
    rest = [word for word in words[1:] if word not in TARGETS[fitting[0]][1:]]
    others: list[str] = []
    while rest:
        option = rest.pop(0)
        if option == "--tags" and rest:
            given.append(f"TAGS={quoted(rest.pop(0))}")
        elif option == "-e" and rest and (variable := f"{rest[0].partition('=')[0]}=") in SHORT:
            given.append(f"{SHORT[variable][0]}={quoted(rest.pop(0).removeprefix(variable))}")
        else:
            others.append(option)
    if others:
        given.append(f"ARGS={shlex.quote(joined(others))}")
    return " ".join(["make", fitting[0], *given])


def command(line: str, sources: Sequence[str], playbook_dir: str) -> str:
    """Return a command of a message (`ansible-playbook -i inventory <playbook> …`) for the inventory at hand.

    It is a target of the Makefile where there is one, and paths are relative to the current folder.
    """
    try:
        words = shlex.split(line.removeprefix(USUAL))
    except ValueError:
        return line  # a part of a text that only looks like a command
    project = project_of(playbook_dir)
    if project and project == Path.cwd():
        name = name_of(sources, project)
        target = None if name is None else as_target(words, name)
        if target:
            return target
    playbook = short(project / words[0]) if project else words[0]
    inventory = [
        word
        for source in sources
        for word in ("-i", short(source) if os.path.isabs(source) else source)
    ]
    return joined(["ansible-playbook", *inventory, playbook, *words[1:]])


def adapted(text: str, variables: Mapping[str, Any]) -> str:
    """Return a text with each of its commands as it is for the inventory at hand; `variables` are a task's."""
    sources = [
        str(source) for source in variables.get("ansible_inventory_sources") or ["inventory"]
    ]
    folder = str(variables.get("playbook_dir") or ".")
    return COMMAND.sub(lambda found: command(found[0], sources, folder), text)
