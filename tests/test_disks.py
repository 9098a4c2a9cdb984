"""Which disk is the volume, and what may be done to it."""

import json
import subprocess
from dataclasses import replace
from typing import ClassVar

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.volume import disks
from ansible.module_utils.api_endpoint.volume.disks import (
    Disk,
    Mounted,
    Signature,
    Wanted,
    choose,
    has_grown,
    parse_blkid,
    parse_filesystem_size,
    parse_lsblk,
    parse_mounts,
    parse_wipefs,
    with_line,
)

GB = 10**9
UUID = "1d3923482-98db-4470-a074-da294e149472"

# As util-linux 2.38 of Debian 12 prints it, on a virtual machine with a new volume.
LSBLK_12 = """{
   "blockdevices": [
      {
         "name": "sda", "path": "/dev/sda", "type": "disk", "size": 21474836480, "ro": false,
         "mountpoints": [
             null
         ],
         "serial": "0a1b2c3d",
         "children": [
            {
               "name": "sda1", "path": "/dev/sda1", "type": "part", "size": 21339553280, "ro": false,
               "mountpoints": [
                   "/"
               ],
               "serial": null
            },{
               "name": "sda15", "path": "/dev/sda15", "type": "part", "size": 130023424, "ro": false,
               "mountpoints": [
                   "/boot/efi"
               ],
               "serial": null
            }
         ]
      },{
         "name": "sdb", "path": "/dev/sdb", "type": "disk", "size": 21474836480, "ro": false,
         "mountpoints": [
             null
         ],
         "serial": "d3923482-98db-4470-a"
      },{
         "name": "sr0", "path": "/dev/sr0", "type": "rom", "size": 1073741312, "ro": false,
         "mountpoints": [
             null
         ],
         "serial": "QM00001"
      }
   ]
}
"""
# As util-linux 2.41 of Debian 13 has it: no mount point is an empty list. With the system on LVM.
LSBLK_13 = json.dumps(
    {
        "blockdevices": [
            {
                "name": "vda",
                "path": "/dev/vda",
                "type": "disk",
                "size": 21474836480,
                "ro": False,
                "mountpoints": [],
                "serial": None,
                "children": [
                    {
                        "name": "vg-root",
                        "path": "/dev/mapper/vg-root",
                        "type": "lvm",
                        "size": 21000000000,
                        "ro": False,
                        "mountpoints": ["/"],
                        "serial": None,
                    }
                ],
            },
            {
                "name": "vdb",
                "path": "/dev/vdb",
                "type": "disk",
                "size": 53687091200,
                "ro": True,
                "mountpoints": ["/srv", "/mnt"],
                "serial": "abc",
            },
        ]
    }
)


def disk(path="/dev/sdb", **more) -> Disk:
    return Disk(path, size=20 * GB, **more)


SYSTEM = Disk(
    "/dev/sda",
    size=20 * GB,
    is_system=True,
    parts=(Disk("/dev/sda1", kind="part", mounts=("/",), is_system=True),),
)
WANTED = Wanted("/srv/api-endpoint", label="api-endpoint")
OURS = Signature("ext4", "api-endpoint", UUID)


def chosen(
    *there: Disk,
    wanted: Wanted = WANTED,
    mounted=None,
    fstab="",
    staging="/run/staging",
    unfinished=None,
):
    choice = choose(wanted, [SYSTEM, *there], mounted, fstab, staging, unfinished)
    return choice.disk.path, choice.action


def refused(*there: Disk, **more) -> str:
    with pytest.raises(DeployError) as error:
        chosen(*there, **more)
    return str(error.value)


