"""What is missing is told before it is brought, and what lies on the laptop is read once."""

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from ansible.module_utils.api_endpoint.artifacts import bring as artifacts
from ansible.module_utils.api_endpoint.artifacts.store import Store
from ansible.module_utils.api_endpoint.controller import pieces
from ansible.module_utils.api_endpoint.controller.pieces import Pieces, Remote
from ansible.module_utils.api_endpoint.controller.rsync import NoWayError, remote_shell, send
from ansible.module_utils.api_endpoint.digests import file_digest, tree_digest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.placeholders import check_folder
from helpers import ROLE, Stub, make_virtualenv

DEFAULTS = {
    "src": None, "url": None, "path": None, "command": None, "inputs": [], "sha256": None, "size": None, "headers": {},
    "unpack": False, "mode": None, "allow_unverified": False, "writable": False, "is_folder": False,
    "secret_urls": [],
}  # fmt: skip
A, B = "a" * 64, "b" * 64


@pytest.fixture
def store(tmp_path):
    (tmp_path / "data").mkdir()
    return Store(tmp_path / "data", "any")


def put(store, key, content="x", **stamp):
    part = store.folder / "part"
    part.write_text(content)
    store.add(key, part, **{"unverified": False, "source": "here", "content": key, **stamp})


def plan(store, *given, check_mode=False):
    found = artifacts.read([{**DEFAULTS, **entry} for entry in given], store)
    return artifacts.plan(Stub(check_mode), store, found)


def test_nothing_is_missing(store):
    put(store, A)
    result = plan(
        store, {"dest": "./m", "url": "https://a.example/m", "sha256": A.upper(), "writable": True}
    )
    expected = [{"dest": "m", "digest": A, "writable": True}]
    assert result == {"changed": False, "missing": [], "uploads": {}, "artifacts": expected}


def test_what_the_laptop_has_to_send_is_told(store):
    put(store, B)
    result = plan(
        store,
        {"dest": "m", "src": "m", "sha256": A, "size": 3},
        {"dest": "n", "src": "n", "sha256": B},
    )
    assert result["changed"]
    assert result["missing"] == ["m"]
    assert result["uploads"] == {"m": f".part-{A}"}
    assert "artifacts" not in result


def test_a_dry_run_knows_the_release_that_there_would_be(store):
    result = plan(
        store, {"dest": "m", "url": "https://a.example/m", "sha256": A, "size": 5}, check_mode=True
    )
    assert result["artifacts"] == [{"dest": "m", "digest": A, "writable": False}]
    assert "m from https://a.example/m (5 bytes)" in result["diff"]["after"]


def test_an_unverified_download_is_known_by_its_url(store):
    put(store, A, unverified=True, source="https://a.example/m")
    given = {"dest": "m", "url": "https://a.example/m", "allow_unverified": True}
    assert plan(store, given)["missing"] == []
    assert plan(store, {**given, "url": "https://a.example/other"})["missing"] == ["m"]


def test_what_should_be_on_the_host_and_is_not(store):
    with pytest.raises(
        DeployError, match=r"'m' should be at /nowhere/m on the host, and is not. Copy it there"
    ):
        plan(store, {"dest": "m", "path": "/nowhere/m"})


def test_a_file_on_the_host_is_hashed_once_for_each_size_and_time(store, tmp_path, monkeypatch):
    (tmp_path / "m").write_text("model")
    first = plan(store, {"dest": "m", "path": str(tmp_path / "m")}, check_mode=True)
    assert first["artifacts"][0]["digest"] == file_digest(tmp_path / "m")
    module = sys.modules["ansible.module_utils.api_endpoint.artifacts.acquire"]
    monkeypatch.setattr(module, "file_digest", lambda _path: pytest.fail("it was read again"))
    assert plan(store, {"dest": "m", "path": str(tmp_path / "m")}, check_mode=True) == first
    put(store, first["artifacts"][0]["digest"])
    (tmp_path / "m").unlink()
    assert plan(store, {"dest": "m", "path": str(tmp_path / "m")})["missing"] == []


def test_what_does_not_fit_is_refused_before_it_is_sent(store):
    with pytest.raises(DeployError, match="Nothing was fetched"):
        plan(store, {"dest": "m", "src": "m", "sha256": A, "size": 10**18})


def test_derived_data_has_a_key_as_soon_as_its_inputs_have(store):
    put(store, A)
    derived = {"dest": "n", "command": "sort m > n", "inputs": ["m"]}
    result = plan(
        store, {"dest": "m", "url": "https://a.example/m", "sha256": A}, derived, check_mode=True
    )
    assert result["missing"] == ["n"]
    assert len(result["artifacts"][1]["digest"]) == 64


