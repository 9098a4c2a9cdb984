# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the last lines of the endpoint's logs."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint.table import printable
from ansible.module_utils.api_endpoint.traffic.access_log import (
    Budget,
    backwards,
    files_of,
    open_log,
)
from ansible.module_utils.basic import AnsibleModule

MOST_BYTES = 16 * 1024 * 1024  # bytes of a log that are read at most
MOST_SECONDS = 10
LONGEST = 2000  # characters of a line that are shown


def shown(line: str) -> str:
    """Return a line as it is shown."""
    text = printable(line)
    return f"{text[:LONGEST]}..." if len(text) > LONGEST else text


def last_lines(log: Path) -> Iterator[bytes]:
    """Yield the lines of a log, the last one first, those of the file that was rotated last included."""
    budget = Budget(MOST_BYTES, MOST_SECONDS)
    for path in [path for path in files_of(log) if path.suffix != ".gz"][:2]:
        with open_log(path) as file:
            yield from backwards(file, budget)


def end_of(log: Path, lines: int) -> list[str]:
    """Return the last lines of a log, or why there are none."""
    try:
        found = [line.decode(errors="replace") for line in itertools.islice(last_lines(log), lines)]
    except OSError as error:
        return [f"(not readable: {error})"]
    return found[::-1]


def journal(name: str, lines: int) -> list[str]:
    """Return the last lines of the journal of the endpoint's service."""
    command = [
        "journalctl",
        f"--unit={name}@*.service",
        f"--lines={lines}",
        "--output=short-iso",
        "--no-hostname",
        "--quiet",
    ]
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False
    ).stdout.splitlines()


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    name, lines = module.params["name"], module.params["lines"]
    if not 1 <= lines <= 10_000:
        module.fail_json(msg=f"api_endpoint_log_lines is {lines}. Give lines from 1 to 10000.")
    sections = {log: end_of(Path(log), lines) for log in module.params["logs"]}
    sections[f"journal of {name}@*.service"] = journal(name, lines)
    text = "".join(
        "\n".join([f"--- {title}", *map(shown, found or ["(nothing)"])]) + "\n"
        for title, found in sections.items()
    )
    module.exit_json(changed=False, text=text)
