"""How much memory four workers need for one model, after ten thousand requests.

Run by `make bench`. BENCH_MODEL_BYTES is the model's size (default 1 GB), BENCH_REPEATS the number of rounds (3 at most).
"""

from __future__ import annotations

import os

import figures
import host
from figures import Figure

SIZE = int(os.environ.get("BENCH_MODEL_BYTES", 10**9))
REPEATS = min(3, int(os.environ.get("BENCH_REPEATS", 3)))
REQUESTS = 10_000


def memory() -> int:
    """Return the sum of the PSS of all processes of the live version, in bytes."""
    return 1024 * int(
        host.inside(
            f"slot=$(basename $(readlink {host.ROOT}/live));"
            "main=$(systemctl show --property=MainPID --value api-endpoint@$slot);"
            "for pid in $main $(pgrep --parent $main); do cat /proc/$pid/smaps_rollup; done"
            " | awk '/^Pss:/ { sum += $2 } END { print sum }'"
        )
    )


def with_model(kind: str, size: int, workers: int, requests: int = REQUESTS) -> int:
    """Return what the workers need with a model, when they have answered so many requests."""
    host.playbook(
        "site.yml",
        **host.settings(
            api_endpoint_wsgi="memory_wsgi:app",
            api_endpoint_environment={"MODEL": kind, "MODEL_BYTES": str(size)},
            api_endpoint_workers=workers,
            api_endpoint_strategy="restart",
            api_endpoint_health_path="/",
            api_endpoint_health_status=[200],
            api_endpoint_smoke_requests=[],
        ),
    )
    answered = 0.0
    while answered < requests:
        answered += host.load(80, "/", 8, 1).rate
    return memory()


def main() -> None:
    """Measure both kinds of models."""
    host.start()
    found = []
    for kind, name in (("objects", "in Python objects"), ("block", "in one block")):
        figure = Figure(
            "Memory",
            f"4 workers with a model of {SIZE / 1e9:g} GB {name}, against the model",
            goal=1.15,
            more_is_better=False,
        )
        for number in range(REPEATS):
            print(f"  {name}, round {number + 1} of {REPEATS}", flush=True)
            bare = with_model(kind, 0, 4)
            # One worker that has not been asked and its parent have one model between them.
            model = with_model(kind, SIZE, 1, requests=0) - with_model(kind, 0, 1, requests=0)
            figure.values.append((with_model(kind, SIZE, 4) - bare) / model)
        found.append(figure)
    figures.keep(found)


if __name__ == "__main__":
    main()