class TestReading:
    def test_lsblk_of_debian_12(self):
        system, volume, drive = parse_lsblk(LSBLK_12)
        assert system.is_system
        assert all(part.is_system for part in system.parts)
        assert (volume.path, volume.size, volume.serial, volume.mounts) == (
            "/dev/sdb", 21474836480, "d3923482-98db-4470-a", ()
        )  # fmt: skip
        assert not volume.is_system
        assert drive.kind == "rom"

    def test_lsblk_of_debian_13_with_the_system_on_lvm(self):
        system, volume = parse_lsblk(LSBLK_13)
        assert system.is_system
        assert volume.read_only
        assert volume.mounts == ("/srv", "/mnt")

    @pytest.mark.parametrize(
        "text", ["", "\n", '{\n   "signatures": [\n\n   ]\n}\n', '{"signatures": null}']
    )
    def test_wipefs_that_finds_nothing(self, text):
        assert parse_wipefs(text) == ()

    def test_wipefs_that_finds_a_filesystem(self):
        text = """{"signatures": [{"device": "sdb", "offset": "0x438", "type": "ext4",
            "uuid": "a8fe958d-1a04-4499-a0b2-1462a1a00859", "label": "api-endpoint"}]}"""
        assert parse_wipefs(text) == (
            Signature("ext4", "api-endpoint", "a8fe958d-1a04-4499-a0b2-1462a1a00859"),
        )

    def test_wipefs_that_finds_a_partition_table_thrice(self):
        entry = {"device": "sdb", "offset": "0x200", "type": "gpt", "uuid": None, "label": None}
        assert parse_wipefs(json.dumps({"signatures": [entry, {**entry, "offset": "0x1ff"}]})) == (
            Signature("gpt"),
        )

    def test_blkid(self):
        text = "DEVNAME=/dev/sdb\nLABEL=my\\ data\nUUID=a8fe\nVERSION=1.0\nBLOCK_SIZE=4096\nTYPE=ext4\nUSAGE=filesystem\n"
        assert parse_blkid(text) == Signature("ext4", "my data", "a8fe")
        assert parse_blkid("DEVNAME=/dev/sdb\nPTUUID=1\nPTTYPE=gpt\n").kind == "gpt"
        assert parse_blkid("").kind == ""

    def test_the_uppermost_mount_counts(self):
        text = (
            "30 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
            "95 30 0:50 / /srv/api-endpoint rw shared:3 - tmpfs tmpfs rw\n"
            "96 95 8:16 / /srv/api-endpoint rw,relatime shared:4 - ext4 /dev/sdb rw,discard\n"
            "97 30 8:32 / /srv/other ro,relatime - ext4 /dev/sdc rw\n"
        )
        assert parse_mounts(text, "/srv/api-endpoint") == Mounted("/dev/sdb", "ext4", False, "8:16")
        assert parse_mounts(text, "/srv/other").read_only
        assert parse_mounts(text, "/srv") is None

    def test_a_filesystem_that_became_read_only_after_an_error(self):
        text = "96 95 8:16 / /srv/api-endpoint rw,relatime - ext4 /dev/sdb ro,discard,errors=remount-ro\n"
        assert parse_mounts(text, "/srv/api-endpoint").read_only

    def test_sizes_of_filesystems(self):
        assert (
            parse_filesystem_size(
                "Inode count: 1\nBlock count:              307200\nBlock size:   1024\n"
            )
            == 314572800
        )
        xfs = "meta-data=/dev/sdb  isize=512\n         =   sectsz=512\ndata     =     bsize=4096   blocks=81920, imax=25\n"
        assert parse_filesystem_size(xfs) == 335544320
        assert parse_filesystem_size("") == 0


class TestLooking:
    @pytest.fixture
    def tools(self, monkeypatch):
        """Answers of the tools, to be changed, and a disk that is a file of zeros for all that looks at it itself."""
        answers = {
            "lsblk": (0, LSBLK_12),
            "wipefs": (0, ""),
            "blkid": (2, ""),
        }
        monkeypatch.setattr(disks, "is_zero", lambda _path, _size: True)
        monkeypatch.setattr(disks, "is_held", lambda _path: False)
        monkeypatch.setattr(disks.stat, "S_ISBLK", lambda _mode: True)
        monkeypatch.setattr(disks.os, "stat", lambda _path: type("Stat", (), {"st_mode": 0})())

        def run(*command):
            status, text = answers[command[0]]
            return subprocess.CompletedProcess(command, status, text, "")

        return answers, run

    def test_a_new_volume_is_blank_and_the_drive_for_discs_is_no_disk(self, tools):
        _answers, run = tools
        system, volume = disks.look(run)
        assert volume.is_blank
        assert not system.is_blank

    def test_what_only_blkid_recognises_counts(self, tools):
        answers, run = tools
        answers["blkid"] = (0, "TYPE=squashfs\n")
        assert disks.look(run)[1].contents == "a squashfs filesystem"
        answers["blkid"] = (8, "")  # ambivalent
        assert not disks.look(run)[1].is_blank

    def test_data_without_a_signature_counts(self, tools, monkeypatch):
        _answers, run = tools
        monkeypatch.setattr(disks, "is_zero", lambda _path, _size: False)
        assert disks.look(run)[1].contents == "data of an unknown kind"

    def test_a_disk_that_cannot_be_read_is_not_blank(self, tools, monkeypatch):
        _answers, run = tools

        def fail(_path, _size):
            raise OSError("no")

        monkeypatch.setattr(disks, "is_zero", fail)
        assert not disks.look(run)[1].is_blank

    def test_only_zeros_at_both_ends_are_zeros(self, tmp_path):
        image = tmp_path / "image"
        size = 5 * 1024 * 1024
        for place, zero in ((None, True), (100, False), (size - 1, False)):
            with image.open("wb") as file:
                file.truncate(size)
                if place:
                    file.seek(place)
                    file.write(b"x")
            assert disks.is_zero(str(image), size) is zero


