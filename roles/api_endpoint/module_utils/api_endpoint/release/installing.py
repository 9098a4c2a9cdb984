# SPDX-License-Identifier: GPL-3.0-or-later
"""What uv and pip say while they install: how far they are, and what helps when they fail."""

from __future__ import annotations

import re

SIZE = re.compile(r"^\s*Downloading (\S+?)(?:-\d\S*)? \(([^)]+)\)")
SHOWN = 4  # packages that a line on progress names at most
# What a failure's output has, for uv and for pip, and what it means, with the remedy. The first that fits counts.
REASONS = (
    (
        r"No space left on device|Disk quota exceeded",
        "A disk of the host is full. Make room there, or let fewer releases be kept (api_endpoint_keep_releases).",
    ),
    (
        r"Hash mismatch for|DO NOT MATCH THE HASHES",
        "A package is not the one whose hash the requirements file has: it was replaced on the index, or the file is old. "
        "Have the tool that wrote the file write it again, and look why before you trust the new hash.",
    ),
    (
        r"failed to lookup address|Name or service not known|Temporary failure in name resolution"
        r"|Could not resolve host",
        "The host finds no address for the server that is named above. Check its DNS and api_endpoint_pip_index_url; behind "
        "a proxy, https_proxy must be set for the run (the playbook's `environment`).",
    ),
    (
        r"invalid peer certificate|CERTIFICATE_VERIFY_FAILED|certificate verify failed|UnknownIssuer",
        "The host does not trust the certificate of the server that is named above. Install the authority's certificate on "
        "the host, or name it with `cert` in its /etc/pip.conf.",
    ),
    (
        r"\b40[13] (?:Client )?(?:Error|Unauthorized|Forbidden)|\((?:401 Unauthorized|403 Forbidden)\)|Authentication failed"
        r"|could not read Username|status code 40[13]",
        "The server that is named above refuses access. Check the user, password or token in its URL: it may have expired.",
    ),
    (
        r"HTTP status server error|50\d Server Error|Connection refused|Connection reset|Network is unreachable"
        r"|No route to host|timed out|Max retries exceeded|Failed to establish a new connection",
        "The host does not reach the server that is named above, or that is out of order. Check the network of the host, a "
        "proxy, and api_endpoint_pip_index_url. Run again: what was fetched is still there.",
    ),
    (
        r"Git executable not found|Cannot find command 'git'",
        "git is not on the host. Run site.yml without tags: it installs git.",
    ),
    (
        r"fatal error: Python\.h",
        "Compiling needs Python's headers: api_endpoint_apt_packages: [build-essential, python3-dev].",
    ),
    (
        r"fatal error: ([\w./+-]+\.h\w*): No such file|cannot find -l(\w+)",
        "Compiling needs a library's files, which a Debian package with a name that ends in -dev has. Name it in "
        "api_endpoint_apt_packages, or take a version of the package that has a wheel for this Python.",
    ),
    (
        r"No such file or directory: '[\w.-]*(?:gcc|g\+\+|cc|c\+\+|clang)'|command '[^']*(?:gcc|g\+\+|cc)' failed"
        r"|(?:gcc|cc|g\+\+): (?:not found|No such file)|Unknown compiler\(s\)|No CMAKE_C\w*_COMPILER"
        r"|can't find Rust compiler|cargo, the Rust package manager, is not installed",
        "A package has no wheel for this Python and has to be compiled, and the host has no compiler. Take a version with a "
        "wheel, or set api_endpoint_apt_packages: [build-essential, python3-dev].",
    ),
    (
        r"does not satisfy Python|requires Python |[Rr]equires-Python|requires a different Python",
        "A package does not take the host's Python. Pin a version that does, or give another Python in api_endpoint_python.",
    ),
    (
        r"has no usable wheels|no wheels with a matching|is not a supported wheel on this platform"
        r"|(?:isn't|not) compatible with (?:the current|this) platform",
        "A package has no wheel for the host's Python or processor. Pin a version that has one, or allow it to be compiled.",
    ),
    (
        r"was not found in the (?:package registry|provided package locations)|\(from versions: none\)",
        "No index has a package of that name. Check how it is spelt, and whether it is in another index "
        "(api_endpoint_pip_extra_index_urls). api_endpoint_pip_exclude leaves a requirement out.",
    ),
    (
        r"there (?:is|are) no versions? of|Because only \S+ (?:is|are) available|Could not find a version that satisfies"
        r"|No matching distribution",
        "The index does not have that version, or not for the host's Python. Pin one that it has.",
    ),
    (
        r"your requirements are unsatisfiable|ResolutionImpossible|conflicting dependencies",
        "Two requirements exclude each other, as the lines above tell. Loosen the one or the other.",
    ),
)  # fmt: skip


def reason(output: str) -> str:
    """Return what a failed installation's output means, with the remedy; empty where that is not known."""
    return next((text for pattern, text in REASONS if re.search(pattern, output)), "")


def is_only_uvs(output: str) -> bool:
    """Tell whether pip may install what uv could not; a uv that was killed tells no error."""
    if not re.search(r"(?m)^(?:error|hint)\b", output):
        return False
    return not reason(output) or bool(re.search(r"(?i)pre-?release", output))


def progress(output: str) -> str:
    """Return how far an installation is, with the sizes of what is fetched; empty when it has said nothing yet."""
    sizes: dict[str, str] = {}
    count, last = 0, ""
    for line in output.splitlines():
        if match := SIZE.match(line):
            # pip fetches one after the other, uv several, and says which is there.
            sizes = {**(sizes if "Resolved" in output else {}), match[1]: match[2]}
            last = "fetching packages"
        elif match := re.match(r"\s*(?:Downloaded|Collecting) (\S+)", line):
            count += "Downloaded" in line
            sizes.pop(match[1], None)
        elif match := re.match(r"\s*Resolved (\d+ packages?)", line):
            last = f"fetching {match[1]}"
        elif match := re.match(r"\s*Building (?:wheel for )?(\S+)", line):
            last = f"building {match[1]}"
        elif match := re.match(r"\s*(?:Prepared|Installing collected)(?: (\d+ packages?))?", line):
            sizes, last = {}, f"installing {match[1] or 'the packages'}"
    if not sizes:
        return last
    named = ", ".join(f"{name} ({size})" for name, size in list(sizes.items())[:SHOWN])
    more = f" and {len(sizes) - SHOWN} more" if len(sizes) > SHOWN else ""
    return f"downloading {named}{more}{f'; {count} done' if count else ''}"
