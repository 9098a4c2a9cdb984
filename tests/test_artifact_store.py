"""The store of model data: keys, stamps, room; and what is brought into it."""

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.artifacts import acquire
from ansible.module_utils.api_endpoint.artifacts import store as api_endpoint_data
from ansible.module_utils.api_endpoint.artifacts.acquire import Fetch, Progress, derived_key
from ansible.module_utils.api_endpoint.artifacts.store import Artifact, Store, key_of, mib
from ansible.module_utils.api_endpoint.digests import tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


MODEL = b"a model" * 1000


@pytest.fixture
def store(tmp_path):
    (tmp_path / "data").mkdir()
    return Store(tmp_path / "data", "any")


@pytest.fixture
def fetch(store, tmp_path, monkeypatch, without_systemd):
    """Fetch, with commands that run without systemd."""

    def run_command(command, sandbox):
        ran.append(sandbox)
        done = subprocess.run(
            ["sh", "-c", command], cwd=sandbox.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise DeployError(
                f"the command {command!r} ended with status {done.returncode}. {done.stderr}"
            )

    ran = []
    monkeypatch.setattr(acquire, "run_command", run_command)
    fetch = Fetch(store, "api", str(tmp_path / "root"), "any", 5, {})
    fetch.ran = ran
    return fetch


def run(fetch, *artifacts, verify=False):
    return fetch.run(list(artifacts), "/usr", verify, lambda _text: None)


def on_host(tmp_path, content=MODEL, name="model", **more):
    path = tmp_path / name
    path.write_bytes(content)
    digest = sha(content)
    mode, unpack = more.get("mode", ""), more.get("unpack", False)
    return Artifact(
        dest=more.pop("dest", name),
        key=key_of(digest, unpack, mode),
        sha256=digest,
        path=str(path),
        **more,
    )


def test_keys():
    assert key_of("", False, "") == ""
    assert key_of("a" * 64, False, "") == "a" * 64
    made = {key_of("a" * 64, True, ""), key_of("a" * 64, False, "0750"), key_of("b" * 64, True, "")}
    assert len(made) == 3
    assert all(len(key) == 64 for key in made)


def test_what_is_brought_is_verified_once_and_then_told_by_size_and_time(
    store, fetch, tmp_path, monkeypatch
):
    artifact = on_host(tmp_path)
    assert run(fetch, artifact) == {"keys": {"model": artifact.key}, "fetched": ["model"]}
    assert store.place(artifact.key).read_bytes() == MODEL
    assert store.has(artifact.key)
    monkeypatch.setattr(acquire, "copy", lambda *_: pytest.fail("it was read again"))
    monkeypatch.setattr(acquire, "digest_of", lambda *_: pytest.fail("it was read again"))
    assert run(fetch, artifact)["fetched"] == []


@pytest.mark.parametrize("damage", ["content", "length", "gone"])
def test_what_was_touched_is_brought_again(store, fetch, tmp_path, damage):
    artifact = on_host(tmp_path)
    run(fetch, artifact)
    place = store.place(artifact.key)
    if damage == "gone":
        place.unlink()
    else:
        before = place.stat()
        place.write_bytes(b"B model" * 1000 if damage == "content" else b"")
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not store.has(artifact.key)
    assert run(fetch, artifact)["fetched"] == ["model"]
    assert place.read_bytes() == MODEL
    assert sorted(os.listdir(store.folder)) == [artifact.key]


def test_a_flipped_byte_with_size_and_time_unchanged_is_found_when_asked_for(
    store, fetch, tmp_path
):
    artifact = on_host(tmp_path)
    run(fetch, artifact)
    place = store.place(artifact.key)
    before = place.stat()
    place.write_bytes(b"B model" * 1000)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(fetch, artifact)["fetched"] == []
    assert run(fetch, artifact, verify=True)["fetched"] == ["model"]
    assert place.read_bytes() == MODEL
    assert run(fetch, artifact, verify=True)["fetched"] == []


def test_a_damaged_file_of_the_laptop_is_sent_again_by_the_next_run(store, fetch):
    artifact = Artifact(dest="model", key=sha(MODEL), sha256=sha(MODEL), src="model.bin")
    (store.folder / artifact.part).write_bytes(MODEL)
    run(fetch, artifact)
    place = store.place(artifact.key)
    before = place.stat()
    place.write_bytes(b"B model" * 1000)
    os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(
        DeployError, match=r"was damaged and was removed.*Run again: it is sent again"
    ):
        run(fetch, artifact, verify=True)
    assert not store.has(artifact.key)


def test_the_wrong_file_never_gets_a_place(store, fetch, tmp_path):
    artifact = on_host(tmp_path)
    (tmp_path / "model").write_bytes(b"something else")
    with pytest.raises(DeployError) as told:
        run(fetch, artifact)
    for words in (
        "The artifact 'model' could not be brought",
        artifact.sha256,
        sha(b"something else"),
        str(tmp_path / "model"),
    ):
        assert words in str(told.value)
    assert os.listdir(store.folder) == []


def test_an_upload_is_verified_before_it_counts(store, fetch):
    artifact = Artifact(dest="model", key=sha(MODEL), sha256=sha(MODEL), src="model.bin")
    (store.folder / artifact.part).write_bytes(MODEL[:-1] + b"x")
    with pytest.raises(DeployError, match="not the expected file"):
        run(fetch, artifact)
    assert os.listdir(store.folder) == []
    (store.folder / artifact.part).write_bytes(MODEL)
    assert run(fetch, artifact)["fetched"] == ["model"]


def test_a_folder(store, fetch):
    part = store.folder / (".part-" + "x" * 8)
    part.mkdir()
    (part / "weights").write_bytes(MODEL)
    digest = tree_digest(part)
    part.rename(store.folder / f".part-{digest}")
    artifact = Artifact(dest="model", key=digest, sha256=digest, src="model", is_folder=True)
    run(fetch, artifact)
    assert (store.place(digest) / "weights").read_bytes() == MODEL
    assert store.stamp(digest)["files"] == 1
    assert store.has(digest)
    (store.place(digest) / "weights").write_bytes(b"")
    assert not store.has(digest)


def test_an_archive_is_unpacked_and_not_kept(store, fetch, tmp_path):
    (tmp_path / "a").write_bytes(MODEL)
    with tarfile.open(tmp_path / "packed", "w:gz") as tar:
        tar.add(tmp_path / "a", arcname="sub/a")
    artifact = on_host(
        tmp_path, (tmp_path / "packed").read_bytes(), "packed", unpack=True, dest="tree"
    )
    run(fetch, artifact)
    assert (store.place(artifact.key) / "sub" / "a").read_bytes() == MODEL
    assert os.listdir(store.folder) == [artifact.key]
    assert run(fetch, artifact, verify=True)["fetched"] == []


def test_a_hostile_archive_leaves_nothing(store, fetch, tmp_path):
    with tarfile.open(tmp_path / "packed", "w") as tar:
        tar.add(__file__, arcname="../../escaped")
    artifact = on_host(
        tmp_path, (tmp_path / "packed").read_bytes(), "packed", unpack=True, dest="tree"
    )
    with pytest.raises(DeployError, match="'tree' could not be brought"):
        run(fetch, artifact)
    assert not (tmp_path / "escaped").exists()
    assert [name for name in os.listdir(store.folder) if not name.startswith(".part-")] == []


def test_a_command_runs_once_for_its_inputs(store, fetch, tmp_path):
    titles = on_host(tmp_path, b"b\na\n", "titles.tsv")
    made = Artifact(
        dest="out/sorted", key="", command="sort titles.tsv > out/sorted", inputs=["titles.tsv"]
    )
    keys = run(fetch, titles, made)["keys"]
    assert store.place(keys["out/sorted"]).read_text() == "a\nb\n"
    assert run(fetch, titles, made) == {"keys": keys, "fetched": []}
    assert len(fetch.ran) == 1
    other = run(fetch, on_host(tmp_path, b"d\nc\n", "titles.tsv"), made)
    assert other["fetched"] == ["titles.tsv", "out/sorted"]
    assert store.place(other["keys"]["out/sorted"]).read_text() == "c\nd\n"
    longer = Artifact(
        dest="out/sorted", key="", command="sort -r titles.tsv > out/sorted", inputs=["titles.tsv"]
    )
    assert run(fetch, on_host(tmp_path, b"d\nc\n", "titles.tsv"), longer)["fetched"] == [
        "out/sorted"
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("exit 3", "ended with status 3"),
        ("true", "made no 'made'"),
        ("ln -s /etc/passwd made", "made no 'made'"),
        ("rmdir out 2>/dev/null; ln -s /etc out", "made no 'made'"),
        # A pipe would hold whoever reads it up for ever; a socket is refused for the same reason, and at once.
        (
            """python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("made")'""",
            "which is no file and no folder",
        ),
    ],
)
def test_a_command_that_does_not_make_it(store, fetch, command, words):
    with pytest.raises(DeployError, match=words):
        run(fetch, Artifact(dest="made", key="", command=command))
    assert os.listdir(store.folder) == []


