# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of what an endpoint stands on: disks, memory, clock, network."""

from __future__ import annotations

import os
import re
import shlex
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.api_endpoint.artifacts.store import mib
from ansible.module_utils.api_endpoint.diagnosis.findings import CAUSE, NOTE, RISK, Finding
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState, run_command
from ansible.module_utils.api_endpoint.lock import Lock

FULL_BYTES = 1_000_000  # bytes below which a disk counts as full
SCARCE = 0.03  # part of a disk, or of its files, below which it is soon full
LOOK_SECONDS = 2.0  # seconds for finding what takes the room
LEFT = ("/home", "/root", "/srv", "/tmp", "/var/log", "/var/tmp")  # noqa: S108 - only looked at
THEIRS = (
    ".log",
    ".journal",
    ".json",
)  # ends of names of files that somebody has open, or that say what there is
MAYBE = "Delete the largest files below if they are not needed."
SKEW_SECONDS = 60.0  # seconds that host and laptop may differ
APT = Path("/etc/apt")


def deployment(observed: EndpointState) -> Iterator[Finding]:
    """Find somebody who deploys at this moment: what is found may be a step of that."""
    # The lock's own question would make a file.
    if Path(f"/run/{observed.name}.lock").exists() and (holder := Lock(observed.name).holder()):
        who = f"{holder.get('who')} on {holder.get('computer')}"
        yield Finding(
            NOTE,
            f"{who} has been deploying since {holder.get('since')}; look again when that is done.",
        )


def reboot(_patient: EndpointState) -> Iterator[Finding]:
    """Find upgrades that take effect at the next boot."""
    if Path("/run/reboot-required").exists():
        packages = Path("/run/reboot-required.pkgs")
        names = packages.read_text(encoding="utf-8").split() if packages.exists() else []
        yield Finding(
            NOTE,
            "The host waits for a reboot.",
            [", ".join(sorted(set(names)))],
            ["sudo systemctl reboot"],
        )


def disks(observed: EndpointState) -> Iterator[Finding]:
    """Find disks that are full, or soon are, or cannot be written."""
    folders = [
        observed.root,
        observed.data_dir,
        observed.log_dir,
        Path("/var/log/nginx"),
        Path("/run"),
        Path("/tmp"),  # noqa: S108
    ]
    by_disk = {os.stat(folder).st_dev: folder for folder in reversed(folders) if folder.is_dir()}
    for folder in sorted(by_disk.values(), key=folders.index):
        disk = os.statvfs(folder)
        free, size = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        # A filesystem without a fixed number of files says 0 of 0.
        files = disk.f_favail / disk.f_files if disk.f_files else 1.0
        evidence = [
            f"{folder}: {mib(free)} of {mib(size)} free, {disk.f_favail:,} of {disk.f_files:,} files"
        ]
        if disk.f_flag & os.ST_RDONLY:
            yield Finding(
                CAUSE, f"The disk of {folder} is read-only, as after an error of the disk.", evidence,
                [f'sudo mount -o remount,rw "$(stat --format %m {folder})"'],
            )  # fmt: skip
        elif free < FULL_BYTES or (disk.f_files and disk.f_favail == 0):
            what = "full" if free < FULL_BYTES else "out of inodes"
            yield Finding(
                CAUSE,
                f"The disk of {folder} is {what}. {MAYBE}",
                *_takers(observed, folder, evidence),
            )
        elif free < SCARCE * size or files < SCARCE:
            yield Finding(
                RISK,
                f"The disk of {folder} is nearly full. {MAYBE}",
                *_takers(observed, folder, evidence),
            )


def _takers(
    observed: EndpointState, folder: Path, evidence: list[str]
) -> tuple[list[str], list[str]]:
    """Return the evidence with what takes most room and is neither the endpoint's nor Debian's, and how to remove it."""
    sizes: dict[str, int] = {}
    counts: dict[str, int] = {}
    deadline = time.monotonic() + LOOK_SECONDS
    for top, files in _not_needed(observed, folder):
        counts[top] = len(files)
        sizes |= {path: _extent(path) for path in files}
        if time.monotonic() > deadline:
            break
    largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:5]
    crowded = max(counts, key=lambda path: counts[path], default="")
    evidence = [
        *evidence,
        "what is there and not needed by the endpoint:",
        *(f"{mib(sizes[path]):>10}  {path}" for path in largest),
        *([f"{counts[crowded]:,} files in {crowded}"] if crowded else []),
    ]
    disk = os.statvfs(folder)
    if crowded not in ("", str(folder)) and disk.f_files and disk.f_favail < SCARCE * disk.f_files:
        return evidence, [f"sudo rm -r {shlex.quote(crowded)}"]
    if largest and sizes[largest[0]] > 0:
        return evidence, [f"sudo rm {shlex.quote(largest[0])}"]
    return evidence, [
        f"sudo du --one-file-system --max-depth=3 {folder} | sort --numeric-sort | tail"
    ]


