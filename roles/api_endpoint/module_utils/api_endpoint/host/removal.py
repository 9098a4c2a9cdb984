# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove an endpoint from a host, and say what stays.

All is decided from the disk, so a run that was cut off is made up for by the next one. The unit of the slots goes last:
as long as it is there it says whose the folder is.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.api_endpoint.artifacts.store import extent, mib
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import remove_tree, write_file
from ansible.module_utils.api_endpoint.host import accounts
from ansible.module_utils.api_endpoint.host.nginx_removal import NginxRemoval
from ansible.module_utils.api_endpoint.jobs import detached
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.slots import SLOTS, Endpoint
from ansible.module_utils.api_endpoint.systemd import must, systemctl
from ansible.module_utils.api_endpoint.table import aligned
from ansible.module_utils.basic import AnsibleModule

UNITS = Path("/etc/systemd/system")
PUT_BACK = "as before the role"  # in place of a size
MARK = "# Managed by Ansible (role api_endpoint)."
# What the role makes in the endpoint's folder, besides `state`; a test compares it with the role's list of folders.
CONTENT = (
    "cache", "candidate", "code", "current", "git", "history.json", "live", "p3env", "releases", "secrets", "slots", "uv",
    "venvs", "work",
)  # fmt: skip
STORED = re.compile(r"[0-9a-f]{64}|[0-9a-f]{16}|\.building-.*|\.part-.*|\.endpoint")
# Where a host itself may have a disk of its own; what is mounted elsewhere is a volume for data.
OF_THE_HOST = ("/", "/srv", "/var", "/var/lib")


class Unit(NamedTuple):
    """What the unit of an endpoint's slots says."""

    name: str
    root: str
    user: str