class TestChoosing:
    def test_the_only_unused_disk(self):
        assert chosen(disk()) == ("/dev/sdb", "format")

    def test_none_is_unused(self):
        message = refused(disk(signatures=(Signature("ext4"),)))
        assert "No disk is unused" in message
        assert "/dev/sda (20.0 GB): it holds the system (/)" in message
        assert "/dev/sdb (20.0 GB): an ext4 filesystem" in message

    def test_several_are_unused(self):
        message = refused(disk(), disk("/dev/sdc"))
        assert "Several disks are unused" in message
        assert "/dev/sdc (20.0 GB): nothing" in message

    def test_the_one_with_our_label_is_mounted_never_formatted(self):
        assert chosen(disk(), disk("/dev/sdc", signatures=(OURS,))) == ("/dev/sdc", "mount")

    def test_a_partition_with_our_label(self):
        part = Disk("/dev/sdb1", kind="part", size=GB, signatures=(OURS,))
        assert chosen(disk(parts=(part,))) == ("/dev/sdb1", "mount")

    def test_two_with_our_label(self):
        message = refused(disk(signatures=(OURS,)), disk("/dev/sdc", signatures=(OURS,)))
        assert "Several disks have the label 'api-endpoint': /dev/sdb, /dev/sdc" in message

    @pytest.mark.parametrize(
        ("there", "contents"),
        [
            (
                disk(signatures=(Signature("ext4", "photos"),)),
                "an ext4 filesystem with the label 'photos'",
            ),
            (disk(signatures=(Signature("xfs"),)), "an xfs filesystem"),
            (disk(signatures=(Signature("LVM2_member"),)), "LVM"),
            (disk(signatures=(Signature("linux_raid_member"),)), "RAID"),
            (disk(signatures=(Signature("crypto_LUKS"),)), "LUKS"),
            (disk(signatures=(Signature("swap"),)), "swap"),
            (disk(signatures=(Signature("gpt"), Signature("PMBR"))), "a partition table"),
            (disk(parts=(Disk("/dev/sdb1", kind="part"),)), "/dev/sdb1"),
            (disk(mounts=("/mnt",)), "mounted at /mnt"),
            (disk(is_held=True), "the system uses it"),
            (disk(is_zero=False), "data of an unknown kind"),
            (disk(is_file=True), "a file of this host"),
            (disk(read_only=True), "is read-only"),
        ],
    )
    def test_a_disk_with_anything_on_it_is_refused_even_by_name(self, there, contents):
        message = refused(there, wanted=replace(WANTED, device="/dev/sdb"))
        assert "/dev/sdb" in message
        assert contents in message
        assert "No disk is unused" in refused(there) or there.read_only

    def test_the_disk_of_the_system_is_refused_by_name(self):
        for device in ("/dev/sda", "/dev/sda1"):
            assert "it holds the system" in refused(disk(), wanted=replace(WANTED, device=device))

    def test_a_filesystem_with_somebodys_data_tells_how_to_use_it_and_how_to_wipe_it(self):
        message = refused(
            disk(signatures=(Signature("ext4"),)), wanted=replace(WANTED, device="/dev/sdb")
        )
        assert "neither formatted nor mounted" in message
        assert "e2label /dev/sdb api-endpoint" in message
        assert "wipefs --all /dev/sdb" in message

    def test_a_volume_of_an_older_instance_by_its_label(self):
        there = disk(signatures=(Signature("ext4", "photos"),))
        assert "api_endpoint_volume.label: photos" in refused(
            there, wanted=replace(WANTED, device="/dev/sdb")
        )
        assert chosen(there, wanted=replace(WANTED, device="/dev/sdb", label="photos")) == (
            "/dev/sdb",
            "mount",
        )
        assert chosen(there, wanted=replace(WANTED, label="photos")) == ("/dev/sdb", "mount")

    def test_the_right_label_on_another_filesystem(self):
        message = refused(disk(signatures=(Signature("xfs", "api-endpoint", UUID),)))
        assert "has the filesystem xfs" in message
        assert "Set filesystem: xfs" in message

    def test_the_right_label_on_a_disk_that_is_mounted_elsewhere(self):
        assert "mounted at /mnt" in refused(disk(signatures=(OURS,), mounts=("/mnt",)))

    def test_the_right_label_on_a_read_only_disk(self):
        assert "is read-only" in refused(disk(signatures=(OURS,), read_only=True))

    def test_a_name_that_no_disk_has(self):
        message = refused(disk(), wanted=replace(WANTED, device="/dev/sdz"))
        assert "no such disk" in message
        assert "/dev/sdb (20.0 GB): nothing" in message


