"""Unpacking: what is well-formed comes out whole, what is hostile is refused for its reason and leaves nothing."""

import bz2
import functools
import gzip
import io
import lzma
import os
import stat
import struct
import subprocess
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from ansible.module_utils import api_endpoint_unpack as unpacker
from ansible.module_utils.api_endpoint_store import StoreError
from ansible.module_utils.api_endpoint_unpack import Limits, kind_of, needed_bytes, unpack

PACKERS = {
    "": lambda data: data,
    "gz": gzip.compress,
    "xz": functools.partial(lzma.compress, preset=0),
    "zst": lambda data: subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout,
}
LIMITS = Limits(10_000_000)
MODEL = bytes(range(256)) * 400


def member(name, data=b"", **attributes):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, data


def link(name, target, kind=tarfile.SYMTYPE):
    return member(name, type=kind, linkname=target)


def tar(*members, form=tarfile.PAX_FORMAT):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr, info.create_system, info.compress_type = mode << 16, 3, method
            archive.writestr(info, data)
    return made.getvalue()


@pytest.fixture
def box(tmp_path):
    """A folder for the archive and the target, with something around it that must stay as it is."""
    (tmp_path / "in").mkdir()
    (tmp_path / "precious").write_text("precious")
    return tmp_path / "in"


def put(box, data):
    (box / "archive").write_bytes(data)
    return box / "archive"


def refused(box, data, match, limits=LIMITS):
    archive = put(box, data)
    with pytest.raises(StoreError, match=match) as caught:
        unpack(archive, box / "out", limits)
    assert sorted(os.listdir(box)) == ["archive"]
    assert sorted(os.listdir(box.parent)) == ["in", "precious"]
    assert (box.parent / "precious").read_text() == "precious"
    assert str(archive) in str(caught.value)
    return str(caught.value)


def tree(root):
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        else:
            found[name] = (oct(path.stat().st_mode & 0o7777), None if path.is_dir() else path.read_bytes())
    return found


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_a_tar(box, packed, form):
    long = "b" * 90 + "/" + "c" * 99
    data = tar(
        member("./", type=tarfile.DIRTYPE, mode=0o700),
        member("./a", type=tarfile.DIRTYPE, mode=0o2777),
        member("./a/model.bin", MODEL, mode=0o6640, uid=1234, uname="somebody"),
        member("a/run.sh", b"#!/bin/sh\n", mode=0o4711),
        member(long, b"x" * 512),
        member("Übung/größe", b""),
        link("a/latest", "model.bin"),
        link("top", "a/latest"),
        link("a/b/back", "../../a"),
        link("a/same", "a/model.bin", tarfile.LNKTYPE),
        form=form,
    )
    archive = put(box, PACKERS[packed](data))
    kind = f"tar.{packed}".rstrip(".")
    assert kind_of(archive) == kind
    told = unpack(archive, box / "out", LIMITS)
    assert (told.kind, told.size, told.files) == (kind, len(MODEL) + 10 + 512, 8)
    folder = ("0o755", None)
    assert tree(box / "out") == {
        "a": folder,
        "a/model.bin": ("0o644", MODEL),
        "a/run.sh": ("0o755", b"#!/bin/sh\n"),
        "b" * 90: folder,
        long: ("0o644", b"x" * 512),
        "Übung": folder,
        "Übung/größe": ("0o644", b""),
        "a/latest": "-> model.bin",
        "top": "-> a/latest",
        "a/b": folder,
        "a/b/back": "-> ../../a",
        "a/same": ("0o644", MODEL),
    }
    assert (box / "out").stat().st_mode & 0o7777 == 0o755
    assert (box / "out/a/model.bin").stat().st_uid == os.getuid()


