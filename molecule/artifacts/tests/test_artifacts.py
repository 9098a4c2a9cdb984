"""Model data arrives whole or not at all, from where it was left off, and nobody notices that it was changed."""

import contextlib
import json
import random
import re
import subprocess
import tarfile
import time
import zipfile

import pytest
from load import assert_nothing_failed, load
from outcomes import ROOT, assert_switched, wait_until
from served import DATA, SIZE, SMALL, Store, digest_of, fault_server, note

one_host = pytest.mark.usefixtures("on_one_host")

SECRET = "s3cr3t-key-of-the-server"  # what no output, list of processes or journal may show
# The SHA-256 of 5 GB of zeros.
ZEROS = 5_000_000_000, "750f9080de24a9e562c6b1fecc288c732a758003ab16e5cad014eba45c17466b"
PROGRESS = r"\d\d:\d\d:\d\d \S+: downloading {}: (\d+)% of [\d.]+ [kMG]B, [\d.]+ \w+/s, \d+:\d\d:\d\d left"


def whole(size, seed):
    """Return a file of the server."""
    return b"".join(piece for pieces in fault_server.content(size, seed) for piece in pieces)


def never_seen(name):
    """Return the seed of a file that no earlier run has fetched."""
    return f"{name}-{time.time_ns()}"


def flipped(content, offset):
    """Return content with one byte inverted."""
    return content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :]


def code(api):
    """Return the digest of the live code."""
    return json.loads(api.host.check_output(f"cat {ROOT}/current/release.json"))["components"]["code"]


def titles(api):
    """Return what the app's database has."""
    return api.get("/titles").json


@contextlib.contextmanager
def nothing_changes(api, store):
    """What is live, what is in the store, and what the clients get stay as they are; nobody notices anything."""
    before = api.release, api.processes, api.get("/").json, store.files
    with load(api) as result:
        yield
    assert (api.release, api.processes, api.get("/").json, store.files) == before
    assert_nothing_failed(result)


def assert_refused(run, dest, *said):
    """A run failed, for the stated reasons, because of an artifact."""
    assert run.status != 0, run.output
    assert f"The artifact '{dest}' could not be brought: " in run.said, run.output
    missing = [text for text in said if text not in run.said]
    assert not missing, f"{missing} is not in\n{run.output}"


# From every source, on both hosts. That a second run changes nothing is asked by Molecule.


def test_data_from_every_source_is_where_the_app_looks_for_it(api):
    expected = {
        "model.bin": fault_server.digest(SMALL, "first"),
        "data/notes/readme.txt": digest_of(b"Notes of the model.\n"),
        "data/notes/deeper/more.txt": digest_of(b"More of them.\n"),
        "data/from_tar/deep/words.txt": digest_of(b"packed\n"),
        "data/from_zip/deep/words.txt": digest_of(b"packed\n"),
        "data/weights.bin": digest_of(bytes(range(256)) * 4000),
        "data/titles.tsv": digest_of(b"Marie_Curie\tphysics\nAda_Lovelace\tcomputing\n"),
    }
    assert api.get("/").json["data"] == expected
    assert titles(api) == {"Marie_Curie": "physics", "Ada_Lovelace": "computing"}


def test_the_app_can_read_its_data_and_not_write_it(api, store):
    for path in store.files:
        if path.endswith("/artifact"):
            assert api.as_service(f"cat {path} >/dev/null").rc == 0, path
            assert api.as_service(f": >>{path}").rc != 0, path
    of_others = f"find {DATA} ! -type l ( ! -user root -o ! -group www-data -o -perm /027 )".replace("(", r"\(").replace(
        ")", r"\)"
    )
    assert api.host.check_output(f"{of_others} ! -name paths.json ! -name .endpoint") == ""


