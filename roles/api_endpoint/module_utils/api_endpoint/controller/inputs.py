# SPDX-License-Identifier: GPL-3.0-or-later
"""What both roles check alike: names of variables, numbers, addresses, networks, origins; and how they refuse."""

from __future__ import annotations

import difflib
import ipaddress
import re
from typing import Any

from ansible.module_utils.api_endpoint.urls import hide

ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|\*")

Settings = dict[str, Any]
Ranges = dict[str, tuple[int, int, str]]  # least and most of a number, and what it counts


def number(value: Any) -> int | None:
    """Return a whole number, also from text (as -e gives it); None when it is none."""
    try:
        return None if isinstance(value, (bool, float)) else int(value)
    except (TypeError, ValueError):
        return None


def is_address(text: Any) -> bool:
    """Tell whether it is an IP address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def unknown_names(given: list[str], known: list[str]) -> list[str]:
    """Return a problem for every name that is not one of the role's variables, with the nearest that is."""
    found = []
    for name in sorted(set(given) - set(known)):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"Did you mean {near[0]}?" if near else "The role's README lists the variables there are."
        found.append(f"{name} is set, but the role has no such variable. {hint}")
    return found


def out_of_range(settings: Settings, ranges: Ranges) -> list[str]:
    """Check every number."""
    found = []
    for name, (least, most, what) in ranges.items():
        value = settings.get(name)
        whole = number(value)
        if value is not None and (whole is None or not least <= whole <= most):
            found.append(f"{name} is {value!r}. Give {what} from {least:,} to {most:,}.")
    return found


def wrong_origins(settings: Settings, name: str) -> list[str]:
    """Check the origins of pages that may read the answers."""
    origins = settings.get(name)
    found = [
        f'{name} has {origin!r}. Give origins such as https://tool.example.org, without a path, or "*" for any.'
        for origin in origins or []
        if not ORIGIN.fullmatch(str(origin))
    ]
    if origins is not None and not origins:
        found.append(f'{name} is []. Give "*", or the origins of the pages that may read the answers.')
    return found


def wrong_networks(settings: Settings, name: str) -> list[str]:
    """Check a list of addresses and networks."""
    found = []
    for network in settings.get(name) or []:
        try:
            ipaddress.ip_network(str(network))
        except ValueError:
            found.append(
                f"{name} has {network!r}. Give addresses or networks, such as 172.16.0.0/12, with zeros after the prefix."
            )
    return found


def refusal(problems: list[str]) -> str:
    """Return the message that names every problem, without the passwords of URLs."""
    lines = hide("\n".join(f"  - {problem}" for problem in problems))
    return f"Nothing was touched. Please correct:\n{lines}"
