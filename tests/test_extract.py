"""Extraction: what is well-formed comes out whole, what is hostile is refused for its reason and leaves nothing."""

import bz2
import functools
import gzip
import io
import lzma
import os
import re
import signal
import stat
import struct
import subprocess
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.artifacts import extract as extractor
from ansible.module_utils.api_endpoint.artifacts.extract import Limits
from ansible.module_utils.api_endpoint.digests import tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.sandbox import Sandbox

pytestmark = pytest.mark.usefixtures("without_systemd")

PACKERS = {
    "": lambda data: data,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": functools.partial(lzma.compress, preset=0),
    "zst": lambda data: (
        subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout
    ),
}
PACKED = [name for name in PACKERS if name]
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


def extract(box, data, limits=LIMITS, progress=lambda _bytes: None):
    """Extract an archive into `out`, and return what is there."""
    subprocess.run(["rm", "-rf", box / "out"], check=True)
    extractor.extract(
        put(box, data), box / "out", limits, name="api", user="any", progress=progress
    )
    return tree(box / "out") if (box / "out").is_dir() else (box / "out").read_bytes()


def refused(box, data, match, limits=LIMITS):
    with pytest.raises(DeployError, match=match) as caught:
        extract(box, data, limits)
    assert sorted(os.listdir(box)) == ["archive"]
    assert sorted(os.listdir(box.parent)) == ["in", "precious"]
    assert (box.parent / "precious").read_text() == "precious"
    assert str(caught.value).startswith(f"{box / 'archive'} cannot be unpacked: ")


def tree(root):
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_dir():
            found[name] = None
        else:
            is_program = path.stat().st_mode & (stat.S_IXUSR | stat.S_ISUID | stat.S_ISGID)
            found[name] = (oct(is_program), path.read_bytes()) if is_program else path.read_bytes()
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
    assert extract(box, PACKERS[packed](data)) == {
        "a": None,
        "a/model.bin": MODEL,
        "a/run.sh": (oct(stat.S_IXUSR), b"#!/bin/sh\n"),
        "b" * 90: None,
        long: b"x" * 512,
        "Übung": None,
        "Übung/größe": b"",
        "a/latest": "-> model.bin",
        "top": "-> a/latest",
        "a/b": None,
        "a/b/back": "-> ../../a",
        "a/same": MODEL,
    }


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_sparse_file(box, form):
    with open(box / "sparse", "wb") as file:
        file.truncate(1_000_000)
        file.write(b"x")
    command = ["tar", "-C", str(box), f"--format={form}", "--sparse", "-cf", "-", "sparse"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 100_000
    assert extract(box, data) == {"sparse": b"x" + b"\0" * 999_999}
    (box / "sparse").unlink()
    (box / "out/sparse").unlink()
    (box / "out").rmdir()
    refused(box, data, "more than 900,000 bytes", Limits(900_000))


def test_a_large_sparse_file_has_an_absurd_ratio(box):
    with open(box / "sparse", "wb") as file:
        file.truncate(10**9)
    data = subprocess.run(
        ["tar", "-C", str(box), "--sparse", "-cf", "-", "sparse"], capture_output=True, check=True
    ).stdout
    (box / "sparse").unlink()
    refused(box, data, "more than 200 times as many", Limits(10**12))


def test_tars_one_after_the_other(box):
    assert extract(box, tar(member("a")) + b"\0" * 512 + tar(member("b"))) == {"a": b"", "b": b""}


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
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
    assert extract(box, data) == {
        "a": None,
        "a/model.bin": MODEL,
        "a/run": (oct(stat.S_IXUSR), b"x"),
        "b": None,
        "b/c": b"windows",
        "latest": "-> a/model.bin",
        "größe": b"",
    }


def test_an_empty_zip(box):
    assert extract(box, zipped()) == {}


def test_zip_names_that_are_not_marked_as_utf_8(box):
    data = zipped(("größe", b"x", 0)).replace(struct.pack("<H", 0x800), struct.pack("<H", 0))
    assert extract(box, data) == {"größe": b"x"}
    assert extract(box, zipped(("gr?n", b"x", 0)).replace(b"?", b"\x81")) == {"grün": b"x"}


@pytest.mark.parametrize("packed", PACKED)
def test_a_single_file(box, packed):
    for content in (b"long" * 10**6, b"", b"short", gzip.compress(b"packed twice")):
        assert extract(box, PACKERS[packed](content)) == content


@pytest.mark.parametrize("packed", PACKED)
def test_a_file_of_several_parts_one_after_the_other(box, packed):
    padding = b"\0" * 8 if packed == "xz" else b""
    assert (
        extract(box, PACKERS[packed](b"one") + padding + PACKERS[packed](b"two") + padding)
        == b"onetwo"
    )


def test_something_else(box):
    for data in (b"some text", b"", b"\0" * 2000):
        refused(
            box, data, "it is none of tar, zip, gz, bz2, xz, zst, lzma and Z. Give one of these"
        )


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (
            b"7z\xbc\xaf\x27\x1c",
            "it is 7z, which is not read. Open it (`7z x`) and pack it again, as one of tar, zip",
        ),
        (b"Rar!\x1a\x07\x01\x00", "it is rar, which is not read. Open it (`unrar x`)"),
        (b"\x04\x22\x4d\x18", "it is lz4, which is not read. Open it (`lz4 -d`)"),
        (b"LZIP\x01", "it is lzip, which is not read"),
        (b"\xff\x06\x00\x00sNaPpY", "it is snappy, which is not read"),
        (b"PK\x07\x08PK\x03\x04", "it is a part of a zip that was split, which is not read"),
    ],
)
def test_formats_that_are_refused_by_name(box, first, words):
    refused(box, first + b"x" * 600, re.escape(words))


