"""A volume is added to an endpoint that serves, goes missing, fails and grows. The tests build on each other, in order."""

import os
import re
import subprocess

import pytest
from load import assert_nothing_failed, load
from outcomes import assert_json_error, assert_switched, wait_until

MOUNT = "/srv/api-endpoint"
DATA = f"{MOUNT}/data"


def mounted(host) -> str:
    """The disk that is mounted at the volume's place."""
    return host.run(f"findmnt --noheadings --output SOURCE --mountpoint {MOUNT}").stdout.strip()


def content_of(host, folder) -> str:
    return host.check_output(
        f"cd {folder} && find . -path ./lost+found -prune -o -type f -print0 | sort -z | xargs -0 sha256sum"
    )


def below(host, command: str) -> str:
    """The output of a command on the root disk's own folder, below the volume."""
    script = f"mount --bind /srv /mnt && cd /mnt/api-endpoint && {command}"
    return host.check_output(f"unshare --mount --propagation private sh -c '{script}'")


# Stops the process that copies the data as soon as it copies, and says which one it is.
STOP_THE_COPY = """
until [ -e /run/api-endpoint-volume/.moving ]; do :; done
pid="$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p' /run/api-endpoint-volume.json)"
kill -STOP "$pid" && echo "$pid"
"""


@pytest.fixture(scope="module")
def photos(host, disks):
    """A disk with somebody's data on it."""
    disk = disks[1]
    if host.run(f"blkid --probe {disk.path}").rc == 2:
        host.check_output(
            f"mkfs.ext4 -q -L photos {disk.path} && mount {disk.path} /mnt && echo me > /mnt/me && umount /mnt"
        )
    return disk


class TestRefused:
    """Each is refused before anything is touched, under load in which nothing fails. tests/test_disks.py has every case."""

    @pytest.fixture(autouse=True)
    def _all_is_as_before(self, api, host, disks):
        for disk in disks:
            if not disk.is_attached:
                disk.attach()
        before = (
            api.release,
            api.processes,
            host.check_output("cat /etc/fstab"),
            content_of(host, MOUNT),
        )
        with load(api, path="/file") as result:
            yield
        assert before == (
            api.release,
            api.processes,
            host.check_output("cat /etc/fstab"),
            content_of(host, MOUNT),
        )
        assert mounted(host) == ""
        assert_nothing_failed(result)

    def refused(self, deploy, *words, **volume) -> None:
        run = deploy(**volume)
        assert run.status != 0, run.output
        for word in words:
            assert word in run.said, run.output
        assert run.changed == [0] or "changed=1" in run.output, run.output

    def test_a_disk_with_somebodys_data(self, deploy, photos):
        before = photos.digest
        self.refused(
            deploy,
            f"The disk {photos.path} is not empty: an ext4 filesystem with the label 'photos'",
            "neither formatted nor mounted",
            "api_endpoint_volume.label: photos",
            device=photos.path,
        )
        assert photos.digest == before

    @pytest.mark.full
    def test_a_wrong_filesystem(self, deploy, photos):
        before = photos.digest
        self.refused(
            deploy,
            "has the filesystem ext4",
            "Set filesystem: ext4",
            label="photos",
            filesystem="xfs",
        )
        assert photos.digest == before

    @pytest.mark.full
    def test_a_disk_that_cannot_be_told_from_another(self, deploy, disks):
        self.refused(
            deploy,
            "Several disks are unused",
            f"{disks[0].path} (629.1 MB): nothing",
            device="auto",
        )

    @pytest.mark.full
    def test_a_read_only_disk(self, deploy, disks):
        disks[2].detach()
        disks[2].attach("--read-only")
        self.refused(deploy, f"The disk {disks[2].path} is read-only", device=disks[2].path)
        disks[2].detach()

    @pytest.mark.full
    def test_a_disk_that_is_not_there(self, deploy):
        self.refused(
            deploy,
            "api_endpoint_volume.device is '/dev/sdz', and this host has no such disk",
            device="/dev/sdz",
        )


