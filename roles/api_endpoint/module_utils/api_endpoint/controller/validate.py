# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role's variables must fulfil beyond their types: ranges, combinations, the platform, known names.

Each problem is a sentence that names the variable, its value and the remedy.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.controller.commands import RELEASE as RELEASE_OPTION
from ansible.module_utils.api_endpoint.controller.commands import USUAL
from ansible.module_utils.api_endpoint.controller.inputs import (
    Settings,
    number,
    out_of_range,
    wrong_networks,
    wrong_origins,
)
from ansible.module_utils.api_endpoint.controller.paths import local_path
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import is_within
from ansible.module_utils.api_endpoint.interpreter import misplaced
from ansible.module_utils.api_endpoint.release.requirements import choose, name_of, read
from ansible.module_utils.api_endpoint.urls import BROKEN_URL, has_broken_password

Laptop = Mapping[str, Any]  # the variables that say where relative paths of the laptop begin
URLS = (
    "git_url",
    "pip_index_url",
    "pip_extra_index_urls",
    "pip_packages",
    "pip_constraints",
    "pip_options",
)
OLDEST_GUNICORN = 23  # its major version; older ones take a worker by its name alone
SUPPORTED = {"Debian": ("12", "13")}

# Names of folders that other packages have in /etc, /var/lib, /var/log or /srv.
RESERVED = {
    "apt", "combined", "default", "dpkg", "git", "gunicorn", "http", "journal", "logrotate", "nginx", "private",
    "python3", "rsyslog", "ssh", "sudo", "systemd",
}  # fmt: skip
SYSTEM_ACCOUNTS = {"adm", "daemon", "nginx", "nobody", "root", "sshd", "syslog"}
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.I
)
WSGI = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.\w+)*(\(\))?")
# What cannot be a disk of its own for model data.
SYSTEM_FOLDERS = {
    "", "bin", "boot", "dev", "etc", "home", "lib", "lib64", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var",
}  # fmt: skip
SIZE = re.compile(r"[1-9]\d{0,15}[kKmMgG]?")
MEMORY = re.compile(r"|[1-9]\d{0,15}[KMGT]?|[1-9]\d?%|100%")
FILE_SIZE = re.compile(r"[1-9]\d{0,15}[KMGT]?")
PART = re.compile(r"[1-9]\d{0,15}[KMG]?|[1-9]\d?%")
DIRECTIVE = re.compile(r"[A-Z][A-Za-z0-9]*")
DEVICE = re.compile(r"/dev/[A-Za-z0-9._/-]+|(char|block)-[A-Za-z0-9._*-]+")
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RELEASE = re.compile(r"[0-9a-f]{12}")
MODE = re.compile(r"0?[4-7][0145][0145]")
METHOD = re.compile(r"[A-Za-z]{1,20}")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
HEADER_VALUE = re.compile(r"[ -~]*")
PATH = re.compile(r"/[A-Za-z0-9._/+@-]*")
URL_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?")

TRUE = (
    True,
    1,
    *(
        word
        for true in ("true", "yes", "on", "y", "t", "1")
        for word in (true, true.capitalize(), true.upper())
    ),
)
FALSE = (
    False,
    0,
    *(
        word
        for no in ("false", "no", "off", "n", "f", "0")
        for word in (no, no.capitalize(), no.upper())
    ),
)
SHORTEST_SECRET = 8  # characters; Ansible blanks secrets out wherever they appear, so a short one would mangle all output
# What a site decides by itself, and which variable it follows.
OWN_HEADERS = {
    "host": "which always reaches the app. Leave it out",
    "connection": "which is between nginx and the client. Leave it out",
    "content-length": "which always reaches the app. Leave it out",
    "transfer-encoding": "which is between nginx and the client. Leave it out",
    "x-forwarded-proto": "which always reaches the app. Leave it out",
    "user-agent": "which says who called. Set api_endpoint_forward_user_agent instead",
    "x-forwarded-for": "which says who called. Set api_endpoint_forward_client_address instead",
    "x-real-ip": "which says who called. Set api_endpoint_forward_client_address instead",
}

# What a kept answer cannot depend on. Conditions and ranges are nginx's to answer.
NO_KEYS = re.compile(r"(authorization|cookie|range|if-.*)", re.I)
# With an architecture, a version or a release, as apt takes them.
DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~*-]+|/[a-z0-9-]+)?")
LEAST_CACHE_BYTES = 8 * 2**20  # bytes

