"""What several workers with one PyTorch model of 0.9 GB cost: memory and answers, for each way to have them.

    python bench/pytorch.py PYTHON

PYTHON is an interpreter with torch (for the CPU) and gunicorn. Not a part of `make bench`, because PyTorch is large.
gunicorn runs on this machine, with the settings that the role writes. BENCH_REPEATS is the number of rounds (default 3).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import figures
from figures import Figure
from host import PROJECT, run

REPEATS = int(os.environ.get("BENCH_REPEATS", 3))
SECONDS = 5
PORT = 8765
ROLE = PROJECT / "roles" / "api_endpoint"
ONE = {"api_endpoint_workers": 1}
FOUR = {"api_endpoint_workers": 4, "api_endpoint_threads": 1}
SEPARATE = {
    "api_endpoint_workers": 4,
    "api_endpoint_threads": 4,
    "api_endpoint_gunicorn_settings": {"dirty_apps": ["separate:Model"], "dirty_workers": 2},
}
# The role's variables and the app's environment.
WAYS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    "1 worker, 16 threads": (ONE, {}),
    "1 worker, 16 threads, 2 of PyTorch's each": (ONE, {"TORCH_THREADS": "2"}),
    "4 workers, each with a copy": (FOUR, {}),
    "4 workers, weights mapped from the file": (FOUR, {"MMAP": "1"}),
    "4 workers, the model in 2 separate ones of gunicorn's": (SEPARATE, {"SEPARATE": "1"}),
    "4 workers, loaded before the fork": ({**FOUR, "api_endpoint_preload": True}, {}),
    "4 workers, loaded and asked before the fork": (
        {**FOUR, "api_endpoint_preload": True},
        {"ASK": "1", "TORCH_THREADS": "2"},
    ),
}


def configuration(folder: Path, variables: dict[str, object]) -> None:
    """Write gunicorn.conf.py, as the role does, with the module that it imports."""
    shutil.copy(ROLE / "files" / "api_endpoint_worker.py", folder)
    play = [
        {
            "hosts": "localhost",
            "gather_facts": False,
            "vars_files": [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")],
            "tasks": [
                {
                    "ansible.builtin.template": {
                        "src": str(ROLE / "templates" / "gunicorn.conf.py.j2"),
                        "dest": str(folder / "gunicorn.conf.py"),
                        "mode": "0644",
                    }
                }
            ],
        }
    ]
    (folder / "play.json").write_text(json.dumps(play))
    given = json.dumps(
        {"ansible_python_interpreter": sys.executable, "api_endpoint_preload": False, **variables}
    )
    run(
        "ansible-playbook",
        "-i",
        "localhost,",
        "-c",
        "local",
        "-e",
        given,
        str(folder / "play.json"),
    )


def is_answered(seconds: float) -> bool:
    """Ask until there is an answer, or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", timeout=5):
                return True
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    return False


def family(pid: int) -> list[int]:
    """Return a process and all that came of it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def memory(pid: int) -> int:
    """Return the sum of the PSS of a family of processes, in bytes."""
    rollups = [Path(f"/proc/{one}/smaps_rollup").read_text() for one in family(pid)]
    return 1024 * sum(
        int(line.split()[1])
        for text in rollups
        for line in text.splitlines()
        if line.startswith("Pss:")
    )


def way(
    python: str, folder: Path, variables: dict[str, object], environment: dict[str, str]
) -> tuple[float, float, float] | None:
    """Return gigabytes, answers a second and the median in milliseconds; None if nobody answers."""
    configuration(folder, variables)
    server = subprocess.Popen(
        [
            *(
                python,
                "-m",
                "gunicorn",
                "--config",
                "gunicorn.conf.py",
                "--bind",
                f"127.0.0.1:{PORT}",
            ),
            *("--access-logfile", "access.log", "--error-logfile", "error.log", "wsgi:app"),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": environment.get("TORCH_THREADS", "1"), **environment},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        if not is_answered(60):
            return None
        time.sleep(10)  # until the other workers have loaded theirs as well
        said = run(
            *(
                "wrk",
                "--threads",
                "1",
                "--connections",
                "8",
                "--duration",
                f"{SECONDS}s",
                "--timeout",
                "30s",
            ),
            *("--script", "bench/wrk.lua", f"http://127.0.0.1:{PORT}/"),
        )
        answered = json.loads(said.strip().splitlines()[-1])
        return (
            memory(server.pid) / 1e9,
            answered["requests"] / (answered["duration"] / 1e6),
            answered["p50"] / 1000,
        )
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def main() -> None:
    """Try each way, in turn."""
    python = sys.argv[1]
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "app"
        shutil.copytree(PROJECT / "bench" / "pytorch_app", folder)
        run(python, str(folder / "model.py"))
        rows = {
            name: [Figure("PyTorch, a model of 0.9 GB", f"{name}: {what}", unit=unit) for what, unit in
                   (("memory", "GB"), ("answers a second", "/s"), ("median", "ms"))]
            for name in WAYS
        }  # fmt: skip
        for number in range(REPEATS):
            print(f"  round {number + 1} of {REPEATS}", flush=True)
            for name, (variables, environment) in WAYS.items():
                measured = way(python, folder, variables, environment)
                if measured is None:
                    print(f"  {name}: nobody answers for 60 s")
                    continue
                for figure, value in zip(rows[name], measured, strict=True):
                    figure.values.append(value)
    found = [figure for group in rows.values() for figure in group if figure.values]
    figures.keep(found)


if __name__ == "__main__":
    main()
