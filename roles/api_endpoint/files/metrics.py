#!/usr/bin/python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Managed by Ansible (role api_endpoint). Counts nginx's messages about requests, and serves the metrics to Prometheus.

systemd holds both sockets, so that messages wait while this program restarts. No address is written anywhere.
"""

import contextlib
import ipaddress
import os
import re
import socket
import sys
import threading
import time
from collections import Counter as Count
from collections.abc import Iterable, Iterator
from http.server import HTTPServer
from pathlib import Path
from socketserver import BaseServer

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import MetricsHandler
from prometheus_client.registry import Collector

# Method, status, seconds, what the cache did, the app's status, whether a worker shed the request.
MESSAGE = re.compile(
    r'[^:]*:\d\d:\d\d [^:]*: (\S+) (\d{3}) (\d+\.\d{3}) (\S+) "([^"]*)" "([^"]*)"', re.ASCII
)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
CLASSES = ("2xx", "3xx", "4xx", "5xx")
CACHE = {"HIT", "MISS", "EXPIRED", "STALE", "UPDATING", "REVALIDATED", "BYPASS"}
BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
PAUSE_SECONDS = 0.005  # between two looks at the messages, which saves waking up for each
STATES = {
    "02": "waiting",
    "03": "answering",
}  # in /proc/net/unix: a connection before and after it is accepted


class Requests:
    """Counts requests since the start of this program."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str, *labels: str) -> Counter:
            return Counter(f"api_endpoint_{name}_total", about, labels, registry=registry)

        self.requests = counter(
            "requests", "Requests, excluding health checks.", "method", "status"
        )
        self.cache = counter(
            "cache_requests", "Requests by what nginx's cache had for them.", "result"
        )
        shed = counter("requests_shed", "Requests answered 503 because there were too many.", "by")
        durations = Histogram(
            "api_endpoint_request_duration_seconds", "From a request's first byte to its answer's last.", ["class"],
            buckets=BUCKETS_SECONDS, registry=registry,
        )  # fmt: skip
        # These exist from the start: Prometheus sees no growth from nothing to one.
        self.requests.labels("GET", "200")
        self.shed = {by: shed.labels(by) for by in ("nginx", "workers")}
        self.durations = {name: durations.labels(name) for name in CLASSES}

    def count(self, message: bytes) -> None:
        """Count the request of a message. Labels have few values, whatever a client or the app sends."""
        if not (found := MESSAGE.fullmatch(message.decode(errors="replace"))):
            return
        method, status, seconds, cache, app_status, shed = found.groups()
        name = f"{status[0]}xx"
        if name not in CLASSES:  # an app can answer 999
            status, name = "other", "5xx"
        self.requests.labels(method if method in METHODS else "other", status).inc()
        self.durations[name].observe(float(seconds))
        if cache in CACHE:
            self.cache.labels(cache.lower()).inc()
        if status == "503" and shed not in ("", "-"):
            self.shed["workers"].inc()
        elif status == "503" and not app_status.endswith("503"):
            self.shed["nginx"].inc()