def test_formats_that_have_grown_old(box):
    assert extract(box, lzma.compress(tar(member("a", b"x")), format=lzma.FORMAT_ALONE)) == {
        "a": b"x"
    }
    # As compress(1) writes it (.Z): nine bits for each letter.
    letters = sum(letter << 9 * number for number, letter in enumerate(b"model"))
    assert extract(box, b"\x1f\x9d\x90" + letters.to_bytes(6, "little")) == b"model"


def test_what_pzstd_makes(box):
    """A frame that is to be skipped comes first."""
    skipped = b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"\0" * 4
    assert extract(box, skipped + PACKERS["zst"](tar(member("a")))) == {"a": b""}


@pytest.mark.parametrize(
    ("method", "name"), [(9, "deflate64"), (93, "zstd"), (98, "ppmd"), (77, "77")]
)
def test_a_zip_compressed_in_a_way_that_is_not_read(box, method, name):
    data = bytearray(zipped(("a", b"x" * 100, 0)))
    data[8:10] = struct.pack("<H", method)
    at = data.index(b"PK\x01\x02") + 10
    data[at : at + 2] = struct.pack("<H", method)
    refused(
        box,
        bytes(data),
        f"the member 'a' is compressed by {name}, which is not read in a zip. Pack it with `zip -r`",
    )


def test_what_macos_adds_is_left_out(box):
    junk = [
        "__MACOSX/a/model",
        "__MACOSX/._model",
        "._model",
        "a/._model",
        ".DS_Store",
        "a/.DS_Store",
    ]
    kept = {"a": None, "a/model": b"", "a/model._x": b""}
    assert extract(box, tar(member("a/model"), member("a/model._x"), *map(member, junk))) == kept
    assert extract(box, zipped(("a/model", b"", 0), *((name, b"", 0) for name in junk))) == {
        "a": None,
        "a/model": b"",
    }


@pytest.mark.parametrize(
    ("name", "target"), [("a", "b"), ("a", "a"), ("d/a", "../x"), ("d", ".git/annex/objects/x")]
)
def test_a_link_to_what_was_not_packed(box, name, target):
    refused(
        box,
        tar(member("z"), link(name, target)),
        f"the link '{name}' points to '{target}', which is not in it",
    )


def test_a_target_that_exists(box):
    archive = put(box, tar(member("a")))
    (box / "out").symlink_to("/nowhere")
    with pytest.raises(DeployError, match="something is there already"):
        extractor.extract(archive, box / "out", LIMITS, name="api", user="any")


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
    """As Latin-1 systems pack them; the app opens what it lists."""
    name = os.fsdecode(b"mod\xe8le")
    for form in (tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT):
        assert extract(box, tar(member(name, b"x"), link("a", name), form=form)) == {
            name: b"x",
            "a": f"-> {name}",
        }
    assert len(tree_digest(box / "out")) == 64


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
    reason = "points to .* out of the archive or up after going down|the link 'a' points nowhere"
    refused(box, tar(member("z"), link(path, target)), reason)
    refused(box, zipped(("z", b"", 0), (path, target, stat.S_IFLNK | 0o777)), reason)