def test_a_command_cannot_have_root_take_a_file_from_elsewhere(store, fetch, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_text("secret")
    command = f"rm -r out; ln -s {tmp_path}/elsewhere out"
    with pytest.raises(DeployError, match="made no"):
        run(fetch, Artifact(dest="out/secret", key="", command=command))
    assert (tmp_path / "elsewhere" / "secret").exists()


def test_a_derived_key_is_known_only_when_its_inputs_are():
    artifact = Artifact(dest="x", key="", command="c", inputs=["a"])
    assert derived_key(artifact, {}) == ""
    assert len(derived_key(artifact, {"a": "1"})) == 64
    assert derived_key(artifact, {"a": "1"}) != derived_key(artifact, {"a": "2"})


def test_permissions(store, fetch, tmp_path):
    plain, program = on_host(tmp_path), on_host(tmp_path, mode="0750", dest="program")
    keys = run(fetch, plain, program)["keys"]
    assert store.place(keys["model"]).stat().st_mode & 0o777 == 0o640
    assert store.place(keys["program"]).stat().st_mode & 0o777 == 0o750


def test_a_folder_belongs_to_one_endpoint(store):
    store.claim("one", may_write=False)
    assert os.listdir(store.folder) == []
    store.claim("one", may_write=True)
    store.claim("one", may_write=True)
    with pytest.raises(
        DeployError,
        match=r"holds the data of the endpoint 'one'. Give each endpoint a folder of its own",
    ):
        store.claim("two", may_write=True)


def disk(monkeypatch, free, files=10**6):
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_files=10**7, f_favail=files)
    monkeypatch.setattr(api_endpoint_data.os, "statvfs", lambda _path: found)


