"""What the tests look at: the server with faults, the data on a host, the process that brings it, its memory."""

import hashlib
import json
import os
import sys
from pathlib import Path
from urllib.parse import urlencode

SCENARIO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCENARIO))
import fault_server  # noqa: E402

DATA = "/srv/api-endpoint/data"
BACKGROUND = "/run/api-endpoint-data.json"
SIZE = int(
    os.environ.get("ARTIFACTS_SIZE", "12000000")
)  # bytes of the large file; `make bench` takes 1 GB
SMALL = 2_000_000
FIGURES: list[str] = []

# Sums up the memory of all processes that began after it and do not belong to the app: `all` of them in PSS, which counts
# shared pages once, and those of the `background` in RSS, which counts them for each.
SAMPLER = f"""
import json, os, pathlib, re, time
peak, me, deadline = {{"all": 0, "background": 0, "samples": 0}}, os.getpid(), time.time() + 900
stop, result = pathlib.Path("/run/memory.stop"), pathlib.Path("/run/memory.json")
while not stop.exists() and time.time() < deadline:
    total = worker = 0
    try:
        leader = json.loads(pathlib.Path("{BACKGROUND}").read_text()).get("pid")
    except (OSError, ValueError):
        leader = None
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) <= me:
            continue
        try:
            if "api-endpoint@" in (entry / "cgroup").read_text():
                continue
            memory = dict(re.findall(r"^(Rss|Pss): +(\\d+)", (entry / "smaps_rollup").read_text(), re.M))
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
        except OSError:
            continue
        total += int(memory.get("Pss", 0))
        worker += int(memory.get("Rss", 0)) if session == leader else 0
    peak["all"], peak["background"] = max(peak["all"], total), max(peak["background"], worker)
    peak["samples"] += 1
    time.sleep(0.1)
result.write_text(json.dumps(peak))
"""


class Server:
    """The server with faults, as the test hosts see it."""

    base = "http://artifacts-server:8080"

    def __init__(self, host) -> None:
        self.host = host

    def url(self, size: int, seed: str, /, **faults: object) -> str:
        """Return the URL of a file."""
        return f"{self.base}/bytes/{size}/{seed}" + (f"?{urlencode(faults)}" if faults else "")

    def file(self, dest: str, seed: str, size: int = SMALL, /, **faults: object) -> dict:
        """Return an artifact that the server has, with its true digest."""
        return {
            "dest": dest,
            "url": self.url(size, seed, **faults),
            "sha256": fault_server.digest(size, seed),
        }

    def go(self, size: int, seed: str) -> None:
        """Let a file go on behind its next hold."""
        self.host.check_output(
            f"curl --silent --fail --request POST {self.base}/go/bytes/{size}/{seed}"
        )

    def reset(self) -> None:
        """Forget what was sent so far."""
        self.host.check_output(f"curl --silent --fail --request POST {self.base}/reset")

    def sent(self, size: int, seed: str) -> dict[str, int]:
        """Return the number of requests for a file, and of its bytes that were sent."""
        stats = json.loads(self.host.check_output(f"curl --silent --fail {self.base}/stats"))
        return stats.get(f"/bytes/{size}/{seed}", {"requests": 0, "bytes": 0})


class Store:
    """The data on a host."""

    def __init__(self, host, folder: str = DATA) -> None:
        self.host = host
        self.folder = folder

    @property
    def files(self) -> dict[str, str]:
        """The digests of all files but stamps and halves, by path."""
        found = self.host.check_output(
            f"find {self.folder} -type f -size -{SIZE + 1}c ! -name artifact.json ! -name paths.json ! -name '.part-*' "
            "-exec sha256sum {} +"
        )
        return {
            path: digest for digest, path in (line.split(None, 1) for line in found.splitlines())
        }

    @property
    def unfinished(self) -> list[str]:
        """The names of halves and of what is being made."""
        return self.host.check_output(
            f"find {self.folder} -maxdepth 1 -name '.part-*' -o -name '.building-*'"
        ).split()

    def place(self, digest: str) -> str:
        """Return where the file with a digest lies."""
        return f"{self.folder}/{digest}/artifact"

    def half(self, digest: str) -> int:
        """Return how many bytes of a file have arrived."""
        return int(self.host.run(f"stat --format=%s {self.folder}/.part-{digest}").stdout or 0)


class Background:
    """The process on a host that brings the data."""

    def __init__(self, host) -> None:
        self.host = host

    @property
    def state(self) -> dict:
        """What it says."""
        return json.loads(self.host.run(f"cat {BACKGROUND}").stdout or "{}")

    @property
    def pid(self) -> int:
        """Its process id; 0 when there is none."""
        return self.state.get("pid", 0)

    @property
    def is_alive(self) -> bool:
        """Whether it works."""
        return self.host.run("flock --nonblock /run/api-endpoint-data.alive true").rc != 0

    def kill(self) -> None:
        """Kill it with all that it has started, at once."""
        self.host.check_output(f"kill -s KILL -- -{self.pid}")


class Memory:
    """The memory that a host needs while a block runs, in MB."""

    def __init__(self, host) -> None:
        self.host = host
        self.peak: dict[str, float] = {}

    def __enter__(self) -> "Memory":
        self.host.check_output("rm -f /run/memory.stop /run/memory.json")
        self.host.check_output(f"cat >/run/memory.py <<'END'\n{SAMPLER}END")
        self.host.check_output("setsid python3 /run/memory.py >/dev/null 2>&1 </dev/null &")
        return self

    def __exit__(self, *_error: object) -> None:
        found = self.host.check_output(
            "touch /run/memory.stop; for i in $(seq 50); do [ -s /run/memory.json ] && break; sleep 0.1; done; "
            "cat /run/memory.json"
        )
        peak = json.loads(found)
        assert peak["samples"] > 0, peak
        self.peak = {"all": peak["all"] / 1000, "background": peak["background"] / 1000}


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(content).hexdigest()


def note(text: str) -> None:
    """Remember a figure, to be shown at the end."""
    FIGURES.append(text)
    print(text)
