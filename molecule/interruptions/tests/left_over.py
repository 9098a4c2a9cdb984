"""Prints what is amiss with an endpoint that no run is at work on: a line each, on the host itself."""

import fcntl
import json
import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAME = "api-endpoint"
ROOT = Path("/var/lib", NAME)
DATA = Path("/srv", NAME, "data")
RUN = Path("/run")
SLOTS = ("blue", "green")
TASKS = ("virtualenv", "build", "decompress", "extract", "make-data", "warm-up")
ENTRY = re.compile(r"[0-9a-f]{12}|[0-9a-f]{16}|[0-9a-f]{64}")


def systemctl(*arguments: str) -> list[list[str]]:
    """Return what systemctl lists, in words."""
    command = ["systemctl", *arguments, "--plain", "--no-legend", "--no-pager"]
    return [
        line.split()
        for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
    ]


def state(unit: str) -> tuple[str, str]:
    """Return whether a unit runs, and whether it will after the next boot."""
    shown = subprocess.run(
        ["systemctl", "show", unit, "--property=ActiveState,UnitFileState"],
        capture_output=True,
        text=True,
    ).stdout
    found = dict(line.split("=", 1) for line in shown.splitlines())
    return found["ActiveState"], found["UnitFileState"]


def slots() -> Iterator[str]:
    """Exactly one slot runs and is enabled, and `live` names it; all links lead where they should."""
    live = ROOT / "live"
    slot = os.path.basename(os.readlink(live)) if live.is_symlink() else ""
    for name in SLOTS:
        wanted = ("active", "enabled") if name == slot else ("inactive", "disabled")
        if (found := state(f"{NAME}@{name}.service")) != wanted:
            yield f"live is {slot or 'missing'}, and the slot {name} is {' and '.join(found)}"
    wanted_links = {ROOT / "current": "live/release", ROOT / "p3env": "live/release/p3env"}
    if slot:
        wanted_links[ROOT / "slots" / slot / "gunicorn.sock"] = f"/run/{NAME}/{slot}/gunicorn.sock"
    for link, target in wanted_links.items():
        if not link.is_symlink() or os.readlink(link) != target:
            yield f"the link {link} does not lead to {target}"


def units() -> Iterator[str]:
    """Nothing of the endpoint runs but the live slot, and nothing has failed."""
    for unit, *_words in systemctl("--failed"):
        yield f"{unit} has failed"
    for unit, _loaded, active, *_words in systemctl("list-units", "--all", f"{NAME}*"):
        if unit.startswith(f"{NAME}@"):
            continue
        if unit in {f"{NAME}-{task}.service" for task in TASKS}:
            yield f"the unit {unit} is still there ({active})"
        elif active != "inactive":
            yield f"{unit} is {active}"
    for words in systemctl("list-timers", "--all"):
        yield from (
            f"the timer {word} is still there"
            for word in words
            if word.startswith(NAME) and ".timer" in word
        )
    for words in systemctl("list-jobs"):
        yield from (
            f"a job waits: {' '.join(words)}" for word in words[1:2] if word.startswith(NAME)
        )
    for unit in ("nginx.service", "rsyslog.service", *(f"{NAME}@{slot}.service" for slot in SLOTS)):
        shown = subprocess.run(
            ["systemctl", "show", unit, "--property=NeedDaemonReload", "--value"],
            capture_output=True,
            text=True,
        )
        if shown.stdout.strip() == "yes":
            yield f"systemd has not read the settings of {unit}"


def locks() -> Iterator[str]:
    """Nobody deploys, and no process is at work."""
    if (RUN / f"{NAME}.lock").exists():
        yield f"the lock is held: {(RUN / f'{NAME}.lock').read_text()}"
    for path in (RUN / f"{NAME}.busy", RUN / f"{NAME}-data.alive", RUN / NAME / "deploying"):
        if path.exists():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield f"a process holds {path}"
    for name in ("waiting", "waiting.sock", "resume"):
        if (RUN / NAME / name).exists():
            yield f"{RUN / NAME / name} is still there"


def processes() -> Iterator[str]:
    """The app's account runs the live slot alone."""
    account = pwd.getpwnam("www-data").pw_uid
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}").st_uid != account:
                continue
            group = Path(f"/proc/{pid}/cgroup").read_text().strip()
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if f"{NAME}@" not in group:
            yield f"the app's account runs: {command}"


def entries(store: Path) -> list[Path]:
    """Return what has a digest for its name."""
    return (
        [path for path in store.iterdir() if ENTRY.fullmatch(path.name)] if store.is_dir() else []
    )


def files() -> Iterator[str]:
    """Each release has a history, what is stored is part of a release, and nothing is half built."""
    parts = []
    history = json.loads((ROOT / "history.json").read_text())
    for release in entries(ROOT / "releases"):
        parts.append(json.loads((release / "release.json").read_text())["components"])
        if release.name not in history:
            yield f"the release {release.name} is not in the history"
    needed = {
        ROOT / "code": {part["code"] for part in parts},
        ROOT / "venvs": {part["virtualenv"] for part in parts},
        ROOT / "secrets": {part.get("secrets", "") for part in parts},
        DATA: {artifact["digest"] for part in parts for artifact in part["artifacts"]},
    }
    for store, names in needed.items():
        yield from (f"no release needs {path}" for path in entries(store) if path.name not in names)
    for store in (ROOT, DATA):
        yield from (f"half built: {path}" for path in store.rglob(".building-*"))
    yield from (
        f"half built: {path}"
        for path in entries(ROOT / "venvs")
        if not (path / ".complete").exists()
    )
    # Where files and links are replaced: under another name first.
    units = Path("/etc/systemd/system")
    folders = [
        ROOT,
        ROOT / "slots",
        *(ROOT / "slots" / slot for slot in SLOTS),
        *entries(ROOT / "releases"),
    ]
    folders += [
        ROOT / "code",
        ROOT / "venvs",
        ROOT / "releases",
        ROOT / "secrets",
        DATA,
        Path("/etc", NAME),
        units,
    ]
    folders += units.glob(f"{NAME}*.d")
    for folder in folders:
        if folder.is_dir():
            yield from (
                f"half replaced: {path}"
                for path in folder.glob(".*")
                if not path.name.startswith(".building-")
            )
    yield from (
        f"{path} is no slot" for path in (ROOT / "slots").glob("[!.]*") if path.name not in SLOTS
    )


def main() -> None:
    """Print what is amiss."""
    for check in (slots, units, locks, processes, files):
        for line in check():
            print(line)


if __name__ == "__main__":
    main()
