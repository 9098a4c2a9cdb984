"""A placeholder in a file's place is recognised, and named with the command that fetches the file."""

import contextlib
import gzip
import json
import os
import socket

import pytest
from ansible.module_utils.api_endpoint.artifacts.acquire import check_path
from ansible.module_utils.api_endpoint.artifacts.store import Artifact
from ansible.module_utils.api_endpoint.digests import walk
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.placeholders import (
    check_data,
    check_file,
    check_folder,
    check_size,
    page,
    pointer,
)
from ansible.module_utils.api_endpoint.release.source import check_content

LFS = (
    f"version https://git-lfs.github.com/spec/v1\noid sha256:{'7' * 64}\nsize 104857600\n".encode()
)
POINTERS = [
    ("model.bin", LFS, "git-lfs", "git lfs pull"),
    ("titles.tsv.gz", LFS, "git-lfs", "git lfs pull"),
    (
        "old.bin",
        b"version https://hawser.github.com/spec/v1\noid sha256:7\nsize 1\n",
        "git-lfs",
        "git lfs pull",
    ),
    ("annex.bin", b"/annex/objects/SHA256E-s4--77.bin\n", "git-annex", "git annex get"),
    (
        "annex2.bin",
        b"../.git/annex/objects/Xx/0K/SHA256E-s4--7.bin/SHA256E-s4--7.bin",
        "git-annex",
        "git annex get",
    ),
    (
        "windows.bin",
        b"..\\.git\\annex\\objects\\Xx\\0K\\SHA256E-s4--7.bin",
        "git-annex",
        "git annex get",
    ),
    ("model.safetensors", b"../../blobs/bbbb", "became a file", "cp --dereference"),
    (
        "model.pkl",
        b"outs:\n- md5: 0123456789abcdef0123456789abcdef\n  size: 10\n  path: model.pkl\n",
        "DVC",
        "dvc pull",
    ),
    (".model.bin.icloud", b"bplist00", "iCloud", "brctl download"),
]
FILES = [
    ("model.bin", b"\0\1\2"),
    ("empty.py", b""),
    ("notes.txt", b"a note on version https://git-lfs.github.com/spec/v1"),
    ("pointers.txt", LFS + b"x" * 40_000),
    ("paths.txt", b"../a\n../b\n"),
    ("x.icloud", b"x"),
]


@pytest.mark.parametrize(("name", "content", "what", "command"), POINTERS)
def test_a_pointer_is_named_wherever_it_comes_from(tmp_path, name, content, what, command):
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "wsgi.py").write_text("")
    (folder / name).write_bytes(content)
    remedy = "Run `{command}`."
    places = [
        lambda: check_file(folder / name, "model", remedy),
        lambda: check_folder(folder, remedy),
        lambda: check_content(folder, "", [], remedy, ""),
        lambda: check_path(Artifact(dest="model", key="", path=str(folder / name))),
    ]
    for place in places:
        with pytest.raises(
            DeployError, match=rf"{name}: .*{what}.*, not the file itself\. Run `{command}`"
        ):
            place()
    # An app need not have everything that its repository has.
    assert check_content(folder, "", [name], remedy, "") == []


@pytest.mark.parametrize(("name", "content"), FILES)
def test_a_file_is_a_file(name, content):
    assert pointer(name, content) == ("", "")


PAGES = [
    (
        b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head></html>",
        "Google Drive - Virus",
    ),
    (b"\xef\xbb\xbf\n <HTML lang=en><body><h1>Sign in</h1>", "Sign in"),
    (
        b"<?xml version='1.0'?><!-- a --><!DOCTYPE HTML PUBLIC '-//W3C'><html><body>Consent",
        "Consent",
    ),
    (b"<meta http-equiv=refresh content='0; url=/login'><p>One moment", "One moment"),
    (b"<script>location='/login'</script>", "<script>location"),
    (
        b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        "AccessDenied",
    ),
    (
        b"<Error xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Code>NoSuchKey</Code></Error>",
        "NoSuchKey",
    ),
    (b"<h1>404 Not Found</h1>", "404 Not Found"),
    (b"<title>Moved</title>\n<h1>Moved</h1>", "Moved"),
    (
        b"<!-- saved from url=(0014)about:internet -->\n<!doctype html>\n<body>Sign in",
        "It begins 'Sign in'",
    ),
    ("<!DOCTYPE html><body>Log in".encode("utf-16"), "Log in"),
    (gzip.compress(b"\n<html><body>Maintenance", mtime=0), "Maintenance"),
    (b"404: Not Found", "404: Not Found"),
    (b"Access Denied.\n", "Access Denied"),
    (b"Invalid username or password.", "Invalid username"),
    (b'{"message": "Not found", "code": 404}', "Not found"),
    (b'\xef\xbb\xbf{"msg": "quota", "status_code": 429}', "quota"),
    (b' {"error": {"reason": "quota"}}', "quota"),
    (b'{"errors": ["x"], "status": 500, "requestId": "7"}', "errors"),
]