class TestMounted:
    THERE = disk(signatures=(OURS,), mounts=("/srv/api-endpoint",))
    AT = Mounted("/dev/sdb", "ext4", False, "8:16")

    def test_it_is_used_as_it_is(self):
        assert chosen(self.THERE, disk("/dev/sdc"), mounted=self.AT) == ("/dev/sdb", "use")

    def test_whatever_its_label(self):
        there = replace(self.THERE, signatures=(Signature("ext4", "", UUID),))
        assert chosen(there, mounted=self.AT) == ("/dev/sdb", "use")

    def test_another_disk_is_named(self):
        message = refused(
            self.THERE, disk("/dev/sdc"), mounted=self.AT, wanted=replace(WANTED, device="/dev/sdc")
        )
        assert "/dev/sdb is mounted at /srv/api-endpoint" in message

    def test_read_only(self):
        assert "mounted read-only" in refused(self.THERE, mounted=replace(self.AT, read_only=True))

    def test_another_filesystem(self):
        assert "has the filesystem ext4" in refused(
            self.THERE, mounted=self.AT, wanted=replace(WANTED, filesystem="xfs")
        )

    def test_it_was_pulled_off(self):
        message = refused(disk("/dev/sdc"), mounted=self.AT)
        assert "no such disk any more" in message
        assert "umount --lazy /srv/api-endpoint" in message


