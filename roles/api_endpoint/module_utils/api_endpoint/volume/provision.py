# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring the volume for the model data: find it, format it if it is empty, move the data to it, mount it, let it grow."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible.module_utils.api_endpoint.artifacts.store import mib
from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import read_json, write_file, write_json
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.slots import SLOTS, Endpoint
from ansible.module_utils.api_endpoint.systemd import systemctl
from ansible.module_utils.api_endpoint.volume.disks import (
    OPTIONS,
    Choice,
    Disk,
    Wanted,
    choose,
    everything,
    filesystem_size,
    has_grown,
    look,
    mounted_at,
    parse_blkid,
    run,
    with_line,
)
from ansible.module_utils.api_endpoint.volume.migrate import (
    Listing,
    Move,
    Say,
    listing,
    strangers,
    too_small,
)
from ansible.module_utils.basic import AnsibleModule

POLL_SECONDS = 10  # seconds between two words on how far it is
FSTAB = Path("/etc/fstab")
BACKUP = Path("/etc/fstab.before-api-endpoint")
TOOL = "wmcs-prepare-cinder-volume"
TOOL_REFUSES = ("sda", "vda")  # names that it takes for the disk of the system


def must(*command: str) -> str:
    """Run a command and return its output; raise DeployError with its words when it fails."""
    try:
        done = run(*command)
    except FileNotFoundError as error:
        raise DeployError(
            f"{command[0]} is not installed on the host. Run site.yml without tags, or install it."
        ) from error
    if done.returncode != 0:
        raise DeployError(
            f"`{' '.join(command)}` failed: {(done.stderr.strip() or done.stdout.strip())[-600:]}"
        )
    return done.stdout


def number_of(path: Path) -> str:
    """Return the major:minor of the disk on which a path lies."""
    device = path.stat().st_dev
    return f"{os.major(device)}:{os.minor(device)}"


