# SPDX-License-Identifier: GPL-3.0-or-later
"""What both roles check alike: types, names of variables, numbers, addresses, networks, origins; and how they refuse."""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.api_endpoint.urls import hide

WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
TRUTHS = (
    "true",
    "yes",
    "on",
    "1",
    "false",
    "no",
    "off",
    "0",
)  # as text, which Ansible's filter `bool` knows too
COMMAS = re.compile(r"[\w*][\w.:/*%-]*(\s*,\s*[\w*][\w.:/*%-]*)+")  # words with commas between them
ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:\d{1,5})?|\*")

Settings = dict[str, Any]
Ranges = dict[str, tuple[int, int, str]]  # least and most of a number, and what it counts


def number(value: Any) -> int | None:
    """Return a whole number, also from text (as -e gives it); None when it is none."""
    is_whole = (
        isinstance(value, (int, str))
        and not isinstance(value, bool)
        and WHOLE.fullmatch(str(value))
    )
    return int(value) if is_whole else None


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
        near = nearest(name.lower().replace("-", "_"), known)
        hint = (
            f"Did you mean {near}?" if near else "The role's README lists the variables there are."
        )
        found.append(f"{name} is set, but the role has no such variable. {hint}")
    return found


def near_names(variables: Iterable[str], prefix: str, known: list[str]) -> list[str]:
    """Return the names that are the role's but for a letter or two of their prefix, such as api_endpoints_workers."""
    return [
        name
        for name in variables
        # Of one that begins otherwise, such as my_endpoint_workers, nobody can tell whether it is a mistake.
        if name[:1].lower() == prefix[0]
        and not name.startswith((prefix, "ansible_"))
        and difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1, cutoff=0.9)
    ]


def nearest(name: str, known: list[str]) -> str:
    """Return the known name that a misspelt one may stand for; nothing when none is near."""
    return "".join(difflib.get_close_matches(name, known, n=1, cutoff=0.6))


def typed(
    templar: Any, variables: dict[str, Any], options: dict[str, Any]
) -> tuple[Settings, list[str]]:
    """Return the role's variables, templated, and the problems with their types.

    A variable that cannot be templated because another one has the wrong type is left out.
    """
    settings: Settings = {}
    errors = []
    for name in sorted(options):
        try:
            if name in variables:
                settings[name] = templar.template(variables[name])
        except AnsibleError as error:
            errors.append(error)
    problems = wrong_types(settings, options)
    if errors and not problems:
        raise errors[0]
    return settings, problems


def wrong_types(
    given: Settings, options: dict[str, Any], within: str = "", is_listed: bool = False
) -> list[str]:
    """Return a problem for every value that has not the type of its option in an argument spec, however deep it lies.

    Tasks and templates use the values as they are given, so nothing is taken for something else here. Text is a number or a
    truth where its words are, since `-e name=value` and INI inventories give nothing but text: for these the role casts
    where it uses them. For lists it cannot: text in their place would be walked letter by letter.

    `within` is what the names are parts of, `is_listed` whether that is an element of a list.
    """
    found = []
    for name in given if within and options else []:
        if name not in options:
            near = nearest(str(name), list(options))
            hint = f"Did you mean {near}?" if near else f"Give {', '.join(options)}."
            found.append(f"{within}{name} is set, but there is no such name. {hint}")
    for name, option in options.items():
        label = f"{within}{name}"
        if name not in given:
            if within and option.get("required"):
                found.append(f"{label} is missing. {remedy(label, option, None)}.")
            continue
        value = given[name]
        if value is None:
            # The roles take an empty part of a dictionary as left out; elsewhere a default would not be applied.
            if not within or (is_listed and (option.get("required") or "default" in option)):
                found.append(
                    f"{label} is empty. {remedy(label, option, None)}, or leave the line out."
                )
        else:
            found += wrong_type(value, option, label)
    return found


def wrong_type(value: Any, option: dict[str, Any], label: str) -> list[str]:
    """Return the problems of one value."""
    kind = option.get("type", "str")
    if kind == "raw":
        return []
    if "choices" in option:
        # YAML makes truths of some words, and Python writes them with a capital.
        word = str(value).lower() if str(value) in ("True", "False") else value
        return (
            []
            if word in option["choices"]
            else [f"{label} is {value!r}. {remedy(label, option, value)}."]
        )
    if not is_of(value, kind):
        wanted = {"list": "not a list", "dict": "not a dictionary"}.get(kind, "")
        if option.get("no_log"):
            return [f"{label} is {wanted or 'not text'}. {remedy(label, option, value)}."]
        return [
            f"{label} is {value!r}{wanted and f', and {wanted}'}. {remedy(label, option, value)}."
        ]
    parts = option.get("options", {})
    if kind == "dict":
        return wrong_types(value, parts, f"{label}.")
    if kind != "list":
        return []
    found = []
    for index, element in enumerate(value):
        place = f"{label}[{index}]"
        inner = {"type": option.get("elements", "raw"), "no_log": option.get("no_log", False)}
        problems = wrong_type(element, inner, place)
        found += problems or (
            wrong_types(element, parts, f"{place}.", is_listed=True) if parts else []
        )
    return found


def is_of(value: Any, kind: str) -> bool:
    """Tell whether a value has a type of argument specs, or is text or a number that can stand for it without a doubt."""
    if kind == "list":
        return isinstance(value, list)
    if kind == "dict":
        return isinstance(value, dict)
    if kind == "bool":
        return isinstance(value, bool) or (
            isinstance(value, (str, int)) and str(value).lower() in TRUTHS
        )
    if kind == "int":
        return number(value) is not None
    # Text. A number with a point has lost its form by now: 1.10 is 1.1.
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def remedy(label: str, option: dict[str, Any], value: Any) -> str:
    """Say how a value is to be written."""
    kind = option.get("type", "str")
    if (
        kind == "list"
        and isinstance(value, (str, int))
        and not isinstance(value, bool)
        and not option.get("no_log")
    ):
        # Commas are taken for those between elements where nothing else can be meant.
        parts = (
            re.split(r"\s*,\s*", str(value))
            if COMMAS.fullmatch(str(value))
            else [str(value)]
            if value != ""
            else []
        )
        elements = [
            int(part) if option.get("elements") == "int" and number(part) is not None else part
            for part in parts
        ]
        wanted = (
            value
            if isinstance(value, str) and value.startswith("[")
            else json.dumps(elements, ensure_ascii=False)
        )
        line = f"""; on the command line -e '{{"{label}": {wanted}}}'""" if "." not in label else ""
        return f"Give a list: {wanted}{line}"
    if "choices" in option:
        return f"Give {', '.join(option['choices'][:-1])} or {option['choices'][-1]}"
    return {
        "list": "Give a list, a dash before each element, or [] for none",
        "dict": "Give names with values, or {} for none",
        "bool": "Give true or false",
        "int": "Give a whole number",
    }.get(kind, "Give text, in quotes where YAML would make something else of it")


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
        found.append(
            f'{name} is []. Give "*", or the origins of the pages that may read the answers.'
        )
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