# Least and most of every number, and what it counts.
RANGES = {
    "api_endpoint_port": (1, 65535, "ports"),
    "api_endpoint_workers": (1, 256, "workers"),
    "api_endpoint_threads": (1, 1024, "threads"),
    "api_endpoint_timeout": (1, 3600, "seconds"),
    "api_endpoint_graceful_timeout": (1, 3600, "seconds"),
    "api_endpoint_stream_grace": (0, 86_400, "seconds"),
    "api_endpoint_stream_share": (0, 100, "percent"),
    "api_endpoint_max_requests": (0, 1_000_000_000, "requests"),
    "api_endpoint_client_timeout": (1, 3600, "seconds"),
    "api_endpoint_proxy_timeout": (1, 3600, "seconds"),
    "api_endpoint_health_timeout": (1, 600, "seconds"),
    "api_endpoint_start_timeout": (1, 7200, "seconds"),
    "api_endpoint_drain": (0, 3600, "seconds"),
    "api_endpoint_command_timeout": (1, 86_400, "seconds"),
    "api_endpoint_apt_lock_timeout": (0, 86_400, "seconds"),
    "api_endpoint_keep_releases": (1, 100, "releases"),
    "api_endpoint_log_days": (1, 90, "days"),
    "api_endpoint_log_lines": (1, 10_000, "lines"),
    "api_endpoint_max_concurrency": (1, 4000, "requests"),
    "api_endpoint_client_rate": (0, 100_000, "requests a second"),
    "api_endpoint_cors_max_age": (0, 86_400, "seconds"),
}


def ranges(settings: Settings) -> list[str]:
    """Check every number."""
    found = out_of_range(settings, RANGES)
    own = settings.get("api_endpoint_gunicorn_settings") or {}

    def effective(name: str) -> int | None:
        return number(own.get(name, settings.get(f"api_endpoint_{name}")))

    timeout, proxy = effective("timeout"), number(settings.get("api_endpoint_proxy_timeout"))
    if timeout is not None and proxy is not None and proxy <= timeout:
        found.append(
            f"api_endpoint_proxy_timeout is {proxy}, and api_endpoint_timeout {timeout}: nginx would give up on answers "
            "that the app still works on. Make api_endpoint_proxy_timeout the longer one."
        )
    if settings.get("api_endpoint_worker_class") == "asgi" and settings.get("api_endpoint_cache"):
        found.append(
            "api_endpoint_cache is set, and api_endpoint_worker_class is asgi: nginx keeps answers of WSGI apps only. "
            "Leave api_endpoint_cache out."
        )
    most = number(settings.get("api_endpoint_max_concurrency")) or 0
    handled = (effective("workers") or 0) * (
        (effective("threads") or 0) if settings.get("api_endpoint_worker_class") == "threads" else 1
    )
    if 0 < most < handled:
        found.append(
            f"api_endpoint_max_concurrency is {most}, and the workers can handle "
            f"{handled} requests at a time: nginx would refuse some while workers have nothing to do. "
            f"Make it {handled} or more."
        )
    return found