@pytest.mark.parametrize("compression", [None, "gzip", "xz", "zstd"])
def test_a_tar_of_the_program_tar(box, tmp_path, compression):
    source = box / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(1_500_000))
    (source / "link").symlink_to("big")
    command = ["tar", "-C", str(source), "-cf", str(box / "archive"), "."]
    options = [f"--{compression}"] if compression else []
    subprocess.run(command + options, env={**os.environ, "XZ_OPT": "-0"}, check=True)
    assert unpack(box / "archive", box / "out", LIMITS).files == 2
    assert tree(box / "out") == tree(source)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip(box, method):
    data = zipped(
        ("a/model.bin", MODEL, stat.S_IFREG | 0o4600),
        ("a/run", b"x", stat.S_IFREG | 0o700),
        ("b/", b"", stat.S_IFDIR | 0o777),
        ("b\\c", b"windows", 0),
        ("latest", b"a/model.bin", stat.S_IFLNK | 0o777),
        ("größe", b"", 0),
        method=method,
    )
    archive = put(box, data)
    told = unpack(archive, box / "out", LIMITS)
    assert (told.kind, told.size, told.files) == ("zip", len(MODEL) + 8, 5)
    assert needed_bytes(archive) == len(MODEL) + 8 + 11
    assert tree(box / "out") == {
        "a": ("0o755", None),
        "a/model.bin": ("0o644", MODEL),
        "a/run": ("0o755", b"x"),
        "b": ("0o755", None),
        "b/c": ("0o644", b"windows"),
        "latest": "-> a/model.bin",
        "größe": ("0o644", b""),
    }


def test_a_zip_whose_utf_8_names_are_not_marked(box):
    data = zipped(("größe", b"x", 0)).replace(struct.pack("<H", 0x800), struct.pack("<H", 0))
    unpack(put(box, data), box / "out", LIMITS)
    assert os.listdir(box / "out") == ["größe"]


@pytest.mark.parametrize("packed", ["gz", "xz", "zst"])
def test_a_single_file(box, packed):
    for content in (MODEL * 30, b"", b"short"):
        archive = put(box, PACKERS[packed](content))
        assert kind_of(archive) == packed
        told = unpack(archive, box / "out", LIMITS)
        assert (told.size, told.files) == (len(content), 1)
        assert (box / "out").read_bytes() == content
        assert (box / "out").stat().st_mode & 0o7777 == 0o644
        (box / "out").unlink()


@pytest.mark.parametrize("packed", ["gz", "xz", "zst"])
def test_a_file_of_several_parts_one_after_the_other(box, packed):
    padding = b"\0" * 8 if packed != "zst" else b""
    archive = put(box, PACKERS[packed](b"one") + padding + PACKERS[packed](b"two") + padding)
    unpack(archive, box / "out", LIMITS)
    assert (box / "out").read_bytes() == b"onetwo"
    assert needed_bytes(archive) == (6 if packed == "xz" else None)


def test_the_room_that_a_format_tells(box):
    data = tar(member("a", MODEL))
    assert needed_bytes(put(box, data)) == len(data)
    assert needed_bytes(put(box, lzma.compress(data))) == len(data)
    blocks = subprocess.run(["xz", "-c", "--block-size=50000"], input=MODEL, capture_output=True, check=True).stdout
    assert needed_bytes(put(box, blocks)) == len(MODEL)
    assert needed_bytes(put(box, gzip.compress(data))) is None
    assert needed_bytes(put(box, PACKERS["zst"](data))) is None
    assert needed_bytes(put(box, lzma.compress(data)[:-1])) is None


def test_something_else(box):
    for data in (b"<html>Not now</html>", b"", b"\0" * 2000, bz2.compress(MODEL)):
        refused(box, data, "it is neither tar, zip, gz, xz nor zst")


def test_a_target_that_exists(box):
    archive = put(box, tar(member("a")))
    for make in (os.mkdir, lambda path: os.symlink("/nowhere", path)):
        make(box / "out")
        with pytest.raises(StoreError, match="something is there already"):
            unpack(archive, box / "out", LIMITS)
        os.rmdir(box / "out") if not (box / "out").is_symlink() else (box / "out").unlink()