class App(Collector):
    """Collects what the kernel knows of the app's processes, in both slots during a release, and of its disks."""

    def __init__(
        self,
        name: str,
        root: Path,
        data: Path,
        proc: Path = Path("/proc"),
        control_groups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        self.name = name
        self.root = root
        self.disks = {"data": data, "logs": Path("/var/log"), "releases": root}
        self.proc = proc
        # The one of all services, which is the parent of ours; in a container it is not at the top.
        own = read(proc / "self" / "cgroup").partition("::")[2].strip()
        self.services = Path(f"{control_groups}{own}").parent

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        free = GaugeMetricFamily(
            "api_endpoint_disk_free_ratio", "Free part of the disk of something.", labels=["of"]
        )
        for of, path in self.disks.items():
            with contextlib.suppress(OSError):  # of a volume that is not there
                disk = os.statvfs(path)
                free.add_metric([of], disk.f_bavail / disk.f_blocks)
        yield free
        about = "Requests that wait for a worker, or that one answers."
        requests = GaugeMetricFamily("api_endpoint_requests_in_progress", about, labels=["state"])
        for state, count in self.connections().items():
            requests.add_metric([state], count)
        yield requests
        parents = self.parents()
        masters = [pid for pid, parent in parents.items() if parent not in parents]
        workers = sum(parent in masters for parent in parents.values())
        yield GaugeMetricFamily(
            "api_endpoint_workers", "Worker processes, of both versions during a release.", workers
        )
        about = "Memory of the app's processes; what they share counts once."
        yield GaugeMetricFamily("api_endpoint_memory_bytes", about, self.memory(parents))
        started = GaugeMetricFamily(
            "api_endpoint_start_time_seconds", "When the app was last started."
        )
        if masters:
            started.add_metric([], max(map(self.started_at, masters)))
        yield started
        release = InfoMetricFamily("api_endpoint_release", "The live release.")
        with contextlib.suppress(OSError):
            release.add_metric([], {"release": (self.root / "live" / "release").readlink().name})
        yield release

    def control_groups(self) -> list[Path]:
        """Return those of the running slots."""
        slots = (f"system-*.slice/{self.name}@{slot}.service" for slot in ("blue", "green"))
        return [folder for slot in slots for folder in self.services.glob(slot)]

    def stat(self, pid: int) -> list[str]:
        """Return the fields of a process after its name, which stands in brackets and may have anything in it."""
        return read(self.proc / str(pid) / "stat").rpartition(")")[2].split()

    def parents(self) -> dict[int, int]:
        """Return the parents of the app's processes."""
        pids = [
            int(pid)
            for folder in self.control_groups()
            for pid in read(folder / "cgroup.procs").split()
        ]
        return {pid: int(stat[1]) for pid in pids if (stat := self.stat(pid))}

    def started_at(self, pid: int) -> float:
        """Return when a process was started, in seconds since the epoch."""
        boot = re.search(r"^btime (\d+)", read(self.proc / "stat"), re.M)
        stat = self.stat(pid)
        return int(boot[1]) + int(stat[19]) / os.sysconf("SC_CLK_TCK") if boot and stat else 0

    def connections(self) -> Count[str]:
        """Count nginx's connections to the app: each is a request."""
        found = Count(dict.fromkeys(STATES.values(), 0))
        paths = {
            f"/run/{self.name}/{file}"
            for file in ("blue/gunicorn.sock", "green/gunicorn.sock", "waiting.sock")
        }
        for line in read(self.proc / "net" / "unix").splitlines():
            fields = line.split()
            if fields[7:] and fields[7] in paths and fields[5] in STATES:
                found[STATES[fields[5]]] += 1
        return found

    def memory(self, pids: Iterable[int]) -> int:
        """Return the bytes that control groups count for the app, each page once.

        Where the kernel does not count them: what each process has for itself, and what the largest one shares.
        Only root and the app's account may see the exact parts (PSS).
        """
        stats = [
            dict(re.findall(r"^(\w+) (\d+)$", read(folder / "memory.stat"), re.M))
            for folder in self.control_groups()
        ]
        if any(stats):
            return sum(int(stat.get(part, 0)) for stat in stats for part in ("anon", "file_mapped"))
        statm = [read(self.proc / str(pid) / "statm").split() for pid in pids]
        pages = [(int(fields[1]), int(fields[2])) for fields in statm if fields]
        largest = max((shared for _resident, shared in pages), default=0)
        return (sum(resident - shared for resident, shared in pages) + largest) * os.sysconf(
            "SC_PAGE_SIZE"
        )


def read(path: Path) -> str:
    """Return a file; nothing when the file, or its process, is gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Server(HTTPServer):
    """Serves the metrics to this host and to the clients that are allowed."""

    def __init__(
        self, listener: socket.socket, registry: CollectorRegistry, clients: list[str]
    ) -> None:
        handler = type("Handler", (MetricsHandler,), {"registry": registry, "timeout": 5})
        # Not HTTPServer's: it would make a socket, which the unit forbids.
        BaseServer.__init__(self, listener.getsockname(), handler)
        self.socket = listener
        self.clients = [
            ipaddress.ip_network(client) for client in [*clients, "127.0.0.0/8", "::1/128"]
        ]

    def verify_request(self, _request: object, client_address: tuple[str, int]) -> bool:
        """Tell whether a client is allowed."""
        address = ipaddress.ip_address(client_address[0].partition("%")[0])
        # On [::] an IPv4 address comes as a part of an IPv6 one.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.clients)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Log the failure without the client's address."""
        print(f"An answer failed: {type(sys.exception()).__name__}", file=sys.stderr)


def count(messages: socket.socket, requests: Requests) -> None:
    """Count for ever."""
    while True:
        requests.count(messages.recv(4096))
        with contextlib.suppress(BlockingIOError):
            while True:
                requests.count(messages.recv(4096, socket.MSG_DONTWAIT))
        time.sleep(PAUSE_SECONDS)


def main() -> None:
    """Take the sockets over from systemd, count and serve."""
    # The endpoint's name, its folder, the folder of its data, and who is allowed besides this host.
    name, root, data, *clients = sys.argv[1:]
    listener, messages = sorted(
        (socket.socket(fileno=number) for number in (3, 4)), key=lambda it: it.type
    )
    registry = CollectorRegistry(auto_describe=True)
    registry.register(App(name, Path(root), Path(data)))
    requests = Requests(registry)
    threading.Thread(target=Server(listener, registry, clients).serve_forever, daemon=True).start()
    count(messages, requests)


if __name__ == "__main__":
    main()
