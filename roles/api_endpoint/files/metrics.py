#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Managed by Ansible (role api_endpoint). Counts what nginx tells of requests, and shows the figures to Prometheus.

systemd holds both sockets, so that nginx's messages wait while this restarts. Nobody's address is written anywhere.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import BaseServer

# Method, status, seconds, what the cache did, what the app's status was, whether a worker sent the request away.
MESSAGE = re.compile(rb'[^:]*:\d\d:\d\d [^:]*: (\S+) (\d{3}) (\d+)\.(\d{3}) (\S+) "([^"]*)" "([^"]*)"')
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CLASSES = ("2xx", "3xx", "4xx", "5xx")
CACHE = {"HIT", "MISS", "EXPIRED", "STALE", "UPDATING", "REVALIDATED", "BYPASS"}
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000)  # milliseconds
PAUSE = 0.005  # seconds between two looks at the messages, which saves waking up for each

STATES = {"02": "waiting", "03": "answering"}  # in /proc/net/unix: of connections, before and after they are accepted


class Counts:
    """What is known of the requests since this was started."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # What is there from the start: Prometheus sees no growth from nothing to one.
        self.requests = Counter({("GET", "200"): 0})
        self.sent_away = Counter({"nginx": 0, "workers": 0})
        self.cache: Counter[str] = Counter()
        self.durations = {name: [0] * (len(BUCKETS) + 1) for name in CLASSES}
        self.milliseconds = dict.fromkeys(CLASSES, 0)

    def add(self, message: bytes) -> None:
        """Count a request of which nginx tells."""
        found = MESSAGE.fullmatch(message)
        if not found:
            return
        method, status, seconds, rest, cache, app_status, was_sent_away = (part.decode() for part in found.groups())
        name = f"{status[0]}xx"
        if name not in CLASSES:  # an app can answer 999
            status, name = "other", "5xx"
        took = int(seconds) * 1000 + int(rest)
        place = next((place for place, most in enumerate(BUCKETS) if took <= most), len(BUCKETS))
        with self.lock:
            self.requests[method if method in METHODS else "other", status] += 1
            self.durations[name][place] += 1
            self.milliseconds[name] += took
            if cache in CACHE:
                self.cache[cache.lower()] += 1
            if status == "503" and was_sent_away not in ("", "-"):
                self.sent_away["workers"] += 1
            elif status == "503" and not app_status.endswith("503"):
                self.sent_away["nginx"] += 1

    def lines(self) -> Iterator[str]:
        """Yield the figures in Prometheus's format."""
        yield from head("api_endpoint_requests_total", "counter", "Requests but those for the health path.")
        for (method, status), count in sorted(self.requests.items()):
            yield f'api_endpoint_requests_total{{method="{method}",status="{status}"}} {count}'
        yield from head(
            "api_endpoint_request_duration_seconds", "histogram", "From a request's first byte to its answer's last."
        )
        for name in CLASSES:
            total = 0
            for most, count in zip((*(most / 1000 for most in BUCKETS), "+Inf"), self.durations[name], strict=True):
                total += count
                yield f'api_endpoint_request_duration_seconds_bucket{{class="{name}",le="{most}"}} {total}'
            yield f'api_endpoint_request_duration_seconds_sum{{class="{name}"}} {self.milliseconds[name] / 1000}'
            yield f'api_endpoint_request_duration_seconds_count{{class="{name}"}} {total}'
        yield from head(
            "api_endpoint_requests_sent_away_total", "counter", "Requests answered 503 because there were too many."
        )
        for by, count in sorted(self.sent_away.items()):
            yield f'api_endpoint_requests_sent_away_total{{by="{by}"}} {count}'
        yield from head("api_endpoint_cache_requests_total", "counter", "Requests by what nginx's cache had for them.")
        for result, count in sorted(self.cache.items()):
            yield f'api_endpoint_cache_requests_total{{result="{result}"}} {count}'


