# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a command that looks at the host, and leave out what others say before it.

A login shell's own files, a locale that the host does not have, and sudo, which cannot resolve the host's name, all write
lines before the command does. On a terminal their errors are in its output too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

BEGIN = "this look begins"  # the line before the command's own


def look(action: ActionBase, command: str) -> str:
    """Return what a shell command prints on the host."""
    answer = action._low_level_execute_command(f"echo '{BEGIN}'\n{command}")
    lines = str(answer.get("stdout", "")).splitlines()  # a terminal ends them otherwise
    begin = lines.index(BEGIN) + 1 if BEGIN in lines else 0
    return "\n".join(lines[begin:])