def _extent(path: str) -> int:
    """Return the bytes of a disk that a file takes; none when it is gone by now."""
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _not_needed(observed: EndpointState, disk: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield folders with their files, of the disk of a folder, where people and programs leave what nobody needs."""
    kept = {
        str(observed.root / name)
        for name in ("code", "git", "releases", "secrets", "slots", "state", "venvs")
    }
    device = os.stat(disk).st_dev

    def is_open(path: str) -> bool:
        return (
            path not in kept
            and os.lstat(path).st_dev == device
            and not os.path.exists(f"{path}/artifact.json")
        )

    for start in (str(disk), *LEFT):
        for top, folders, files in os.walk(start):
            folders[:] = (
                [name for name in folders if is_open(os.path.join(top, name))]
                if is_open(top)
                else []
            )
            if is_open(top):
                yield top, [os.path.join(top, name) for name in files if not name.endswith(THEIRS)]


def volume(observed: EndpointState) -> Iterator[Finding]:
    """Find out that the volume that holds the model data is not there."""
    mount = observed.given["volume"]
    if mount and not os.path.ismount(mount):
        _rc, shown = run_command("lsblk", "--output=NAME,SIZE,FSTYPE,LABEL,MOUNTPOINT")
        yield Finding(
            CAUSE, f"The volume with the model data is not mounted at {mount}.",
            [shown, "If the disk is not in this list, attach it again (on Cloud VPS in Horizon)."],
            [f"sudo mount {mount}"],
        )  # fmt: skip


def memory(observed: EndpointState) -> Iterator[Finding]:
    """Find too little memory, and what was killed for it."""
    text = Path("/proc/meminfo").read_text(encoding="ascii")
    total, available = (
        int(re.findall(rf"{name}:\s+(\d+) kB", text)[0]) * 1024
        for name in ("MemTotal", "MemAvailable")
    )
    figures = f"{mib(available)} of {mib(total)} memory can be had"
    less = max(1, int(observed.plan.get("workers", 2)) // 2)
    remedy = [f"ansible-playbook -i inventory site.yml --tags app -e api_endpoint_workers={less}"]
    _rc, kernel = run_command(
        "journalctl",
        "--dmesg",
        "--since=-1day",
        "--grep=out of memory|oom-kill",
        "--output=cat",
        "--no-pager",
    )
    # Times in the log are whole seconds: what stands before gunicorn's own first line is of the start before.
    starts = [number for number, line in enumerate(observed.log) if "] Starting gunicorn " in line]
    log = observed.log[starts[-1] :] if starts else observed.log
    late = re.findall(r"WORKER TIMEOUT \(pid:(\d+)\)", "\n".join(log))
    lost = [
        line for line in log
        if (found := re.search(r"Worker \(pid:(\d+)\) was sent SIGKILL", line)) and found[1] not in late
    ]  # fmt: skip
    killed = [line for line in kernel.splitlines() if "emory" in line or "oom" in line]
    if observed.state.get("Result") == "oom-kill" or lost or killed:
        yield Finding(
            observed.severity,
            "Memory ran out, and processes were killed for it. Fewer workers, a smaller model or a larger host need less "
            "(to keep it, write it into group_vars).",
            [figures, *killed[-5:], *lost[-5:]], remedy,
        )  # fmt: skip
    elif available < SCARCE * total:
        yield Finding(RISK, "The host has hardly any memory left.", [figures], remedy)


def clock(observed: EndpointState) -> Iterator[Finding]:
    """Find a wrong clock, which breaks certificates, caches and logs."""
    ahead = time.time() - observed.given["laptop_time"]
    # The host's time is read some seconds after the laptop's.
    if (
        not observed.given["laptop_time"]
        or -SKEW_SECONDS < ahead < SKEW_SECONDS + observed.given["load_check_timeout"]
    ):
        return
    _rc, shown = run_command("timedatectl", "show", "--property=NTP,NTPSynchronized")
    way = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        observed.severity if abs(ahead) > 3600 else RISK,
        f"The clock is {abs(ahead):,.0f} s {way} that of the computer from which this was asked.",
        [time.strftime("here it is %Y-%m-%d %H:%M:%S UTC", time.gmtime()), shown], ["sudo timedatectl set-ntp true"],
    )  # fmt: skip


def package_source() -> tuple[str, int] | None:
    """Return the host and port from which this one gets its packages, and so must reach; None when there is none."""
    files = [APT / "sources.list", *sorted(APT.glob("sources.list.d/*"))]
    text = "\n".join(
        file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()
    )
    found = re.search(r"(?m)^[^#\n]*?\b(https?)://(?:[^/@\s]*@)?([^/:\s]+)(?::(\d+))?", text)
    return (found[2], int(found[3] or (443 if found[1] == "https" else 80))) if found else None


def network(observed: EndpointState) -> Iterator[Finding]:
    """Find names that are not resolved, and connections that do not come about."""
    source = package_source()
    if not observed.given["outbound_network"] or not source:
        return
    host, port = source
    rc, words = run_command("getent", "ahosts", host)
    if rc != 0:
        told = "no answer in time" if rc == 124 else words or "nothing"
        servers = [
            line
            for line in Path("/etc/resolv.conf").read_text(encoding="utf-8").splitlines()
            if line.strip()
        ]
        yield Finding(
            observed.severity, "DNS fails: the app cannot resolve host names.",
            [f"getent ahosts {host}: {told}", "/etc/resolv.conf:", *servers], ["sudoedit /etc/resolv.conf"],
        )  # fmt: skip
        return
    try:
        socket.create_connection(source, timeout=2).close()
    except OSError as error:
        yield Finding(
            RISK, "Other hosts are not reached over the network, though the app may use it.",
            [f"{host}, port {port}: {error}"], ["ip route; sudo nft list ruleset"],
        )  # fmt: skip