class Service:
    """The app's processes, of both slots while a release goes live, and its disks."""

    def __init__(
        self, name: str, root: Path, data: Path, proc: Path = Path("/proc"), control_groups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self.name = name
        self.root = root
        self.disks = {"data": data, "logs": Path("/var/log"), "releases": root}
        self.proc = proc
        # That of all services, which is the one above ours; in a container it is not at the top.
        own = read(proc / "self" / "cgroup").partition("::")[2].strip()
        self.control_group = Path(f"{control_groups}{own}").parent

    def control_groups(self) -> list[Path]:
        """Return those of the slots that run."""
        return [
            folder
            for slot in ("blue", "green")
            for folder in self.control_group.glob(f"system-*.slice/{self.name}@{slot}.service")
        ]

    def processes(self) -> dict[int, int]:
        """Return the parents of the app's processes."""
        pids = [pid for folder in self.control_groups() for pid in read(folder / "cgroup.procs").split()]
        # The name in brackets may have anything in it.
        stats = {int(pid): read(self.proc / pid / "stat").rpartition(")")[2].split() for pid in pids}
        return {pid: int(stat[1]) for pid, stat in stats.items() if stat}

    def connections(self) -> Counter[str]:
        """Count nginx's connections to the app: each is a request."""
        found = Counter(dict.fromkeys(STATES.values(), 0))
        paths = {f"/run/{self.name}/{file}" for file in ("blue/gunicorn.sock", "green/gunicorn.sock", "waiting.sock")}
        for line in read(self.proc / "net" / "unix").splitlines():
            fields = line.split()
            if fields[7:] and fields[7] in paths and fields[5] in STATES:
                found[STATES[fields[5]]] += 1
        return found

    def memory(self) -> int:
        """Return the bytes of memory that the app's processes use, as their control groups count it, each page once.

        Where the kernel counts none for control groups, what each process has for itself, and what the largest one shares.
        Their exact parts (PSS) are for the app's account and root to see, and this has neither's.
        """
        stats = [dict(re.findall(r"^(\w+) (\d+)$", read(folder / "memory.stat"), re.M)) for folder in self.control_groups()]
        if any(stats):
            return sum(int(stat.get(part, 0)) for stat in stats for part in ("anon", "file_mapped"))
        found = [read(self.proc / str(pid) / "statm").split() for pid in self.processes()]
        pages = [(int(fields[1]), int(fields[2])) for fields in found if fields]
        shared = max((shared for _resident, shared in pages), default=0)
        return (sum(resident - shared for resident, shared in pages) + shared) * os.sysconf("SC_PAGE_SIZE")

    def started(self, pid: int) -> float:
        """Return when a process was started, in seconds since the epoch."""
        stat = read(self.proc / str(pid) / "stat").rpartition(")")[2].split()
        boot = re.search(r"^btime (\d+)", read(self.proc / "stat"), re.M)
        return int(boot[1]) + int(stat[19]) / os.sysconf("SC_CLK_TCK") if boot and stat else 0

    def disk_lines(self) -> Iterator[str]:
        """Yield the figures of the disks; of a volume that is not there, none."""
        yield from head("api_endpoint_disk_free_ratio", "gauge", "What part of the disk that something is on is free.")
        for what, path in self.disks.items():
            with contextlib.suppress(OSError):
                found = os.statvfs(path)
                yield f'api_endpoint_disk_free_ratio{{of="{what}"}} {found.f_bavail / found.f_blocks:.4f}'

    def lines(self) -> Iterator[str]:
        """Yield the figures in Prometheus's format."""
        yield from self.disk_lines()
        processes = self.processes()
        masters = [pid for pid, parent in processes.items() if parent not in processes]
        workers = sum(parent in masters for parent in processes.values())
        yield from head(
            "api_endpoint_requests_in_progress", "gauge", "Requests that wait for a worker, or that one answers."
        )
        for state, count in self.connections().items():
            yield f'api_endpoint_requests_in_progress{{state="{state}"}} {count}'
        yield from head("api_endpoint_workers", "gauge", "Worker processes, of both versions while a release goes live.")
        yield f"api_endpoint_workers {workers}"
        yield from head("api_endpoint_memory_bytes", "gauge", "Memory of the app's processes, what they share counted once.")
        yield f"api_endpoint_memory_bytes {self.memory()}"
        yield from head("api_endpoint_start_time_seconds", "gauge", "When the app was started last.")
        if masters:
            yield f"api_endpoint_start_time_seconds {max(self.started(pid) for pid in masters)}"
        yield from head("api_endpoint_release_info", "gauge", "The release that is live.")
        with contextlib.suppress(OSError):
            release = os.path.basename(os.readlink(self.root / "live" / "release"))
            yield f'api_endpoint_release_info{{release="{release}"}} 1'


def head(name: str, kind: str, what: str) -> tuple[str, str]:
    """Return the lines that say what a figure is."""
    return f"# HELP {name} {what}", f"# TYPE {name} {kind}"


def read(path: Path) -> str:
    """Return a file; nothing when it, or the process that it tells of, is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def show(counts: Counts, service: Service) -> str:
    """Return all figures."""
    with counts.lock:
        lines = list(counts.lines())
    return "\n".join([*lines, *service.lines(), ""])


class Handler(BaseHTTPRequestHandler):
    """Answers Prometheus."""

    timeout = 5

    def do_GET(self) -> None:
        """Show the figures."""
        is_known = self.path.partition("?")[0] == "/metrics"
        body = self.server.figures() if is_known else "The figures are at /metrics.\n"  # type: ignore[attr-defined]
        self.send_response(200 if is_known else 404)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        """Log nothing: it would name who asked."""


class Server(HTTPServer):
    """Lets only those ask who may."""

    def __init__(self, listener: socket.socket, counts: Counts, service: Service, clients: list[str]) -> None:
        # Past HTTPServer, which would make a socket, which is forbidden here.
        BaseServer.__init__(self, listener.getsockname(), Handler)
        self.socket = listener
        self.figures = lambda: show(counts, service)
        self.clients = [ipaddress.ip_network(client) for client in [*clients, "127.0.0.0/8", "::1/128"]]

    def verify_request(self, _request: object, client_address: tuple[str, int]) -> bool:
        """Tell whether somebody may ask."""
        address = ipaddress.ip_address(client_address[0].partition("%")[0])
        # On [::] an IPv4 address comes as a part of an IPv6 one.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.clients)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Say what went wrong, and not who had asked."""
        print(f"An answer failed: {type(sys.exception()).__name__}", file=sys.stderr)


def count(messages: socket.socket, counts: Counts) -> None:
    """Count for ever."""
    while True:
        counts.add(messages.recv(4096))
        with contextlib.suppress(BlockingIOError):
            while True:
                counts.add(messages.recv(4096, socket.MSG_DONTWAIT))
        time.sleep(PAUSE)


def main() -> None:
    """Take the sockets over from systemd, count and answer."""
    parser = argparse.ArgumentParser(description="Counts requests for Prometheus.")
    parser.add_argument("name", help="the endpoint's name")
    parser.add_argument("root", type=Path, help="its folder")
    parser.add_argument("data", type=Path, help="the folder of its data")
    parser.add_argument("clients", nargs="*", help="who may ask, besides this host")
    given = parser.parse_args()
    listener, messages = sorted((socket.socket(fileno=number) for number in (3, 4)), key=lambda it: it.type)
    counts = Counts()
    server = Server(listener, counts, Service(given.name, given.root, given.data), given.clients)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    count(messages, counts)


if __name__ == "__main__":
    main()