def test_nothing_is_brought_for_a_live_release_that_has_lost_its_python(tmp_path):
    lost = make_virtualenv(tmp_path / "lost", "/nowhere/python3.11", "3.11")
    (tmp_path / "p3env").symlink_to(lost)
    with pytest.raises(DeployError, match=r"^Run site\.yml without tags"):
        artifacts.refuse_lost_python(tmp_path / "p3env")
    artifacts.refuse_lost_python(
        lost
    )  # a whole run names the one that it has made, or in a dry run would make
    artifacts.refuse_lost_python(tmp_path / "never-deployed/p3env")


@pytest.fixture
def action():
    spec = importlib.util.spec_from_file_location(
        "action", ROLE / "action_plugins" / "api_endpoint_artifacts.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_of_the_laptop_is_read_once(action, tmp_path, monkeypatch):
    (tmp_path / "m").write_text("model")
    os.utime(tmp_path / "m", (1, 1))
    digest = action.Digests(tmp_path / "cache" / "digests.json").of(tmp_path / "m")
    assert digest == file_digest(tmp_path / "m")
    monkeypatch.setattr(action, "file_digest", lambda _path: "read again")
    again = action.Digests(tmp_path / "cache" / "digests.json")
    assert again.of(tmp_path / "m") == digest
    os.utime(tmp_path / "m", (2, 2))
    assert again.of(tmp_path / "m") == "read again"


def test_a_file_that_was_written_a_moment_ago_is_not_remembered(action, tmp_path, monkeypatch):
    (tmp_path / "m").write_text("model")
    digests = action.Digests(tmp_path / "cache")
    digests.of(tmp_path / "m")
    assert digests.known == {}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:hunter22@example.org/m", ["https://example.org/m"]),
        ("https://example.org/m?token=hunter22", ["https://example.org/m"]),
        (["https://a.org/m", "https://hunter22@b.org/m"], ["https://a.org/m", "https://b.org/m"]),
        ("https://example.org/m", "https://example.org/m"),
    ],
)
def test_a_url_with_a_password_is_an_argument_that_is_not_logged(action, store, url, shown):
    plugin = action.ActionModule.__new__(action.ActionModule)
    [artifact], _local = plugin._hash([{"dest": "m", "url": url, "sha256": A}], {})
    assert artifact["url"] == shown
    urls = url if isinstance(url, list) else [url]
    assert artifact.get("secret_urls", urls) == urls
    [found] = artifacts.read([{**DEFAULTS, **artifact}], store)
    assert found.urls == urls


class Connection:
    """Stands for a connection plugin."""

    def __init__(self, transport, become=None, **options) -> None:
        self.transport = transport
        self.become = become
        self.options = options

    def get_option(self, name):
        return self.options[name]


class Become:
    """Stands for a plugin that becomes root."""

    def __init__(self, name, password=None) -> None:
        self.name = name
        self.password = password

    def get_option(self, name):
        assert name == "become_pass"
        return self.password


def test_rsync_takes_the_way_that_ansible_takes():
    ssh = Connection(
        "ssh", Become("sudo"), ssh_executable="ssh", ssh_args="-o ControlMaster=auto",
        ssh_common_args="-o ProxyJump=me@bastion", ssh_extra_args="",
        port=2222, private_key_file="/k", remote_user="me", host="host", password=None,
    )  # fmt: skip
    shell, host, remote = remote_shell(ssh, become=True)
    assert shell == [
        "ssh", "-o", "ControlMaster=auto", "-o", "ProxyJump=me@bastion", "-p", "2222", "-i", "/k", "-o",
        "IdentitiesOnly=yes", "-l", "me",
    ]  # fmt: skip
    assert (host, remote) == ("host", "sudo -n rsync")
    docker = Connection("community.docker.docker", remote_addr="box", remote_user="root")
    shell, host, remote = remote_shell(docker, become=True)
    assert (shell[-1], host, remote) == ("sh", "box", "rsync")
    assert 'exec docker exec -i "$host" sh -c "$*"' in shell[2]
    root = Connection(
        "ssh", Become("sudo", "secret"), remote_user="root", host="host", host_key_checking=False
    )
    shell, host, remote = remote_shell(root, become=True)
    assert (shell, host, remote) == (
        ["ssh", "-l", "root", "-o", "StrictHostKeyChecking=no"],
        "host",
        "rsync",
    )