class Volume:
    """The volume of one endpoint, as it is wanted and as it is."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.name: str = given["name"]
        self.root = Path(given["root"])
        self.data_dir = Path(given["data_dir"])
        self.mount = Path(given["mount"])
        self.wanted = Wanted(given["mount"], given["device"], given["label"], given["filesystem"])
        self.staging = Path("/run", f"{self.name}-volume")
        self.below = Path("/run", f"{self.name}-below-volume")
        self.record = self.root / "volume.json"

    # --- what is there

    def notes(self) -> dict[str, Any]:
        """Return what an interrupted run left to be known: `formatting` a disk, or data `moved` away from the root disk."""
        return read_json(self.record) or {}

    def note(self, **notes: Any) -> None:
        """Write down what the next run must know, or with None that it need not any more."""
        known = {
            name: value for name, value in {**self.notes(), **notes}.items() if value is not None
        }
        if known:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            write_json(self.record, known, 0o600)
        else:
            self.record.unlink(missing_ok=True)

    def fstab(self) -> str:
        """Return /etc/fstab."""
        return FSTAB.read_text(encoding="utf-8") if FSTAB.exists() else ""

    def choose(self) -> Choice:
        """Return the disk and what is to be done with it."""
        mounted = mounted_at(str(self.mount))
        unfinished = self.notes().get("formatting")
        return choose(self.wanted, look(), mounted, self.fstab(), str(self.staging), unfinished)

    def to_move(self) -> Listing:
        """Return what lies at the volume's place on the root disk; refuse what the volume would hide."""
        if others := strangers(self.mount, self.data_dir):
            raise DeployError(
                f"{self.mount} has more than the endpoint's data: {', '.join(others[:5])}. The volume would hide it. "
                "Nothing was changed. Move that away, or choose another place (api_endpoint_volume.mount and "
                "api_endpoint_data_dir)."
            )
        return listing(self.mount)

    def plan(self) -> tuple[Choice, list[str]]:
        """Return the disk, and what is to be done, in words."""
        choice = self.choose()
        actions = []
        if choice.action == "use":
            self.probe()
        else:
            found = self.to_move()
            if choice.action == "format":
                actions.append(
                    f"format {choice.disk.path} ({mib(choice.disk.size)}) with {self.wanted.filesystem}, "
                    f"label {self.wanted.label!r}"
                )
                if found.size > choice.disk.size * 0.95:
                    raise DeployError(
                        too_small(self.mount, found.size, choice.disk.size)
                        + " Nothing was formatted."
                    )
            if found.files:
                actions.append(
                    f"move {len(found.files):,} files ({mib(found.size)}) from the root disk's {self.mount} to it"
                )
            actions.append(f"mount {choice.disk.path} at {self.mount}")
        if choice.action == "format" or self.new_fstab(choice.disk) != self.fstab():
            actions.append(f"write its line into {FSTAB}")
        if choice.action == "use":
            size = filesystem_size(choice.disk, self.wanted.filesystem, str(self.mount))
            if has_grown(choice.disk, size):
                actions.append(
                    f"let the filesystem grow from {mib(size)} to {mib(choice.disk.size)}"
                )
            if mounted_at(str(self.staging)):
                actions.append(f"unmount it from {self.staging}, where an interrupted run left it")
        return choice, actions

    def probe(self) -> None:
        """Raise DeployError when the mounted volume does not answer, or with other data; nothing stays of the attempt."""
        mark = (
            self.data_dir / ".endpoint"
        )  # the name of the endpoint whose data it is, see Store.claim
        try:
            os.listdir(self.mount)
            with tempfile.NamedTemporaryFile(dir=self.mount, prefix=".probe-") as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
            name = mark.read_bytes() if mark.exists() else b""
        except OSError as error:
            raise DeployError(
                self.unwell(f"cannot be written: {error.strerror or error}")
            ) from error
        if not all(byte == ord("\n") or 32 < byte < 127 for byte in name):
            raise DeployError(self.unwell(f"gives back other data than was written to it ({mark})"))

    def unwell(self, how: str) -> str:
        """Say what is wrong with the mounted volume, and what to do."""
        return (
            f"The volume at {self.mount} {how}. Nothing was changed. `dmesg` and `df -h {self.mount}` say why. If it was "
            f"pulled off, attach it again, and then: umount --lazy {self.mount} && mount {self.mount}."
        )

    def new_fstab(self, disk: Disk) -> str:
        """Return /etc/fstab with the volume's line."""
        found = disk.filesystem
        if not found.uuid:
            raise DeployError(
                f"The volume {disk.path} ({disk.contents}) does not show its filesystem. Nothing was changed. If it was "
                "pulled off, the running version goes on with what it has in memory: attach it again, and then: "
                f"umount --lazy {self.mount} && mount {self.mount}. Otherwise `dmesg` says what is wrong with it."
            )
        return with_line(self.fstab(), found.uuid, found.kind, self.wanted, str(self.staging))

    # --- what is done, in a process of its own

    def bring(self, say: Say) -> dict[str, Any]:
        """Do all that is to be done; look again first, because time has passed."""
        choice, actions = self.plan()
        if choice.action == "format":
            say(f"formatting {choice.disk.path}")
            self.format(choice.disk)
            choice = self.choose()
            if choice.action != "mount":
                raise DeployError(
                    f"{choice.disk.path} was formatted, and has no filesystem with the label afterwards."
                )
        if choice.action == "mount":
            self.move(choice.disk, say)
        disk = self.choose().disk
        self.write_fstab(disk)
        self.leave(self.staging)
        self.grow(disk, say)
        return {"device": disk.path, "uuid": disk.filesystem.uuid, "actions": actions}

    def format(self, disk: Disk) -> None:
        """Make a filesystem on an empty disk."""
        kind, label = self.wanted.filesystem, self.wanted.label
        tool = shutil.which(
            TOOL, path=f"/usr/local/sbin:{os.environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
        )
        name = disk.path.removeprefix("/dev/")
        uses_tool = (
            tool
            and kind == "ext4"
            and disk.kind != "part"
            and "/" not in name
            and name not in TOOL_REFUSES
        )
        new = "" if uses_tool else str(uuid.uuid4())
        self.note(formatting={**disk.identity, "uuid": new})
        if tool and uses_tool:
            self.format_with(tool, name, disk)
        elif kind == "ext4":
            must("mkfs.ext4", "-q", "-F", "-m", "0", "-L", label, "-U", new, disk.path)
        else:
            must("mkfs.xfs", "-q", "-f", "-L", label, "-m", f"uuid={new}", disk.path)
        with contextlib.suppress(FileNotFoundError):
            run("udevadm", "settle", "--timeout=10")
        self.note(formatting=None)

    def format_with(self, tool: str, name: str, disk: Disk) -> None:
        """Have the tool of Wikimedia Cloud VPS format the disk and mount it at a place of ours.

        It ends with status 0 even when what it calls fails, so that only the disk tells whether it has worked.
        """
        call = [tool, "--device", name, "--mountpoint", str(self.staging), "--force"]
        done = run(*call, "--options", ",".join(OPTIONS))
        if done.returncode == 2 and "unrecognized arguments" in done.stderr:
            done = run(*call)
        found = parse_blkid(run("blkid", "--probe", "--output", "export", disk.path).stdout)
        if done.returncode != 0 or found.kind != "ext4":
            raise DeployError(
                f"`{' '.join(call)}` did not prepare the disk:\n{(done.stdout + done.stderr).strip()[-1500:]}"
            )
        self.give_label(disk)

    def give_label(self, disk: Disk) -> None:
        """Give the label to a filesystem that the tool has made; it keeps nothing back for root, as ours does."""
        must("tune2fs", "-L", self.wanted.label, "-m", "0", disk.path)

    def move(self, disk: Disk, say: Say) -> None:
        """Copy what lies at the volume's place to the volume, and put the volume there."""
        if not mounted_at(str(self.staging)):
            self.staging.mkdir(mode=0o700, exist_ok=True)
            must(
                "mount", "-t", self.wanted.filesystem, "-o", "discard", disk.path, str(self.staging)
            )
        if number_of(self.staging) == number_of(self.staging.parent):
            raise DeployError(
                f"{disk.path} was mounted at {self.staging}, and is not there. Run again."
            )
        if str(self.staging) in (*disk.mounts, disk.last_mount) and disk.filesystem == replace(
            disk.filesystem, label=""
        ):
            self.give_label(disk)
        # From here on there is something on it.
        self.note(formatting=None)
        found = self.mount.is_dir()
        move = Move(self.mount, self.staging, os.path.relpath(self.data_dir, self.mount))
        if found:
            move.copy(say)
        else:
            os.chmod(self.staging, 0o755)  # noqa: S103 - a folder in which the endpoint has its own
        with self.quiet():
            # What was brought to the old place since; then nobody is at work there, until the volume has its place.
            files = move.copy(say) if found else 0
            if files:
                self.note(moved={"uuid": disk.filesystem.uuid, "mount": str(self.mount)})
            self.write_fstab(disk)
            self.mount.mkdir(mode=0o755, parents=True, exist_ok=True)
            must(
                "mount",
                "-t",
                self.wanted.filesystem,
                "-o",
                ",".join(OPTIONS),
                disk.path,
                str(self.mount),
            )

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Keep other modules of the role from working on this host; refuse while data is brought."""
        with Lock(self.name)._working(wait=120):
            if Background(f"{self.name}-data").is_alive():
                raise DeployError(
                    "Another run brings model data to the root disk. Run again when it has ended."
                )
            yield

    def write_fstab(self, disk: Disk) -> None:
        """Have the volume mounted at every boot; the file as it was before is kept, once."""
        old, new = self.fstab(), self.new_fstab(disk)
        if new == old:
            return
        if FSTAB.exists() and not BACKUP.exists():
            write_file(BACKUP, old, stat.S_IMODE(FSTAB.stat().st_mode))
        write_file(FSTAB, new, stat.S_IMODE(FSTAB.stat().st_mode) if FSTAB.exists() else 0o644)
        systemctl("daemon-reload")

    def leave(self, place: Path) -> None:
        """Unmount the volume from a place of ours."""
        while mounted_at(str(place)):
            must("umount", str(place))
        with contextlib.suppress(OSError):
            place.rmdir()

    def grow(self, disk: Disk, say: Say) -> None:
        """Let the filesystem follow the disk."""
        size = filesystem_size(disk, self.wanted.filesystem, str(self.mount))
        if not has_grown(disk, size):
            return
        say(f"letting the filesystem grow to {mib(disk.size)}")
        call = (
            ["resize2fs", disk.path]
            if self.wanted.filesystem == "ext4"
            else ["xfs_growfs", str(self.mount)]
        )
        must(*call)
        if has_grown(disk, filesystem_size(disk, self.wanted.filesystem, str(self.mount))):
            raise DeployError(
                f"`{' '.join(call)}` did not let the filesystem grow to {mib(disk.size)}. `dmesg` says why."
            )

    # --- what is left behind, after the rollout

    def settle(self, check_mode: bool) -> list[str]:
        """Remove the data below the volume, when no running version looks at it; return what was done."""
        moved = self.notes().get("moved")
        mounted = mounted_at(str(self.mount))
        if not moved or moved["mount"] != str(self.mount) or not mounted:
            return []
        disks = [
            disk
            for disk in everything(look())
            if os.path.realpath(disk.path) == os.path.realpath(mounted.source)
        ]
        if not disks or disks[0].filesystem.uuid != moved["uuid"]:
            return []
        endpoint = Endpoint(self.name, self.root)
        for slot in SLOTS:
            main = endpoint.properties(slot, "MainPID").get("MainPID") or "0"
            seen = mounted_at(str(self.mount), main) if main != "0" else mounted
            if not seen or seen.number != mounted.number:
                return []
        if not check_mode:
            self.remove_below()
            self.note(moved=None)
        return [f"remove the data that moved to the volume from the root disk's {self.mount}"]

    def remove_below(self) -> None:
        """Remove what lies at the volume's place on the disk below, reached over a second mount of that disk."""
        self.leave(self.below)
        self.below.mkdir(mode=0o700, exist_ok=True)
        must("mount", "--bind", str(self.mount.parent), str(self.below))
        try:
            must("mount", "--make-private", str(self.below))
            old = self.below / self.mount.name
            # Whatever else is wrong: what is removed does not lie on the volume.
            if number_of(old) != number_of(self.mount.parent) or number_of(old) == number_of(
                self.mount
            ):
                raise DeployError(
                    f"{old} should be the folder below {self.mount}, and is not. Nothing was removed."
                )
            for entry in old.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        finally:
            self.leave(self.below)


