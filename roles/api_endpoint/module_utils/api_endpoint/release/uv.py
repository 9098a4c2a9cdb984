# SPDX-License-Identifier: GPL-3.0-or-later
"""uv, which installs packages several times as fast as pip: how it comes to the host, and its settings from pip's.

uv reads none of pip's settings. They are translated here: those of the host, the variables of the run, the user's options
and those of requirements files. pip does the work where one of them means nothing to uv, so each keeps its meaning.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import optparse
import os
import re
import shlex
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from ansible.module_utils.api_endpoint.release.requirements import Plan
from ansible.module_utils.api_endpoint.urls import Credentials, take

VERSION = "0.13.9"
# SHA-256 of the wheels for Debian on the processors that it is tested on.
WHEELS = {
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",  # x86_64
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",  # aarch64, glibc 2.28
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",  # aarch64
}
# Files of pip's settings on a host, the weaker first, and in a home.
HOST_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")
HOME_FILES = (".pip/pip.conf", ".config/pip/pip.conf")
LISTS = ("extra-index-url", "find-links", "trusted-host", "constraint", "build-constraint")
FALSE = ("", "0", "n", "no", "f", "false", "off")
# Options of pip's, without dashes. They take a value and mean the same to uv.
VALUES = (
    "index-url", "extra-index-url", "find-links", "trusted-host", "no-binary", "only-binary",
    "constraint", "build-constraint", "cert", "proxy", "timeout", "retries",
)  # fmt: skip
FLAGS = ("no-index", "pre", "no-deps", "no-build-isolation", "no-cache-dir", "require-hashes")
NETWORK = ("index-url", "extra-index-url", "trusted-host", "cert", "proxy", "timeout")
# They change nothing that is installed into a new virtualenv, or uv does it anyway.
NOTHING_VALUES = ("progress-bar", "root-user-action", "exists-action", "upgrade-strategy")
NOTHING_FLAGS = (
    "disable-pip-version-check", "no-input", "quiet", "verbose", "no-color", "upgrade", "force-reinstall",
    "ignore-installed", "compile", "use-pep517", "no-warn-script-location", "no-warn-conflicts",
    "no-python-version-warning", "require-virtualenv", "break-system-packages",
)  # fmt: skip
SHORT = {
    "index-url": "-i", "find-links": "-f", "constraint": "-c", "upgrade": "-U", "quiet": "-q", "verbose": "-v",
    "ignore-installed": "-I",
}  # fmt: skip
LOOPBACK = re.compile(r"(?i)localhost|127(\.\d+){3}|::1")
SYNONYMS = {"index-url": ["--pypi-url"], "timeout": ["--default-timeout"]}


class PipNeededError(Exception):
    """A reason why pip has to do the work; its text ends a sentence that names uv."""


class _Options(optparse.OptionParser):
    """The options of `pip install` that uv understands in some way."""

    def __init__(self) -> None:
        super().__init__(add_help_option=False)
        for name in (*VALUES, *NOTHING_VALUES):
            names = [f"--{name}", *SYNONYMS.get(name, []), *filter(None, [SHORT.get(name)])]
            self.add_option(*names, dest=name, action="append", default=[])
        for name in (*FLAGS, *NOTHING_FLAGS):
            names = [f"--{name}", *filter(None, [SHORT.get(name)])]
            self.add_option(*names, dest=name, action="store_true", default=False)

    def error(self, msg: str) -> NoReturn:
        raise PipNeededError(f"does not know an option of pip's ({msg})")


def parse(words: list[str]) -> dict[str, list[str]]:
    """Return options by their long names, flags with an empty list; raise PipNeededError for one that is only pip's."""
    found, rest = _Options().parse_args(words)
    if rest:
        raise PipNeededError(f"does not know an option of pip's ({rest[0]})")
    return {
        name: value if isinstance(value, list) else []
        for name, value in vars(found).items()
        if value
    }