@pytest.mark.parametrize(
    "connection",
    [
        Connection("ssh", password="secret"),
        Connection("ssh", private_key="-----BEGIN"),
        Connection("ssh", private_key_passphrase="secret"),
        Connection("ssh", Become("sudo", "secret")),
        Connection("ssh", Become("ansible.builtin.su", "secret")),
        Connection("ssh", Become("su")),
        Connection("ssh", Become("community.general.doas")),
        Connection("paramiko_ssh"),
        Connection("community.docker.nsenter"),
    ],
)
def test_rsync_has_no_way_where_a_password_or_another_program_is_needed(connection):
    with pytest.raises(NoWayError):
        remote_shell(connection, become=True)


def test_rsync_does_not_become_root_on_this_computer(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoWayError):
        remote_shell(Connection("local", Become("sudo")), become=True)
    assert remote_shell(Connection("local"), become=False)[2] == "rsync"


class Here:
    """Stands for a host: this machine. `breaks_at` is the number of the piece that does not arrive."""

    def __init__(self, folder, breaks_at=0) -> None:
        self.folder, self.breaks_at = folder, breaks_at
        self.pieces: list[int] = []

    def put(self, path):
        self.pieces.append(path.stat().st_size)
        if len(self.pieces) == self.breaks_at:
            raise DeployError("cut off")
        shutil.copy(path, self.folder / "piece")
        return str(self.folder / "piece")

    def run(self, command):
        return subprocess.run(
            ["sh", "-c", command],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=True,
        ).stdout

    def send(self, source, target, **options):
        Pieces(source, str(target), Remote(self.put, self.run, print), **options).send()


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "FIRST_BYTES", 1000)
    monkeypatch.setattr(pieces, "MOST_BYTES", 1000)


@pytest.fixture
def folder(tmp_path):
    """A folder of the laptop with what can be in one."""
    source = tmp_path / "source"
    (source / "sub folder").mkdir(parents=True)
    for number in range(12):
        (source / "sub folder" / f"it's {number}\n").write_bytes(os.urandom(400))
    (source / "large {}").write_bytes(os.urandom(5500))
    (source / "empty").touch()
    (source / "program").write_text("#!/bin/sh\n")
    (source / "program").chmod(0o755)
    (source / "link").symlink_to("sub folder")
    (source / "caf\udce9").write_text("x")
    return source


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 5500])
def test_a_file_is_sent_in_pieces(tmp_path, size):
    (tmp_path / "it's").write_bytes(os.urandom(size))
    host = Here(tmp_path)
    host.send(tmp_path / "it's", tmp_path / "target it's")
    assert (tmp_path / "target it's").read_bytes() == (tmp_path / "it's").read_bytes()
    assert sum(host.pieces) == size


