"""The scenario's balancers and endpoints, and the API as clients see it through a balancer."""

import contextlib
import csv
import io
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import testinfra
import yaml
from attack import DONE
from outcomes import Api, Run, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
SERVER_NAME = "cluster.wmcloud.org"
# Prints, ten times a second, what HAProxy says of its servers.
WATCH = """
import json, select, socket, sys
while not select.select([sys.stdin], [], [], 0.1)[0]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("/run/haproxy/admin.sock")
        client.sendall(b"show stat\\n")
        print(json.dumps(client.makefile().read()), flush=True)
"""


def servers(shown: str) -> dict[str, dict[str, str]]:
    """Return what HAProxy's `show stat` says of each host, by the host's name in the inventory."""
    rows = csv.DictReader(io.StringIO(shown.removeprefix("# ")))
    return {
        row["svname"]: row for row in rows if row["pxname"] == "api" and row["svname"] != "BACKEND"
    }


class Node(Api):
    """A host of the cluster, asked from outside of it."""

    def __init__(self, container: str) -> None:
        self.container = container
        self.host = testinfra.get_host(f"docker://{container}")
        self.name = SERVER_NAME

    def docker(self, *words: str) -> str:
        """Have the engine do something with the host as such."""
        return subprocess.run(
            ["docker", *words, self.container], capture_output=True, text=True, check=True
        ).stdout

    @property
    def address(self) -> str:
        """Its address in the cluster's network."""
        shown = subprocess.run(
            ["docker", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.container],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return shown.stdout.strip()


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

    def requests(self, node: Node) -> int:
        """Return how many requests a host has got from it."""
        return int(self.figures[node.container]["stot"])

    def wait_for(self, node: Node, state: str) -> None:
        """Wait until it sees a host in a state."""
        wait_until(
            lambda: self.state(node) == state, f"{node.container} is {state} at {self.container}"
        )

    @property
    def log(self) -> list[str]:
        """The lines of its log of requests."""
        return self.host.check_output("cat /var/log/haproxy/access.log").splitlines()


class Watch:
    """Notes the states in which a balancer sees its hosts, while the block runs."""

    def __init__(self, balancer: Balancer) -> None:
        self.command = [
            "docker",
            "exec",
            "--interactive",
            balancer.container,
            "python3",
            "-c",
            WATCH,
        ]
        self.seen: list[dict[str, str]] = []  # each host's state

    def __enter__(self) -> "Watch":
        self.child = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.thread = threading.Thread(target=self._read)
        self.thread.start()
        wait_until(
            lambda: self.seen or self.child.poll() is not None,
            "the balancer says how it sees its hosts",
        )
        return self

    def _read(self) -> None:
        for line in self.child.stdout:
            states = {name: row["status"] for name, row in servers(json.loads(line)).items()}
            if not self.seen or states != self.seen[-1]:
                self.seen.append(states)

    def __exit__(self, *_error: object) -> None:
        self.child.stdin.close()
        self.child.wait()
        self.thread.join()
        self.child.stdout.close()

    @property
    def states(self) -> list[dict[str, str]]:
        """What was seen, one after the other, without how many checks are missing to another state."""
        seen = ({name: state.split()[0] for name, state in states.items()} for states in self.seen)
        return [states for states, _same in itertools.groupby(seen)]

    def wait_for(self, node: Node, state: str) -> None:
        """Wait until the balancer has seen a host in a state."""
        wait_until(
            lambda: any(states[node.container] == state for states in self.seen),
            f"the balancer sees {node.container} {state}",
        )


class Cluster:
    """All of them."""

    def __init__(self) -> None:
        groups = yaml.safe_load(Path(os.environ["MOLECULE_INVENTORY_FILE"]).read_text())
        self.balancers = [Balancer(name) for name in groups["load_balancers"]["hosts"]]
        self.endpoints = [Node(name) for name in groups["api_endpoints"]["hosts"]]
        self.balancer = self.balancers[0]

    def wait_until_whole(self) -> None:
        """Wait until all balancers use all hosts."""
        for balancer in self.balancers:
            for endpoint in self.endpoints:
                balancer.wait_for(endpoint, "UP")

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
def _whole_afterwards(cluster) -> Iterator[None]:
    """After each test all hosts are in use."""
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