def test_a_chain_of_links_that_leads_out(box):
    # Each link alone stays inside by its letters; together they are the folder above.
    refused(
        box, tar(link("a/b/up", "../.."), link("a/b/out", "up/../precious")), "up after going down"
    )


def test_nothing_is_written_through_a_link(box):
    reason = "the member 'a/c' is below a file or link|the member 'a' is in it twice"  # as versions of tar differ
    refused(
        box, tar(member("b", type=tarfile.DIRTYPE), link("a", "b"), member("a/c", b"x")), reason
    )
    refused(box, tar(link("a", "b"), member("a/c", b"x")), reason)
    refused(box, zipped(("a", b"b", stat.S_IFLNK), ("a/c", b"x", 0)), reason)
    refused(box, tar(member("a", b"x"), member("a/c", b"x")), reason)


@pytest.mark.parametrize(
    "first", [link("a", "b"), member("a", b"x"), member("a", type=tarfile.DIRTYPE)]
)
@pytest.mark.parametrize(
    "second", [link("a", "c"), member("a", b"y"), link("a", "b", tarfile.LNKTYPE)]
)
def test_members_that_are_there_twice(box, first, second):
    refused(box, tar(member("b"), first, second), "the member 'a' is in it twice")


def test_a_file_that_is_there_twice_in_a_way_that_tar_itself_takes(box):
    refused(
        box,
        tar(member("a", b"x"), member("a", type=tarfile.DIRTYPE)),
        "the member 'a/?' is in it twice",
    )
    refused(
        box,
        tar(member("a", b"x"), link("a", "a", tarfile.LNKTYPE)),
        "the member 'a' is in it twice",
    )


def test_zip_members_that_are_there_twice(box):
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a", b"b", stat.S_IFLNK), ("a", b"x", 0))
    refused(box, data, "the member 'a' is in it twice")
    refused(box, tar(member(".", b"x")), "the member '.' is in it twice")


def test_a_folder_may_be_named_twice(box):
    folder = member("a", type=tarfile.DIRTYPE)
    assert extract(box, tar(folder, member("a/b"), folder)) == {"a": None, "a/b": b""}


@pytest.mark.parametrize(
    "target", ["/etc/hostname", "../precious", "later", "link", "folder", "/fine"]
)
def test_hard_links_to_what_is_no_file_of_the_archive(box, target):
    members = (member("fine"), link("link", "fine"), member("folder", type=tarfile.DIRTYPE))
    data = tar(*members, link("a", target, tarfile.LNKTYPE), member("later"))
    reason = "is no file before it|the link .* has a hard link, which is to no file|Removing leading `/' from hard link"
    refused(box, data, reason)


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Q"])
def test_devices(box, kind):
    refused(box, tar(member("a", type=kind)), "is neither file, folder nor link, but a device")


def test_devices_in_a_zip(box):
    for kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK):
        refused(
            box, zipped(("a", b"", kind | 0o666)), "is neither file, folder nor link, but a device"
        )


def test_an_encrypted_zip(box):
    data = bytearray(zipped(("a", b"secret", 0)))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(box, bytes(data), "is encrypted. Pack it without a password")


@pytest.mark.parametrize("packed", PACKED)
def test_more_bytes_than_the_limit(box, packed):
    content = os.urandom(1_000_001)
    for data in (PACKERS[packed](content), PACKERS[packed](tar(member("a", content)))):
        refused(box, data, "more than 1,000,000 bytes, which is the limit", Limits(1_000_000))


def test_more_bytes_than_the_limit_in_a_zip(box):
    data = zipped(("a", os.urandom(600_000), 0), ("b", os.urandom(600_000), 0))
    refused(box, data, "more than 1,000,000 bytes, which is the limit", Limits(1_000_000))


@pytest.mark.parametrize("packed", [*PACKED, "zip"])
def test_an_absurd_ratio(box, packed):
    zeros = b"\0" * 80_000_000
    data = zipped(("a", zeros, 0)) if packed == "zip" else PACKERS[packed](zeros)
    refused(box, data, "more than 200 times as many", Limits(10**12))


def test_zeros_that_are_few_have_no_ratio(box):
    assert extract(box, gzip.compress(b"\0" * 5_000_000)) == b"\0" * 5_000_000


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
    assert len(extract(box, tar(*(member(name) for name in names[1:])), limits)) == 10