@pytest.mark.usefixtures("small_pieces")
def test_a_file_with_more_than_there_is_is_sent_anew(tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 1500)
    (tmp_path / "target").write_bytes(b"y" * 1600)
    Here(tmp_path).send(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.usefixtures("small_pieces")
def test_a_file_that_was_cut_off_goes_on_where_it_was(tmp_path):
    (tmp_path / "source").write_bytes(os.urandom(5500))
    with pytest.raises(DeployError):
        Here(tmp_path, breaks_at=4).send(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == 3000
    host = Here(tmp_path)
    host.send(tmp_path / "source", tmp_path / "target")
    assert host.pieces == [1000, 1000, 500]
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.usefixtures("small_pieces")
def test_links_are_sent_as_what_they_point_to_where_they_are_followed(tmp_path, folder):
    Here(tmp_path).send(folder, tmp_path / "target", follow=True)
    assert not (tmp_path / "target" / "link").is_symlink()
    assert tree_digest(tmp_path / "target") == tree_digest(folder, follow=True)


@pytest.mark.usefixtures("small_pieces")
def test_a_folder_is_sent_in_pieces_and_goes_on_where_it_was(tmp_path, folder):
    target = tmp_path / "the target"
    whole = Here(tmp_path)
    whole.send(folder, tmp_path / "other")
    assert tree_digest(tmp_path / "other") == tree_digest(folder)
    for _ in range(3):
        with pytest.raises(DeployError):
            Here(tmp_path, breaks_at=3).send(folder, target)
    again = Here(tmp_path)
    again.send(folder, target)
    assert len(again.pieces) < len(whole.pieces) - 3
    assert tree_digest(target) == tree_digest(folder)


@pytest.fixture
def local(tmp_path):
    """Send to this machine, through a remote shell that runs what it is given."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$*"\n')
    shell.chmod(0o755)
    return Connection(
        "ssh", ssh_executable=str(shell), host="here", password=None, remote_user=None
    )


def test_a_file_and_a_folder_are_sent(local, tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "file").write_text("x")
    (source / "link").symlink_to("sub/file")
    send(
        source / "sub" / "file", str(tmp_path / "file"), local, False, str(tmp_path / "busy"), print
    )
    assert (tmp_path / "file").read_text() == "x"
    send(source, str(tmp_path / "folder"), local, False, str(tmp_path / "busy"), print)
    assert os.readlink(tmp_path / "folder" / "link") == "sub/file"


@pytest.mark.parametrize("follow", [True, False])
def test_what_arrives_of_a_folder_has_the_digest_that_it_had(local, tmp_path, follow):
    """Else it would be sent and refused, each time."""
    (tmp_path / "blobs" / "inner").mkdir(parents=True)
    (tmp_path / "blobs" / "bbbb").write_text("weights")
    (tmp_path / "blobs" / "inner" / "x").write_text("x")
    (tmp_path / "blobs" / "bbbb").chmod(0o755)
    folder = tmp_path / "source"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "objects").write_text("large")
    (folder / "config.json").write_text("{}")
    (folder / "latest").symlink_to("config.json")
    (folder / os.fsdecode(b"gr\xf6\xdfe")).write_text("x")
    os.link(folder / "config.json", folder / "same.json")
    if follow:
        (folder / "model.bin").symlink_to("../blobs/bbbb")
        (folder / "inner").symlink_to(tmp_path / "blobs" / "inner")
    assert check_folder(folder, "") is follow
    for _ in range(2):  # again over what is there
        send(
            folder,
            str(tmp_path / "target"),
            local,
            False,
            str(tmp_path / "busy"),
            print,
            follow=follow,
        )
        assert tree_digest(tmp_path / "target") == tree_digest(folder, follow=follow)
    assert not (tmp_path / "target" / ".git").exists()
    links = [path.name for path in (tmp_path / "target").iterdir() if path.is_symlink()]
    assert links == ([] if follow else ["latest"])


def test_a_large_file_behind_a_link_is_read_once_for_each_content(action, tmp_path, monkeypatch):
    monkeypatch.setattr(action, "LARGE_BYTES", 3)
    (tmp_path / "folder").mkdir()
    for name in ("first", "second"):
        (tmp_path / name).write_text(name[:5].ljust(5, "x"))
        os.utime(tmp_path / name, (1, 1))
    link = tmp_path / "folder" / "model"
    link.symlink_to("../first")
    digests = action.Digests(tmp_path / "cache" / "digests.json")
    first = digests.of(tmp_path / "folder", follow=True)
    monkeypatch.setattr(
        action,
        "file_digest",
        lambda path: file_digest(path) if path.name == "second" else "read again",
    )
    assert digests.of(tmp_path / "folder", follow=True) == first
    link.unlink()
    link.symlink_to("../second")
    assert digests.of(tmp_path / "folder", follow=True) != first


def test_a_disk_of_the_host_that_is_full_is_named(local, tmp_path, monkeypatch):
    rsync = tmp_path / "bin" / "rsync"
    rsync.parent.mkdir()
    rsync.write_text(
        "#!/bin/sh\necho 'rsync: write failed on \"x\": No space left on device (28)' >&2\nexit 11\n"
    )
    rsync.chmod(0o755)
    monkeypatch.setenv("PATH", f"{rsync.parent}:{os.environ['PATH']}")
    (tmp_path / "source").write_text("x")
    with pytest.raises(
        DeployError,
        match=r"The disk of the host that holds /srv/x took no more of \S+/source: .*No space",
    ):
        send(tmp_path / "source", "/srv/x", local, False, str(tmp_path / "busy"), print)


def test_a_half_is_gone_on_with(local, tmp_path):
    (tmp_path / "source").write_bytes(os.urandom(30_000_000))
    (tmp_path / "target").write_bytes((tmp_path / "source").read_bytes()[:20_000_000])
    inode = (tmp_path / "target").stat().st_ino
    send(tmp_path / "source", str(tmp_path / "target"), local, False, str(tmp_path / "busy"), print)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert (tmp_path / "target").stat().st_ino == inode


def test_nothing_is_sent_while_another_process_works_on_the_host(local, tmp_path):
    (tmp_path / "source").write_text("x")
    with subprocess.Popen(["flock", str(tmp_path / "busy"), "sleep", "30"]) as other:
        try:
            while (
                subprocess.run(
                    ["flock", "--nonblock", str(tmp_path / "busy"), "true"], check=False
                ).returncode
                == 0
            ):
                pass
            with pytest.raises(DeployError, match="with rsync failed"):
                send(
                    tmp_path / "source",
                    str(tmp_path / "target"),
                    local,
                    False,
                    str(tmp_path / "busy"),
                    print,
                )
        finally:
            subprocess.run(["pkill", "--parent", str(other.pid)], check=False)
            other.kill()
    assert not (tmp_path / "target").exists()
