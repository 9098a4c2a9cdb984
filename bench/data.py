"""How fast data arrives, and how long it takes to find out that nothing is new: ratios, measured side by side.

Run by `make bench`. The server, the client and what they are compared with share this machine, so only the ratios mean
something. BENCH_SIZE is the size of the file in bytes (default 1 GB), BENCH_REPEATS the number of rounds (default 5).
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles" / "api_endpoint"
ansible.module_utils.__path__.append(str(ROLE / "module_utils"))
sys.path.insert(0, str(PROJECT / "molecule" / "artifacts"))

import fault_server  # noqa: E402
import figures  # noqa: E402
from ansible.module_utils.api_endpoint import files  # noqa: E402
from ansible.module_utils.api_endpoint.artifacts.download import download  # noqa: E402
from ansible.module_utils.api_endpoint.artifacts.store import Artifact, Store  # noqa: E402
from figures import Figure  # noqa: E402

PART = "Data"
SIZE = int(os.environ.get("BENCH_SIZE", 10**9))
REPEATS = int(os.environ.get("BENCH_REPEATS", 5))


def seconds(work) -> float:
    """Return how long something takes."""
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def throughput(folder: Path) -> list[Figure]:
    """Download the same file with plain curl and with the role's downloader, in turn."""
    server = fault_server.Server(("127.0.0.1", 0))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    digest = fault_server.digest(SIZE, "1")
    found = []
    for name, query in (
        ("at 100 MB/s", "?throttle=100000000"),
        ("at 400 MB/s", "?throttle=400000000"),
        ("unthrottled", ""),
    ):
        url = f"http://127.0.0.1:{server.server_address[1]}/bytes/{SIZE}/1{query}"
        figure = Figure(PART, f"download, verified, against curl alone, server {name}", goal=0.9)
        for _ in range(REPEATS):
            plain = seconds(
                lambda url=url: subprocess.run(["curl", "-sfo", folder / "plain", url], check=True)
            )
            ours = seconds(lambda url=url: download(folder / "part", [url], sha256=digest))
            figure.values.append(plain / ours)
            for path in folder.iterdir():
                path.unlink()
        found.append(figure)
    server.shutdown()
    return found


def nothing_to_do(folder: Path) -> list[Figure]:
    """Ask the store whether a file of 5 GB is as it was, and compare that with asking for a small one."""
    account = SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())
    files.pwd.getpwnam = lambda _name: account
    files.grp.getgrnam = lambda _name: account
    os.fchown = lambda *_arguments: None
    store = Store(folder, "any")
    for key, size in (("a" * 64, 5 * 10**9), ("b" * 64, 1)):
        with open(folder / "new", "wb") as file:
            file.truncate(size)
        store.add(key, folder / "new", source="bench", unverified=False, content=key)
    assert Artifact(dest="x", key="a" * 64).key
    large = [seconds(lambda: store.has("a" * 64)) for _ in range(REPEATS)]
    small = [seconds(lambda: store.has("b" * 64)) for _ in range(REPEATS)]
    ratios = [a / b for a, b in zip(large, small, strict=True)]
    return [
        Figure(
            PART,
            "finding out that nothing changed, 5 GB against 1 byte",
            ratios,
            more_is_better=False,
        ),
        Figure(
            PART,
            "finding out that nothing changed, 5 GB",
            [one * 1000 for one in large],
            "ms",
            more_is_better=False,
        ),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        figures.keep(throughput(Path(one)) + nothing_to_do(Path(other)))
