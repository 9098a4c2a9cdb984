"""Bringing the volume: what is done in which order, and that nothing is lost when it is cut off."""

import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.volume import disks as api_endpoint_disks
from ansible.module_utils.api_endpoint.volume import migrate
from ansible.module_utils.api_endpoint.volume import provision as volume
from ansible.module_utils.api_endpoint.volume.disks import Disk, Mounted, Signature
from ansible.module_utils.api_endpoint.volume.migrate import Move, content, listing, strangers

KEY = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UUID = "a8fe958d-1a04-4499-a0b2-1462a1a00859"


def quiet(_text) -> None:
    """Say nothing."""


@pytest.fixture
def place(tmp_path) -> SimpleNamespace:
    """A folder with data of the endpoint, and an empty one that stands for the volume."""
    source, target = tmp_path / "srv", tmp_path / "volume"
    entry = source / "data" / KEY
    entry.mkdir(parents=True)
    target.mkdir()
    (target / "lost+found").mkdir()
    (entry / "artifact").write_bytes(os.urandom(3_000_000))
    (entry / "artifact").chmod(0o640)
    (entry / "artifact.json").write_text('{"key": 1}')
    os.utime(entry / "artifact", ns=(1, 1_234_567_890_123_456_789))
    (entry / "link").symlink_to("artifact")
    (source / "data" / ".part-1").write_bytes(b"half")
    (source / "data" / ".building-2").mkdir()
    (source / "data" / ".building-2" / "rest").touch()
    (source / "data" / ".endpoint").write_text("api-endpoint\n")
    (source / "data").chmod(0o750)
    return SimpleNamespace(
        source=source, target=target, entry=entry, move=lambda: Move(source, target, "data")
    )