class TestFstab:
    LINE = f"UUID={UUID} /srv/api-endpoint ext4 nofail,discard,x-systemd.device-timeout=10s 0 2"
    OTHERS = "# /etc/fstab: static\n\nUUID=abc  /   ext4\tdefaults 0 1\n#UUID=x /srv/api-endpoint ext4 defaults\n"

    def add(self, fstab, kind="ext4"):
        return with_line(fstab, UUID, kind, WANTED, "/run/staging")

    def test_the_volume_it_names_is_mounted(self):
        there = disk(signatures=(Signature("ext4", "", UUID),))
        assert chosen(there, fstab=self.OTHERS + self.LINE) == ("/dev/sdb", "mount")
        for name in ("/dev/sdb", f"UUID={UUID}", f'UUID="{UUID}"'):
            assert chosen(there, fstab=f"{name} /srv/api-endpoint ext4 defaults 0 0") == (
                "/dev/sdb",
                "mount",
            )

    def test_the_volume_it_names_is_not_attached_and_no_other_is_formatted(self):
        message = refused(disk(), fstab=self.LINE)
        assert (
            f"/etc/fstab has UUID={UUID} for /srv/api-endpoint, and no disk of this host is that"
            in message
        )
        assert "Attach the volume again" in message

    def test_it_names_another_disk_than_the_variable(self):
        there = disk(signatures=(OURS,))
        assert "Correct the one" in refused(
            there, disk("/dev/sdc"), fstab=self.LINE, wanted=replace(WANTED, device="/dev/sdc")
        )

    def test_a_line_is_added_and_the_others_stay(self):
        assert self.add(self.OTHERS) == f"{self.OTHERS}{self.LINE}\n"
        assert self.add(self.OTHERS.rstrip("\n")) == f"{self.OTHERS}{self.LINE}\n"
        assert self.add("") == f"{self.LINE}\n"

    def test_it_is_added_once(self):
        once = self.add(self.OTHERS)
        assert self.add(once) == once

    def test_a_line_that_is_good_stays_as_it_is(self):
        line = (
            f"UUID={UUID}   /srv/api-endpoint ext4 discard,nofail,x-systemd.device-timeout=2s 0 2\n"
        )
        assert self.add(line + self.OTHERS) == line + self.OTHERS

    def test_a_line_without_nofail_keeps_its_options_and_gets_it(self):
        line = "/dev/sdb /srv/api-endpoint ext4 noatime,data=ordered 0 0\n"
        new = f"UUID={UUID} /srv/api-endpoint ext4 noatime,data=ordered,nofail,discard,x-systemd.device-timeout=10s 0 2\n"
        assert self.add(line + self.OTHERS) == new + self.OTHERS

    def test_the_line_that_the_tool_of_cloud_vps_wrote_for_our_place_goes(self):
        tools = f"UUID={UUID} /run/staging ext4 discard,nofail 0 2\n"
        assert self.add(self.OTHERS + tools) == f"{self.OTHERS}{self.LINE}\n"

    def test_xfs_is_not_checked_at_boot(self):
        assert self.add("", "xfs").endswith(" 0 0\n")


class TestUnfinished:
    NOTE: ClassVar = {**disk().identity, "uuid": UUID}
    TOOL: ClassVar = {**disk().identity, "uuid": ""}

    def test_what_an_interrupted_run_was_formatting_is_formatted_again(self):
        assert chosen(disk(is_zero=False), unfinished=self.NOTE) == ("/dev/sdb", "format")
        assert chosen(disk(signatures=(OURS,)), unfinished=self.NOTE) == ("/dev/sdb", "format")

    def test_but_not_when_something_else_is_on_it_since(self):
        for there in (
            disk(signatures=(Signature("ext4", "api-endpoint", "other"),)),
            disk(signatures=(OURS,), mounts=("/run/staging",)),
        ):
            assert chosen(there, unfinished=self.NOTE) == ("/dev/sdb", "mount")
        assert "No disk is unused" in refused(
            disk(signatures=(Signature("swap"),)), unfinished=self.NOTE
        )

    def test_what_the_tool_of_cloud_vps_was_formatting_is_formatted_again_unless_it_was_mounted(
        self,
    ):
        there = disk(signatures=(Signature("ext4", "", UUID),))
        assert chosen(replace(there, last_mount=""), unfinished=self.TOOL) == ("/dev/sdb", "format")
        assert chosen(replace(there, last_mount="/run/staging"), unfinished=self.TOOL) == (
            "/dev/sdb",
            "mount",
        )
        for last_mount in ("/srv", "unknown"):
            assert "No disk is unused" in refused(
                replace(there, last_mount=last_mount), unfinished=self.TOOL
            )
        assert "No disk is unused" in refused(replace(there, last_mount=""))

    def test_nor_when_it_is_another_disk_under_the_same_name(self):
        other = disk(is_zero=False, serial="another")
        assert "No disk is unused" in refused(other, unfinished=self.NOTE)

    def test_a_disk_that_is_mounted_where_the_copy_was_made_is_gone_on_with(self):
        there = disk(signatures=(Signature("ext4", "", UUID),), mounts=("/run/staging",))
        assert chosen(there) == ("/dev/sdb", "mount")


def test_a_disk_has_grown_when_it_exceeds_its_filesystem_by_more_than_what_filesystems_leave_over():
    assert has_grown(disk(), 10 * GB)
    assert not has_grown(disk(), 20 * GB - 1_000_000)
    assert not has_grown(disk(), 0)
