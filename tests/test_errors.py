"""An error says what happened, to what, on which disk."""

import errno
import os

import pytest
from ansible.module_utils.api_endpoint import errors
from ansible.module_utils.api_endpoint.errors import (
    DeployError,
    describe_error,
    disk_of,
    lacks_room,
    says_full,
)


def test_a_disk_is_named_by_its_mount_point(tmp_path):
    assert disk_of("/proc/self").startswith("the disk at /proc (")
    assert disk_of(tmp_path / "not" / "there") == disk_of(tmp_path)
    assert ", memory, " not in disk_of("/proc")
    assert disk_of("/dev/shm/x").startswith("the disk at /dev/shm (memory, ")


def test_a_disk_without_room_for_files_says_so(tmp_path, monkeypatch):
    statvfs = os.statvfs(tmp_path)
    changed = os.statvfs_result((*statvfs[:5], 100, 7, 7, *statvfs[8:]))
    monkeypatch.setattr(errors.os, "statvfs", lambda _path: changed)
    assert ", room for 7 more files)" in disk_of(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm/x"),
            r"No space was left on the disk at /dev/shm \(memory",
        ),
        # Of a copy it is the target that has no room.
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/proc/x", None, "/dev/shm/x"),
            r"on the disk at /dev/shm ",
        ),
        (
            OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "/dev/shm/x"),
            r"The quota was used up on the disk at /dev/shm ",
        ),
        (OSError("tar: No space left on device"), r"No space was left on the disk at /proc "),
        (
            OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/x"),
            r"File too large: '/x'\. The filesystem, or `ulimit -f`",
        ),
        (OSError(errno.EACCES, "no", "/x"), r"^\[Errno 13\] no: '/x'$"),
        (DeployError("as it stands"), "^as it stands$"),
        (ValueError("x"), "^ValueError: x$"),
        (ValueError(), "^ValueError: ValueError$"),
    ],
)
def test_an_error_in_words(error, words):
    with pytest.raises(DeployError, match=words):
        raise DeployError(describe_error(error, "/proc/self"))


def test_a_disk_that_nobody_knows():
    words = describe_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert words.startswith(
        "A disk of the host is full: [Errno 28] No space left on device\n`df -h` and `df -i` on the host"
    )


def test_the_computer_is_named():
    assert " of the host: " in lacks_room("/", "x")
    assert " of this computer (me): " in lacks_room("/", "x", "this computer (me)")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_programs_that_find_no_room(number):
    assert says_full(f"tar: a: Cannot write: {os.strerror(number)}")
    assert not says_full("tar: a: Permission denied")
