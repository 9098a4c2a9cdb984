"""How the cost of a deployment, and of an endpoint, grows with what there is of everything.

Run by `make bench`. BENCH_GROWTH is how many artifacts, releases and endpoints there are in the end (default 50,10,4),
BENCH_MODEL_BYTES the size of a large artifact (default 1 GB), BENCH_REPEATS the number of runs of each kind (3 at most).
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import figures
import host
from figures import Figure

ARTIFACTS, RELEASES, ENDPOINTS = (
    int(number) for number in os.environ.get("BENCH_GROWTH", "50,10,4").split(",")
)
SIZE = int(os.environ.get("BENCH_MODEL_BYTES", 10**9))
REPEATS = min(3, int(os.environ.get("BENCH_REPEATS", 3)))
FILES = host.PROJECT / ".cache" / "bench" / "files"
PART = "Growth"


def seconds(*options: str, **settings: object) -> float:
    """Return how long a deployment takes."""
    begun = time.monotonic()
    host.playbook("site.yml", *options, **settings)
    return time.monotonic() - begun


def nothing_to_do(**settings: object) -> list[float]:
    """Deploy, and return how long the same takes when there is nothing to do."""
    host.playbook("site.yml", **settings)
    return [seconds(**settings) for _ in range(REPEATS)]


def against(what: str, many: list[float], few: list[float]) -> Figure:
    """Return the ratios of what belongs together."""
    return Figure(PART, what, [a / b for a, b in zip(many, few, strict=True)], more_is_better=False)


def file_of(name: str, size: int) -> dict[str, str]:
    """Make a file, and return the artifact that it is."""
    FILES.mkdir(parents=True, exist_ok=True)
    with open(FILES / name, "wb") as file:
        for _ in range(0, size, 10**6):
            file.write(os.urandom(min(size, 10**6)))
    return {"dest": name, "src": str((FILES / name).relative_to(host.PROJECT))}


def with_artifacts() -> list[Figure]:
    """Many artifacts, and a large one."""
    usual = host.settings()
    small = [file_of(f"{number}.bin", 1000) for number in range(ARTIFACTS)]
    own = [{"src": "app/lid.176.ftz", "dest": "lid.176.ftz"}]  # the example app's model
    one = nothing_to_do(**usual, api_endpoint_artifacts=[*own, *small[:1]])
    many = nothing_to_do(**usual, api_endpoint_artifacts=[*own, *small])
    megabyte, large = file_of("megabyte.bin", 10**6), file_of("large.bin", SIZE)
    least = seconds("--tags", "model", **usual, api_endpoint_artifacts=[*own, megabyte])
    most = seconds("--tags", "model", **usual, api_endpoint_artifacts=[*own, large])
    size = nothing_to_do(**usual, api_endpoint_artifacts=[*own, large])
    return [
        against(f"run with nothing to do, {ARTIFACTS} artifacts more against 1 more", many, one),
        against(
            f"run with nothing to do, an artifact of {SIZE / 1e6:,.0f} MB against one of 1 KB",
            size,
            one,
        ),
        Figure(
            PART,
            f"bringing a file of {SIZE / 1e6:,.0f} MB from the laptop, beyond one of 1 MB",
            [most - least],
            "s",
            None,
            False,
        ),
    ]


def with_releases() -> list[Figure]:
    """Many releases kept."""
    usual = host.settings(api_endpoint_keep_releases=RELEASES)
    few = nothing_to_do(**usual)
    module = host.APP / "wsgi.py"
    text = module.read_text()
    for number in range(RELEASES):
        module.write_text(f"{text}\n# release {number} of {time.time()}\n")
        host.playbook("site.yml", **usual)
    many = [seconds(**usual) for _ in range(REPEATS)]
    return [
        against(
            f"run with nothing to do, {RELEASES} releases kept against those from before", many, few
        )
    ]


def memory(name: str) -> int:
    """Return the sum of the PSS of the processes of an endpoint's live version, in bytes."""
    said = host.inside(
        f"main=$(systemctl show --property=MainPID --value {name}@$(basename $(readlink /var/lib/{name}/live)));"
        "for pid in $main $(pgrep --parent $main); do grep ^Pss: /proc/$pid/smaps_rollup; done"
    )
    return 1024 * sum(int(number) for number in re.findall(r"Pss: +(\d+)", said))


def with_endpoints() -> list[Figure]:
    """Many endpoints on the host."""
    usual = host.settings()
    alone = nothing_to_do(**usual)
    first = memory("api-endpoint")
    needs = []
    for number in range(2, ENDPOINTS + 1):
        name = f"endpoint-{number}"
        host.playbook("site.yml", **usual, api_endpoint_name=name, api_endpoint_server_names=[f"{name}.example"],
                      api_endpoint_public_url="")  # fmt: skip
        needs.append(memory(name) / first)
    among = [seconds(**usual) for _ in range(REPEATS)]
    return [
        against(
            f"run with nothing to do for one of {ENDPOINTS} endpoints, against the only one",
            among,
            alone,
        ),
        Figure(
            PART, "memory of each further endpoint, against the first", needs, more_is_better=False
        ),
    ]


def main() -> None:
    """Measure all of them."""
    host.start()
    found = []
    for part in (with_artifacts, with_releases, with_endpoints):
        print(f"  {part.__doc__}", flush=True)
        found += part()
    figures.keep(found)
    for path in sorted(Path(FILES).glob("*.bin")):
        path.unlink()


if __name__ == "__main__":
    main()