def plan(volume: Volume) -> dict[str, Any]:
    """Return what is to be done."""
    choice, actions = volume.plan()
    result: dict[str, Any] = {
        "changed": bool(actions),
        "actions": actions,
        "device": choice.disk.path,
    }
    result["uuid"] = choice.disk.filesystem.uuid if choice.action != "format" else ""
    if actions:
        result["diff"] = {
            "before": "",
            "after": "".join(f"{action}\n" for action in actions),
            "after_header": "the volume",
        }
    return result


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    os.umask(0o022)
    given = module.params
    volume = Volume(given)
    background = Background(f"{given['name']}-volume")
    task = value_digest(
        {name: value for name, value in given.items() if name not in ("step", "run")}
    )
    step = given["step"]
    try:
        if step == "wait":
            answer = background.wait(task, POLL_SECONDS)
            if "text" in answer:
                module.exit_json(changed=False, text=answer["text"], actions=[])
            module.exit_json(
                changed=bool(answer["result"]["actions"]), done=True, **answer["result"]
            )
        with Lock(given["name"]).held(given["run"], module.check_mode):
            if step == "settle":
                done = volume.settle(module.check_mode)
                module.exit_json(changed=bool(done), actions=done)
            found = None if background.is_alive() and not module.check_mode else plan(volume)
            if step == "plan" or module.check_mode:
                module.exit_json(
                    **(
                        found
                        or {
                            "changed": True,
                            "actions": ["go on with what an interrupted run began"],
                        }
                    )
                )
        # Not while this process holds the lock: the one that works is to be alone later, by the same lock.
        background.begin(task, volume.bring)
        if step == "bring":
            answer = {"text": ""}
            while "text" in answer:
                answer = background.wait(task, POLL_SECONDS)
            module.exit_json(
                changed=bool(answer["result"]["actions"]), done=True, **answer["result"]
            )
    except (DeployError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=describe_error(error))
    module.exit_json(changed=False, actions=[])