OUT = [
    ("../precious", "leads out of the archive"),
    ("a/../../precious", "leads out of the archive"),
    ("a/..", "leads out of the archive"),
    ("/etc/api-endpoint-test", "is absolute"),
    ("a\nb", "control characters"),
]


@pytest.mark.parametrize(("name", "reason"), OUT)
def test_names_that_lead_out(box, name, reason):
    refused(box, tar(member("fine"), member(name, b"x")), reason)
    refused(box, zipped(("fine", b"", 0), (name, b"x", 0)), reason)
    refused(box, tar(member(name, type=tarfile.DIRTYPE)), reason)


def test_a_windows_name_that_leads_out(box):
    refused(box, zipped(("..\\precious", b"x", 0)), "leads out of the archive")


def test_a_name_that_is_not_utf_8(box):
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
        data = tar(member(os.fsdecode(b"mod\xe8le")), form=form)
        refused(box, data, r"the name b'mod\\xe8le' is not UTF-8. Rename the file and pack it again")
    refused(box, tar(link("a", os.fsdecode(b"mod\xe8le")), form=tarfile.GNU_FORMAT), "is not UTF-8")


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("a", "/etc/passwd"),
        ("a", "../precious"),
        ("a", ".."),
        ("a/b", "../../precious"),
        ("a/b", "./.././../precious"),
        ("a", "b/../../precious"),
        ("a/b/c", "d/../../../out/x"),
        ("a", ""),
    ],
)
def test_links_that_lead_out(box, path, target):
    reason = "points to .* out of the archive or up after going down"
    refused(box, tar(member("z"), link(path, target)), reason)
    refused(box, zipped(("z", b"", 0), (path, target, stat.S_IFLNK | 0o777)), reason)


def test_a_chain_of_links_that_leads_out(box):
    # Each link alone stays inside by its letters; together they are the folder above.
    refused(box, tar(link("a/b/up", "../.."), link("a/b/out", "up/../precious")), "up after going down")


def test_nothing_is_written_through_a_link(box):
    reason = "is a file or link, and there are members below it"
    refused(box, tar(link("a", "b"), member("a/c", b"x")), reason)
    refused(box, zipped(("a", b"b", stat.S_IFLNK), ("a/c", b"x", 0)), reason)
    refused(box, tar(member("a", b"x"), member("a/c", b"x")), reason)


@pytest.mark.parametrize("first", [link("a", "b"), member("a", b"x"), member("a", type=tarfile.DIRTYPE)])
@pytest.mark.parametrize("second", [link("a", "c"), member("a", b"y"), link("a", "b", tarfile.LNKTYPE)])
def test_members_that_are_there_twice(box, first, second):
    refused(box, tar(member("b"), first, second), "the member 'a' is in it twice")


def test_zip_members_that_are_there_twice(box):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a", b"b", stat.S_IFLNK), ("a", b"x", 0))
    refused(box, data, "the member 'a' is in it twice")
    refused(box, tar(member(".", b"x")), "the member '.' is in it twice")


def test_a_folder_may_be_named_twice(box):
    folder = member("a", type=tarfile.DIRTYPE)
    unpack(put(box, tar(folder, member("a/b"), folder)), box / "out", LIMITS)
    assert (box / "out/a/b").exists()


@pytest.mark.parametrize("target", ["/etc/hostname", "../precious", "later", "link", "folder"])
def test_hard_links_to_what_is_no_file_of_the_archive(box, target):
    members = (member("fine"), link("link", "fine"), member("folder", type=tarfile.DIRTYPE))
    data = tar(*members, link("a", target, tarfile.LNKTYPE), member("later"))
    refused(box, data, "is no file before it in the archive|is absolute|leads out")


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Q"])
def test_devices(box, kind):
    refused(box, tar(member("a", type=kind)), "is neither file, folder nor link, but a device")


def test_devices_in_a_zip(box):
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        refused(box, zipped(("a", b"", kind | 0o666)), "is neither file, folder nor link, but a device")