class TestMove:
    def test_everything_arrives_as_it_was(self, place):
        assert place.move().copy(quiet) == 5
        copy = place.target / "data" / KEY
        assert (copy / "artifact").read_bytes() == (place.entry / "artifact").read_bytes()
        found = (copy / "artifact").stat()
        assert (found.st_mtime_ns, found.st_mode & 0o777) == (1_234_567_890_123_456_789, 0o640)
        assert os.readlink(copy / "link") == "artifact"
        assert (place.target / "data").stat().st_mode & 0o777 == 0o750
        assert (place.target / "data" / ".part-1").read_bytes() == b"half"
        assert sorted(os.listdir(place.target)) == ["data", "lost+found"]
        assert not (place.target / "data" / ".building-2").exists()
        assert (place.entry / "artifact").exists(), "the source stays"

    def test_holes_stay_holes(self, place):
        hollow = place.entry / "hollow"
        with hollow.open("wb") as file:
            file.seek(200_000_000)
            file.write(b"end")
            file.truncate(400_000_000)
        place.move().copy(quiet)
        found = (place.target / "data" / KEY / "hollow").stat()
        assert found.st_size == 400_000_000
        assert found.st_blocks * 512 < 1_000_000
        assert content(hollow, lambda _count: None) == content(
            place.target / "data" / KEY / "hollow", lambda _count: None
        )

    def test_a_hole_and_zeros_are_the_same_content_and_another_place_is_another_content(
        self, tmp_path
    ):
        hole, zeros, shifted = tmp_path / "hole", tmp_path / "zeros", tmp_path / "shifted"
        with hole.open("wb") as file:
            file.seek(1_000_000)
            file.write(b"x")
            file.truncate(3_000_000)
        zeros.write_bytes(hole.read_bytes())
        shifted.write_bytes(bytes(1_004_096) + b"x" + bytes(1_995_903))
        digests = [content(path, lambda _count: None) for path in (hole, zeros, shifted)]
        assert digests[0] == digests[1] != digests[2]

    @pytest.mark.parametrize("after", range(1, 6))
    def test_killed_after_any_file_it_goes_on_with_the_next(self, place, monkeypatch, after):
        real, count = os.rename, 0

        def rename(old, new):
            nonlocal count
            count += 1
            if count > after:
                raise KeyboardInterrupt
            real(old, new)

        monkeypatch.setattr(migrate.os, "rename", rename)
        if after < 5:
            with pytest.raises(KeyboardInterrupt):
                place.move().copy(quiet)
            stamp = place.target / "data" / KEY / "artifact.json"
            assert not stamp.exists(), "the stamp, which says that an entry is whole, comes last"
        monkeypatch.setattr(migrate.os, "rename", real)
        place.move().copy(quiet)
        assert (place.target / "data" / KEY / "artifact").read_bytes() == (
            place.entry / "artifact"
        ).read_bytes()
        assert not (place.target / ".moving").exists()

    def test_what_was_copied_is_not_copied_again_but_compared(self, place):
        place.move().copy(quiet)
        copy = place.target / "data" / KEY / "artifact"
        number = copy.stat().st_ino
        place.move().copy(quiet)
        assert copy.stat().st_ino == number
        damaged = bytearray(copy.read_bytes())
        damaged[1_500_000] ^= 1
        copy.write_bytes(damaged)
        os.utime(copy, ns=(1, 1_234_567_890_123_456_789))
        with pytest.raises(DeployError, match=r"differs from it. The copy was removed"):
            place.move().copy(quiet)
        assert not copy.exists()
        place.move().copy(quiet)
        assert copy.read_bytes() == (place.entry / "artifact").read_bytes()

    def test_a_volume_of_another_host_keeps_its_entries(self, place):
        for key in (KEY, OTHER):
            shutil.copytree(place.entry, place.target / "data" / key, symlinks=True)
            (place.target / "data" / key / "artifact.json").write_text('{"key": 1, "elsewhere": 1}')
        (place.entry / "artifact").touch()
        place.move().copy(quiet)
        assert "elsewhere" in (place.target / "data" / KEY / "artifact.json").read_text()
        assert (place.target / "data" / OTHER / "artifact").exists()
        assert (place.target / "data" / ".endpoint").exists()

    def test_another_file_of_the_same_name_is_refused(self, place):
        (place.target / "data").mkdir()
        (place.target / "data" / ".endpoint").write_text("somebody-else\n")
        with pytest.raises(DeployError, match=r"Both disks have data/\.endpoint, and they differ"):
            place.move().copy(quiet)

    def test_no_room(self, place, monkeypatch):
        room = SimpleNamespace(f_bavail=1000, f_frsize=4096, f_files=1000, f_favail=1000)
        monkeypatch.setattr(migrate.os, "statvfs", lambda _path: room)
        with pytest.raises(
            DeployError, match=r"The volume has 4.1 MB free, and 3.0 MB of .*Nothing was moved"
        ):
            place.move().copy(quiet)
        assert sorted(os.listdir(place.target)) == ["lost+found"]

    def test_it_says_how_far_it_is(self, place):
        said = []
        place.move().copy(said.append)
        assert any(text.startswith("moving data to the volume: 70% of") for text in said)
        assert said[-1].startswith("comparing what was moved: 100% of")

    def test_strangers(self, place):
        data = place.source / "data"
        assert strangers(place.source, data) == []
        assert strangers(data, data) == []
        assert strangers(place.source / "none", place.source / "none" / "data") == []
        (place.source / "photos").mkdir()
        assert strangers(place.source, data) == [str(place.source / "photos")]
        assert strangers(place.source.parent, data) == [
            str(place.target),
            str(place.source / "photos"),
        ]

    def test_a_mount_below_is_refused(self, place, monkeypatch):
        real = os.lstat

        def lstat(path, **more):
            found = real(path, **more)
            if not str(path).endswith(KEY):
                return found
            return os.stat_result((found.st_mode, found.st_ino, -1, *found[3:]))

        monkeypatch.setattr(migrate.os, "lstat", lstat)
        with pytest.raises(DeployError, match="Something is mounted at"):
            listing(place.source)


