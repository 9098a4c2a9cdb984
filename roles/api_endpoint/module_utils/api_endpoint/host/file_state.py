# SPDX-License-Identifier: GPL-3.0-or-later
"""See what files on the host are, by a shell command: that takes a tenth of the time of a module, which needs Python there.

What is found is compared on the laptop. Where it is as it should be, there is nothing for a module to do.

A run that is killed between a file and its handler leaves a file that nothing uses. So whether a file is in use is read from
what runs, not from what a run has written.
"""

from __future__ import annotations

import hashlib
import shlex
from typing import Any

OWNER = "0:0"  # whose files the role writes: root
NOTHING = "nothing"  # the line of a path where nothing is

# For each path a line: that of `file_of`, that of `link_to`, "other" for anything else, or NOTHING.
SCRIPT = """\
for path in {paths}; do
  if [ -L "$path" ]; then echo "link $(readlink "$path")"
  elif [ -f "$path" ]; then echo "file $(stat --format '%u:%g %04a' "$path") $(sha256sum <"$path" | cut -c 1-64)"
  elif [ -e "$path" ]; then echo other
  else echo nothing
  fi
done"""

# A line for each unit that systemd read before the latest of its files or drop-ins.
LOADED = """\
set -- $(systemctl show --property=NeedDaemonReload --value {units})
for unit in {units}; do
  [ "$1" = no ] || echo "$unit: systemd has not loaded its files"
  [ $# = 0 ] || shift
done"""

# A line for each unit that does not run, or was started before the latest of the files. Both times are microseconds of the
# wall clock. A file with a time in the future was written before the clock was set back: it counts as read.
READ = """\
latest=$(stat --dereference --format=%.6Y {paths} | tr -d . | sort -n | tail -n 1)
now=$(date +%s%6N)
for unit in {units}; do
  state=$(systemctl show --timestamp=us+utc --property=ActiveState,InactiveExitTimestamp "$unit")
  started=$(echo "$state" | sed -n s/^InactiveExitTimestamp=//p)
  started=$(date --date="${{started:-@0}}" +%s%6N)
  if ! echo "$state" | grep -qx ActiveState=active; then echo "$unit: does not run"
  elif [ "${{latest:-0}}" -gt "$started" ] && [ "$latest" -le "$now" ]; then
    echo "$unit: was started before its files were written"
  fi
done"""

THERE = "test -e {path} || echo {path}: is missing"


def look_at(paths: list[str]) -> str:
    """Return the command that looks at some paths."""
    return SCRIPT.format(paths=shlex.join(paths))


def look_for_unused(
    paths: list[str],
    needs: str = "",
    loaded_as: list[str] | None = None,
    read_by: list[str] | None = None,
) -> str:
    """Return the command that prints a line for each reason why files on the host are not in use."""
    steps = [THERE.format(path=shlex.quote(needs))] if needs else []
    steps += [LOADED.format(units=shlex.join(loaded_as))] if loaded_as else []
    steps += [READ.format(units=shlex.join(read_by), paths=shlex.join(paths))] if read_by else []
    return "\n".join(steps) or "true"


def file_of(content: str, mode: str = "0644") -> str:
    """Return the line of a file with this content that belongs to root."""
    return f"file {OWNER} {mode} {hashlib.sha256(content.encode()).hexdigest()}"


def link_to(target: str) -> str:
    """Return the line of a link to `target`."""
    return f"link {target}"


def question(arguments: dict[str, Any]) -> str:
    """Return the command that looks at files and at whether they are in use, by the module's arguments."""
    files = list(arguments["files"])
    users = {
        name: arguments[name] for name in ("needs", "loaded_as", "read_by") if arguments.get(name)
    }
    return f"{look_at(files)}\n{look_for_unused(files, **users)}"


def is_as_wanted(arguments: dict[str, Any], answer: str) -> bool:
    """Tell whether the host answered that there is nothing to do. A file that is not in use is a line more."""
    mode = arguments.get("mode", "0644")
    return answer.splitlines() == [
        file_of(content, mode) for content in arguments["files"].values()
    ]


def services_question(units: list[str]) -> str:
    """Return the command that looks whether services run, now and at boot."""
    names = shlex.join(units)
    return f"systemctl is-active {names}; systemctl is-enabled {names}"


def services_are_up(units: list[str], answer: str) -> bool:
    """Tell whether they do. There is one line for each unit and question, in the order of the units."""
    return answer.split() == ["active"] * len(units) + ["enabled"] * len(units)
