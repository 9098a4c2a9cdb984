# SPDX-License-Identifier: GPL-3.0-or-later
"""See by shell commands whether nginx, and what it needs, is as it should be."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ansible.module_utils.api_endpoint.controller.processes import IPV6_LOOK, NO_IPV6, without_ipv6
from ansible.module_utils.api_endpoint.host.file_state import NOTHING, file_of, link_to, look_at
from ansible.module_utils.api_endpoint.host.nginx_note import NOTE, digests_of
from ansible.module_utils.api_endpoint.http import LOADED


def question(arguments: dict[str, Any]) -> str:
    """Return the command that looks at the files, at which configuration nginx has loaded, and at what was noted of them."""
    folder = arguments.get("folder", "/etc/nginx")
    names = [*arguments.get("files", {}), *arguments.get("links", {}), *arguments.get("absent", [])]
    loaded, note = shlex.quote(f"{folder}/{arguments['loaded']}"), shlex.quote(f"{folder}/{NOTE}")
    asked = f"curl --silent --noproxy '*' --max-time 5 --unix-socket {shlex.quote(arguments['socket'])} http://{LOADED}/"
    is_loaded = (
        f'name=$({asked}); test -n "$name" && grep -qsF "return 200 $name;" {loaded} || echo reload'
    )
    return f"{IPV6_LOOK}{look_at([f'{folder}/{name}' for name in names])}; {is_loaded}; cat {note}"


def is_as_wanted(arguments: dict[str, Any], answer: str) -> bool:
    """Tell whether the host answered that there is nothing to do."""
    wanted = [
        *(file_of(content) for content in arguments.get("files", {}).values()),
        *(link_to(target) for target in arguments.get("links", {}).values()),
        *(NOTHING for _name in arguments.get("absent", [])),
    ]
    lines = answer.splitlines()
    try:
        noted = json.loads("\n".join(lines[len(wanted) :]))
    except ValueError:
        return False
    digests = digests_of(arguments.get("files", {}), arguments.get("links", {}))
    is_noted = isinstance(noted, dict) and noted == {**noted, **digests}
    return lines[: len(wanted)] == wanted and is_noted


def fitted(arguments: dict[str, Any], answer: str) -> tuple[dict[str, Any], str]:
    """Return the arguments as they suit a host that may have no IPv6, and the rest of the answer."""
    if not answer.startswith(NO_IPV6):
        return arguments, answer
    files = {name: without_ipv6(text) for name, text in arguments.get("files", {}).items()}
    return {**arguments, "files": files}, answer.partition("\n")[2]