@pytest.mark.parametrize(("content", "words"), PAGES)
def test_a_page_in_the_place_of_a_file_is_refused_with_its_first_line(tmp_path, content, words):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(DeployError, match=f"is a (web page|server's error), not a file.*{words}"):
        check_file(tmp_path / "model.bin", "model.bin", "")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.html", PAGES[0][0]),
        ("templates/answer.j2", PAGES[1][0]),
        ("README.md", b"<html>"),
        ("pages.html.gz", gzip.compress(PAGES[0][0], mtime=0)),
        ("model.bin.gz", gzip.compress(b"\0<html>", mtime=0)),
        ("model.bin", b"\x1f\x8bno gzip"),
        ("titles.xml", b"<title>a</title>\n<title>b</title>"),
        ("labels.txt", b"Not found\nForbidden\n"),
        ("corpus.xml", b"<?xml version='1.0'?><corpus><doc>error</doc></corpus>"),
        ("corpus.txt", b"<doc><html></doc>"),
        ("config.json", b'{"error": 0.1, "layers": 3}'),
        ("config.json", b'{"title": "x", "type": "y"}'),
        ("list.json", b'[{"error": 1}]'),
        ("broken.json", b'{"error'),
        ("set.json", b"{}"),
        ("model.bin", b"\0<html>"),
    ],
)
def test_what_is_no_page_or_one_on_purpose(name, content):
    assert page(name, content) == ""


def hugging_face(tmp_path, content="first"):
    snapshot = tmp_path / "hub" / "snapshots" / "0a1b"
    snapshot.mkdir(parents=True)
    (tmp_path / "hub" / "blobs").mkdir()
    (tmp_path / "hub" / "blobs" / "aaaa").write_text(json.dumps(content))
    (snapshot / "config.json").symlink_to("../../blobs/aaaa")
    return snapshot


def test_links_of_a_folder_are_followed_when_one_leads_out_of_it(tmp_path):
    assert check_folder(hugging_face(tmp_path), "")
    assert not check_folder(tmp_path / "hub", "")


def special(kind):
    def make(folder):
        if kind == "socket":
            with socket.socket(socket.AF_UNIX) as one:
                one.bind(os.path.relpath(folder / "x"))
        else:
            os.mkfifo(folder / "x")

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda folder: (folder / "x").symlink_to("nowhere"),
            r"The link \S+/x points to nowhere, which is not there",
        ),
        (
            lambda folder: (folder / "x").symlink_to("x"),
            r"The link \S+/x points to x, which is not there",
        ),
        (
            lambda folder: (folder / "x").symlink_to("../data"),
            r"The link \S+/x leads back to a folder that it lies in",
        ),
        (
            lambda folder: (folder / "x").symlink_to(folder.parent),
            r"The link \S+/x leads back",
        ),
        (
            lambda folder: (folder / "x").symlink_to(".git/annex/objects/7"),
            r"x: a link of git-annex, .*git annex get",
        ),
        (
            lambda folder: (folder / "x.dvc").write_text("outs:"),
            r"x.dvc stands for data of DVC .* `dvc pull` fetches it",
        ),
        (special("fifo"), r"x is neither a file nor a folder nor a link"),
        (special("socket"), r"x is neither a file nor a folder nor a link"),
        (lambda folder: (folder / "model").unlink(), r"data has no file in it"),
    ],
)
def test_what_a_folder_of_data_cannot_have(tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "model").write_text("x")
    make(folder)
    with pytest.raises(DeployError, match=words):
        check_folder(folder, "Run `{command}`.")


