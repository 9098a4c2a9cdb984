"""The cluster of the scenario: its balancers, its endpoints, and the API as clients see it through a balancer."""

import contextlib
import csv
import io
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
import testinfra
from attack import DONE
from outcomes import Api, Run, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
NAME = os.environ.get("MOLECULE_SCENARIO_NAME", "cluster")
SERVER_NAME = "cluster.wmcloud.org"
# Prints, ten times a second, when it is and what HAProxy says of its servers.
WATCH = """
import json, select, socket, sys, time
while not select.select([sys.stdin], [], [], 0.1)[0]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/haproxy/admin.sock")
        client.sendall(b"show stat\\n")
        print(json.dumps([time.time(), client.makefile().read()]), flush=True)
"""


def servers(shown: str) -> dict[str, dict[str, str]]:
    """Return what HAProxy's `show stat` says of each host, by the host's name in the inventory."""
    rows = csv.DictReader(io.StringIO(shown.removeprefix("# ")))
    return {row["svname"]: row for row in rows if row["pxname"] == "api" and row["svname"] != "BACKEND"}


class Node(Api):
    """A host of the cluster, asked from outside of it."""

    def __init__(self, short: str) -> None:
        self.container = f"{NAME}-{short}"
        self.host = testinfra.get_host(f"docker://{self.container}")
        self.name = SERVER_NAME

    def docker(self, *words: str) -> str:
        """Have the engine do something with the host as such."""
        return subprocess.run(["docker", *words, self.container], capture_output=True, text=True, check=True).stdout

    @property
    def address(self) -> str:
        """Its address in the cluster's network."""
        shown = subprocess.run(
            ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return shown.stdout.strip()

    @property
    def died(self) -> float:
        """When it ended last, in seconds since the epoch."""
        shown = self.docker("inspect", "--format", "{{.State.FinishedAt}}").strip()
        return datetime.fromisoformat(f"{shown[:26].rstrip('Z')}+00:00").timestamp()


class Balancer(Node):
    """A balancer."""

    @property
    def figures(self) -> dict[str, dict[str, str]]:
        """What HAProxy says of each host, by the host's name in the inventory."""
        shown = self.host.check_output(
            'python3 -c \'import socket; s = socket.socket(socket.AF_UNIX); s.connect("/run/haproxy/admin.sock"); '
            's.sendall(b"show stat\\n"); print(s.makefile().read())\''
        )
        return servers(shown)

    def state(self, node: Node) -> str:
        """How it sees a host: UP, DOWN, NOLB (drained), or on the way."""
        return self.figures[node.container]["status"]

    def wait_for(self, node: Node, state: str, seconds: float = 30) -> float:
        """Wait until it sees a host in a state; return the seconds that it took."""
        begun = time.monotonic()
        wait_until(lambda: self.state(node) == state, f"{node.container} is {state} at {self.container}", seconds)
        return time.monotonic() - begun

    @property
    def log(self) -> list[str]:
        """The lines of its log of requests."""
        return self.host.check_output("cat /var/log/haproxy/access.log").splitlines()


class Watch:
    """Notes when a balancer sees its hosts in which state, while the block runs."""

    def __init__(self, balancer: Balancer) -> None:
        self.command = ["docker", "exec", "--interactive", balancer.container, "python3", "-c", WATCH]
        self.seen: list[tuple[float, dict[str, str]]] = []  # since when (seconds since the epoch), and each host's state

    def __enter__(self) -> "Watch":
        self.child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        wait_until(lambda: self.seen or self.child.poll() is not None, "the balancer says how it sees its hosts", 10)
        return self

    def _read(self) -> None:
        for line in self.child.stdout:
            when, shown = json.loads(line)
            states = {name: row["status"] for name, row in servers(shown).items()}
            if not self.seen or states != self.seen[-1][1]:
                self.seen.append((when, states))

    def __exit__(self, *_error: object) -> None:
        self.child.stdin.close()
        self.child.wait()
        self.thread.join()
        self.child.stdout.close()

    @property
    def states(self) -> list[dict[str, str]]:
        """What was seen, one after the other, without how many checks are missing to another state."""
        seen = ({name: state.split()[0] for name, state in states.items()} for _when, states in self.seen)
        return [states for states, _same in itertools.groupby(seen)]

    def first(self, node: Node, state: str, after: float) -> float:
        """Return the seconds after a moment until a host came into a state."""
        seen = (when - after for when, states in self.seen if when > after and states[node.container] == state)
        return next(seen, float("inf"))


class Cluster:
    """All of them."""

    def __init__(self) -> None:
        self.balancer = Balancer("balancer")
        self.standby = Balancer("standby")
        self.endpoints = [Node(short) for short in ("one", "two", "three")]

    @property
    def balancers(self) -> list[Balancer]:
        """Both balancers."""
        return [self.balancer, self.standby]

    def wait_until_whole(self) -> None:
        """Wait until both balancers use all hosts."""
        for balancer in self.balancers:
            for endpoint in self.endpoints:
                balancer.wait_for(endpoint, "UP", 60)

    def play(self, *options: str, name: str = "site.yml") -> Run:
        """Run a playbook with the scenario's variables."""
        done = subprocess.run(
            ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(SCENARIO.parents[1] / name),
             "-e", f"@{SCENARIO / 'vars.yml'}", *options],
            cwd=SCENARIO.parents[1], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Run(done.returncode, done.stdout + done.stderr)


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """Return the cluster."""
    return Cluster()


@pytest.fixture
def balancer(cluster) -> Balancer:
    """Return the balancer that clients call."""
    return cluster.balancer


@pytest.fixture(autouse=True)
def _whole_again(cluster) -> Iterator[None]:
    """Whatever a test breaks: afterwards all hosts are in use."""
    yield
    cluster.wait_until_whole()


@contextlib.contextmanager
def all_gone(cluster: Cluster) -> Iterator[None]:
    """No host answers: nginx is stopped on each."""
    for endpoint in cluster.endpoints:
        endpoint.host.check_output("systemctl stop nginx")
    try:
        for balancer in cluster.balancers:
            for endpoint in cluster.endpoints:
                balancer.wait_for(endpoint, "DOWN")
        yield
    finally:
        for endpoint in cluster.endpoints:
            endpoint.host.check_output("systemctl start nginx")


def pytest_terminal_summary(terminalreporter):
    """Show what was sent and searched."""
    terminalreporter.section("marked requests, and searches for the marks")
    for line in DONE:
        terminalreporter.write_line(line)
