# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace nginx's configuration as a whole, or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.files import (
    read_json,
    replace_symlink,
    write_file,
    write_json,
)
from ansible.module_utils.api_endpoint.host.managed_files import OWNER, found_at
from ansible.module_utils.api_endpoint.host.nginx_note import (
    NOTE,
    digests_of,
    put_away,
    stand_in,
)
from ansible.module_utils.api_endpoint.http import loaded_configuration, programs_on
from ansible.module_utils.api_endpoint.systemd import main_process, systemctl
from ansible.module_utils.basic import AnsibleModule

FOREIGN = ".before-api-endpoint"  # ending of the file in which content from before the role is kept
EDITED = ".edited-by-hand"  # ending of the file in which the last edit by hand is kept
# What `nginx -t` makes: caches, sockets, logs. Up to the last part of the path.
MADE = re.compile(
    r"^(\s*(?:proxy_cache_path\s+|listen\s+unix:|error_log\s+))/(?:\S*/)?", re.MULTILINE
)
ERROR_LOG = Path("/var/log/nginx/error.log")
# That nginx may take to load a configuration; when it cannot bind, it tries for 2.5.
LOAD_SECONDS = 20
LISTEN = re.compile(r"^\s*listen\s+(?:\[::\]:)?(\d+)", re.MULTILINE)  # a port on all addresses
CATCH_ALL = "catch-all-"  # with a port: the site that answers unknown names on it
RIGHTS = f"{OWNER} 0644"  # of every file
ACCOUNT = re.compile(r"^user\s+\S+;", re.MULTILINE)  # whose nginx's workers are


def current(path: Path) -> str | None:
    """Return what is at a path: a file's content, or a link's target behind an arrow; None when there is nothing.

    Raise DeployError for a folder.
    """
    if path.is_symlink():
        return stand_in(os.readlink(path))
    if path.is_dir():
        raise DeployError(f"{path} is a folder. A file belongs there: move away what has its name.")
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def kept_as(name: str, before: str | None, wanted: str | None, noted: dict[str, str]) -> str:
    """Return the name under which content is kept before it is replaced; empty when it is the role's own, or a link."""
    if before is None or before.startswith("-> "):
        return ""
    folder, base = os.path.split(name)
    beside = os.path.join(folder.replace("-enabled", "-available"), base)
    if name in noted:
        return "" if value_digest(before) == noted[name] else beside + EDITED
    # Nothing is noted: the role's own files are known by their first line, which never changes.
    return "" if before.splitlines()[:1] == (wanted or "").splitlines()[:1] else beside + FOREIGN