class Host:
    """Stands for the host: its one disk, what is mounted where, and the commands that were run."""

    def __init__(self, folder: Path, monkeypatch) -> None:
        self.disk = Disk("/dev/sdb", size=20 * 10**9)
        self.mounted: dict[str, Mounted] = {}
        self.commands: list[str] = []
        self.killed_at = ""
        self.fails: dict[str, str] = {}
        self.tool = ""
        self.uuid = ""
        self.filesystem_size = 0
        self.folder = folder
        self.fstab = folder / "fstab"
        self.fstab.write_text("# the host's\nUUID=abc / ext4 defaults 0 1\n")
        monkeypatch.setattr(volume, "FSTAB", self.fstab)
        monkeypatch.setattr(volume, "BACKUP", folder / "fstab.before")
        monkeypatch.setattr(volume, "look", lambda: [self.disk])
        monkeypatch.setattr(volume, "mounted_at", lambda at, _process="self": self.mounted.get(at))
        monkeypatch.setattr(
            volume, "number_of", lambda at: "8:16" if str(at) in self.mounted else "8:1"
        )
        monkeypatch.setattr(volume, "filesystem_size", lambda *_given: self.filesystem_size)
        monkeypatch.setattr(volume, "run", self.run)
        monkeypatch.setattr(volume.shutil, "which", lambda *_name, **_more: self.tool)
        monkeypatch.setattr(volume, "systemctl", lambda *words: self.run("systemctl", *words))
        monkeypatch.setattr(volume.Lock.__init__, "__defaults__", (str(folder),))
        monkeypatch.setattr(
            volume.Background.__init__, "__defaults__", (str(folder), "brings the data")
        )
        self.source = folder / "srv"

    @property
    def volume(self):
        given = {
            "name": "test",
            "root": str(self.folder / "root"),
            "data_dir": str(self.source / "data"),
            "mount": str(self.source),
            "device": "auto",
            "label": "api-endpoint",
            "filesystem": "ext4",
        }
        found = volume.Volume(given)
        found.staging = self.folder / "staging"
        found.below = self.folder / "below"
        return found

    def run(self, *command: str):
        words = " ".join(str(word) for word in command)
        self.commands.append(words)
        if self.killed_at and self.killed_at in words:
            self.killed_at = ""
            raise KeyboardInterrupt(words)
        for part, text in self.fails.items():
            if part in words:
                return subprocess.CompletedProcess(command, 1, "", text)
        return subprocess.CompletedProcess(command, 0, self.do(list(command)), "")

    def do(self, command: list[str]) -> str:
        """Change the host as a command would."""
        name = os.path.basename(command[0])
        if name.startswith("mkfs") or name == volume.TOOL:
            label = "" if name == volume.TOOL else command[command.index("-L") + 1]
            self.uuid = command[command.index("-U") + 1] if label else UUID
            self.change(
                signatures=(Signature("ext4", label, self.uuid),),
                last_mount="unknown" if label else "",
            )
        if name == volume.TOOL:
            Path(command[4]).mkdir(exist_ok=True)
            self.mount(command[4])
            self.fstab.write_text(
                f"{self.fstab.read_text()}UUID={UUID} {command[4]} ext4 discard,nofail 0 2\n"
            )
        if name == "blkid":
            return f"TYPE=ext4\nUUID={self.uuid}\n"
        if name == "tune2fs":
            self.change(signatures=(Signature("ext4", command[2], self.uuid),))
        if name == "mount":
            self.mount(command[-1])
        if name == "umount":
            del self.mounted[command[1]]
            self.change(mounts=tuple(self.mounted))
        if name == "resize2fs":
            self.filesystem_size = self.disk.size
        return ""

    def mount(self, at: str) -> None:
        self.mounted[at] = Mounted(self.disk.path, "ext4", False, "8:16")
        self.change(mounts=tuple(self.mounted))

    def change(self, **what) -> None:
        self.disk = api_endpoint_disks.replace(self.disk, **what)

    def bring(self):
        return self.volume.bring(quiet)


@pytest.fixture
def host(tmp_path, monkeypatch) -> Host:
    return Host(tmp_path, monkeypatch)


@pytest.fixture
def with_data(host) -> Host:
    """The host has data at the volume's place on its root disk."""
    entry = host.source / "data" / KEY
    entry.mkdir(parents=True)
    (entry / "artifact").write_bytes(b"model")
    (entry / "artifact.json").write_text("{}")
    return host


