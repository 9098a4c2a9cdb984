"""How deployments and answers grow with the number of hosts behind a balancer, and what the balancer itself costs.

Run by `make bench`. BENCH_CLUSTER names the numbers of hosts (default 1,2,4,8), BENCH_REPEATS the rounds (default 3),
BENCH_SECONDS how long a load lasts (default 5). `cluster.py answers` and `cluster.py deployments` measure one of both.
This machine's processors carry all hosts, the balancer and the client.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable

import host
import yaml
from figures import Figure, keep
from host import PROJECT, run

HOSTS = [int(number) for number in os.environ.get("BENCH_CLUSTER", "1,2,4,8").split(",")]
REPEATS = int(os.environ.get("BENCH_REPEATS", 3))
SECONDS = int(os.environ.get("BENCH_SECONDS", 5))
NAME, SUBNET = "api-endpoint-bench", "10.177.89"
FOLDER = PROJECT / ".cache" / "bench" / "cluster"
BALANCER = f"{SUBNET}.10"
CLIENTS = 24

# Small hosts: eight requests at a time each, so that more hosts are more places, and the others wait.
EXAMPLE = yaml.safe_load((PROJECT / "tools" / "group_vars" / "api_endpoints.yml").read_text())
SETTINGS = {
    **EXAMPLE,
    "api_endpoint_server_names": ["localhost"],
    "api_endpoint_app_dir": os.path.relpath(host.APP, PROJECT),
    "api_endpoint_wsgi": "bench_wsgi:app",
    "api_endpoint_client_rate": 0,
    "api_endpoint_workers": 2,
    "api_endpoint_threads": 4,
    "api_endpoint_max_concurrency": 32,
}


def start_instance(name: str, number: int) -> None:
    """Start a container with sshd and the packages that the roles install."""
    run(
        *(
            "bash",
            "-euc",
            f'keys="{FOLDER}"; debian=13-warm; . tools/instance.sh; start_instance "$@"',
            "start",
        ),
        *(
            f"{NAME}-{name}",
            str(2240 + number),
            "--network",
            NAME,
            "--ip",
            f"{SUBNET}.{10 + number}",
        ),
    )


def inventory(hosts: int) -> str:
    """Write an inventory of the balancer and so many hosts behind it, and return its path."""
    common = {
        "ansible_host": "127.0.0.1",
        "ansible_user": "researcher",
        "ansible_ssh_private_key_file": str(FOLDER / "id_ed25519"),
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={FOLDER}/known_hosts -o IdentitiesOnly=yes",
    }
    endpoints = {
        f"{NAME}-{number}": {
            **common,
            "ansible_port": 2240 + number,
            "balancer_address": f"{SUBNET}.{10 + number}",
        }
        for number in range(1, hosts + 1)
    }
    path = FOLDER / f"{hosts}.yml"
    balancers = {f"{NAME}-balancer": {**common, "ansible_port": 2240}}
    path.write_text(
        json.dumps({"load_balancers": {"hosts": balancers}, "api_endpoints": {"hosts": endpoints}})
    )
    return str(path.relative_to(PROJECT))


def deploy(hosts: int, *options: str, playbook: str = "site.yml") -> str:
    """Deploy to so many hosts, and return what Ansible says."""
    return run(
        "ansible-playbook",
        "-i",
        inventory(hosts),
        playbook,
        *options,
        "--extra-vars",
        json.dumps(SETTINGS),
    )


def balance(hosts: int) -> None:
    """Let the balancer know so many hosts."""
    deploy(hosts, playbook="playbooks/load_balancers.yml")


def nothing_to_do(hosts: int) -> float:
    """Return how many seconds a run takes that changes nothing."""
    begun = time.monotonic()
    said = deploy(hosts)
    if re.search(r"changed=[1-9]", said):
        raise SystemExit(f"A run with nothing to do did something:\n{said}")
    return time.monotonic() - begun


def new_code(hosts: int) -> float:
    """Deploy a new line of code, host after host, and return how many seconds it takes."""
    module = host.APP / "wsgi.py"
    module.write_text(
        f"{module.read_text(encoding='utf-8')}\n# {uuid.uuid4().hex}\n", encoding="utf-8"
    )
    begun = time.monotonic()
    deploy(hosts)
    return time.monotonic() - begun


def start() -> None:
    """Start a balancer and all hosts."""
    stop()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    host.make_app()
    run("docker", "network", "create", "--subnet", f"{SUBNET}.0/24", NAME)
    start_instance("balancer", 0)
    for number in range(1, max(HOSTS) + 1):
        start_instance(str(number), number)
    # Once, so that a run with nothing to do has nothing to do.
    deploy(max(HOSTS))


def stop() -> None:
    """Remove all of them."""
    containers = run("docker", "ps", "--all", "--quiet", "--filter", f"name=^{NAME}-").split()
    if containers:
        run("docker", "rm", "--force", "--volumes", *containers)
    if run("docker", "network", "ls", "--quiet", "--filter", f"name=^{NAME}$"):
        run("docker", "network", "rm", NAME)


def deployments() -> list[Figure]:
    """See how long runs take for more hosts, against one."""
    part = "A cluster: deployments"
    kinds: dict[str, Callable[[int], float]] = {
        "a run with nothing to do": nothing_to_do,
        "new code, host after host": new_code,
    }
    found = []
    for what, measure in kinds.items():
        alone = Figure(part, f"{what}, one host", unit="s", more_is_better=False)
        more = {
            hosts: Figure(part, f"{what}, {hosts} hosts against one", more_is_better=False)
            for hosts in HOSTS[1:]
        }
        for _ in range(REPEATS):
            # The balancer learns the number of hosts first: that is not what is measured.
            balance(1)
            alone.values.append(measure(1))
            for hosts, figure in more.items():
                balance(hosts)
                figure.values.append(measure(hosts) / alone.values[-1])
        found += [alone, *more.values()]
    return found


def answers() -> list[Figure]:
    """See how many answers more hosts give, and what the balancer costs."""
    part = "A cluster: answers a second"
    waits, computes = "an app that waits (100 ms)", "an app that computes (20 ms of a processor)"
    paths = {waits: "/wait?seconds=0.1", computes: "/compute?seconds=0.02"}
    numbers = [number for number in (2, 3) if number <= max(HOSTS)]
    more = {
        (what, hosts): Figure(part, f"{what}, {hosts} hosts against one")
        for what in paths
        for hosts in numbers
    }
    cost = Figure(
        "A cluster: the balancer itself", "answers a second through it, against one host without it"
    )
    later = Figure(
        cost.part, "median of one client, beyond that without it", unit="ms", more_is_better=False
    )
    small = "/healthz"
    for _ in range(REPEATS):
        one: dict[str, float] = {}
        balance(1)
        for what, path in paths.items():
            one[what] = host.load(80, path, CLIENTS, SECONDS, BALANCER).rate
        direct = f"{SUBNET}.11"
        cost.values.append(
            host.load(80, small, 16, SECONDS, BALANCER).rate
            / host.load(80, small, 16, SECONDS, direct).rate
        )
        through, without = (host.load(80, small, 1, SECONDS, at).p50 for at in (BALANCER, direct))
        later.values.append((through - without) * 1000)
        for hosts in numbers:
            balance(hosts)
            for what, path in paths.items():
                more[what, hosts].values.append(
                    host.load(80, path, CLIENTS, SECONDS, BALANCER).rate / one[what]
                )
    return [*more.values(), cost, later]


def main() -> None:
    """Measure, and keep the figures."""
    try:
        print("A cluster: starting hosts", flush=True)
        start()
        for part in (answers, deployments):
            if not sys.argv[1:] or part.__name__ in sys.argv[1:]:
                keep(part())
    finally:
        stop()


if __name__ == "__main__":
    main()