def patterns(settings: Settings) -> list[str]:
    """Check every text that must have a certain form."""
    forms = {
        "api_endpoint_name": (
            NAME,
            "lower-case letters, digits and hyphens, a letter first, at most 31",
        ),
        "api_endpoint_user": (
            NAME,
            "the name of an account: lower-case letters, digits and hyphens, a letter first, at most 31",
        ),
        "api_endpoint_wsgi": (WSGI, "module:callable, such as wsgi:app"),
        "api_endpoint_max_body_size": (SIZE, "bytes, or a number with k, m or g, such as 10m"),
        "api_endpoint_temporary_size": (
            PART,
            "bytes, a number with K, M or G, or a part of the host's memory such as 25%",
        ),
        "api_endpoint_file_size_limit": (
            FILE_SIZE,
            "bytes, or a number with K, M, G or T, such as 20G",
        ),
        "api_endpoint_memory_limit": (
            MEMORY,
            "bytes, a number with K, M, G or T, a part such as 80%, or nothing",
        ),
    }
    found = []
    for name, (form, what) in forms.items():
        value = settings.get(name)
        if value is not None and not form.fullmatch(str(value)):
            found.append(f"{name} is {value!r}. Give {what}.")
    if settings.get("api_endpoint_name") in RESERVED or str(
        settings.get("api_endpoint_name")
    ).startswith("catch-all-"):
        found.append(
            f"api_endpoint_name is {settings['api_endpoint_name']!r}, which is the name of other folders in /var/lib and "
            "/var/log. Give a name of its own."
        )
    if settings.get("api_endpoint_user") in SYSTEM_ACCOUNTS:
        found.append(
            f"api_endpoint_user is {settings['api_endpoint_user']!r}, an account of the system or of nginx. "
            "Give another name; the account is made when it is missing."
        )
    path = settings.get("api_endpoint_health_path")
    if path is not None and not re.fullmatch(r"/[!-~]*", str(path)):
        found.append(
            f"api_endpoint_health_path is {path!r}. Give a path that begins with a slash, without spaces."
        )
    for status in settings.get("api_endpoint_health_status") or []:
        if not 100 <= (number(status) or 0) <= 599:
            found.append(
                f"api_endpoint_health_status has {status!r}. Give HTTP statuses, such as 200."
            )
    for name in settings.get("api_endpoint_environment") or {}:
        if not VARIABLE.fullmatch(str(name)):
            found.append(
                f"api_endpoint_environment has the name {name!r}. Use letters, digits and underscores."
            )
    for name, value in (settings.get("api_endpoint_environment") or {}).items():
        if not isinstance(value, (str, int, float)) or "\n" in str(value):
            found.append(
                f"api_endpoint_environment[{name!r}] is {value!r}. Give one line of text, or a number in quotes."
            )
    return found


def requests(settings: Settings) -> list[str]:
    """Check the smoke requests."""
    found = []
    for index, request in enumerate(settings.get("api_endpoint_smoke_requests") or []):
        label = f"api_endpoint_smoke_requests[{index}]"
        path = str(request.get("path") or "")
        if not re.fullmatch(r"/[!-~]*", path):
            found.append(
                f"{label}.path is {path!r}. Give a path that begins with a slash, without spaces and with other letters "
                "percent-encoded, such as /api?text=caf%C3%A9."
            )
        if not METHOD.fullmatch(str(request.get("method") or "GET")):
            found.append(
                f"{label}.method is {request['method']!r}. Give an HTTP method, such as POST."
            )
        for status in request.get("status") or []:
            if not 100 <= (number(status) or 0) <= 599:
                found.append(f"{label}.status has {status!r}. Give HTTP statuses, such as 200.")
        for name, value in (request.get("headers") or {}).items():
            if not HEADER_NAME.fullmatch(str(name)) or not HEADER_VALUE.fullmatch(str(value)):
                found.append(
                    f"{label}.headers has {name!r}: {value!r}. Give a header's name and one line of ASCII text."
                )
    return found


def browsers(settings: Settings) -> list[str]:
    """Check which pages, methods and headers are let through."""
    found = wrong_origins(settings, "api_endpoint_cors_origins")
    origins = settings.get("api_endpoint_cors_origins") or []
    if settings.get("api_endpoint_cors_credentials") in TRUE and "*" in origins:
        found.append(
            "api_endpoint_cors_credentials is true, and api_endpoint_cors_origins has '*': browsers refuse that, since any "
            "page could act for its reader. Name the origins, or turn the credentials off."
        )
    methods = settings.get("api_endpoint_methods")
    for method in methods or []:
        if not METHOD.fullmatch(str(method)):
            found.append(f"api_endpoint_methods has {method!r}. Give HTTP methods, such as POST.")
    if methods is not None and "GET" not in [str(method).upper() for method in methods]:
        found.append(
            f"api_endpoint_methods is {methods!r}. Let GET be one of them: the health request is one."
        )
    for header in settings.get("api_endpoint_request_headers") or []:
        if not HEADER_NAME.fullmatch(str(header)) or not re.fullmatch(
            r"[A-Za-z0-9-]+", str(header)
        ):
            found.append(
                f"api_endpoint_request_headers has {header!r}. Give names of headers, such as X-Token."
            )
        elif str(header).lower() in OWN_HEADERS:
            found.append(
                f"api_endpoint_request_headers has {header!r}, {OWN_HEADERS[str(header).lower()]}."
            )
    return found + wrong_networks(settings, "api_endpoint_trusted_proxies")


def in_bytes(size: str) -> int:
    """Return a size as nginx understands it, such as 64m, in bytes."""
    factor = {"k": 2**10, "m": 2**20, "g": 2**30}.get(size[-1].lower(), 1)
    return int(size.rstrip("kmgKMG")) * factor