def test_folders_in_each_other_without_end(box):
    data = tar(*(member("a/" * depth + "b") for depth in range(0, 2001, 100)))
    refused(box, data, "more than 200 folders in each other")


def test_a_hard_link_to_a_file_outside(box):
    """As tar makes none: it takes off what leads out."""
    (box / "out").mkdir()
    os.link(box.parent / "precious", box / "out/a")
    with pytest.raises(DeployError, match="it has a hard link to a file outside"):
        extractor.Extraction(put(box, b"x"), box / "out", LIMITS, "api", "any").inspect()


def test_a_header_that_fills_the_memory(box, monkeypatch):
    monkeypatch.setattr(extractor, "MEMORY_BYTES", 30_000_000)
    refused(
        box,
        tar(member("a", pax_headers={"comment": "x" * 30_000_000})),
        "takes too much memory",
        Limits(10**9),
    )
    data = zipped(*((f"{number:05}" + "x" * 60_000, b"", 0) for number in range(300)))
    refused(box, data, "takes too much memory", Limits(10**9))


def test_a_name_that_is_too_long(box):
    refused(box, tar(member("a" * 300)), "a name that is too long for the file system")


def test_a_size_below_zero(box):
    whole = bytearray(tar(member("fine"), member("a", b"x")))
    header, field = memoryview(whole)[512:1024], slice(124, 136)
    header[field] = b"\xff" * 12  # -1, as GNU tar writes numbers that do not fit
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    header.release()
    refused(box, bytes(whole), "Archive value -1 is out of")


def test_a_decompression_that_fills_the_memory(box):
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 256 * 1024**2}]
    reason = "takes too much memory. Compress it again, with xz -9 or zstd --long=27 at most"
    refused(box, lzma.compress(b"x", filters=filters), reason)
    for bits in (28, 31):
        command = ["zstd", "-qc", "-1", f"--long={bits}"]
        data = subprocess.run(command, input=MODEL, capture_output=True, check=True).stdout
        refused(
            box,
            data,
            f"with a window of {2**bits} bytes .* Compress it again, with --long=27 at most",
        )


@pytest.mark.parametrize(
    "packer", [["zstd", "--ultra", "-22", "--long=27"], ["xz", "-9"], ["bzip2", "-9"]]
)
def test_the_most_that_a_packer_compresses_by_default(box, packer):
    """From a pipe, so that the packer does not know how little it is."""
    data = subprocess.run(
        [*packer, "-qc"], input=tar(member("a", MODEL)), capture_output=True, check=True
    ).stdout
    assert extract(box, data) == {"a": MODEL}


@pytest.mark.parametrize("packed", PACKERS)
def test_what_ends_too_early(box, packed):
    whole = PACKERS[packed](tar(member("a", os.urandom(700_000)), member("b", os.urandom(700_000))))
    for share in (0.3, 0.9):
        refused(box, whole[: int(len(whole) * share)], "Is it whole")
    if packed:
        refused(box, whole[:-3], "Is it whole")
        refused(box, PACKERS[packed](MODEL)[:-1], "Is it whole")


def test_a_tar_cut_between_two_members(box):
    """Where nothing else tells the end: a compressed file has an end of its own."""
    cut = tar(member("a", b"x" * 512), member("b"))[:1024]
    refused(box, cut, "ends without the mark")
    assert extract(box, bz2.compress(cut)) == {"a": b"x" * 512}


def test_a_damaged_header_in_the_middle(box):
    data = bytearray(tar(member("a", b"x" * 512), member("b", b"y")))
    data[1024 + 5] ^= 0xFF
    refused(box, bytes(data), r"cannot be unpacked: tar: Skipping to next header\. Is it whole\?")


def test_a_zip_that_ends_in_the_middle(box):
    refused(
        box,
        zipped(("a", b"x" * 512, 0o644))[:-30],
        r"cannot be unpacked: File is not a zip file\. Is it whole\?",
    )


def test_data_after_the_end(box):
    refused(box, tar(member("a")) + b"rubbish" * 500, "Is it whole")
    refused(box, gzip.compress(MODEL) + b"rubbish", "Is it whole")


@pytest.mark.parametrize("packed", PACKED)
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