def test_many_pointers_are_counted(tmp_path):
    for number in range(8):
        (tmp_path / f"{number}.bin").write_bytes(LFS)
    with pytest.raises(
        DeployError, match=r"^0.bin, 1.bin, 2.bin, 3.bin, 4.bin and 3 more: a pointer of git-lfs"
    ):
        check_folder(tmp_path, "")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda path: path.symlink_to("nowhere"),
            "which is a link to 'nowhere', and nothing is there",
        ),
        (lambda path: path.mkdir(), r"that is a folder. Pack it \(tar\)"),
        (os.mkfifo, "that is no file"),
        (
            lambda path: path.write_bytes(b""),
            "is empty. If that is right, give its sha256, or size: 0",
        ),
        (lambda path: path.write_bytes(PAGES[0][0]), "is a web page"),
        (lambda path: None, "and is not. Copy it there"),
    ],
)
def test_what_lies_on_the_host_and_is_no_file(tmp_path, make, words):
    make(tmp_path / "model")
    with pytest.raises(DeployError, match=words):
        check_path(Artifact(dest="m", key="", path=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("content", "size", "sha256", "words"),
    [
        (b"four", 3, "", "has 4 bytes, size says 3. Correct the one or the other"),
        (b"", 3, "", "has 0 bytes, size says 3"),
        (b"", None, "", "is empty. If that is right, give its sha256, or size: 0"),
        (b"", 0, "", ""),
        (b"", None, "e3b0", ""),
        (b"four", 4, "", ""),
    ],
)
def test_the_size_of_a_file_on_the_laptop_or_the_host(tmp_path, content, size, sha256, words):
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(DeployError, match=words) if words else contextlib.nullcontext():
        check_size(tmp_path / "model", size, sha256, may_be_empty=False)
    with pytest.raises(DeployError, match=words) if words else contextlib.nullcontext():
        check_path(
            Artifact(dest="m", key="", path=str(tmp_path / "model"), size=size, sha256=sha256)
        )


def test_a_page_among_the_files_of_a_folder_is_named_where_a_model_belongs(tmp_path):
    (tmp_path / "about.txt").write_bytes(PAGES[0][0])  # text may be a page
    (tmp_path / "config.json").write_bytes(b"{}")
    check_data(tmp_path, list(walk(tmp_path)), "")
    (tmp_path / "pytorch_model.bin").write_bytes(PAGES[0][0])
    with pytest.raises(
        DeployError, match=r"pytorch_model.bin is a web page, not a file. It begins 'Google Drive"
    ):
        check_data(tmp_path, list(walk(tmp_path)), "")


def test_a_link_on_the_host_is_followed(tmp_path):
    (tmp_path / "model").write_text("x")
    (tmp_path / "latest").symlink_to("model")
    check_path(Artifact(dest="m", key="", path=str(tmp_path / "latest")))


class TestSubmodulesAndDvcInAFolder:
    """As a clone without `--recursive`, and without `dvc pull`, has them."""

    @pytest.fixture
    def app(self, tmp_path):
        """An app in the folder `model` of a repository."""
        (tmp_path / ".git").mkdir()
        (tmp_path / ".gitmodules").write_text(
            '[submodule "w"]\n\tpath = model/words\n\turl = ../w\n'
        )
        (tmp_path / "model" / "words").mkdir(parents=True)
        (tmp_path / "model" / "wsgi.py").write_text("")
        return tmp_path / "model"

    @pytest.mark.parametrize("kind", ["empty", "missing"])
    @pytest.mark.parametrize("place", [("", ""), ("..", "model")])
    def test_an_empty_submodule_is_named(self, app, kind, place):
        if kind == "missing":
            (app / "words").rmdir()
        with pytest.raises(
            DeployError, match=r"The submodule model/words is empty\. Update it\. Or leave out"
        ):
            check_content(app / place[0], place[1], [], "", "Update it.")
        assert check_content(app / place[0], place[1], ["/words"], "", "") == []

    def test_one_with_content_and_one_elsewhere_are_right(self, app):
        (app / "words" / "__init__.py").write_text("")
        assert check_content(app, "", [], "", "") == []
        (app / "words" / "__init__.py").unlink()
        (app.parent / ".gitmodules").write_text('[submodule "w"]\n\tpath = docs/words\n')
        assert check_content(app, "", [], "", "") == []

    def test_data_of_dvc_that_is_not_there_is_said(self, app):
        (app / "words" / "x").write_text("")
        (app / "model.bin.dvc").write_text("outs:")
        assert (
            "model.bin.dvc stands for data of DVC that is not in the code"
            in check_content(app, "", [], "", "")[0]
        )
        assert (
            check_content(app, "", ["/model.bin"], "", "") == []
        )  # an artifact, whose dest is left out
        (app / "model.bin").write_text("x")
        assert check_content(app, "", [], "", "") == []