def unit_in(path: Path) -> Unit | None:
    """Return what a unit file of slots says; None when it is not there, or not the role's."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    root = re.search(r"^WorkingDirectory=(.+)/slots/%i/release$", text, re.M)
    user = re.search(r"^User=(.+)$", text, re.M)
    if not text.startswith(MARK) or not root or not user:
        return None
    return Unit(path.name.removesuffix("@.service"), root[1], user[1])


def mount_of(path: Path) -> Path:
    """Return where the filesystem is mounted that holds a path."""
    place = path.resolve()
    while not place.is_mount():
        place = place.parent
    return place


class Removal:
    """What is removed, and what stays. In a dry run nothing is touched, and all is listed."""

    def __init__(self, given: dict[str, Any], is_dry_run: bool) -> None:
        self.given = given
        self.name: str = given["name"]
        self.endpoint = Endpoint(self.name, given["root"])
        self.is_dry_run = is_dry_run
        self.removed: list[tuple[str, str]] = []
        self.kept: list[str] = []
        self._sizes: dict[Path, int] = {}  # bytes, of what is gone or would be
        self.own = unit_in(UNITS / f"{self.name}@.service")
        found = (unit_in(path) for path in sorted(UNITS.glob("*@.service")))
        self.others = [unit for unit in found if unit and unit.name != self.name]
        self.nginx = NginxRemoval(
            Path(given["nginx_folder"]), given["nginx"], not self.others, given["has_balancers"]
        )

    def check(self) -> None:
        """Raise DeployError when the settings are not those with which the endpoint was deployed."""
        if not self.own:
            return
        for variable, given, found in (
            ("api_endpoint_root", str(self.endpoint.root), self.own.root),
            ("api_endpoint_user", self.given["user"], self.own.user),
        ):
            if given != found:
                raise DeployError(
                    f"Nothing was touched. {variable} is {given!r}, and the endpoint {self.name} of this host has "
                    f"{found!r}. Set it to that, then run this again."
                )

    def run(self) -> dict[str, Any]:
        """Remove all, in an order in which clients get no errors but those of an endpoint that is gone."""
        self._nginx()
        self._stop()
        for path in sorted(self.given["files"]):
            self._remove(Path(path))
        for slot in SLOTS:
            self._remove(self.endpoint.drop_in_of(slot).parent)
        self._firewall()
        self._data()
        self._content()
        for path in self.given["folders"]:
            self._remove(Path(path))
        self._etc()
        self._accounts()
        if not self.others:
            self._shared()
        self._remove(UNITS / f"{self.name}@.service")
        if self.removed and not self.is_dry_run:
            must("daemon-reload")
        for path in (Lock(self.name).busy, *Path("/run").glob(f"{self.name}-*.alive")):
            if not self.is_dry_run:
                path.unlink(missing_ok=True)
                path.with_suffix(".json").unlink(missing_ok=True)
        return {"removed": self.removed, "kept": [*self.nginx.kept, *self.kept]}

    def _remove(self, path: Path) -> None:
        """Remove a file, a link, or a folder with all that is in it; what is mounted there stays."""
        if not os.path.lexists(path):
            return
        if path.is_mount():
            self.kept.append(f"{path}: a volume is mounted there. Remove what is on it by hand.")
            return
        is_folder = path.is_dir() and not path.is_symlink()
        size = extent(path)[0] if is_folder else path.lstat().st_size
        if not self.is_dry_run:
            # A folder's size is that of all that was in it.
            size += sum(gone for inner, gone in self._sizes.items() if inner.parent == path)
        self._sizes[path] = size
        self.removed.append((str(path), mib(size) if size >= 1000 else ""))
        if self.is_dry_run:
            return
        if is_folder:
            remove_tree(path)
        else:
            path.unlink()

    def _gone_of(self, folder: Path) -> list[Path]:
        """Return what of a folder is gone, or would be."""
        return [path for path in self._sizes if folder in path.parents]

    def _remove_if_empty(self, folder: Path, gone: list[Path], whose: str) -> None:
        """Remove a folder unless more is in it than what is gone, or would be."""
        if not folder.is_dir():
            return
        rest = sorted(path.name for path in folder.iterdir() if path not in gone)
        if not rest:
            self._remove(folder)
        else:
            self.kept.append(f"{folder}: {whose} ({', '.join(rest[:5])}{', …' * (len(rest) > 5)})")

    def _nginx(self) -> None:
        """Take the endpoint out of nginx."""
        folder = self.nginx.folder
        for name, content in self.nginx.wanted.items():
            self.removed.append((str(folder / name), "" if content is None else PUT_BACK))
        if not self.is_dry_run:
            self.nginx.apply(Path(self.endpoint.proof_socket))
        for path in sorted(folder.glob("sites-*/*.edited-by-hand")):
            if path.name.startswith(f"{self.name}."):
                self.kept.append(f"{path}: an edit by hand")
        self._remove(Path(self.endpoint.proof_socket))

    def _stop(self) -> None:
        """Stop the units, and have none of them start again."""
        for unit in self.given["units"]:
            shown = systemctl("show", "--property=ActiveState,UnitFileState", unit).stdout
            if self.is_dry_run:
                continue
            if "UnitFileState=enabled" in shown:
                must("disable", unit)
            if "ActiveState=inactive" not in shown:
                must("stop", unit)
            systemctl("reset-failed", unit)
        if not self.is_dry_run:
            systemctl("stop", "system-{}.slice".format(self.name.replace("-", "\\x2d")))

    def _firewall(self) -> None:
        """Close the endpoint's ports, where the role's firewall has them open."""
        path = Path(self.given["firewall_rules"])
        is_there = path.exists()
        self._remove(path)
        if is_there and not self.others:
            self.kept.append("/etc/nftables.conf: the firewall, which admits SSH alone now")
        if is_there and not self.is_dry_run:
            systemctl("try-reload-or-restart", "nftables.service")

    def _data(self) -> None:
        """Remove the model data, unless it is on a volume, and what is not of the store."""
        folder = Path(self.given["data_dir"])
        if not folder.is_dir():
            return
        mount = mount_of(folder)
        if str(mount) not in OF_THE_HOST:
            self.kept.append(
                f"{folder}: model data, on the volume at {mount}. To remove it: sudo rm -r {folder}. "
                f"To give the volume back: sudo umount {mount}, and delete its line in /etc/fstab"
            )
            return
        mark = folder / ".endpoint"
        owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else ""
        found = sorted(folder.iterdir()) if owner == self.name else []
        stored = [path for path in found if STORED.fullmatch(path.name)]
        for path in stored:
            self._remove(path)
        self._remove_if_empty(folder, stored, "not this endpoint's model data")
        if folder.parent == Path("/srv", self.name):
            self._remove_if_empty(folder.parent, self._gone_of(folder.parent), "not the role's")

    def _content(self) -> None:
        """Remove releases, virtualenvs and caches, and what the app has written when that is wanted."""
        root = self.endpoint.root
        if not root.is_dir():
            return
        gone = [root / "state" / "home"]
        written = root / "state" / "app"
        size, files = extent(written) if written.is_dir() else (0, 0)
        if files and not self.given["remove_data"]:
            self.kept.append(
                f"{written}: what the app has written ({mib(size)}). To remove that too: "
                "-e api_endpoint_remove_data=true"
            )
        else:
            gone.append(written)
        if self.own:  # Otherwise nothing says that the rest is the endpoint's.
            gone += [root / name for name in CONTENT]
        for path in gone:
            self._remove(path)
        state = root / "state"
        if state.is_dir() and all(path in gone for path in state.iterdir()):
            self._remove(state)
            gone.append(state)
        rest = sorted(path.name for path in root.iterdir() if path not in [*gone, state])
        if rest:
            self.kept.append(f"{root}: not the role's ({', '.join(rest[:5])})")
        elif state in gone or not state.is_dir():
            self._remove(root)

    def _etc(self) -> None:
        """Remove the links for people, and their folder unless the old template has left something there."""
        folder = Path("/etc", self.name)
        links = [
            path for path in self.endpoint.links if path.parent == folder and path.is_symlink()
        ]
        for path in links:
            self._remove(path)
        self._remove_if_empty(folder, links, "not the role's")

    def _accounts(self) -> None:
        """Remove the accounts that the role has made and nobody needs any more."""
        user, nginx = self.given["user"], self.given["nginx_user"]
        users = {unit.user for unit in self.others}
        if user not in users and accounts.is_member(nginx, user):
            self._act(f"{nginx}, a member of the group {user}", lambda: accounts.leave(nginx, user))
        if user not in users and accounts.is_own(user):
            if any(text.startswith(f"{self.endpoint.root}/state/app:") for text in self.kept):
                self.kept.append(f"the account {user}: what the app has written is its own")
            else:
                self._act(f"the account {user}", lambda: accounts.remove(user))

    def _act(self, what: str, work: Any) -> None:
        self.removed.append((what, ""))
        if not self.is_dry_run:
            work()

    def _shared(self) -> None:
        """Remove what all endpoints of a host share, once nginx has back what it had before the role."""
        if not self.nginx.is_given_back:
            return
        for path in self.given["shared"]:
            self._remove(Path(path))
            folder = Path(path).parent
            if folder.name.endswith(".d") and folder.parent == UNITS:
                self._remove_if_empty(folder, [Path(path)], "not the role's")
        user, rotation = self.given["nginx_user"], Path(self.given["rotation"])
        text = rotation.read_text(encoding="utf-8") if rotation.is_file() else ""
        if text.startswith(MARK):
            self.kept.append(f"{rotation}: rotates nginx's logs, as the role had it")
        if accounts.is_own(user):
            self._act(f"the account {user}", lambda: self._hand_over(user, rotation, text))
        for folder in map(Path, self.given["shared_folders"]):
            self._remove(folder)
        gone = [self.nginx.folder / name for name in self.nginx.wanted]
        self._remove_if_empty(self.nginx.folder / "api-endpoint", gone, "not the role's")
        if not self.is_dry_run:
            systemctl("try-restart", "rsyslog.service")

    def _hand_over(self, user: str, rotation: Path, text: str) -> None:
        """Give what nginx's account has to the one that nginx has now, and remove it."""
        account = self.nginx.account
        uid, new = accounts.ids(user, "adm")[0], accounts.ids(account, "adm")[0]
        for folder in ("/var/log/nginx", "/var/lib/nginx"):
            for path in Path(folder).rglob("*"):
                if path.lstat().st_uid == uid:
                    os.chown(path, new, -1, follow_symlinks=False)
        if text.startswith(MARK):
            write_file(rotation, text.replace(f" {user} adm", f" {account} adm"), 0o644)
        accounts.remove(user)


