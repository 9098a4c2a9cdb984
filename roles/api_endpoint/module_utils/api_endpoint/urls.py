# SPDX-License-Identifier: GPL-3.0-or-later
"""URLs that hold a user, a password or a token: how they are shown, and how programs get them without a command line.

A command line is visible to every account of a host, and pip and git write URLs down. So the credentials are taken out of
a URL on the laptop; git gets them by its environment, pip by a netrc file.
"""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

# Of ssh a user alone is an account, such as git@, not a secret.
USERINFO = re.compile(
    r"(?i)((?:\b[a-z][a-z0-9.]*\+)?(?:https?|ftp)://)([^\s/?#\"'<>]*)@([^\s\"'<>@#,;]*)"
)
OTHER_PASSWORD = re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/?#:@\"'<>]*):[^\s/?#\"'<>]*@")
TOKEN = re.compile(
    r"(?i)([?&][\w.-]*(?:token|key|secret|sig|signature|passw(?:or)?d|auth|credential)[\w.-]*=)[^&\s\"'<>]+"
)

AUTHORITY = re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://([^\s/?#\"'<>]*)([^\"'<>]*)")
HOST = re.compile(r"(?:[\w.-]*|\[[0-9a-fA-F:.%]*\])(?::\d*)?")
BROKEN_URL = (
    "has a password with a letter that ends it in a URL (/, ?, # or a space). Write it percent-encoded: / is %2F, ? is %3F, "
    "# is %23, a space is %20."
)

Credentials = dict[str, str]  # user:password, as it stands in the URL, by the URL without it


def shown_url(url: str) -> str:
    """Return a URL as a message may show it: without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def hide(text: str, credentials: Credentials | None = None) -> str:
    """Return a text without the users, passwords and tokens of the URLs in it; those that are given, wherever they stand."""
    text = TOKEN.sub(r"\1…", OTHER_PASSWORD.sub(r"\1:…@", USERINFO.sub(r"\1\3", text)))
    for userinfo in sorted((credentials or {}).values(), key=len, reverse=True):
        user, _colon, password = userinfo.partition(":")
        secret = password or user
        for form in {userinfo, secret, unquote(secret)}:
            if len(form) > 3:
                text = text.replace(form, "…")
    return text


def has_broken_password(text: str) -> bool:
    """Tell whether a URL's password has a letter as it is that ends the place of the password: / ? # or a space."""
    for authority, rest in AUTHORITY.findall(text):
        _userinfo, at, _host = authority.rpartition("@")
        if "@" in (rest.partition("/")[0] if at else rest) and (
            rest[0] in "?# " if at else not HOST.fullmatch(authority)
        ):
            return True
    return False


def take(text: str) -> tuple[str, Credentials]:
    """Return a text whose URLs have lost their credentials, and these."""
    found = {scheme.lower() + rest: userinfo for scheme, userinfo, rest in USERINFO.findall(text)}
    return USERINFO.sub(r"\1\3", text), found


def _parts(userinfo: str) -> tuple[str, str]:
    user, _colon, password = userinfo.partition(":")
    return unquote(user), unquote(password)


def git_environment(credentials: Credentials) -> dict[str, str]:
    """Return the variables by which git and all that it starts log in, each place with its own credentials only."""
    credentials = {url.removeprefix("git+"): userinfo for url, userinfo in credentials.items()}
    by_host: dict[str, set[str]] = {}
    for url, userinfo in credentials.items():
        by_host.setdefault(_host(url), set()).add(userinfo)
    # A host's submodules take the same credentials, unless there are several.
    places = {
        _host(url) if len(by_host[_host(url)]) == 1 else url: userinfo
        for url, userinfo in credentials.items()
    }
    found = {"GIT_CONFIG_COUNT": str(len(places))} if places else {}
    for number, (place, userinfo) in enumerate(sorted(places.items())):
        user, password = f"API_ENDPOINT_USER_{number}", f"API_ENDPOINT_PASSWORD_{number}"
        found[user], found[password] = _parts(userinfo)
        # A shell's own printf, so that no command line has the values.
        answer = f'printf "username=%s\\npassword=%s\\n" "${user}" "${password}"'
        found[f"GIT_CONFIG_KEY_{number}"] = f"credential.{place}.helper"
        found[f"GIT_CONFIG_VALUE_{number}"] = f'!f() {{ test "$1" != get || {answer}; }}; f'
    return found


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def netrc(credentials: Credentials) -> str:
    """Return the netrc file for pip; raise ValueError, with the host, where two credentials are for one host."""
    machines: dict[str, tuple[str, str]] = {}
    for url, userinfo in credentials.items():
        if url.startswith("git+"):
            continue
        host = urlsplit(url).hostname or ""
        if machines.setdefault(host, _parts(userinfo)) != _parts(userinfo):
            raise ValueError(host)
    return "".join(
        f"machine {host} login {_word(user)} password {_word(word)}\n"
        for host, (user, word) in machines.items()
    )


def _word(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