def cache(settings: Settings) -> list[str]:
    """Check which answers nginx keeps."""
    given = settings.get("api_endpoint_cache") or {}
    found = []
    paths = given.get("paths")
    if paths is not None and not paths:
        found.append(
            "api_endpoint_cache.paths is []. Give paths, or turn the cache off with api_endpoint_cache: {}."
        )
    for path in paths or []:
        if not path or not URL_PATH.fullmatch(str(path)):
            found.append(
                f"api_endpoint_cache.paths has {path!r}. Give paths that begin with a slash, such as /api/v1, of letters, "
                "digits and punctuation that URLs have as it is."
            )
    ttl = given.get("ttl")
    if ttl is not None and not 1 <= (number(ttl) or 0) <= 31_536_000:
        found.append(f"api_endpoint_cache.ttl is {ttl!r}. Give seconds from 1 to 31,536,000.")
    if given.get("size") is not None and not SIZE.fullmatch(str(given["size"])):
        found.append(
            f"api_endpoint_cache.size is {given['size']!r}. Give bytes, or a number with k, m or g, such as 64m."
        )
    elif given.get("size") is not None and in_bytes(str(given["size"])) < LEAST_CACHE_BYTES:
        found.append(
            f"api_endpoint_cache.size is {given['size']!r}. Give 8m at least: nginx counts answers in pages of memory."
        )
    if given.get("stale") not in (None, *TRUE, *FALSE):
        found.append(f"api_endpoint_cache.stale is {given['stale']!r}. Give true or false.")
    passed = [
        *(settings.get("__api_endpoint_usual_headers") or []),
        *(settings.get("api_endpoint_request_headers") or []),
    ]
    if settings.get("api_endpoint_forward_user_agent") in TRUE:
        passed += ["User-Agent", "Api-User-Agent"]
    for header in given.get("key") or []:
        if NO_KEYS.fullmatch(str(header)):
            found.append(
                f"api_endpoint_cache.key has {header!r}. Leave it out: requests with Authorization or Cookie are never "
                "answered from the cache, and nginx itself answers conditions and ranges."
            )
        elif str(header).lower() not in [str(name).lower() for name in passed]:
            found.append(
                f"api_endpoint_cache.key has {header!r}, which does not reach the app. Leave it out, or add it to "
                "api_endpoint_request_headers."
            )
    return found


def service(settings: Settings) -> list[str]:
    """Check what the app is given on the host: secrets, devices, settings of its unit."""
    found = []
    environment = settings.get("api_endpoint_environment") or {}
    # No message may show a value.
    for name, value in (settings.get("api_endpoint_secrets") or {}).items():
        if not VARIABLE.fullmatch(str(name)):
            found.append(
                f"api_endpoint_secrets has the name {name!r}. Use letters, digits and underscores."
            )
        elif not isinstance(value, str) or len(value) < SHORTEST_SECRET or "\0" in value:
            found.append(
                f"api_endpoint_secrets[{name!r}] is no text of {SHORTEST_SECRET} characters or more. Give it in quotes; "
                "what is shorter can be guessed, and belongs into api_endpoint_environment."
            )
        if name in environment:
            found.append(
                f"api_endpoint_secrets and api_endpoint_environment both have {name!r}. Leave it out of one."
            )
    for device in settings.get("api_endpoint_devices") or []:
        if not DEVICE.fullmatch(str(device)):
            found.append(
                f"api_endpoint_devices has {device!r}. Give devices such as /dev/nvidia0, or char-nvidia-uvm."
            )
    for name, value in (settings.get("api_endpoint_service_settings") or {}).items():
        values = value if isinstance(value, list) else [value]
        if not DIRECTIVE.fullmatch(str(name)):
            found.append(
                f"api_endpoint_service_settings has the name {name!r}. Give systemd's, such as LimitNOFILE."
            )
        elif not all(isinstance(one, (str, int, float)) and "\n" not in str(one) for one in values):
            found.append(
                f"api_endpoint_service_settings[{name!r}] is {value!r}. Give one line of text, a number, or a list."
            )
    for package in settings.get("api_endpoint_apt_packages") or []:
        if not DEBIAN_PACKAGE.fullmatch(str(package)):
            found.append(
                f"api_endpoint_apt_packages has {package!r}. Give names of Debian packages, each an element of its own, "
                "such as libgomp1, or with a version, such as ffmpeg=7:7.1*."
            )
    for port in settings.get("api_endpoint_firewall_ports") or []:
        if not 1 <= (number(port) or 0) <= 65535:
            found.append(f"api_endpoint_firewall_ports has {port!r}. Give ports from 1 to 65,535.")
    return found