def text_of(name: str, removed: list[tuple[str, str]], kept: list[str], is_dry_run: bool) -> str:
    """Return the report for people. What lay in a folder that is gone too has no line of its own."""
    folders = {Path(path) for path, _size in removed}
    rows = [row for row in removed if not folders.intersection(Path(row[0]).parents)]
    lines = [f"Nothing of the endpoint {name} is left to remove on this host."]
    if rows:
        lines = ["Would be removed:" if is_dry_run else "Removed:"]
        lines += [f"  {line}" for line in aligned(rows).splitlines() if PUT_BACK not in line]
    lines += [f"Put back {PUT_BACK}: {path}" for path, size in rows if size == PUT_BACK]
    return "\n".join([*lines, "Kept:", *(f"  {line}" for line in kept)])


def ensure(module: AnsibleModule) -> dict[str, Any]:
    """Remove the endpoint."""
    given = module.params
    removal = Removal(given, module.check_mode)
    removal.check()
    if module.check_mode:
        result = removal.run()
    else:
        with Lock(given["name"]).held(given["run"]):
            result = detached(removal.run)
    removed, kept = [(path, size) for path, size in result["removed"]], result["kept"]
    return {
        "changed": bool(removed),
        "removed": [path for path, _size in removed],
        "kept": kept,
        "text": text_of(given["name"], removed, kept, module.check_mode),
    }


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    try:
        result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(**result)