def test_a_command_runs_once_and_again_when_its_input_has_changed(api, deploy, tmp_path):
    def times():
        return api.host.run(f"cat {ROOT}/state/home/commands.log").stdout.count("made")

    before = times()
    table = tmp_path / "titles.tsv"
    table.write_text(f"Marie_Curie\tchemistry since {time.time()}\n")
    run = deploy({"dest": "data/titles.tsv", "src": str(table)})
    assert run.status == 0, run.output
    assert times() == before + 1
    assert titles(api)["Marie_Curie"].startswith("chemistry")
    back = deploy()
    assert back.status == 0, back.output
    assert times() == before + 1, "what was made before was made again"
    assert titles(api)["Marie_Curie"] == "physics"


# What goes wrong on the way.


FAULTS = {
    "one flipped byte": ({"flip": SMALL // 2}, flipped(whole(SMALL, "new"), SMALL // 2)),
    "a truncated file": ({"size": SMALL // 2}, whole(SMALL, "new")[: SMALL // 2]),
    "a Content-Length that lies": ({"length": SMALL // 3}, whole(SMALL, "new")[: SMALL // 3]),
    "another file under the same URL": ({"seed": "another"}, whole(SMALL, "another")),
}


@one_host
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_file_is_never_in_the_store_and_never_live(api, store, server, deploy, fault):
    faults, arrives = FAULTS[fault]
    artifact = server.file("model.bin", "new", **faults)
    server.reset()
    with nothing_changes(api, store):
        run = deploy(artifact)
    assert_refused(run, "model.bin", artifact["sha256"], digest_of(arrives), f"{server.base}/bytes/{SMALL}/new")
    assert server.sent(SMALL, "new")["requests"] >= 1
    assert store.unfinished == [], "what is wrong is not gone on with"


@one_host
def test_a_file_of_another_size_than_expected_is_refused_before_it_is_fetched(api, store, server, deploy):
    server.reset()
    with nothing_changes(api, store):
        run = deploy({**server.file("model.bin", "new", SMALL, size=SMALL // 2), "size": SMALL})
    assert_refused(run, "model.bin", f"a file of {SMALL // 2:,} bytes, expected {SMALL:,}")
    assert server.sent(SMALL, "new")["requests"] == 1


@one_host
def test_what_each_server_said_is_told_when_all_are_given_up(api, store, server, deploy):
    urls = [
        server.url(SMALL, "nowhere", status=404), server.url(SMALL, "hidden", status=403),
        server.url(SMALL, "broken", status=500),
    ]  # fmt: skip
    server.reset()
    with nothing_changes(api, store):
        run = deploy({"dest": "model.bin", "url": urls, "sha256": fault_server.digest(SMALL, "new")})
    assert_refused(
        run, "model.bin",
        f"{server.base}/bytes/{SMALL}/nowhere: the server answered 'HTTP/1.1 404 Not Found'",
        f"{server.base}/bytes/{SMALL}/hidden: the server answered 'HTTP/1.1 403 Forbidden'",
        f"{server.base}/bytes/{SMALL}/broken: the server answered 'HTTP/1.1 500 Internal Server Error'",
        'As "ordered".', "Correct the URL", "Check that the host may read the URL", "Run again later",
    )  # fmt: skip
    assert server.sent(SMALL, "nowhere")["requests"] == server.sent(SMALL, "hidden")["requests"] == 1
    assert server.sent(SMALL, "broken")["requests"] > 3, "what may pass is tried again"


@one_host
def test_what_a_server_can_do_and_still_be_right_is_taken(api, store, server, deploy):
    mirrors = {**server.file("data/mirrored", "mirrored"), "url": [
        server.url(SMALL, "gone", status=404), server.url(SMALL, "mirrored"), server.url(SMALL, "never"),
    ]}  # fmt: skip
    redirected = {**server.file("data/redirected", "redirected"), "url": server.url(
        SMALL, "moved", redirect=server.url(SMALL, "redirected"),
    )}  # fmt: skip
    given = [
        mirrors,
        redirected,
        server.file("data/late", "late", status=503, retry_after=4, times=1),
        server.file("data/broken", "broken", status=500, times=2),
        server.file("data/boastful", "boastful", length=2 * SMALL),
        server.file("data/stubborn", "stubborn", norange=1, cut=SMALL // 2, times=1),
        server.file("data/silent", "silent", chunked=1, novalidator=1),
    ]
    server.reset()
    run = deploy(*given)
    assert run.status == 0, run.output
    data = api.get("/").json["data"]
    assert {artifact["dest"]: data.get(artifact["dest"]) for artifact in given} == {
        artifact["dest"]: artifact["sha256"] for artifact in given
    }
    assert server.sent(SMALL, "never")["requests"] == 0
    assert store.unfinished == []


@one_host
def test_the_operator_sees_how_far_it_is_and_nobody_sees_the_key(api, store, server, deploy, background):
    size = 25_000_000
    artifact = {**server.file("data/slow", never_seen("slow"), size, throttle=size // 25), "headers": {"X-Key": SECRET}}
    run = deploy.start(artifact, options=("--tags", "model", "-vvv"))
    wait_until(lambda: store.half(artifact["sha256"]) > 0 or run.has_ended, "the download began")
    on_host = api.host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    here = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    said = background.state["text"]
    done = run.wait()
    assert done.status == 0, done.output
    assert "curl " in on_host
    assert "ansible-playbook" in here
    kept = api.host.run(
        f"journalctl --no-pager | grep --fixed-strings {SECRET}; "
        f"grep --recursive --files-with-matches --fixed-strings {SECRET} /run/api-endpoint* {DATA} /var/log {ROOT} /etc /tmp"
    ).stdout
    assert kept == ""
    for where in (on_host, here, said, done.output):
        assert SECRET not in where
    percents = [int(percent) for percent in re.findall(PROGRESS.format("data/slow"), done.output)]
    assert len(percents) >= 2, done.output
    assert percents == sorted(set(percents)), percents


# Archives that somebody else made.


def climbing(path):
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("../../climbed")
        archive.addfile(member)


def linking(path):
    with tarfile.open(path, "w:gz") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("out/climbed"))


def growing(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(200_000_000))


HOSTILE = {
    "a path out of it": (climbing, "'../../climbed'"),
    "a link out of it": (linking, "'out'"),
    "absurd growth": (growing, "unpacks to more than 200 times as many"),
}


@one_host
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(api, store, deploy, tmp_path, kind):
    make, said = HOSTILE[kind]
    make(tmp_path / "archive")
    half = f".part-{digest_of((tmp_path / 'archive').read_bytes())}"
    before = {path: digest for path, digest in store.files.items() if half not in path}
    run = deploy({"dest": "data/hostile", "src": str(tmp_path / "archive"), "unpack": True})
    assert_refused(run, "data/hostile", "cannot be unpacked", said)
    assert {path: digest for path, digest in store.files.items() if half not in path} == before
    assert [name for name in store.unfinished if half not in name] == []
    assert api.host.run(f"ls /climbed /srv/climbed /etc/climbed /srv/api-endpoint/climbed {DATA}/climbed").stdout == ""
    api.host.run(f"rm -f {DATA}/{half}")


# Cut off, and gone on with.


def at_half(store, artifact, run):
    """Wait until half of a file has arrived."""
    wait_until(lambda: store.half(artifact["sha256"]) >= SIZE // 2 or run.has_ended, "half has arrived", 600)
    assert not run.has_ended, run.output


@one_host
def test_a_run_that_is_killed_leaves_its_download_alone_and_the_next_one_attaches(
    api, store, server, deploy, background, memory
):
    seed = never_seen("attached")
    # The next run comes to it in a few seconds, more on a busy machine; it must still be under way then.
    artifact = server.file("data/large", seed, SIZE, throttle=SIZE // 24)
    server.reset()
    with memory:
        run = deploy.start(artifact)
        at_half(store, artifact, run)
        run.kill()
        pid, there = background.pid, store.half(artifact["sha256"])
        time.sleep(1)
        assert background.is_alive
        assert store.half(artifact["sha256"]) > there, "nothing arrives any more"
        second = deploy(artifact)
    assert second.status == 0, second.output
    assert background.pid == pid, "the process was not attached to"
    sent = server.sent(SIZE, seed)
    assert sent == {"requests": 1, "bytes": SIZE}
    assert api.get("/").json["data"]["data/large"] == artifact["sha256"]
    note(f"attached: {memory.peak}")


@one_host
def test_after_five_cuts_and_a_kill_at_half_the_rest_alone_is_fetched(api, store, server, deploy, background, memory):
    seed = never_seen("resumed")
    artifact = server.file("data/large", seed, SIZE, throttle=SIZE // 8, cut=SIZE // 11)
    server.reset()
    with memory:
        run = deploy.start(artifact)
        at_half(store, artifact, run)
        background.kill()
        run.kill()
        first = server.sent(SIZE, seed)
        server.reset()
        wait_until(lambda: not background.is_alive, "the process has ended", 5)
        second = deploy(artifact)
    assert second.status == 0, second.output
    assert first["requests"] >= 6, f"not cut five times: {first}"
    again = server.sent(SIZE, seed)
    assert again["bytes"] <= 0.55 * SIZE, f"{again} of {SIZE:,}"
    assert api.get("/").json["data"]["data/large"] == artifact["sha256"]
    assert memory.peak["background"] < 100, memory.peak
    assert memory.peak["all"] < 100, memory.peak
    note(
        f"{SIZE:,} bytes, cut {first['requests'] - 1} times, killed at {first['bytes'] / SIZE:.0%}: "
        f"{again['bytes'] / SIZE:.1%} on the second run; memory in MB: {memory.peak}"
    )


COUNTING_RSYNC = """#!/usr/bin/python3
import os, subprocess, sys, threading
process = subprocess.Popen(["/usr/bin/rsync", *sys.argv[1:]], stdin=subprocess.PIPE)
count = 0

def pump():
    global count
    while data := os.read(0, 65536):
        count += len(data)
        process.stdin.write(data)
        process.stdin.flush()
    process.stdin.close()

threading.Thread(target=pump, daemon=True).start()
status = process.wait()
open("/run/received", "w").write(str(count))
os._exit(status)
"""


@pytest.fixture
def received(host):
    """Return a function that says how many bytes rsync has received on the host."""
    host.check_output(f"cat >/usr/local/bin/rsync <<'END'\n{COUNTING_RSYNC}END")
    host.check_output("chmod 0755 /usr/local/bin/rsync; rm -f /run/received")
    yield lambda: int(host.check_output("cat /run/received"))
    host.check_output("rm /usr/local/bin/rsync")


@one_host
def test_an_upload_that_was_cut_off_is_gone_on_with(api, store, deploy, received, tmp_path):
    content = random.Random(7).randbytes(SIZE // 2)
    large = tmp_path / "large"
    large.write_bytes(content)
    (tmp_path / "half").write_bytes(content[: len(content) // 2])
    half = f"{DATA}/.part-{digest_of(content)}"
    subprocess.run(["docker", "cp", "-q", str(tmp_path / "half"), f"{api.container}:{half}"], check=True)
    run = deploy({"dest": "data/large", "src": str(large)})
    assert run.status == 0, run.output
    assert received() < 0.55 * len(content)
    assert api.get("/").json["data"]["data/large"] == digest_of(content)
    assert store.unfinished == []


# Room.


@one_host
@pytest.mark.parametrize("who", ["the owner", "the server"])
def test_what_does_not_fit_is_refused_with_figures_before_a_byte_is_moved(api, store, server, deploy, who):
    """Its size is what its owner wrote down, or else what the server says."""
    server.reset()
    if who == "the owner":
        huge = {**server.file("data/huge", "huge", 10**6), "size": 10**16}
    else:
        huge = {"dest": "data/huge", "url": server.url(10**16, "huge"), "sha256": "a" * 64}
    with nothing_changes(api, store):
        run = deploy(huge, server.file("data/new", "before", 10**6))
    assert run.status != 0
    free = int(api.host.check_output(f"stat --file-system --format=%a {DATA}")) * 4096
    figures = re.search(r"The disk of \S+ has ([\d.,]+) GB free, and 10,000,00\d\.\d GB are needed", run.said)
    assert figures, run.output
    assert abs(float(figures[1].replace(",", "")) - free / 1e9) < 2
    assert "data/huge: 10,000,000.0 GB" in run.said
    assert "Nothing was fetched. Make room, keep fewer releases" in run.said
    assert server.sent(10**6, "huge")["bytes"] == server.sent(10**6, "before")["bytes"] == 0


@one_host
def test_a_disk_that_gets_full_keeps_the_half_and_the_old_release(api, store, server, deploy, small_disk):
    # No length is promised, or it would be refused at once.
    size = SIZE + 80_000_000
    seed = never_seen("filling")
    artifact = server.file("data/large", seed, size, chunked=1)
    small = Store(api.host, small_disk)
    with nothing_changes(api, store):
        run = deploy(artifact, data_dir=small_disk)
    assert_refused(
        run, "data/large", f"The disk that holds {small_disk}/.part-", "is full: ", "bytes have arrived", "Make room"
    )
    there = small.half(artifact["sha256"])
    assert there > size // 3, there

    api.host.check_output(f"mount -o remount,size={2 * size} {small_disk}")
    server.reset()
    again = deploy(artifact, data_dir=small_disk)
    assert again.status == 0, again.output
    assert server.sent(size, seed)["bytes"] <= size - there + 1_000_000
    assert api.get("/").json["data"]["data/large"] == artifact["sha256"]
    back = deploy()
    assert back.status == 0, back.output


# Verified once, and known by size and time afterwards.


@one_host
def test_damage_that_size_and_time_do_not_show_is_found_and_healed_when_asked_for(api, store, server, deploy):
    digest = fault_server.digest(SMALL, "first")
    place = store.place(digest)
    before = api.host.check_output(f"stat --format='%s %y' {place}")
    api.host.check_output(
        f"touch --reference={place} /run/time && printf X | dd of={place} bs=1 seek=1234567 conv=notrunc status=none "
        f"&& touch --reference=/run/time {place}"
    )
    assert api.host.check_output(f"stat --format='%s %y' {place}") == before
    assert store.files[place] != digest
    server.reset()
    run = deploy(verify_artifacts=True)
    assert run.status == 0, run.output
    assert store.files[place] == digest
    assert server.sent(SMALL, "first")["bytes"] == SMALL
    again = deploy(verify_artifacts=True)
    assert (again.status, again.changed) == (0, [0]), again.output


STAMP = """
import sys
sys.path.insert(0, "/run/role")
from pathlib import Path
from ansible.module_utils.api_endpoint_data import Store
size, digest = int(sys.argv[2]), sys.argv[3]
made = Path(sys.argv[1], ".part-sparse")
made.touch()
with made.open("r+b") as file:
    file.truncate(size)
Store(sys.argv[1], "www-data").add(digest, made, sha256=digest, content=digest, source="here", unverified=False, mode="")
"""


@pytest.fixture
def role_code(host):
    """Put the role's own code where a script on the host can import it, under /run/role."""
    name = host.backend.get_hostname()
    source = fault_server.__file__.partition("/molecule/")[0] + "/roles/api_endpoint/module_utils"
    host.check_output("mkdir -p /run/role/ansible && touch /run/role/ansible/__init__.py")
    # Nothing can be copied into a tmpfs of a container but through a pipe.
    subprocess.run(
        f"tar -C {source} -cf - . | docker exec -i {name} sh -c "
        "'mkdir -p /run/role/ansible/module_utils && tar -C /run/role/ansible/module_utils -xf - --no-same-owner'",
        shell=True, check=True,
    )  # fmt: skip
    host.check_output("touch /run/role/ansible/module_utils/__init__.py")


@one_host
def test_five_gigabytes_that_are_there_cost_a_run_nothing(api, deploy, role_code):
    def seconds(*artifacts):
        begun = time.monotonic()
        run = deploy(*artifacts)
        assert (run.status, run.changed) == (0, [0]), run.output
        return time.monotonic() - begun

    without = min(seconds(), seconds())
    size, digest = ZEROS
    api.host.check_output(f"cat >/run/stamp.py <<'END'\n{STAMP}END")
    api.host.check_output(f"python3 /run/stamp.py {DATA} {size} {digest}")
    large = {"dest": "zeros", "path": "/srv/by-hand/zeros", "sha256": digest, "size": size}
    run = deploy(large)
    assert run.status == 0, run.output
    assert api.host.check_output(f"stat --dereference --format=%s {ROOT}/current/zeros") == str(size)
    with_it = min(seconds(large), seconds(large))
    note(f"nothing to do: {without:.1f} s, with 5 GB of data: {with_it:.1f} s")
    assert with_it - without < 3


RACE = """
import json, pathlib, subprocess, sys, time
sys.path.insert(0, "/run/role")
from ansible.module_utils.api_endpoint_download import download
url, digest, target = sys.argv[1:]

def curl():
    subprocess.run(["curl", "--silent", "--fail", "--output", target, url], check=True)

def role():
    download(target, [url], sha256=digest)

best = {}
for way in (curl, role) * 3:
    pathlib.Path(target).unlink(missing_ok=True)
    begun = time.monotonic()
    way()
    best[way.__name__] = min(time.monotonic() - begun, best.get(way.__name__, 1e9))
pathlib.Path(target).unlink()
print(json.dumps(best))
"""


@one_host
def test_a_verified_download_is_as_fast_as_plain_curl_from_a_server_with_a_gigabit(api, server, role_code):
    size, gigabit = 3 * SIZE, 125_000_000
    api.host.check_output(f"cat >/run/race.py <<'END'\n{RACE}END")
    digest, url = fault_server.digest(size, "race"), server.url(size, "race", throttle=gigabit)
    best = json.loads(api.host.check_output(f"python3 /run/race.py {url} {digest} {DATA}/.part-{digest}"))
    rates = {way: size / 1e6 / seconds for way, seconds in best.items()}
    note(f"MB/s, best of three: plain curl {rates['curl']:,.0f}, verified {rates['role']:,.0f}")
    assert rates["role"] >= 0.9 * rates["curl"], rates


# Under the eyes of everybody.


@one_host
def test_new_data_goes_live_unnoticed_and_goes_back_without_network(api, server, deploy, request):
    run = deploy()
    assert run.status == 0, run.output
    old, before, same = api.get("/").json["data"], api.release, code(api)
    new = server.file("model.bin", never_seen("second"), SIZE)
    with load(api, "new data goes live") as result:
        run = deploy(new)
    assert_switched(api, run, result, before)
    assert api.get("/").json["data"] == {**old, "model.bin": new["sha256"]}
    assert code(api) == same

    request.getfixturevalue("offline")
    after = api.release
    with load(api, "back to the old data") as result:
        run = deploy.back()
    assert_switched(api, run, result, after)
    assert api.release == before
    assert api.get("/").json["data"] == old


@one_host
def test_data_that_the_app_cannot_load_never_goes_live(api, store, deploy, tmp_path):
    bad = tmp_path / "model.bin"
    bad.write_text("<html>This is an error page, and no model.</html>\n")
    before = api.release, api.processes, api.get("/").json
    with load(api) as result:
        run = deploy({"dest": "model.bin", "src": str(bad)})
    assert run.status != 0
    assert re.search(r'Release \w+ was not brought live\. It failed at the step "start"', run.said), run.output
    assert "model.bin is not a model" in run.said, run.output
    assert (api.release, api.processes, api.get("/").json) == before
    assert_nothing_failed(result)
    assert digest_of(bad.read_bytes()) not in api.get("/").body.decode()