class TestMove:
    def test_a_dry_run_tells_and_touches_nothing(self, deploy, disks, host):
        disks[2].detach()  # so that one unused disk is left
        before = disks[0].digest, host.check_output("cat /etc/fstab")
        run = deploy("--check", "--diff", device="auto")
        assert run.status == 0, run.output
        assert f"format {disks[0].path} (629.1 MB) with ext4, label 'api-endpoint'" in run.said
        assert "from the root disk's /srv/api-endpoint to it" in run.said
        assert (disks[0].digest, host.check_output("cat /etc/fstab")) == before

    def test_a_run_that_is_killed_in_the_middle_leaves_all_as_it_was_and_the_next_one_goes_on(
        self, api, deploy, disks, host
    ):
        before, data = api.release, content_of(host, DATA)
        with load(api, path="/file") as result:
            watching = subprocess.Popen(
                ["docker", "exec", api.container, "timeout", "300", "sh", "-c", STOP_THE_COPY],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            started = deploy.start(device="auto")
            pid = watching.communicate()[0].strip()
            assert pid, started.output
            started.kill()
            host.check_output(f"kill -9 {pid}")
            assert mounted(host) == ""
            run = deploy(device="auto")
        assert_switched(api, run, result, before)
        assert mounted(host) == disks[0].path
        assert content_of(host, DATA) == data
        assert below(host, "find . -mindepth 1") == "", "the old copy is still on the root disk"
        assert host.run("mountpoint -q /run/api-endpoint-volume").rc != 0
        line = host.check_output(f"grep {MOUNT} /etc/fstab")
        assert line.startswith("UUID=")
        assert "nofail,discard" in line

    def test_a_second_run_changes_nothing(self, api, deploy):
        before = api.processes
        run = deploy(device="auto")
        assert run.status == 0, run.output
        assert run.changed == [0], run.output
        assert api.processes == before

    @pytest.mark.full
    def test_new_data_goes_to_the_volume(self, api, deploy, host):
        before = api.release
        host.check_output("printf ' more' >>/root/words.txt")
        with load(api, path="/file") as result:
            run = deploy("--tags", "model", device="auto")
        assert_switched(api, run, result, before)
        assert api.get("/").json["words"] == "some words more"
        assert below(host, "find . -mindepth 1") == ""


class TestBoot:
    def restart(self, api, disk, attached: bool) -> None:
        container = api.container
        subprocess.run(["docker", "stop", container], check=True, capture_output=True)
        disk.detach()
        if attached:
            disk.attach()
        subprocess.run(["docker", "start", container], check=True, capture_output=True)

    def test_with_the_volume(self, api, disks, host):
        self.restart(api, disks[0], attached=True)
        api.wait_until_it_answers("/file")
        assert api.get("/file").json["words"].startswith("some words")
        assert mounted(host) == disks[0].path

    def test_without_the_volume_the_status_says_so(self, api, disks, host):
        begun = int(host.check_output("date +%s"))
        self.restart(api, disks[0], attached=False)
        said = f"The volume with the model data is not mounted at {MOUNT}"
        journal = f"journalctl --no-pager --since=@{begun} --unit={api.unit}"
        wait_until(lambda: said in host.run(journal).stdout, "the journal of the slot says so")
        status = f"systemctl status --no-pager {api.unit}"
        wait_until(
            lambda: "Active: activating (auto-restart)" in host.run(status).stdout,
            "it waits for the next try",
        )
        assert said in host.run(status).stdout
        wait_until(
            lambda: host.run("systemctl is-active nginx").stdout.strip() == "active", "nginx runs"
        )
        assert_json_error(api.get("/"), 502)

    @pytest.mark.full
    def test_without_the_volume_a_run_is_refused(self, deploy, host):
        run = deploy("--tags", "model", device="auto")
        assert run.status != 0
        assert f"for {MOUNT}, and no disk of this host is that" in run.said, run.output
        assert host.run(f"ls -A {MOUNT}").stdout == "", (
            "something was written where the volume belongs"
        )

    def test_it_starts_by_itself_when_the_volume_is_back(self, api, disks, host):
        disks[0].attach()
        api.wait_until_it_answers("/file")
        assert mounted(host) == disks[0].path
        assert below(host, "find . -mindepth 1") == "", (
            "something was written where the volume belongs"
        )


class TestFaults:
    @pytest.mark.full
    def test_a_volume_that_is_read_only(self, api, deploy, host):
        before = api.processes
        host.check_output(f"mount -o remount,ro {MOUNT}")
        with load(api, path="/file") as result:
            run = deploy(device="auto")
        host.check_output(f"mount -o remount,rw {MOUNT}")
        assert run.status != 0
        assert f"is mounted read-only at {MOUNT}" in run.said, run.output
        assert_nothing_failed(result)
        assert api.processes == before

    def test_a_volume_that_is_pulled_off_while_serving(self, api, deploy, disks, host):
        before = api.processes
        image, whole = disks[0].image, disks[0].image.with_suffix(".whole")
        with load(api) as result:
            subprocess.run(["cp", "--sparse=always", image, whole], check=True)
            try:
                os.truncate(image, 0)
                host.check_output("echo 3 > /proc/sys/vm/drop_caches || true")
                run = deploy(device="auto")
            finally:
                # Written into the same file, which the loop device has open: the next test needs its volume.
                subprocess.run(["cp", "--sparse=never", whole, image], check=True)
                whole.unlink()
        assert run.status != 0
        # Which of its questions the run sees fail depends on what the kernel still has in memory.
        said = r"cannot be written: (Input/output error|Bad message)|does not show its filesystem|gives back other data"
        assert re.search(said, run.said), run.output
        assert "Nothing was changed" in run.said
        assert "If it was pulled off" in run.said
        assert api.processes == before
        assert_nothing_failed(result)


@pytest.mark.full
class TestGrow:
    """With xfs, because ext4 grows while it is mounted only where the kernel lets a container do so (CAP_SYS_RESOURCE)."""

    @pytest.fixture
    def on_xfs(self, api, deploy, disks, host):
        """The endpoint has another volume, with xfs, and brings its data anew."""
        host.run(f"systemctl stop {api.unit}; umount --lazy {MOUNT}")
        host.check_output(f"sed -i '\\#{MOUNT}#d' /etc/fstab && systemctl daemon-reload")
        disks[0].detach()
        disks[2].empty()
        run = deploy(device=disks[2].path, filesystem="xfs", label="grows")
        assert run.status == 0, run.output
        assert mounted(host) == disks[2].path
        return disks[2]

    def test_the_filesystem_follows_a_larger_disk(self, api, deploy, host, on_xfs):
        before = api.processes
        os.truncate(on_xfs.image, 500_000_000)
        subprocess.run(["losetup", "--set-capacity", on_xfs.path], check=True)
        with load(api, path="/file") as result:
            run = deploy(device=on_xfs.path, filesystem="xfs", label="grows")
        assert run.status == 0, run.output
        assert run.changed == [1], run.output
        assert "let the filesystem grow from 314.6 MB to 500.0 MB" in run.said
        assert (
            int(host.check_output(f"df --output=size --block-size=1 {MOUNT} | tail -n 1"))
            > 400_000_000
        )
        assert api.processes == before
        assert_nothing_failed(result)