def test_an_encrypted_zip(box):
    data = bytearray(zipped(("a", b"secret", 0)))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(box, bytes(data), "is encrypted. Pack it without a password")


def test_sparse_files(box):
    with open(box / "sparse", "wb") as file:
        file.truncate(1_000_000)
    archives = []
    for form in ("gnu", "pax"):
        command = ["tar", "-C", str(box), f"--format={form}", "--sparse", "-cf", "-", "sparse"]
        archives.append(subprocess.run(command, capture_output=True, check=True).stdout)
    (box / "sparse").unlink()
    for data in archives:
        refused(box, data, "stored as a sparse file. Pack it without --sparse")


@pytest.mark.parametrize("packed", ["gz", "xz", "zst"])
def test_more_bytes_than_the_limit(box, packed):
    content = os.urandom(1_000_001)
    for data in (PACKERS[packed](content), PACKERS[packed](tar(member("a", content)))):
        refused(box, data, "more than 1,000,000 bytes, which is the limit", Limits(1_000_000))


def test_more_bytes_than_the_limit_in_a_zip(box):
    data = zipped(("a", os.urandom(600_000), 0), ("b", os.urandom(600_000), 0))
    refused(box, data, "more than 1,000,000 bytes, which is the limit", Limits(1_000_000))


@pytest.mark.parametrize("packed", ["gz", "xz", "zst", "zip"])
def test_an_absurd_ratio(box, packed):
    zeros = b"\0" * 80_000_000
    data = zipped(("a", zeros, 0)) if packed == "zip" else PACKERS[packed](zeros)
    refused(box, data, "more than 200 times as many", Limits(10**12))


def test_zeros_that_are_few_have_no_ratio(box):
    assert unpack(put(box, gzip.compress(b"\0" * 5_000_000)), box / "out", LIMITS).size == 5_000_000


def test_too_many_members(box):
    limits = Limits(10_000_000, members=10)
    names = [f"f{number}" for number in range(11)]
    for data in (
        tar(*(member(name) for name in names)),
        tar(member("/".join(names))),
        tar(*(link(name, "x") for name in names)),
        zipped(*((name, b"", 0) for name in names)),
    ):
        refused(box, data, "more than 10 members, which is the limit", limits)
    unpack(put(box, tar(*(member(name) for name in names[1:]))), box / "out", limits)


def test_a_list_of_members_that_fills_the_memory(box):
    data = zipped(*((f"{number:05}" + "x" * 1500, b"", 0) for number in range(20)))
    refused(box, data, "its list of members has .* bytes, which is too much for 10 members", Limits(10**9, members=10))


def test_a_header_that_fills_the_memory(box):
    big = member("a", pax_headers={"comment": "x" * 100_000})
    refused(box, tar(big), "it has a header of 10.,... bytes, 65,536 are the limit")
    refused(box, tar(member("a/" * 50_000), form=tarfile.GNU_FORMAT), "it has a header of 10.,... bytes")


def test_a_size_below_zero(box):
    whole = bytearray(tar(member("fine"), member("a", b"x")))
    header, field = memoryview(whole)[512:1024], slice(124, 136)
    header[field] = b"\xff" * 12  # -1, as GNU tar writes numbers that do not fit
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    header.release()
    # Newer versions of tarfile refuse it themselves.
    refused(box, bytes(whole), "has -1 bytes|a header in its middle is damaged")


def test_a_stream_goes_forwards_only():
    stream = unpacker._Stream(io.BytesIO(MODEL), SimpleNamespace(more_bytes=lambda _count: None))
    stream.seek(1000)
    assert stream.content(2) == MODEL[1000:1002]
    with pytest.raises(StoreError, match="begins before the one it follows"):
        stream.seek(1001)


def test_a_decompression_that_fills_the_memory(box):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 128 * 1024**2}]
    refused(box, lzma.compress(b"x", filters=filters), "takes more than 80 MiB of memory. Compress it with xz -9")
    command = ["zstd", "-qc", "-1", "--long=28"]
    with open(box.parent / "big", "wb") as file:
        file.truncate(300_000_000)
    with open(box.parent / "big", "rb") as file:
        data = subprocess.run(command, stdin=file, capture_output=True, check=True).stdout
    (box.parent / "big").unlink()
    refused(box, data, "(?i)memory", Limits(10**12, ratio=10**9))