def release(settings: Settings, rollback: bool) -> list[str]:
    """Check the release to go back to."""
    given = str(settings.get("api_endpoint_release") or "")
    if given and not RELEASE.fullmatch(given):
        return [
            f"api_endpoint_release is {given!r}. Give the id of a release, 12 hexadecimal digits (in quotes, where it "
            f"stands in a file); `{USUAL}playbooks/releases.yml` lists them."
        ]
    if given and not rollback:
        return [
            f"api_endpoint_release is {given!r}, which a deployment does not take. To go back: "
            f"`{USUAL}playbooks/rollback.yml -e {RELEASE_OPTION}{given}`. Otherwise leave it out."
        ]
    return []


def cluster(settings: Settings) -> list[str]:
    """Check how several hosts are deployed, and that the balancers can ask for the health path."""
    found = []
    batches = settings.get("api_endpoint_serial")
    for batch in batches if isinstance(batches, list) else [] if batches is None else [batches]:
        part = re.fullmatch(r"([1-9]\d{0,3})(%?)", str(batch))
        if isinstance(batch, bool) or not part or (part[2] and int(part[1]) > 100):
            found.append(
                f"api_endpoint_serial has {batch!r}. Give numbers of hosts, or parts such as 25%, in quotes."
            )
    if batches == []:
        found.append("api_endpoint_serial is []. Give numbers of hosts, or parts such as 25%.")
    path = str(settings.get("api_endpoint_health_path") or "/")
    if settings.get("api_endpoint_balancers") and not re.fullmatch(
        r"[A-Za-z0-9/._~%?&=+,:@!-]*", path
    ):
        found.append(
            f"api_endpoint_health_path is {path!r}, which the balancers are to ask for. Give a path of letters, digits and "
            "/._~%?&=+,:@!- alone."
        )
    return found


def server_names(settings: Settings) -> list[str]:
    """Check the public names."""
    names = settings.get("api_endpoint_server_names")
    if not names:
        return [
            f"api_endpoint_server_names is {'not set' if names is None else names}. "
            "Give the public names of the API, such as [my-api.wmcloud.org], in its host_vars or in "
            "group_vars/api_endpoints.yml."
        ]
    return [
        f"api_endpoint_server_names has {name!r}, which is not a host name. "
        "Give names such as language.wmcloud.org: no scheme, no port, no path."
        for name in names
        if not isinstance(name, str) or not HOST_NAME.fullmatch(name)
    ]


def metrics(settings: Settings) -> list[str]:
    """Check where Prometheus finds the metrics, and which clients are allowed."""
    found = wrong_networks(settings, "api_endpoint_metrics_clients")
    clients = settings.get("api_endpoint_metrics_clients") or []
    listen = str(settings.get("api_endpoint_metrics_listen") or "")
    if not listen:
        return found
    address, _, port = listen.rpartition(":")
    try:
        own = ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        is_good = (
            (own.version == 6) == address.startswith("[")
            and port.isdecimal()
            and 1 <= int(port) <= 65535
        )
    except ValueError:
        is_good = False
    if not is_good:
        return [
            *found,
            f"api_endpoint_metrics_listen is {listen!r}. Give an address of the host and a port, such as 127.0.0.1:9113 or "
            "[::1]:9113.",
        ]
    if int(port) == number(settings.get("api_endpoint_port")):
        found.append(
            f"api_endpoint_metrics_listen is {listen!r}, and nginx has that port. Give another one."
        )
    if not own.is_loopback and not clients:
        found.append(
            f"api_endpoint_metrics_listen is {listen!r}, and api_endpoint_metrics_clients is empty: nobody else could ask. "
            "Name the Prometheus server there, or listen on 127.0.0.1."
        )
    return found


