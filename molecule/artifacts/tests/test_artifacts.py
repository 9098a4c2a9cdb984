"""Model data arrives whole or not at all, goes on where it was left off, and clients notice nothing of its arrival.

The faults of servers and archives stand row by row in tests/test_download.py and tests/test_extract.py. Here is one of each
kind on a real host. Playbook runs are dear: several tests look at the result of one, and those of a class are in order.
"""

import contextlib
import json
import random
import re
import subprocess
import tarfile
import time

import pytest
from load import assert_nothing_failed, load
from outcomes import ROOT, assert_switched, wait_until
from served import DATA, SIZE, SMALL, digest_of, fault_server, note

one_host = pytest.mark.usefixtures("on_one_host")

SECRET = "s3cr3t-key-of-the-server"  # may be in no output, list of processes, journal or file
PROGRESS = r"\d\d:\d\d:\d\d \S+: downloading data/large: (\d+)% of [\d.]+ [kMG]B, [\d.]+ \w+/s, \d+:\d\d:\d\d left"


def never_seen(name):
    """Return the seed of a file that no earlier run has fetched."""
    return f"{name}-{time.time_ns()}"


def code(api):
    """Return the digest of the live code."""
    return json.loads(api.host.check_output(f"cat {ROOT}/current/release.json"))["components"][
        "code"
    ]


def titles(api):
    """Return the content of the app's database."""
    return api.get("/titles").json


def times_made(api):
    """Return how often the command that makes the database has run."""
    return api.host.run(f"cat {ROOT}/state/home/commands.log").stdout.count("made")


@contextlib.contextmanager
def nothing_changes(api, store):
    """The live release, the store and what clients get stay as they are; no request fails."""
    before = api.release, api.processes, api.get("/").json, store.files
    with load(api) as result:
        yield
    assert (api.release, api.processes, api.get("/").json, store.files) == before
    assert_nothing_failed(result)


def assert_refused(run, dest, *said):
    """A run failed because of an artifact, for the stated reasons."""
    assert run.status != 0, run.output
    assert f"The artifact '{dest}' could not be brought: " in run.said, run.output
    missing = [text for text in said if text not in run.said]
    assert not missing, f"{missing} is not in\n{run.output}"


# --- every source, on every host


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


def test_the_app_can_read_its_data_and_not_write_it(api):
    data = f"{DATA}/*/artifact"
    assert api.as_service(f"for path in {data}; do test -r $path || echo $path; done").stdout == ""
    assert (
        api.as_service(f"for path in {data}; do ! test -w $path || echo $path; done").stdout == ""
    )
    wrong = (
        rf"find {DATA} -mindepth 1 ! -type l \( ! -user root -o ! -group www-data -o -perm /027 \)"
    )
    assert api.host.check_output(f"{wrong} ! -name paths.json ! -name .endpoint") == ""


# --- data that is refused


