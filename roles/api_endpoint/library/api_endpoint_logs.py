#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the last lines of the endpoint's logs."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: api_endpoint_logs
short_description: Read the last lines of the endpoint's logs
description:
  - Reads the ends of log files, and of the journal of the endpoint's service.
  - Needs to be root. Changes nothing.
options:
  name:
    description: Name of the endpoint.
    type: str
    required: true
  logs:
    description: Absolute paths of log files. A file that was just rotated goes on in the one before.
    type: list
    elements: path
    required: true
  lines:
    description: How many lines of each, from 1 to 10,000.
    type: int
    default: 20
author:
  - The api_endpoint authors
"""

EXAMPLES = r"""
- name: Read the ends of the logs
  api_endpoint_logs:
    name: api-endpoint
    logs: [/var/log/nginx/access.log, /var/log/gunicorn/error.log]
    lines: 100
  register: found
"""

RETURN = r"""
text:
  description: The lines under the names of their logs, the oldest first. What a terminal would obey is written as C(\x1b).
  type: str
  returned: always
"""

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint_access_log import Budget, backwards, files_of, open_log
from ansible.module_utils.api_endpoint_table import printable
from ansible.module_utils.basic import AnsibleModule

MOST = 16 * 1024 * 1024  # bytes of a log that are read at most
SECONDS = 10
LONGEST = 2000  # characters of a line that are shown


def shown(line: str) -> str:
    """Return a line as it is shown."""
    text = printable(line)
    return f"{text[:LONGEST]}..." if len(text) > LONGEST else text


def last_lines(log: Path) -> Iterator[bytes]:
    """Yield the lines of a log, the last one first, those of the file that was rotated last included."""
    budget = Budget(MOST, SECONDS)
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
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout.splitlines()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "logs": {"type": "list", "elements": "path", "required": True},
            "lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    name, lines = module.params["name"], module.params["lines"]
    if not 1 <= lines <= 10_000:
        module.fail_json(msg=f"api_endpoint_log_lines is {lines}. Give lines from 1 to 10000.")
    sections = {log: end_of(Path(log), lines) for log in module.params["logs"]}
    sections[f"journal of {name}@*.service"] = journal(name, lines)
    text = "".join(
        "\n".join([f"--- {title}", *map(shown, found or ["(nothing)"])]) + "\n" for title, found in sections.items()
    )
    module.exit_json(changed=False, text=text)


if __name__ == "__main__":
    main()