def host_paths(settings: Settings) -> list[str]:
    """Check the paths on the host."""
    given = [
        (name, settings.get(name))
        for name in ("api_endpoint_root", "api_endpoint_data_dir", "api_endpoint_python")
    ]
    mounts = settings.get("api_endpoint_release_mounts") or []
    given += [("api_endpoint_release_mounts", mount) for mount in mounts]
    found = []
    for name, value in given:
        if value is None:
            continue
        text = str(value)
        if (
            not PATH.fullmatch(text)
            or text != os.path.normpath(text)
            or text.count("/") < 1
            or text == "/"
        ):
            found.append(
                f"{name} is {text!r}. Give an absolute path on the host, of letters, digits and ._+@-, "
                "without .. and without a slash at its end."
            )
    if why := misplaced(str(settings.get("api_endpoint_python"))):
        found.append(f"api_endpoint_python is {settings.get('api_endpoint_python')!r}: {why}.")
    for mount in [] if found else mounts:
        for name in ("api_endpoint_root", "api_endpoint_data_dir"):
            inner = str(settings.get(name))
            if inner == str(mount) or is_within(
                Path(str(mount)), os.path.relpath(inner, str(mount))
            ):
                found.append(
                    f"api_endpoint_release_mounts has {mount!r}, which would hide {name} ({inner}) from the app. "
                    f"Move {name} elsewhere, or mount the release elsewhere."
                )
    return found


def artifacts(settings: Settings, laptop: Laptop) -> list[str]:
    """Check the model data, and that what the app writes does not collide with it."""
    found = []
    taken: dict[str, str] = {}
    for index, artifact in enumerate(settings.get("api_endpoint_artifacts") or []):
        label = f"api_endpoint_artifacts[{index}]"
        dest = str(artifact.get("dest") or "")
        if not dest or not is_within(Path("/release"), dest):
            found.append(
                f"{label}.dest is {dest!r}, which leaves the release. Give a path below the app's folder."
            )
        dest = os.path.normpath(dest)
        for other, owner in taken.items():
            if (
                dest == other
                or f"{other}/".startswith(f"{dest}/")
                or f"{dest}/".startswith(f"{other}/")
            ):
                found.append(
                    f"{label}.dest is {dest!r}, where {owner} is already. Give each a place of its own."
                )
        for wanted in artifact.get("inputs") or []:
            if os.path.normpath(str(wanted)) not in taken:
                found.append(
                    f"{label}.inputs has {wanted!r}, which is no artifact that is listed before it. Give the dest of one, "
                    "and list it first."
                )
        taken[dest] = label
        found += source(artifact, label, laptop)
    for path in settings.get("api_endpoint_writable_paths") or []:
        if not isinstance(path, str) or not is_within(Path("/release"), path):
            found.append(
                f"api_endpoint_writable_paths has {path!r}, which leaves the release. Give paths below the app's folder."
            )
            continue
        for other, owner in taken.items():
            if f"{other}/".startswith(f"{os.path.normpath(path)}/"):
                found.append(
                    f"api_endpoint_writable_paths has {path!r}, where {owner} is. "
                    "Set writable: true on the artifact instead; the app then gets a copy of its own."
                )
    return found


def source(artifact: dict[str, Any], label: str, laptop: Laptop) -> list[str]:
    """Check where an artifact comes from."""
    found = []
    sources = [name for name in ("src", "url", "path", "command") if artifact.get(name)]
    sha256 = artifact.get("sha256")
    if len(sources) != 1:
        found.append(
            f"{label} ({artifact.get('dest')}) has {' and '.join(sources) or 'no source'}. Give exactly one source: "
            "src (on the laptop), url, path (on the host) or command."
        )
    if sha256 and not SHA256.fullmatch(str(sha256)):
        found.append(
            f"{label}.sha256 is {sha256!r}. Give the 64 hexadecimal digits alone that sha256sum prints."
        )
    if artifact.get("mode") and not MODE.fullmatch(str(artifact["mode"])):
        found.append(
            f"{label}.mode is {artifact['mode']!r}. Give rights in octal and in quotes that only the owner may write, "
            'such as "0640".'
        )
    if sources == ["url"]:
        found += download(artifact, label)
    if sources == ["src"]:
        found += on_laptop(
            str(artifact["src"]), laptop, f"{label}.src", Path.exists, "a file or folder"
        )
    if sources == ["path"] and not PATH.fullmatch(str(artifact["path"])):
        found.append(f"{label}.path is {artifact['path']!r}. Give an absolute path on the host.")
    return found


