# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop the service of the old template, whose place the endpoint has taken, and say what of it is left."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import replace_symlink
from ansible.module_utils.api_endpoint.host import folders as api_endpoint_folders
from ansible.module_utils.api_endpoint.jobs import detached
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.slots import Endpoint
from ansible.module_utils.api_endpoint.systemd import must
from ansible.module_utils.basic import AnsibleModule

BEFORE = ".before-api-endpoint"  # ending of what was there before the role


def wait_for_the_last_answers(seconds: float) -> None:
    """Wait until the processes of nginx are gone that still know the old service."""
    time.sleep(1)  # A reload returns before there are any.
    subprocess.run(
        ["timeout", str(seconds), "pidwait", "--full", "^nginx: worker process is shutting down"],
        capture_output=True,
        check=False,
    )


def is_in_the_way(link: Path) -> bool:
    """Tell whether something else is where a link belongs."""
    return link.exists() and not link.is_symlink()


def kept_at(endpoint: Endpoint) -> dict[Path, Path]:
    """Return what of the old template is where a link belongs, or was, with the path at which it is kept."""
    kept = {link: link.with_name(link.name + BEFORE) for link in endpoint.links}
    return {link: place for link, place in kept.items() if is_in_the_way(link) or place.exists()}


def set_aside(path: Path, kept: Path) -> None:
    """Keep what is at a path under another name."""
    if kept.is_dir():
        shutil.rmtree(kept)
    shutil.move(path, kept)


def left(endpoint: Endpoint, unit: str, moved: dict[Path, Path]) -> list[str]:
    """Return what stays on the host, with the command that removes each."""
    etc = Path("/etc", endpoint.name)
    own = {link.name for link in endpoint.links} | {path.name for path in moved.values()}
    found = {
        "old code and data": sorted(path for path in etc.glob("*") if path.name not in own),
        "old settings and virtualenv": sorted(moved.values()),
        "old unit": [Path("/etc/systemd/system", unit)],
        "old site of nginx": [Path("/etc/nginx/sites-available/model")],
        "old socket": [Path("/srv", endpoint.name, "sock")],
    }
    return [
        f"{what}: sudo rm -r {shlex.join(map(str, paths))}"
        for what, paths in found.items()
        if any(path.exists() or path in moved.values() for path in paths)
    ]


def take_over(
    endpoint: Endpoint, unit: str, moved: dict[Path, Path], patience: float
) -> dict[str, Any]:
    """Stop the old service, and put links where its things were."""
    wait_for_the_last_answers(patience)
    must("stop", unit)
    for path, kept in moved.items():
        if is_in_the_way(path):
            set_aside(path, kept)
        replace_symlink(path, endpoint.links[path])
    api_endpoint_folders.ensure(
        {"path": f"/etc/{endpoint.name}", "owner": "root", "group": "root", "mode": "0755"},
        check_mode=False,
    )
    must("disable", unit)
    return {}


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Stop the old service when the endpoint has taken its place."""
    given = module.params
    endpoint, unit = Endpoint(given["name"], given["root"]), given["unit"]
    moved = kept_at(endpoint)
    if not module.check_mode:
        if not endpoint.live_slot:
            raise DeployError(f"{unit} was left running: no release has taken its place yet.")
        with Lock(given["name"]).held(given["run"]):
            detached(lambda: take_over(endpoint, unit, moved, given["patience"]))
    before = "".join(f"{path}\n" for path in moved)
    after = "".join(f"{kept}\n{path} -> {endpoint.links[path]}\n" for path, kept in moved.items())
    return {
        "changed": True,
        "left": left(endpoint, unit, moved),
        "diff": {
            "before": f"{unit}: enabled\n{before}",
            "after": f"{unit}: stopped, disabled\n{after}",
        },
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(**result)