@pytest.mark.parametrize("packed", PACKERS)
def test_what_ends_too_early(box, packed):
    whole = PACKERS[packed](tar(member("a", os.urandom(700_000)), member("b", os.urandom(700_000))))
    for share in (0.3, 0.9):
        refused(box, whole[: int(len(whole) * share)], "Is it whole")
    if packed:
        refused(box, whole[:-3], "Is it whole")
        refused(box, PACKERS[packed](MODEL)[:-1], "Is it whole")


def test_a_tar_cut_between_two_members(box):
    refused(box, tar(member("a", b"x" * 512), member("b"))[:1024], "ends without the mark")


def test_a_damaged_header_in_the_middle(box):
    data = bytearray(tar(member("a", b"x" * 512), member("b", b"y")))
    data[1024 + 5] ^= 0xFF
    refused(box, bytes(data), "a header in its middle is damaged")


def test_data_after_the_end(box):
    refused(box, tar(member("a")) + b"\0" * 512 + tar(member("b")), "more data after its end")
    refused(box, gzip.compress(MODEL) + b"rubbish", "Is it whole")


@pytest.mark.parametrize("packed", ["gz", "xz", "zst"])
def test_a_flipped_byte(box, packed):
    data = bytearray(PACKERS[packed](os.urandom(500_000)))
    if packed == "zst":  # which checks sums in files of its program only
        data = bytearray(PACKERS[packed](MODEL))
    data[len(data) // 2] ^= 0x55
    refused(box, bytes(data), "Is it whole")


def test_a_flipped_byte_in_a_zip(box):
    data = bytearray(zipped(("a", os.urandom(500_000), 0)))
    data[250_000] ^= 0x55
    refused(box, bytes(data), "Is it whole")


def test_a_zip_member_that_is_longer_than_it_says(box):
    data = bytearray(zipped(("a", MODEL, 0)))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 100)
    refused(box, bytes(data), "Is it whole")


def test_a_full_disk(box, monkeypatch):
    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unpacker, "_write", full)
    for data in (tar(member("a", MODEL)), zipped(("a", MODEL, 0)), gzip.compress(MODEL)):
        refused(box, data, "the disk that holds .*out is full. Make room there and run again")


def test_no_zstd(box, monkeypatch):
    data = PACKERS["zst"](MODEL)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StoreError, match=r"zstd is not installed on the host\. Install Debian's package zstd"):
        unpack(put(box, data), box / "out", LIMITS)


def test_the_umask_of_the_caller_does_not_matter(box):
    archive = put(box, tar(member("a/b", b"x"), member("c", mode=0o755)))
    before = os.umask(0o077)
    try:
        unpack(archive, box / "out", LIMITS)
    finally:
        os.umask(before)
    assert (box / "out").stat().st_mode & 0o777 == 0o755
    assert {name: mode for name, (mode, _content) in tree(box / "out").items()} == {
        "a": "0o755",
        "a/b": "0o644",
        "c": "0o755",
    }


def test_progress_is_told(box, monkeypatch):
    moments = iter(range(1000))
    monkeypatch.setattr(unpacker.time, "monotonic", lambda: next(moments))
    told = []
    unpack(put(box, tar(member("a", MODEL * 30))), box / "out", LIMITS, progress=told.append)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] >= len(MODEL) * 30


def test_the_checks_hold_without_pythons_own_filter(box, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    for name, reason in OUT:
        refused(box, tar(member(name, b"x")), reason)
    refused(box, tar(link("a", "../precious")), "points to")
    refused(box, tar(member("a", type=tarfile.CHRTYPE)), "device")
    refused(box, tar(link("a", "/etc/hostname", tarfile.LNKTYPE)), "is absolute")