def packaged(path: Path) -> bool:
    """Tell whether a file is as its Debian package has brought it: dpkg knows the digest of such files."""
    try:
        owner = subprocess.run(
            ["dpkg-query", "--search", str(path)], capture_output=True, text=True, check=False
        ).stdout.partition(":")[0]
        shown = subprocess.run(
            ["dpkg-query", "--show", "--showformat=${Conffiles}", owner or "nginx"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return False
    return [str(path), digest] in [line.split()[:2] for line in shown.splitlines()]


def keep(folder: Path, name: str, kept: str) -> None:
    """Keep a file: what was before the role once, the last edit by hand."""
    place = folder / kept
    place.parent.mkdir(parents=True, exist_ok=True)
    if kept.endswith(EDITED) or not place.exists():
        shutil.copy2(folder / name, place)


def apply(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Write, link and remove."""
    for name, content in wanted.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in links:
            replace_symlink(path, links[name])
        elif content is None:
            path.unlink()
        else:
            write_file(path, content, 0o644)


def judge(folder: Path, wanted: dict[str, str | None], links: dict[str, str]) -> None:
    """Let nginx judge the wanted configuration in a copy of the folder."""
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "nginx")
        shutil.copytree(folder, copy, symlinks=True)
        # Debian's own nginx.conf, which a removal puts back, has absolute paths.
        beside = {
            name: content
            and MADE.sub(rf"\1{temporary}/", content).replace(f"{folder}/", f"{copy}/")
            for name, content in wanted.items()
        }
        # `nginx -t` gives the folders of uploads to the account that it reads, under workers that may have another one;
        # and in a dry run that account may not be there.
        account = ACCOUNT.search(current(folder / "nginx.conf") or "")
        if account and beside.get("nginx.conf"):
            beside["nginx.conf"] = ACCOUNT.sub(account[0], str(beside["nginx.conf"]))
        apply(copy, beside, links)
        done = subprocess.run(
            ["nginx", "-t", "-q", "-c", str(copy / "nginx.conf")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            words = done.stderr.strip().replace(str(copy), str(folder))
            raise DeployError(
                f"nginx rejects the new configuration; the old one is in place.\n{words}\n"
                "Where the file is not the role's, correct it, or remove it. Then run this again."
            )


def left_by_a_port(folder: Path, wanted: dict[str, str | None]) -> list[str]:
    """Return what answers unknown names on a port that no site has any more: of an earlier `api_endpoint_port`."""
    enabled = {name: current(folder / name) for name in wanted} | {
        f"sites-enabled/{path.name}": path.read_text(encoding="utf-8", errors="replace")
        for path in folder.glob("sites-enabled/*")
        if path.is_file()
    }
    texts = [str(text) for name, text in {**enabled, **wanted}.items() if CATCH_ALL not in name]
    left = []
    for path in sorted(folder.glob(f"sites-enabled/{CATCH_ALL}*")):
        port = path.name.removeprefix(CATCH_ALL)
        is_used = any(
            re.search(rf"^\s*listen\s+(?:\S*:)?{port}\b", text, re.MULTILINE) for text in texts
        )
        if f"sites-enabled/{path.name}" not in wanted and not is_used:
            left += [f"sites-enabled/{path.name}", f"sites-available/{path.name}"]
    return left


def refuse_taken_ports(wanted: dict[str, str | None]) -> None:
    """Raise DeployError when another program has a port of the wanted configuration: nginx would not start again."""
    for port in sorted(
        {int(port) for text in wanted.values() for port in LISTEN.findall(text or "")}
    ):
        if others := [program for program in programs_on(port) if not program.startswith("nginx ")]:
            raise DeployError(
                f"Port {port} is taken by {', '.join(others)}, so nginx was left as it is. Stop that program, or give the "
                "endpoint another api_endpoint_port. Then run this again."
            )


def new_name(loaded: str) -> dict[str, str | None]:
    """Return the files that give a configuration a name of its own, by which nginx can say which one it has loaded.

    The first is for a server that says the name to whoever asks; the second for one that others must not ask for it.
    """
    name = secrets.token_hex(16)
    head = "# Managed by Ansible (role api_endpoint). New with each change: nginx says by it which configuration it runs.\n"
    location = f"location = /{name} {{\n    access_log off;\n    return 200 {name};\n}}\n"
    return {loaded: f"{head}return 200 {name};\n", f"{loaded}.location": head + location}


def is_pending(loaded: Path, socket: Path) -> bool:
    """Tell whether nginx runs another configuration than the one on the disk, which it loads when it is started."""
    name = loaded_configuration(str(socket))
    if name and f"return 200 {name};" in (current(loaded) or ""):
        return False
    return systemctl("is-active", "--quiet", "nginx.service").returncode == 0


def accepting_workers() -> set[int]:
    """Return nginx's workers that take connections: one that is to end says so in its title before it stops listening."""
    main = main_process("nginx.service")
    workers = set()
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{main}/task/{main}/children").read_text().split():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_text()
                if "worker process" in title and "shutting down" not in title:
                    workers.add(int(pid))
    return workers


def load(loaded: Path, socket: Path) -> None:
    """Have nginx load what is on the disk; raise DeployError, with nginx's reason, when it goes on with what it had."""
    reload(
        lambda: not is_pending(loaded, socket),
        "nginx did not load the new configuration; it goes on with the one before.",
    )


def reload(is_loaded: Callable[[], bool], failure: str) -> None:
    """Reload nginx, and return when the workers of before take no connections any more.

    Raise DeployError, with `failure` and nginx's reason, when the configuration `is_loaded` tells of does not get loaded.
    """
    begin = ERROR_LOG.stat().st_size if ERROR_LOG.exists() else 0
    before = accepting_workers()
    done = systemctl("reload", "nginx.service")
    deadline, reasons = time.monotonic() + LOAD_SECONDS, done.stderr.strip().splitlines()
    while done.returncode == 0 and not (is_loaded() and before.isdisjoint(accepting_workers())):
        reasons = emergencies(begin)
        if time.monotonic() > deadline or any("still could not bind()" in line for line in reasons):
            break
        time.sleep(0.1)
    else:
        if done.returncode == 0:
            return
    ports = sorted(
        {int(port) for port in re.findall(r"bind\(\) to \S*:(\d+) failed", "\n".join(reasons))}
    )
    users = [
        f"Port {port} is taken by {', '.join(programs_on(port)) or 'an unknown program'}."
        for port in ports
    ]
    raise DeployError(
        "\n".join(
            [
                failure,
                *users,
                "Remove the cause, then run this again: nginx is reloaded then.",
                *(reasons or ["(nginx logged no reason)"]),
            ]
        )
    )


def emergencies(begin: int) -> list[str]:
    """Return the reasons that nginx has logged since `begin` for not going on, each once."""
    try:
        with ERROR_LOG.open("rb") as file:
            file.seek(begin)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return [f"({ERROR_LOG} is not readable: {error})"]
    return list(
        dict.fromkeys(
            line.partition("[emerg] ")[2].partition(": ")[2] for line in lines if "[emerg]" in line
        )
    )


def ensure(module: AnsibleModule) -> dict[str, object]:
    """Bring the files to what is wanted."""
    folder = Path(module.params["folder"])
    links = {name: str(target) for name, target in module.params["links"].items()}
    wanted: dict[str, str | None] = {
        **module.params["files"],
        **{name: stand_in(target) for name, target in links.items()},
        **dict.fromkeys(module.params["absent"]),
    }
    wanted |= dict.fromkeys(left_by_a_port(folder, wanted))
    before = {name: current(folder / name) for name in wanted}
    # With the right content a file may still be one that another account can write.
    rights = {name: found_at(folder / name)[1] for name in module.params["files"]}
    changes = {
        name: content
        for name, content in wanted.items()
        if content != before[name] or rights.get(name, RIGHTS) != RIGHTS
    }
    installed = shutil.which("nginx") is not None and folder.is_dir()
    if changes and installed:
        refuse_taken_ports(changes)
        judge(folder, new_name(module.params["loaded"]) | changes, links)
    noted: dict[str, str] = read_json(folder / NOTE) or {}
    kept = {name: kept_as(name, before[name], content, noted) for name, content in changes.items()}
    loaded = folder / module.params["loaded"]
    if changes and not module.check_mode:
        for name in changes:
            if kept[name]:
                is_packages = packaged(folder / name)
                keep(folder, name, kept[name])
                if not is_packages:
                    module.warn(
                        f"{folder / name} was not the role's own; it is kept as {folder / kept[name]}."
                    )
        # Its name first: cut off after it, the next run sees that nginx has not loaded what is on the disk.
        apply(folder, new_name(module.params["loaded"]) | changes, links)
    digests = digests_of(module.params["files"], links) | put_away(module.params["absent"], before)
    if {**noted, **digests} != noted and installed and not module.check_mode:
        write_json(folder / NOTE, {**noted, **digests}, 0o644)
    socket = Path(module.params["socket"])
    if not module.check_mode:
        socket.parent.mkdir(mode=0o700, exist_ok=True)
    pending = installed and is_pending(loaded, socket)
    if pending and module.params["reload"] and not module.check_mode:
        load(loaded, socket)
    return {
        "changed": bool(changes) or pending,
        "written": sorted(changes),
        "pending": pending,
        "diff": [
            {
                "before_header": str(folder / name),
                "after_header": str(folder / name),
                "before": (rights[name] if is_same else before[name]) or "",
                "after": (RIGHTS if is_same else content) or "",
            }
            for name, content in changes.items()
            for is_same in [content == before[name]]
        ],
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)