def download(artifact: dict[str, Any], label: str) -> list[str]:
    """Check an artifact that is downloaded."""
    found = []
    url = artifact["url"]
    for mirror in url if isinstance(url, list) else [url]:
        if not re.match(r"https?://[^/\s]+/", str(mirror)):
            found.append(
                f"{label}.url is {mirror!r}. Give an http or https URL, or a list of them."
            )
    if not artifact.get("sha256") and not artifact.get("allow_unverified"):
        found.append(
            f"{label}.url is {url!r}, without a sha256: a damaged download could not be told from a good "
            "one. Give sha256 (sha256sum FILE prints it), or allow_unverified: true."
        )
    for name, value in (artifact.get("headers") or {}).items():
        if not HEADER_NAME.fullmatch(str(name)) or not HEADER_VALUE.fullmatch(str(value)):
            found.append(
                f"{label}.headers has {name!r}. Give a header's name and one line of ASCII text."
            )
    return found


def on_laptop(
    given: str, laptop: Laptop, name: str, is_kind: Callable[[Path], bool], kind: str
) -> list[str]:
    """Check that a path of the laptop exists and is of the right kind."""
    try:
        path = local_path(given, laptop, name)
    except DeployError as error:
        return [str(error)]
    return [] if is_kind(path) else [f"{name} is {given!r} ({path}), which is not {kind}."]


def code(settings: Settings, laptop: Laptop) -> list[str]:
    """Check where the code comes from, and that the WSGI module is in it when it lies on the laptop."""
    subdir = str(settings.get("api_endpoint_app_subdir") or "")
    if subdir and not is_within(Path("/code"), subdir):
        return [
            f"api_endpoint_app_subdir is {subdir!r}. Give a folder within the code, relative to its top."
        ]
    url = str(settings.get("api_endpoint_git_url") or "")
    if re.match(r"(git\+)?ssh://[^/@]*:[^/@]*@", url):
        return [
            "api_endpoint_git_url has a password, which SSH takes from no URL. Give api_endpoint_git_key."
        ]
    if url:
        return []
    given = str(settings.get("api_endpoint_app_dir") or "")
    if not given:
        return [
            "Neither api_endpoint_app_dir nor api_endpoint_git_url is set. Give the folder of your app on this computer, "
            "with its wsgi.py, or the URL of its git repository."
        ]
    found = on_laptop(given, laptop, "api_endpoint_app_dir", Path.is_dir, "a folder")
    if found:
        return found
    folder = local_path(given, laptop, "api_endpoint_app_dir") / subdir
    wsgi = str(settings.get("api_endpoint_wsgi") or "wsgi:app")
    module = wsgi.partition(":")[0].replace(".", "/")
    if (
        WSGI.fullmatch(wsgi)
        and not (folder / f"{module}.py").is_file()
        and not (folder / module / "__init__.py").is_file()
    ):
        found.append(
            f"api_endpoint_app_dir is {given!r}, and {folder} has no {module}.py. Correct api_endpoint_app_dir, "
            "api_endpoint_app_subdir (the folder within) or api_endpoint_wsgi (module:callable)."
        )
    source = local_path(given, laptop, "api_endpoint_app_dir")
    return found or required(settings, source, subdir)


def required(settings: Settings, source: Path, subdir: str) -> list[str]:
    """Check what the app on the laptop requires."""
    try:
        plan = read(source, subdir, str(settings.get("api_endpoint_requirements_file") or ""))
    except (DeployError, OSError) as error:
        return [str(error)]
    packages = [str(text) for text in settings.get("api_endpoint_pip_packages") or []]
    return choose(
        plan, settings.get("api_endpoint_pip_exclude") or [], packages, "gunicorn"
    ).problems


def server(settings: Settings) -> list[str]:
    """Check that gunicorn is one that the role's worker works with, and that nothing for pip names a place of the laptop."""
    found = []
    texts = [
        str(settings.get("api_endpoint_gunicorn") or "gunicorn"),
        *map(str, settings.get("api_endpoint_pip_packages") or []),
    ]
    own = [text for text in texts if name_of(text) == "gunicorn"]
    if not own or name_of(texts[0]) != "gunicorn":
        found.append(
            f"api_endpoint_gunicorn is {texts[0]!r}. Give a requirement for gunicorn, such as gunicorn==27.0.1."
        )
    for text in own:
        pinned = re.search(r"===?\s*(\d+)", text)
        if pinned and int(pinned[1]) < OLDEST_GUNICORN:
            found.append(
                f"{text!r} is too old: the role's worker needs gunicorn {OLDEST_GUNICORN} or newer. Leave it out of "
                "api_endpoint_pip_packages and of api_endpoint_gunicorn, whose default is tested."
            )
    for text in texts[1:]:
        if re.match(r"(-e\s*|--editable[= ]\s*)?(\.{1,2}([/\[]|$)|~|[A-Za-z]:[\\/])", text):
            found.append(
                f"api_endpoint_pip_packages has {text!r}, which is no package of an index nor a file of the host. Put what "
                "lies on the laptop into the app's folder and the line into its requirements.txt."
            )
    options = " ".join(map(str, settings.get("api_endpoint_pip_options") or []))
    for place in re.findall(r"(?:^|\s)(?:--find-links[= ]\s*|-f\s*)(\S+)", options):
        if not re.match(r"https?://|/|file:///", place):
            found.append(
                f"api_endpoint_pip_options has --find-links {place}, which pip on the host does not find: it would look on "
                "an index instead. Put the folder into the app's folder and the option into its requirements.txt."
            )
    return found