@one_host
class TestRefused:
    def test_a_wrong_file_is_never_in_the_store_and_never_live(self, api, store, server, deploy):
        artifact = server.file("model.bin", "new", flip=SMALL // 2)
        content = bytearray(
            b"".join(piece for pieces in fault_server.content(SMALL, "new") for piece in pieces)
        )
        content[SMALL // 2] ^= 0xFF
        with nothing_changes(api, store):
            run = deploy(artifact)
        assert_refused(
            run,
            "model.bin",
            artifact["sha256"],
            digest_of(content),
            f"{server.base}/bytes/{SMALL}/new",
        )
        assert store.unfinished == []

    def test_a_hostile_archive_leaves_nothing(self, api, store, deploy, tmp_path):
        with tarfile.open(tmp_path / "archive", "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("../../climbed"))
        half = f".part-{digest_of((tmp_path / 'archive').read_bytes())}"
        with nothing_changes(api, store):
            run = deploy({"dest": "data/hostile", "src": str(tmp_path / "archive"), "unpack": True})
        assert_refused(run, "data/hostile", "cannot be unpacked", "'../../climbed'")
        assert [name for name in store.unfinished if half not in name] == []
        assert (
            api.host.run(
                f"ls /climbed /srv/climbed /srv/api-endpoint/climbed {DATA}/climbed"
            ).stdout
            == ""
        )
        api.host.check_output(f"rm {DATA}/{half}")

    def test_data_that_does_not_fit_is_refused_with_figures_before_a_byte_is_moved(
        self, api, store, server, deploy
    ):
        """The size is the one in the variable, or else the one that the server tells."""
        known = {**server.file("data/known", "known", 10**6), "size": 10**16}
        told = {"dest": "data/told", "url": server.url(10**16, "told"), "sha256": "a" * 64}
        server.reset()
        with nothing_changes(api, store):
            run = deploy(known, told, server.file("data/new", "before", 10**6))
        assert run.status != 0
        free = int(api.host.check_output(f"stat --file-system --format=%a {DATA}")) * 4096
        figures = re.search(
            r"The disk of \S+ has ([\d.,]+) GB free, and 20,000,000\.0 GB are needed", run.said
        )
        assert figures, run.output
        assert abs(float(figures[1].replace(",", "")) - free / 1e9) < 0.2
        assert (
            "data/known: 10,000,000.0 GB, data/told: 10,000,000.0 GB, data/new: 1.0 MB" in run.said
        ), run.output
        assert "Nothing was fetched. Make room, keep fewer releases" in run.said
        for size, seed in ((10**6, "known"), (10**16, "told"), (10**6, "before")):
            assert server.sent(size, seed)["bytes"] == 0

    def test_data_that_the_app_cannot_load_never_goes_live(self, api, deploy, tmp_path):
        bad = tmp_path / "model.bin"
        bad.write_text("These are words, and no model.\n")
        before = api.release, api.processes, api.get("/").json
        with load(api) as result:
            run = deploy({"dest": "model.bin", "src": str(bad)})
        assert run.status != 0
        assert re.search(
            r'Release \w+ was not brought live\. It failed at the step "start"', run.said
        ), run.output
        assert "model.bin is not a model" in run.said, run.output
        assert (api.release, api.processes, api.get("/").json) == before
        assert_nothing_failed(result)


# --- servers with faults, an upload that was cut off, a command whose input changed: one run


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
open("/run/received", "a").write(f"{count}\\n")
os._exit(status)
"""


@pytest.fixture(scope="module")
def upload(tmp_path_factory):
    """Return a file of this machine, which no host has."""
    path = tmp_path_factory.mktemp("upload") / "large"
    path.write_bytes(random.randbytes(SIZE // 2))
    return path


@pytest.fixture(scope="module")
def given(server, upload):
    """Return artifacts from servers with faults, and an upload."""
    mirrored, redirected, late, cut = map(never_seen, ("mirrored", "redirected", "late", "cut"))
    urls = [
        server.url(SMALL, "gone", status=404),
        server.url(SMALL, mirrored),
        server.url(SMALL, "never"),
    ]
    moved = server.url(SMALL, "moved", redirect=server.url(SMALL, redirected))
    return [
        {**server.file("data/mirrored", mirrored), "url": urls},
        {**server.file("data/redirected", redirected), "url": moved},
        server.file("data/late", late, status=503, retry_after=1, times=1),
        server.file("data/cut", cut, cut=SMALL // 2, times=1),
        {"dest": "data/large", "src": str(upload), "sha256": digest_of(upload.read_bytes())},
    ]


@pytest.fixture(scope="module")
def made_before(host, api, server, deploy, upload, given, tmp_path_factory):
    """Bring these with half of the upload on the host already, and with a new table for the database.

    Return how often the database had been made before.
    """
    content, before = upload.read_bytes(), times_made(api)
    table = tmp_path_factory.mktemp("table") / "titles.tsv"
    table.write_text(f"Marie_Curie\tchemistry since {time.time()}\n")
    into = f"cat >{DATA}/.part-{digest_of(content)}"
    subprocess.run(
        ["docker", "exec", "-i", api.container, "sh", "-c", into], input=content[: len(content) // 2], check=True
    )  # fmt: skip
    host.check_output(f"cat >/usr/local/bin/rsync <<'END'\n{COUNTING_RSYNC}END")
    host.check_output("chmod 0755 /usr/local/bin/rsync; rm -f /run/received")
    server.reset()
    run = deploy(*given, {"dest": "data/titles.tsv", "src": str(table)})
    host.check_output("rm /usr/local/bin/rsync")
    assert run.status == 0, run.output
    return before


@pytest.mark.usefixtures("on_one_host", "made_before")
class TestBrought:
    def test_data_arrives_whole_whatever_the_server_does_that_is_not_wrong(
        self, api, store, server, given
    ):
        data = api.get("/").json["data"]
        expected = {artifact["dest"]: artifact["sha256"] for artifact in given}
        assert {dest: data.get(dest) for dest in expected} == expected
        assert server.sent(SMALL, "never")["requests"] == 0
        seeds = [artifact["url"].rpartition("/")[2].partition("?")[0] for artifact in given[2:4]]
        assert [server.sent(SMALL, seed)["requests"] for seed in seeds] == [2, 2]
        assert store.unfinished == []

    def test_only_the_rest_of_an_upload_that_was_cut_off_is_sent(self, host, upload):
        received = sum(map(int, host.check_output("cat /run/received").split()))
        assert received < 0.55 * upload.stat().st_size

    def test_a_command_runs_again_when_its_input_has_changed(self, api, made_before):
        assert times_made(api) == made_before + 1
        assert titles(api)["Marie_Curie"].startswith("chemistry")

    def test_a_flipped_byte_on_the_disk_is_repaired_when_asked_for_and_known_data_is_not_made_again(
        self, api, store, server, deploy, made_before
    ):
        """Size and time of the file are as they were."""
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
        assert titles(api)["Marie_Curie"] == "physics"
        assert times_made(api) == made_before + 1, "the database of the old table was made again"

    def test_a_second_run_changes_nothing(self, deploy):
        run = deploy(options=())
        assert (run.status, run.changed) == (0, [0]), run.output


# --- one large file, through a killed run, a killed download and a full disk


@pytest.fixture(scope="module")
def seed():
    return never_seen("large")


@pytest.fixture(scope="module")
def large(server, seed):
    """Return an artifact whose server holds at a quarter and at half until told to go on. It promises no length."""
    holds = f"{SIZE // 4},{SIZE // 2}"
    return {
        **server.file("data/large", seed, SIZE, hold=holds, chunked=1),
        "headers": {"X-Key": SECRET},
        "size": SIZE,
    }


@one_host
class TestInterrupted:
    """Each test goes on where the one before has stopped."""

    def arrived(self, store, large, size):
        return lambda: store.half(large["sha256"]) >= size

    def test_a_run_that_is_killed_leaves_its_download_alone(
        self, api, store, server, deploy, background, large, seed
    ):
        cls = type(self)
        run = deploy.start(large, options=("--tags", "model", "-vvv"))
        arrived = self.arrived(store, large, SIZE // 4)
        wait_until(lambda: arrived() or run.has_ended, "a quarter has arrived")
        wait_until(
            lambda: "data/large: " in background.state.get("text", ""),
            "the download says how far it is",
        )
        on_host = api.host.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        here = subprocess.run(
            ["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True
        ).stdout
        assert "curl " in on_host
        assert "ansible-playbook" in here
        cls.said = [on_host, here, json.dumps(background.state), run.kill().output]
        cls.pid = background.pid
        server.go(SIZE, seed)
        wait_until(self.arrived(store, large, SIZE // 2), "the download goes on without the run")

    def test_the_next_run_attaches_and_shows_how_far_it_is(
        self, server, deploy, background, large, seed
    ):
        second = deploy.start(large, options=("--tags", "model", "-vvv"))
        wait_until(
            lambda: re.search(PROGRESS, second.output) or second.has_ended,
            "the run says how far it is",
        )
        assert background.is_alive
        assert background.pid == self.pid, "another download was started"
        assert server.sent(SIZE, seed)["requests"] == 1
        background.kill()
        run = second.wait()
        percents = [int(percent) for percent in re.findall(PROGRESS, run.output)]
        assert percents, run.output
        assert percents == sorted(percents)
        assert all(50 <= percent < 60 for percent in percents), percents
        assert run.status != 0
        assert (
            "The process that brings the data was killed, or the host was restarted. Run again"
            in run.said
        )
        self.said.append(run.output)

    def test_nobody_sees_the_key_of_the_server(self, api):
        for said in self.said:
            assert SECRET not in said
        kept = api.host.run(
            f"journalctl --no-pager | grep --fixed-strings {SECRET}; grep --recursive --files-with-matches --fixed-strings "
            f"{SECRET} /run/api-endpoint* {DATA} /var/log {ROOT} /etc /tmp"
        ).stdout
        assert kept == ""

    def test_a_full_disk_keeps_what_has_arrived_and_the_old_release(
        self, api, store, server, deploy, background, large, seed, full_soon
    ):
        wait_until(lambda: not background.is_alive, "the killed download has ended")
        before, sent = store.half(large["sha256"]), server.sent(SIZE, seed)["bytes"]
        assert SIZE // 2 <= before < SIZE
        server.go(SIZE, seed)
        # The size is not given, or the run would refuse at once.
        given = {name: value for name, value in large.items() if name != "size"}
        full_soon(SIZE // 4)
        with nothing_changes(api, store):
            run = deploy(given)
        assert_refused(
            run,
            "data/large",
            f"No space was left on the disk at {DATA} (",
            "of the host",
            "have arrived",
            "Make room",
        )
        assert before + SIZE // 8 < store.half(large["sha256"]) < SIZE
        assert server.sent(SIZE, seed)["bytes"] - sent <= SIZE - before

    def test_the_rest_alone_is_fetched_and_new_data_goes_live_unnoticed(
        self, api, store, server, deploy, large, seed
    ):
        there, sent = store.half(large["sha256"]), server.sent(SIZE, seed)["bytes"]
        cls = type(self)
        cls.before, cls.data, same = api.release, api.get("/").json["data"], code(api)
        with load(api, "new data goes live") as result:
            run = deploy(large)
        assert_switched(api, run, result, self.before)
        assert server.sent(SIZE, seed)["bytes"] - sent == SIZE - there
        assert api.get("/").json["data"] == {**self.data, "data/large": large["sha256"]}
        assert code(api) == same
        assert SECRET not in run.output

    def test_it_goes_back_without_network(self, api, deploy, offline):
        after = api.release
        with load(api, "back to the old data") as result:
            run = deploy.back()
        assert_switched(api, run, result, after)
        assert api.release == self.before
        assert api.get("/").json["data"] == self.data


# --- what the full run adds


@pytest.mark.full
@one_host
def test_a_large_download_needs_little_memory(api, server, deploy, memory):
    seed, size = never_seen("memory"), max(SIZE, 300_000_000)
    with memory:
        run = deploy(server.file("data/memory", seed, size, cut=size // 3))
    assert run.status == 0, run.output
    assert server.sent(size, seed)["bytes"] == size
    assert memory.peak["background"] < 100, memory.peak
    assert memory.peak["all"] < 100, memory.peak
    note(
        f"{size:,} bytes, cut {server.sent(size, seed)['requests'] - 1} times; memory in MB: {memory.peak}"
    )


@pytest.mark.full
def test_a_dry_run_before_anything_is_there(api, deploy):
    """Of another endpoint, which this host does not have."""
    before = api.release, api.processes
    run = deploy(
        options=(
            "--check",
            "--diff",
            "-e",
            "api_endpoint_name=another",
            "-e",
            '{"api_endpoint_server_names": ["another.example"]}',
        )
    )
    assert run.status == 0, run.output
    assert (api.release, api.processes) == before