def test_room_is_looked_for_before_a_byte_moves(store, fetch, tmp_path, monkeypatch):
    disk(monkeypatch, api_endpoint_data.MARGIN_BYTES + 6999)
    with pytest.raises(
        DeployError,
        match=r"has 67.1 MB free, and 7.0 kB are needed.*\(model: 7.0 kB\).*Nothing was fetched",
    ):
        run(fetch, on_host(tmp_path))
    assert os.listdir(store.folder) == []
    disk(monkeypatch, api_endpoint_data.MARGIN_BYTES + 7000)
    run(fetch, on_host(tmp_path))


def test_what_is_there_already_needs_no_room(store, fetch, tmp_path, monkeypatch):
    artifact = on_host(tmp_path)
    run(fetch, artifact)
    disk(monkeypatch, 0)
    run(fetch, artifact)


def test_room_for_files(store, monkeypatch):
    disk(monkeypatch, 10**12, files=1500)
    store.check_room([("x", 1)], files=400)
    with pytest.raises(DeployError, match="room for 1,500 more files, and 1,600 are needed"):
        store.check_room([("x", 1)], files=600)


def test_progress_has_percent_rate_and_time_left(monkeypatch):
    said = []
    clock = iter([0.0, 0.0, 10.0, 20.0])
    monkeypatch.setattr(acquire.time, "monotonic", lambda: next(clock))
    progress = Progress(said.append, "downloading model.bin")
    progress(100_000_000, 1_100_000_000)
    progress(600_000_000, 1_100_000_000)
    progress(600_000_000, None)
    assert said[1] == "downloading model.bin: 55% of 1.1 GB, 50.0 MB/s, 0:00:10 left"
    assert said[2].startswith("downloading model.bin: 600.0 MB, 25.0 MB/s")


def test_sizes():
    assert [mib(count) for count in (0, 999, 1000, 2_500_000, 20_000_000_000)] == [
        "0 bytes", "999 bytes", "1.0 kB", "2.5 MB", "20.0 GB",
    ]  # fmt: skip


def test_a_disk_that_is_full_is_named_with_the_artifact(fetch, tmp_path, monkeypatch):
    artifact = on_host(tmp_path)
    monkeypatch.setattr(
        acquire, "copy", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(
        DeployError,
        match=r"The artifact 'model' could not be brought: No space was left on the disk at /",
    ):
        run(fetch, artifact)


@pytest.mark.parametrize("packed", ["tar", "single"])
def test_what_is_unpacked_and_only_stands_for_a_file(store, fetch, tmp_path, packed):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 1\n"
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        info = tarfile.TarInfo("a/model.bin")
        info.size = len(pointer)
        archive.addfile(info, io.BytesIO(pointer))
    content = gzip.compress(made.getvalue() if packed == "tar" else pointer)
    with pytest.raises(
        DeployError, match=r"a pointer of git-lfs, .*Run `git lfs pull` where it is packed"
    ):
        run(fetch, on_host(tmp_path, content, "packed.gz", unpack=True))
    assert list(store.folder.glob("[0-9a-f]*")) == []


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({}, "has no file in it"),
        (
            {"a/model.bin": b"<!doctype html><title>Log in</title>"},
            "model.bin is a web page, not a file. It begins 'Log in'",
        ),
        ({"a/model.pkl.dvc": b"outs:\n- md5: 7\n"}, "stands for data of DVC that is not there"),
    ],
)
def test_an_archive_without_the_data_itself(store, fetch, tmp_path, members, words):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(DeployError, match=words):
        run(fetch, on_host(tmp_path, made.getvalue(), "packed.zip", unpack=True))
    assert list(store.folder.glob("[0-9a-f]*")) == []


def test_a_link_on_the_host_that_points_to_another_file_of_the_same_size_is_new(store, tmp_path):
    for name in ("first", "other"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, (1, 1))
    (tmp_path / "latest").symlink_to("first")
    before = acquire.digest_of_path(store, tmp_path / "latest")
    assert acquire.digest_of_path(store, tmp_path / "latest") == before
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("other")
    assert acquire.digest_of_path(store, tmp_path / "latest") == sha(b"other")
