"""The time of deployments over SSH, as ratios to `ansible -m setup` on the same host in the same round.

Run by `make bench`. BENCH_REPEATS is the number of rounds (default 5); BENCH_INVENTORY and BENCH_HOST name another instance
than the demo's, whose inventory has the settings of tools/group_vars/.
"""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable

from figures import Figure, keep
from host import CONTAINER, PROJECT, ROOT, run, start

INVENTORY = os.environ.get("BENCH_INVENTORY", "tools/demo.yml")
HOST = os.environ.get("BENCH_HOST", CONTAINER)
APP = PROJECT / ".cache" / "bench" / "changed_app"

NOTHING = "no-op site.yml"
MODEL = "no-op --tags model"
PART = "no-op --tags app"
NEW_CODE = "new code, beyond the app's start"
BACK = "rollback, beyond the app's start"
NEW_REQUIREMENTS = (
    "new requirements (pandas, scikit-learn) until live, against pip with a cold cache"
)
CHANGED_LINE = "one requirement more, against pip with a cold cache"
AGAINST_PIP = {NEW_REQUIREMENTS: 0.4, CHANGED_LINE: 0.4}
# An option that only pip has, so that pip installs.
PIP = ("--extra-vars", '{"api_endpoint_pip_options": ["--prefer-binary"]}')
GOALS = {NOTHING: 2.5, MODEL: 2.0, PART: 2.0, NEW_CODE: 8.0, BACK: 4.0}


def deploy(*options: str) -> str:
    """Deploy the copy of the example app, and return what Ansible says."""
    folder = os.path.relpath(APP, PROJECT)
    return run(
        "ansible-playbook",
        "-i",
        INVENTORY,
        "site.yml",
        *options,
        "--extra-vars",
        f"api_endpoint_app_dir={folder}",
    )


def timed(work: Callable[[], str]) -> tuple[float, str]:
    """Return how many seconds something takes, and what it says."""
    begun = time.monotonic()
    said = work()
    return time.monotonic() - begun, said


def nothing_to_do(*options: str) -> float:
    """Return the seconds of a run that changes nothing."""
    seconds, said = timed(lambda: deploy(*options))
    if not re.search(rf"{re.escape(HOST)} .*changed=0 .*failed=0", said):
        raise SystemExit(f"A run with nothing to do did something:\n{said}")
    return seconds


def new_code() -> float:
    """Return the seconds that a run takes with a new line of code and unchanged requirements, but for the app's start."""
    module = APP / "wsgi.py"
    module.write_text(
        f"{module.read_text(encoding='utf-8')}\n# {uuid.uuid4().hex}\n", encoding="utf-8"
    )
    return beyond_the_start(deploy)


def back() -> float:
    """Return the seconds that it takes to go back to the release before, but for the app's start."""
    return beyond_the_start(
        lambda: run("ansible-playbook", "-i", INVENTORY, "playbooks/rollback.yml")
    )


def beyond_the_start(switch: Callable[[], str]) -> float:
    """Return the seconds of a run that brings another release live, but for those of the app's start."""
    seconds, said = timed(switch)
    proven = re.search(r"proven\s+after\s+([0-9.]+)\s+s", said)
    if not proven:
        raise SystemExit(f"No other release was brought live:\n{said}")
    return seconds - float(proven[1])


def without_caches() -> None:
    """Remove from the host what earlier builds have fetched and made, but for the live virtualenv."""
    command = (
        f"cd {ROOT}; rm -rf uv/cache cache/.cache; "
        "for one in venvs/*; do test $one -ef p3env || rm -rf $one; done"
    )
    options = ("--become", "--module-name", "ansible.builtin.shell", "--args", command)
    run("ansible", "-i", INVENTORY, HOST, *options)


def requirements() -> dict[str, float]:
    """Return how long new requirements take until they are live, as ratios to pip's time."""
    file = APP / "requirements.txt"
    text = f"{file.read_text(encoding='utf-8')}\npandas\nscikit-learn\n"
    before = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    without_caches()
    least = timed(lambda: deploy(*PIP))[0]
    without_caches()
    found = {NEW_REQUIREMENTS: timed(deploy)[0] / least}
    file.write_text(f"{text}tabulate\n", encoding="utf-8")
    found[CHANGED_LINE] = timed(deploy)[0] / least
    file.write_text(before, encoding="utf-8")
    return found


def floor() -> float:
    """Return the seconds of one look at the host, which is about as little as Ansible can do there."""
    return timed(lambda: run("ansible", "-i", INVENTORY, HOST, "--module-name", "setup"))[0]


def measure(repeats: int) -> dict[str, list[float]]:
    """Return, for each figure, its ratios to the floor that was measured in the same round."""
    shutil.rmtree(APP, ignore_errors=True)
    shutil.copytree(PROJECT / "app", APP, ignore=shutil.ignore_patterns("__pycache__"))
    found: dict[str, list[float]] = {name: [] for name in (*GOALS, *AGAINST_PIP)}
    for _ in range(repeats):
        # Before it counts: the connection that stays open, and what differs from the last deployment or was gone back from.
        deploy()
        least = floor()
        found[NOTHING].append(nothing_to_do() / least)
        found[MODEL].append(nothing_to_do("--tags", "model") / least)
        found[PART].append(nothing_to_do("--tags", "app") / least)
        found[NEW_CODE].append(new_code() / least)
        found[BACK].append(back() / least)
        for name, ratio in requirements().items():
            found[name].append(ratio)
    return found


def main() -> None:
    """Measure, and keep the figures."""
    if HOST == CONTAINER:
        start()
    found = measure(int(os.environ.get("BENCH_REPEATS", 5)))
    keep(
        [
            Figure(
                "Deployments",
                name,
                ratios,
                goal={**GOALS, **AGAINST_PIP}[name],
                more_is_better=False,
            )
            for name, ratios in found.items()
        ]
    )


if __name__ == "__main__":
    main()