def host_words(environment: Mapping[str, str], home: Path) -> list[str]:
    """Return pip's settings on the host, files and variables, as options."""
    first = environment.get("PIP_CONFIG_FILE", "")
    settings: dict[str, str] = {}
    if first != os.devnull:
        if mine := next((name for name in HOME_FILES if (home / name).exists()), ""):
            raise PipNeededError(f"does not read {home / mine}")
        for path in filter(None, (*HOST_FILES, first)):
            settings.update(_settings_of(Path(path)))
    for variable, value in environment.items():
        name = variable.removeprefix("PIP_").lower().replace("_", "-")
        if variable.startswith("PIP_") and name != "config-file" and value:
            settings[name] = value
    words = []
    for name, value in settings.items():
        if name in (*FLAGS, *NOTHING_FLAGS):
            words += [] if value.strip().lower() in FALSE else [f"--{name}"]
        else:
            values = value.split() if name in LISTS else [value.strip()]
            words += [f"--{name}={one}" for one in values]
    return words


def _settings_of(path: Path) -> dict[str, str]:
    """Return the settings of one of pip's files that are for all commands or for `install`."""
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise PipNeededError(f"cannot read {path}") from error
    return {
        name.replace("_", "-"): value
        for section in ("global", "install")
        if parser.has_section(section)
        for name, value in parser.items(section)
    }


@dataclass
class Settings:
    """What uv is told; `environment` may hold secrets of proxies."""

    table: dict[str, object] = field(default_factory=dict)  # of [pip] in its file
    indexes: list[str] = field(default_factory=list)  # URLs; the first is empty for the usual one
    insecure: list[str] = field(default_factory=list)  # hosts
    is_closed: bool = False  # whether the app's files name no index
    options: list[str] = field(default_factory=list)
    network: list[str] = field(default_factory=list)  # options by which pip fetches uv itself
    environment: dict[str, str] = field(default_factory=dict)
    credentials: Credentials = field(default_factory=dict)  # of URLs in the host's settings

    def text(self, credentials: Credentials) -> str:
        """Return the file, in TOML, which has the same strings and lists as JSON.

        As pip does, uv sends what is in `credentials` for an index's host at once. An index may answer without them too, but
        with other packages: those that are public, or a redirection to a public index, where a name may be a stranger's.
        """
        known = {urlsplit(url).hostname for url in credentials if not url.startswith("git+")}
        lines = [f"allow-insecure-host = {json.dumps(self.insecure)}"]
        for number, url in enumerate(self.indexes):
            if url:
                always = urlsplit(url).hostname in known
                lines += ["[[index]]", f"url = {json.dumps(url)}"]
                lines += ["default = true"] if not number else []
                lines += ['authenticate = "always"'] if always else []
        lines += ["[pip]", *(f"{name} = {json.dumps(value)}" for name, value in self.table.items())]
        return "".join(f"{line}\n" for line in lines)


def settings(
    plan: Plan, own: list[str], options: list[str], environment: Mapping[str, str], home: Path
) -> Settings:
    """Return what uv is told; raise PipNeededError where something means nothing to it.

    `own` are the lines of the app's files and of the variables of indexes, `options` are the user's further ones.
    """
    for line in (*plan.requirements, *plan.constraints):
        text = re.sub(r"\s--hash[= ]\S+", "", line.text)
        if re.search(r"\s-", text.partition(";")[0]) or re.match(r"(hg|svn|bzr)\+", text):
            raise PipNeededError("does not know an option or a kind of repository in a requirement")
    if any(line.startswith("--requirement") for line in own):
        raise PipNeededError("may not know an option in a requirements file that lies on the web")
    words, credentials = [], {}
    for word in host_words(environment, home):
        # A proxy's are its own: netrc is for the servers behind it.
        clean, taken = (word, {}) if word.startswith("--proxy") else take(word)
        words.append(clean)
        credentials.update(taken)
    found = parse([*words, *options])
    lines = [line for line in own if not line.startswith("--constraint")]
    files = parse([word for line in lines for word in _words(line)])
    indexes, extra = found.get("index-url", []), found.get("extra-index-url", [])
    if index := files.get("index-url"):
        # For pip it replaces what was given before, further ones included.
        indexes, extra = index, []
    extra = [*extra, *files.get("extra-index-url", [])]
    both = {name: [*found.get(name, []), *files.get(name, [])] for name in VALUES}
    table: dict[str, object] = {
        # As pip has it: the best version of all indexes, which are equal.
        "index-strategy": "unsafe-best-match",
        "find-links": both["find-links"],
        "no-index": "no-index" in found,
        "no-binary": _split(both["no-binary"]),
        "only-binary": _split(both["only-binary"]),
        # A file of the cache that is part of a virtualenv too could be changed after its release went live.
        "link-mode": "copy",
        "no-sources": True,
        "no-build-isolation": "no-build-isolation" in found,
        "no-deps": "no-deps" in found,
    }
    if "pre" in found or "pre" in files:
        table["prerelease"] = "allow"
    used = list(dict.fromkeys([indexes[-1] if indexes else "", *extra]))
    _refuse_insecure([*used, *both["find-links"]], both["trusted-host"])
    result = Settings(table, used, both["trusted-host"], "no-index" in files)
    for name in ("constraint", "build-constraint"):
        result.options += [word for value in found.get(name, []) for word in (f"--{name}s", value)]
    result.options += [
        option
        for name, option in (("require-hashes",) * 2, ("no-cache-dir", "no-cache"))
        if name in found
        for option in (f"--{option}",)
    ]
    result.network = [
        f"--{name}={value}"
        for name, values in parse(options).items()
        if name in NETWORK
        for value in values
    ]
    result.credentials = credentials
    result.environment = _environment(found, environment)
    return result


