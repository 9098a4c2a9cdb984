# SPDX-License-Identifier: GPL-3.0-or-later
"""See by a shell command whether accounts, folders, owners and rights are as they should be.

The command is stricter than the module (`permissions.py`), never laxer: whatever it prints beyond what is expected is the
module's to judge. It reads accounts by name, so an account that is not there makes it fail.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible.module_utils.api_endpoint.host.accounts import FIRST_PERSON_UID, LAST_PERSON_UID

LOOKED = "looked at all of it"  # the last line: the command was not cut off
# Prints a line for an account that is not there, or is root's or a person's.
ACCOUNT = (
    f"uid=$(id -u {{account}}) && {{{{ [ $uid -gt 0 ] && [ $uid -lt {FIRST_PERSON_UID} ] || "
    f"[ $uid -gt {LAST_PERSON_UID} ]; }}}} || echo {{account}}"
)
MEMBER = "getent group {group} | cut -d: -f4 | tr , '\\n' | grep -qx {account} || echo {group}"
# Prints the first thing in some trees that is not as it should be.
TREE = """\
set --
for top in {tops}; do if [ -e "$top" ] || [ -L "$top" ]; then set -- "$@" "$top"; fi; done
[ $# = 0 ] || {finds} || echo failed"""
UNQUOTED = r"[^A-Za-z0-9_./*?\[\]-]"  # what a shell might understand otherwise than a pattern does


def question(accounts: dict[str, list[str]], folders: list[Any], trees: list[Any]) -> str:
    """Return the command that looks."""
    steps = ["export LC_ALL=C"]
    for account, groups in accounts.items():
        steps.append(ACCOUNT.format(account=shlex.quote(account)))
        steps += [
            MEMBER.format(group=shlex.quote(group), account=shlex.quote(account))
            for group in groups
        ]
    if folders:
        steps.append(
            f"stat --format '%F %U:%G %a %n' {shlex.join(folder['path'] for folder in folders)}"
        )
    steps += [tree_look(tree) for tree in trees]
    return "\n".join([*steps, f"echo {shlex.quote(LOOKED)}"])


def is_as_wanted(folders: list[Any], answer: str) -> bool:
    """Tell whether the host answered that there is nothing to do."""
    lines = [
        f"directory {folder.get('owner', 'root')}:{folder.get('group', 'root')} "
        f"{int(folder.get('mode', '0750'), 8):o} {folder['path']}"
        for folder in folders
    ]
    return answer.splitlines() == [*lines, LOOKED]


def tree_look(tree: Any) -> str:
    """Return the command that looks at the trees of one entry."""
    given = tree["paths"]
    patterns = [given] if isinstance(given, str) else given
    if not patterns:
        return "true"
    folders, files, never = (
        int(tree.get(name, usual), 8)
        for name, usual in (("folders", "0750"), ("files", "0440"), ("never", "6022"))
    )
    folders, files = folders & ~never, files & ~never
    executable = (files | (files & 0o444) >> 2) & ~never
    mode = rf"-type d ! -perm -{folders:04o} -o ! -type d ! -perm -{files:04o}"
    mode += rf" -o -type f -perm -0100 ! -perm -{executable:04o}"
    mode += rf" -o -perm /{never:04o}" if never else ""
    wrong = f"! -user {shlex.quote(tree['owner'])}"
    if tree.get("group"):
        wrong += f" -o ! -group {shlex.quote(tree['group'])}"
    wrong = rf"\( {wrong} -o ! -type l \( {mode} \) \) -print -quit"
    finds = f'find "$@" {wrong}'
    if names := tree.get("leave"):
        left = " -o ".join(f"-name {shlex.quote(name)}" for name in names)
        finds = rf'find "$@" -maxdepth 0 {wrong} && find "$@" -mindepth 1 ! \( -type f \( {left} \) \) {wrong}'
    tops = " ".join(
        re.sub(UNQUOTED, lambda found: shlex.quote(found[0]), pattern) for pattern in patterns
    )
    return TREE.format(tops=tops, finds=finds)
