"""Run a playbook on an endpoint of this clone: what `make deploy NAME=my-api` and its siblings do.

    python tools/run.py TARGET

The environment has the rest, each as `make` got it: NAME (of endpoints/NAME, its folder, or an inventory's file; left
out, it is the inventory at the root), TAGS, LIMIT, RELEASE, CONFIRM and ARGS. Everything that can be seen
in files is checked first; the command is shown, then run.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[1]
ansible.module_utils.__path__.append(str(PROJECT / "roles" / "api_endpoint" / "module_utils"))
from ansible.module_utils.api_endpoint.controller.commands import (  # noqa: E402
    SHORT,
    TARGETS,
    joined,
)
from ansible.module_utils.api_endpoint.controller.inputs import refusal  # noqa: E402
from ansible.module_utils.api_endpoint.controller.inventories import (  # noqa: E402
    Inventory,
    content_problems,
    did_you_mean,
    folders_of,
    host_problems,
    stray_files,
    tag_problems,
    tags_of,
    unread_files,
)

OPTIONS = ("NAME", "TAGS", "LIMIT", "RELEASE", "CONFIRM", "ARGS")
ENDPOINTS = Path("endpoints")
# One of make's command line: its name, after a space that is not part of a value.
GIVEN = re.compile(r"(?:^|(?<!\\)\s)([A-Za-z_]\w*)[:?+]*=")


class RunError(Exception):
    """The command cannot be run; has the problems."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)


def endpoint_names() -> list[str]:
    """Return the names of the endpoints of this clone."""
    return sorted(path.parent.name for path in ENDPOINTS.glob("*/inventory.yml"))


def inventory_of(name: str, origin: str) -> str:
    """Return the inventory of an endpoint; raise RunError when there is none."""
    if not name:
        if not Path("inventory").is_dir():
            raise RunError("NAME is missing, and there is no folder inventory/.", *hint())
        return "inventory"
    if "/" in name and Path(name).is_file():
        return name
    folder = Path(name) if "/" in name else ENDPOINTS / name
    if not folder.is_dir():
        what = f"NAME is {name!r}, and there is no folder {folder}."
        if origin.startswith("environment"):
            what += " It comes from the environment; give NAME= to leave it out."
        raise RunError(
            f"{what} {did_you_mean(name, endpoint_names())}"
            f"To make it: `make new-endpoint NAME={folder.name}`."
        )
    if not (folder / "inventory.yml").is_file():
        raise RunError(f"NAME is {name!r}, and {folder} has no inventory.yml.")
    return str(folder / "inventory.yml")


def hint() -> list[str]:
    """Return a sentence that names the endpoints there are."""
    names = endpoint_names()
    return [f"For an endpoint of your own, give NAME={' or NAME='.join(names)}."] if names else []


def options_of(target: str, given: Mapping[str, str]) -> list[str]:
    """Return the options of ansible-playbook; raise RunError for those that the target does not take."""
    playbook = TARGETS[target][0]
    problems = [
        f"{name} is given, and there is no such option. {did_you_mean(name, OPTIONS)}"
        f"The options are {', '.join(OPTIONS)}."
        for name in GIVEN.findall(given.get("GIVEN", ""))
        if name not in (*OPTIONS, "PYTHON")
    ]
    options = []
    if tags := given.get("TAGS", ""):
        known = tags_of(PROJECT, [Path(playbook).name])
        problems += tag_problems(re.split(r"[\s,]+", tags), known)
        options += ["--tags", ",".join(re.split(r"[\s,]+", tags.strip()))]
    if limit := given.get("LIMIT", ""):
        options += ["--limit", limit]
    for variable, (name, taker) in SHORT.items():
        if value := given.get(name, ""):
            if target != taker:
                problems.append(f"{name} is given, and only `make {taker}` takes it.")
            options += ["-e", f"{variable}{value}"]
    try:
        options += shlex.split(given.get("ARGS", ""))
    except ValueError:
        problems.append(f"ARGS is {given['ARGS']!r}, and a quote in it is not closed.")
    if problems:
        raise RunError(*problems)
    return options


def check_files(source: str, playbook: str) -> None:
    """Check the inventory and the files of variables; raise RunError with every problem."""
    inventory = Inventory([source])
    folders = folders_of([source], [(PROJECT / playbook).parent])
    problems = [
        *inventory.problems, *content_problems(folders), *unread_files(PROJECT, [source]),
    ]  # fmt: skip
    if inventory.is_static:
        problems += host_problems([source], inventory.groups)
        problems += stray_files(folders, inventory.hosts, inventory.groups)[0]
    if problems:
        raise RunError(*problems, *(hint() if source == "inventory" else []))


def command_of(target: str, given: Mapping[str, str]) -> list[str]:
    """Return the command; raise RunError when something has to be corrected first."""
    if target not in TARGETS:
        raise RunError(f"There is no {target!r}. The targets are {', '.join(TARGETS)}.")
    options = options_of(target, given)
    source = inventory_of(given.get("NAME", "").rstrip("/"), given.get("NAME_ORIGIN", ""))
    playbook, *usual = TARGETS[target]
    check_files(source, playbook)
    return ["ansible-playbook", "-i", source, playbook, *usual, *options]


def main(target: str = "") -> None:
    """Check, show the command, and become it."""
    os.chdir(PROJECT)
    try:
        command = command_of(target, os.environ)
    except RunError as error:
        sys.exit(refusal(error.problems))
    print(f"$ {joined(command)}", flush=True)
    beside = Path(sys.executable).parent / command[0]
    os.execvp(str(beside) if beside.exists() else command[0], command)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    main(*sys.argv[1:2])