@pytest.mark.parametrize("size", [100, 0])
def test_a_zip_member_that_is_longer_than_it_says(box, size):
    data = bytearray(zipped(("a", MODEL, 0)))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", size)
    refused(box, bytes(data), "Is it whole")


@pytest.fixture
def sandboxes(monkeypatch):
    """The sandboxes in which tools are started."""
    seen, arguments = [], Sandbox.arguments
    monkeypatch.setattr(
        Sandbox, "arguments", lambda self, command: seen.append(self) or arguments(self, command)
    )
    return seen


def test_a_tool_can_write_the_target_alone_and_ends_with_the_run(box, sandboxes, monkeypatch):
    extract(box, gzip.compress(tar(member("a"))))
    assert [(one.unit, one.user, one.writable) for one in sandboxes] == [
        ("api-decompress.service", "any", ()),
        ("api-extract.service", "any", (str(box / "out"),)),
    ]
    ended = []
    monkeypatch.setattr(Sandbox, "end", lambda self: ended.append(self.task))
    subprocess.run(["rm", "-rf", box / "out"], check=True)
    refused(box, gzip.compress(tar(member("/a"))), "is absolute")
    assert ended == ["decompress", "extract"] * 2  # before and after


class TestWatch:
    """While a tool runs that would not end by itself."""

    @pytest.fixture(autouse=True)
    def _endless(self, monkeypatch):
        monkeypatch.setattr(
            extractor, "TAR", ["sh", "-c", "echo a; cat >/dev/null; exec sleep 1000", "sh"]
        )
        monkeypatch.setattr(extractor, "TICK_SECONDS", 0.01)

    def disk(self, monkeypatch, free, files):
        found = SimpleNamespace(
            f_blocks=10**9, f_bavail=free, f_frsize=1, f_files=10**7, f_favail=files
        )
        monkeypatch.setattr(extractor.os, "statvfs", lambda _path: found)

    def test_a_disk_that_fills_up(self, box, monkeypatch):
        self.disk(monkeypatch, 10**7, 10**6)
        refused(
            box,
            tar(member("a", MODEL)),
            "the disk at /.* of the host is full. Make room there and run again",
        )

    def test_inodes_that_run_out(self, box, monkeypatch):
        self.disk(monkeypatch, 10**9, 100)
        refused(
            box,
            tar(member("a", MODEL)),
            "the disk at /.* room for 100 more files.* of the host is out of inodes",
        )

    def test_no_progress(self, box, monkeypatch):
        monkeypatch.setattr(extractor, "STALL_SECONDS", 0.2)
        started, start = [], Sandbox.start
        monkeypatch.setattr(
            Sandbox,
            "start",
            lambda *words, **more: started.append(start(*words, **more)) or started[-1],
        )
        refused(box, tar(member("a", MODEL)), "there was no progress for 0.2 s")
        assert [process.wait(10) for process in started] == [-signal.SIGKILL]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        # The tool that writes to it then ends as well, and is not to blame.
        ("echo tar: a: Cannot open: File exists >&2; exit 2", "the member 'a' is in it twice"),
        ("cat >/dev/null; kill -9 $$", "sh ended with status .*Is it whole"),
    ],
)
def test_a_tool_that_ends_before_the_other(box, monkeypatch, script, reason):
    monkeypatch.setattr(extractor, "TAR", ["sh", "-c", script, "sh"])
    refused(box, gzip.compress(tar(member("a", os.urandom(2_000_000)))), reason)


def test_a_disk_that_is_full(box, monkeypatch):
    """For tar, and for the process that writes a single file."""
    said = "tar: a: Cannot write: No space left on device"
    monkeypatch.setattr(extractor, "TAR", ["sh", "-c", f"echo {said} >&2; exit 2", "sh"])
    refused(box, tar(member("a", MODEL)), "the disk at /.* of the host is full. Make room there")
    extraction = extractor.Extraction(put(box, MODEL), box / "out", LIMITS, "api", "any")
    with open("/dev/full", "wb") as full:
        extraction.carry(b"so little that it is written last", io.BytesIO(), full)
    with pytest.raises(DeployError, match=r"the disk at /.* of the host is full\. Make room there"):
        extraction.raise_failure()


def test_progress_is_told(box, monkeypatch):
    monkeypatch.setattr(extractor, "TICK_SECONDS", 0.001)
    told = []
    extract(box, PACKERS["zst"](os.urandom(9_000_000)), progress=told.append)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == 9_000_000