def volume(settings: Settings) -> list[str]:
    """Check the volume for model data."""
    given = settings.get("api_endpoint_volume") or {}
    if not given:
        return []
    name = str(settings.get("api_endpoint_name") or "")
    mount = str(given.get("mount") or f"/srv/{name}")
    device = str(given.get("device") or "auto")
    longest = 12 if given.get("filesystem") == "xfs" else 16
    found = []
    if device != "auto" and not re.fullmatch(r"/dev/[A-Za-z0-9._/+:@-]+", device):
        found.append(
            f"api_endpoint_volume.device is {device!r}. Give auto, or a disk such as /dev/sdb (`lsblk` lists them)."
        )
    if (
        not PATH.fullmatch(mount)
        or mount != os.path.normpath(mount)
        or mount.split("/")[1] in SYSTEM_FOLDERS
    ):
        found.append(
            f"api_endpoint_volume.mount is {mount!r}. Give a folder for the volume alone, such as /srv/{name}."
        )
    if given.get("label") and not re.fullmatch(
        rf"[A-Za-z0-9._-]{{1,{longest}}}", str(given["label"])
    ):
        found.append(
            f"api_endpoint_volume.label is {given['label']!r}. Give at most {longest} letters, digits, dots, hyphens and "
            "underscores."
        )
    data, root = str(settings.get("api_endpoint_data_dir")), str(settings.get("api_endpoint_root"))
    if not f"{data}/".startswith(f"{mount}/"):
        found.append(
            f"api_endpoint_volume.mount is {mount!r}, and api_endpoint_data_dir is {data!r}: the data would not be on the "
            f"volume. Make api_endpoint_data_dir {mount}/data, or change the mount."
        )
    if f"{root}/".startswith(f"{mount}/"):
        found.append(
            f"api_endpoint_volume.mount is {mount!r}, and api_endpoint_root is {root!r}. Only the data can be on the "
            "volume. Choose another mount."
        )
    return found


def platform(facts: dict[str, Any]) -> list[str]:
    """Check the host's operating system."""
    name = str(facts.get("distribution", "an unknown system"))
    version = str(facts.get("distribution_major_version", ""))
    if version in SUPPORTED.get(name, ()):
        return []
    return [f"The host runs {name} {version}. Use Debian 12 or 13."]


def passwords(settings: Settings) -> list[str]:
    """Check that passwords in URLs end where they should; a message shows none of such a URL."""
    given = {name: settings.get(f"api_endpoint_{name}") or [] for name in URLS}
    for place, artifact in enumerate(settings.get("api_endpoint_artifacts") or []):
        given[f"artifacts[{place}].url"] = artifact.get("url") or []
    return [
        f"api_endpoint_{name} {BROKEN_URL}"
        for name, urls in given.items()
        if any(
            has_broken_password(str(url)) for url in (urls if isinstance(urls, list) else [urls])
        )
    ]


def problems(
    settings: Settings, facts: dict[str, Any], laptop: Laptop, rollback: bool = False
) -> list[str]:
    """Return every problem there is with the settings and the host's facts."""
    if found := passwords(settings):
        return found  # the other messages would show them
    return [
        *platform(facts),
        *server_names(settings),
        *patterns(settings),
        *ranges(settings),
        *requests(settings),
        *browsers(settings),
        *cache(settings),
        *service(settings),
        *release(settings, rollback),
        *cluster(settings),
        *metrics(settings),
        *host_paths(settings),
        *volume(settings),
        *server(settings),
        # Going back needs nothing of the laptop.
        *([] if rollback else [*code(settings, laptop), *artifacts(settings, laptop)]),
    ]