class TestBring:
    def test_a_clean_host(self, host):
        assert host.volume.plan()[1] == [
            "format /dev/sdb (20.0 GB) with ext4, label 'api-endpoint'",
            f"mount /dev/sdb at {host.source}",
            f"write its line into {host.fstab}",
        ]
        assert host.commands == [], "a plan touches nothing"
        host.bring()
        assert list(host.mounted) == [str(host.source)]
        assert host.fstab.read_text() == (
            "# the host's\nUUID=abc / ext4 defaults 0 1\n"
            f"UUID={host.uuid} {host.source} ext4 nofail,discard,x-systemd.device-timeout=10s 0 2\n"
        )
        assert (
            host.folder / "fstab.before"
        ).read_text() == "# the host's\nUUID=abc / ext4 defaults 0 1\n"
        assert "systemctl daemon-reload" in host.commands
        assert host.volume.plan()[1] == []

    def test_nothing_to_do_changes_nothing(self, host):
        host.bring()
        before = (
            host.fstab.stat().st_ino,
            len([command for command in host.commands if "mount" in command]),
        )
        host.bring()
        assert before == (
            host.fstab.stat().st_ino,
            len([command for command in host.commands if "mount" in command]),
        )

    def test_data_is_on_the_volume_before_the_volume_has_its_place(self, with_data):
        seen = {}
        mount = with_data.mount

        def look(at):
            seen[at] = (
                (with_data.folder / "staging" / "data" / KEY / "artifact").exists(),
                "nofail" in with_data.fstab.read_text(),
            )
            mount(at)

        with_data.mount = look
        with_data.bring()
        assert seen == {
            str(with_data.folder / "staging"): (False, False),
            str(with_data.source): (True, True),
        }
        assert with_data.volume.notes() == {
            "moved": {"uuid": with_data.uuid, "mount": str(with_data.source)}
        }

    @pytest.mark.parametrize(
        "moment",
        [
            "mkfs.ext4",
            "udevadm",
            "mount -t ext4 -o discard",
            "daemon-reload",
            "mount -t ext4 -o nofail",
            "umount",
        ],
    )
    def test_killed_at_any_moment_the_next_run_ends_where_it_should(self, with_data, moment):
        with_data.killed_at = moment
        with pytest.raises(KeyboardInterrupt):
            with_data.bring()
        if moment in ("mkfs.ext4", "udevadm"):
            with_data.change(is_zero=False)
        assert with_data.volume.plan()[1], "a dry run tells that there is something to do"
        with_data.bring()
        assert list(with_data.mounted) == [str(with_data.source)]
        assert with_data.fstab.read_text().count(with_data.uuid) == 1
        assert with_data.volume.plan()[1] == []
        assert "formatting" not in with_data.volume.notes()
        formatted = [command for command in with_data.commands if command.startswith("mkfs")]
        assert len(formatted) == (2 if moment in ("mkfs.ext4", "udevadm") else 1)

    def test_the_tool_of_cloud_vps_formats_and_we_do_the_rest(self, with_data):
        with_data.tool = "/usr/local/sbin/wmcs-prepare-cinder-volume"
        with_data.bring()
        called = [command for command in with_data.commands if "wmcs" in command]
        assert called == [
            f"{with_data.tool} --device sdb --mountpoint {with_data.folder}/staging --force "
            "--options nofail,discard,x-systemd.device-timeout=10s"
        ]
        assert not [command for command in with_data.commands if command.startswith("mkfs")]
        assert with_data.disk.filesystem.label == "api-endpoint"
        assert list(with_data.mounted) == [str(with_data.source)]
        assert "staging" not in with_data.fstab.read_text()

    def test_the_tool_of_cloud_vps_is_not_asked_for_what_it_cannot(self, host):
        host.tool = "/usr/local/sbin/wmcs-prepare-cinder-volume"
        host.change(path="/dev/vda")
        host.bring()
        assert any(command.startswith("mkfs.ext4") for command in host.commands)

    def test_the_tool_killed_before_the_label_is_gone_on_with(self, with_data):
        with_data.tool = "/usr/local/sbin/wmcs-prepare-cinder-volume"
        with_data.killed_at = "tune2fs"
        with pytest.raises(KeyboardInterrupt):
            with_data.bring()
        with_data.bring()
        assert with_data.disk.filesystem.label == "api-endpoint"
        assert len([command for command in with_data.commands if "wmcs" in command]) == 1

    def test_the_tool_fails_with_status_0(self, host):
        host.tool = "/usr/local/sbin/wmcs-prepare-cinder-volume"
        host.do = lambda _command: "Invalid mountpoint"
        with pytest.raises(DeployError, match=r"did not prepare the disk:\nInvalid mountpoint"):
            host.bring()

    def test_a_failing_command_is_quoted(self, host):
        host.fails["mkfs.ext4"] = "Device size reported to be zero"
        with pytest.raises(
            DeployError, match=r"`mkfs.ext4 .*` failed: Device size reported to be zero"
        ):
            host.bring()

    def test_what_the_volume_would_hide_is_refused_before_anything_is_formatted(self, with_data):
        (with_data.source / "photos").mkdir()
        with pytest.raises(
            DeployError,
            match=r"has more than the endpoint's data: .*/photos. The volume would hide it",
        ):
            with_data.bring()
        assert with_data.commands == []

    def test_a_disk_that_is_too_small_is_refused_before_it_is_formatted(self, with_data):
        with_data.change(size=4)
        with pytest.raises(
            DeployError,
            match=r"The volume has 4 bytes free, and 7 bytes of .* Nothing was formatted",
        ):
            with_data.bring()
        assert with_data.commands == []

    def test_data_that_is_being_brought_to_the_old_place_stops_the_switch(
        self, with_data, monkeypatch
    ):
        monkeypatch.setattr(volume.Background, "is_alive", lambda _self: True)
        with pytest.raises(DeployError, match="Another run brings model data"):
            with_data.bring()
        assert str(with_data.source) not in with_data.mounted

    def test_data_that_was_brought_during_the_copy_moves_too(self, with_data, monkeypatch):
        late = with_data.source / "data" / OTHER
        copy = Move.copy

        def and_then(move, say):
            count = copy(move, say)
            if not late.exists():
                late.mkdir()
                (late / "artifact").write_bytes(b"late")
            return count

        monkeypatch.setattr(volume.Move, "copy", and_then)
        with_data.bring()
        assert (with_data.folder / "staging" / "data" / OTHER / "artifact").read_bytes() == b"late"

    def test_a_larger_disk(self, host):
        host.bring()
        host.filesystem_size = 10 * 10**9
        assert host.volume.plan()[1] == ["let the filesystem grow from 10.0 GB to 20.0 GB"]
        host.bring()
        assert "resize2fs /dev/sdb" in host.commands
        assert host.volume.plan()[1] == []

    def test_a_filesystem_that_does_not_grow(self, host):
        host.bring()
        host.filesystem_size = 10 * 10**9
        host.do = lambda _command: ""
        with pytest.raises(DeployError, match=r"did not let the filesystem grow to 20\.0 GB"):
            host.bring()

    def test_a_volume_that_gives_back_zeros(self, host):
        host.bring()
        mark = host.volume.data_dir / ".endpoint"
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(b"api-endpoint\n")
        host.volume.plan()
        mark.write_bytes(bytes(13))
        with pytest.raises(
            DeployError,
            match=r"gives back other data than was written to it .* Nothing was changed",
        ):
            host.volume.plan()

    def test_a_volume_that_does_not_answer(self, host, monkeypatch):
        host.bring()

        def fail(**_more):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(volume.tempfile, "NamedTemporaryFile", fail)
        with pytest.raises(
            DeployError, match=r"cannot be written: Input/output error. Nothing was changed"
        ):
            host.volume.plan()