def _refuse_insecure(urls: list[str], trusted: list[str]) -> None:
    """Leave a place that anyone on the way may answer for to pip, which looks there only if its host is trusted."""
    for url in urls:
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise PipNeededError(f"does not read the URL {url}") from error
        host = parts.hostname or ""
        is_trusted = host in trusted or parts.netloc in trusted
        if parts.scheme == "http" and not is_trusted and not LOOPBACK.fullmatch(host):
            raise PipNeededError(
                f"would use {url}, which is not encrypted, and pip does so only with --trusted-host"
            )


def _words(line: str) -> list[str]:
    """Return an option of a file as words; its value may be a path with anything in it."""
    name, _space, value = line.partition(" ")
    return [f"{name}={''.join(shlex.split(value))}"] if value else [name]


def _split(values: list[str]) -> list[str]:
    """Return lists of names as one; as pip has it, `:none:` empties what was given before."""
    found: list[str] = []
    for name in (name for value in values for name in value.split(",") if name):
        found = [] if name == ":none:" else [*found, name]
    return found


def _environment(found: dict[str, list[str]], given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of uv's, and of what it starts."""
    result = {"UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never", "UV_NO_WRAP": "1"}
    bundle = found.get("cert", [""])[-1] or next(
        (given[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if given.get(name)), ""
    )
    if bundle:
        result["SSL_CERT_DIR" if os.path.isdir(bundle) else "SSL_CERT_FILE"] = bundle
    if proxy := found.get("proxy", [""])[-1]:
        whole = proxy if "://" in proxy else f"http://{proxy}"
        result |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), whole)
    if seconds := found.get("timeout", [""])[-1]:
        try:
            result["UV_HTTP_TIMEOUT"] = str(max(1, round(float(seconds))))
        except (ValueError, OverflowError) as error:
            raise PipNeededError(f"does not read a timeout of {seconds!r}") from error
    if retries := found.get("retries", [""])[-1]:
        result["UV_HTTP_RETRIES"] = retries
    return result


# --- the program itself


def program(root: Path) -> Path:
    """Return where an endpoint has its uv."""
    return root / "uv" / f"uv-{VERSION}"


def cache(root: Path) -> Path:
    """Return where an endpoint has what uv has fetched and built."""
    return root / "uv" / "cache"


def unpack(wheel: Path, target: Path) -> bool:
    """Put uv in its place, for root to write, if the wheel is the one that is known; return whether it was.

    The wheel lies where the app's account may write, so what is unpacked are the very bytes whose digest was made.
    """
    content = wheel.read_bytes()
    if hashlib.sha256(content).hexdigest() not in WHEELS:
        return False
    with zipfile.ZipFile(io.BytesIO(content)) as opened:
        binary = opened.read(f"uv-{VERSION}.data/scripts/uv")
    for old in target.parent.glob("uv-*"):
        old.unlink()
    temporary = target.with_name("uv-new")
    temporary.write_bytes(binary)
    temporary.chmod(0o755)
    os.replace(temporary, target)
    return True


def claim(root: Path, user: int, group: int) -> Path:
    """Return the cache, a folder of the account's; one of another account's is thrown away."""
    folder = cache(root)
    folder.parent.mkdir(exist_ok=True)
    folder.parent.chmod(0o750)
    os.chown(folder.parent, -1, group)
    if folder.exists() and folder.stat().st_uid != user:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    folder.chmod(0o750)
    os.chown(folder, user, group)
    return folder