class TestSettle:
    @pytest.fixture
    def moved(self, with_data, monkeypatch) -> Host:
        """The data has moved, and the bind mount below shows the old place."""
        with_data.bring()
        with_data.mains = {"blue": "0", "green": "0"}
        monkeypatch.setattr(
            volume.Endpoint,
            "properties",
            lambda _self, slot, _name: {"MainPID": with_data.mains[slot]},
        )
        do = with_data.do

        def bind(command):
            if command[:2] == ["mount", "--bind"]:
                (with_data.folder / "below").rmdir()
                (with_data.folder / "below").symlink_to(with_data.folder)
                with_data.mounted[command[-1]] = Mounted("/dev/sda1", "ext4", False, "8:1")
                return ""
            return "" if command[:2] == ["mount", "--make-private"] else do(command)

        with_data.do = bind
        return with_data

    def test_the_old_copy_goes_when_every_version_looks_at_the_volume(self, moved):
        moved.mains["blue"] = "77"
        assert moved.volume.settle(check_mode=True)
        assert (moved.source / "data").exists()
        assert moved.volume.settle(check_mode=False)
        assert os.listdir(moved.source) == []
        assert str(moved.folder / "below") not in moved.mounted
        assert moved.volume.settle(check_mode=False) == []

    def test_it_stays_while_a_version_looks_at_it(self, moved, monkeypatch):
        moved.mains["green"] = "77"
        monkeypatch.setattr(
            volume,
            "mounted_at",
            lambda at, process="self": moved.mounted.get(at) if process == "self" else None,
        )
        assert moved.volume.settle(check_mode=False) == []
        assert (moved.source / "data").exists()

    def test_it_stays_while_another_volume_is_mounted(self, moved):
        moved.change(signatures=(Signature("ext4", "api-endpoint", "another"),))
        assert moved.volume.settle(check_mode=False) == []

    def test_it_stays_while_nothing_is_mounted(self, moved):
        moved.mounted.clear()
        assert moved.volume.settle(check_mode=False) == []
        assert (moved.source / "data").exists()

    def test_nothing_on_the_volume_is_ever_removed(self, moved, monkeypatch):
        monkeypatch.setattr(volume, "number_of", lambda _at: "8:16")
        with pytest.raises(DeployError, match="Nothing was removed"):
            moved.volume.settle(check_mode=False)
        assert (moved.source / "data").exists()
