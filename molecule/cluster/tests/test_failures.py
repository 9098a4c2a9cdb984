"""Hosts that die, hang, are cut off or have no room, under load: what became of the requests."""

import threading
import time

import pytest
from conftest import Balancer, Cluster, Watch
from load import Result, assert_nothing_failed, load
from outcomes import wait_until

OUT = 3.5  # seconds within which a dead host is out: 3 as promised, and what asking takes


def posts(balancer: Balancer, ended: threading.Event, failed: list[str]) -> int:
    """POST one request after the other until the end; return how many there were."""
    count = 0
    while not ended.is_set():
        count += 1
        try:
            answer = balancer.ask("POST", "/echo", b"x" * 1000, timeout=20)
            if answer.status != 200 or answer.body != b"x" * 1000:
                failed.append(f"status {answer.status}")
        except OSError as error:
            failed.append(type(error).__name__)
        time.sleep(0.02)
    return count


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_host_that_dies_fails_no_get_is_out_in_seconds_and_comes_back_by_itself(cluster: Cluster, balancer: Balancer, end):
    node = cluster.endpoints[0]
    ended, failed = threading.Event(), []
    others = threading.Thread(target=posts, args=(balancer, ended, failed), daemon=True)
    with Watch(balancer) as watch, load(balancer, f"{end} of a host") as result:
        others.start()
        time.sleep(1)
        asked = time.time()
        node.docker(end)
        # A host that is stopped goes on until its services end.
        died = node.died if end == "kill" else asked
        wait_until(lambda: watch.first(node, "DOWN", died) < float("inf"), "the host is out", 15)
        time.sleep(1)
        begun = time.time()
        node.docker("start")
        wait_until(lambda: watch.first(node, "UP", begun) < float("inf"), "the host is back", 60)
        time.sleep(2)
        ended.set()
        others.join(30)
    assert_nothing_failed(result)
    assert watch.first(node, "DOWN", died) < OUT + (10 if end == "stop" else 0)
    # POSTs were in flight on it, one at a time at the most; they may have been done, so nobody sends them again.
    assert len(failed) <= 1, failed


def test_a_host_that_is_cut_off(cluster: Cluster, balancer: Balancer):
    """Nothing that it says comes through, and nobody tells so."""
    node = cluster.endpoints[1]
    with Watch(balancer) as watch, load(balancer, "a host that is cut off", timeout=30) as result:
        time.sleep(1)
        cut = float(node.host.check_output(f"ip route add blackhole {balancer.address} && date +%s.%N"))
        try:
            wait_until(lambda: watch.first(node, "DOWN", cut) < float("inf"), "the host is out", 15)
            time.sleep(6)  # the time in which its silence ends what was in flight
        finally:
            node.host.check_output(f"ip route del blackhole {balancer.address}")
        healed = time.time()
        wait_until(lambda: watch.first(node, "UP", healed) < float("inf"), "the host is back", 30)
    assert watch.first(node, "DOWN", cut) < OUT
    assert_nothing_failed(result)
    # The few that were in flight on it waited until its silence was noticed, and were sent to another host. When there were
    # none, the first that were meant for it tried in vain to connect.
    assert 700 < result.slowest_ms < 7500, str(result)


def in_flight_bound(result: Result, most: int) -> None:
    """At most so many failed."""
    assert result.failed <= most, str(result)


def test_an_app_that_hangs_gets_few_requests_and_then_none(cluster: Cluster, balancer: Balancer):
    """nginx on it goes on. Who has the most requests under way gets the fewest; the check gives up after 5 s, twice."""
    node = cluster.endpoints[2]
    with Watch(balancer) as watch, load(balancer, "an app that hangs", timeout=40) as result:
        time.sleep(1)
        stopped = time.time()
        with node.held_still():
            wait_until(lambda: watch.first(node, "DOWN", stopped) < float("inf"), "the host is out", 20)
            time.sleep(1)
    assert watch.first(node, "DOWN", stopped) < 13
    # They wait for their host, and are answered when it goes on.
    in_flight_bound(result, 20)


def test_a_host_that_is_slow_is_not_thrown_out(cluster: Cluster, balancer: Balancer):
    node = cluster.endpoints[0]
    with Watch(balancer) as watch, load(balancer, "a slow host", timeout=30) as result:
        # Most of the time its nginx is held still, for less than a second each time.
        node.host.check_output(
            "for i in 1 2 3 4 5 6 7 8; do pkill -STOP nginx; sleep 0.7; pkill -CONT nginx; sleep 0.1; done"
        )
    assert_nothing_failed(result)
    assert {states[node.container] for _when, states in watch.seen} == {"UP"}


def test_a_host_whose_disk_is_full_goes_on_serving(cluster: Cluster, balancer: Balancer):
    node = cluster.endpoints[1]
    folders = ("/var/log/nginx", "/var/log/gunicorn")
    for folder in folders:
        node.host.check_output(f"mount -t tmpfs -o size=16k,uid=$(id -u www-data) tmpfs {folder}")
        node.host.run(f"head -c 100k /dev/zero > {folder}/filler")
    try:
        node.host.check_output("systemctl kill --signal=USR1 --kill-whom=main nginx")
        before = int(balancer.figures[node.container]["stot"])
        with load(balancer, "a host whose disk is full") as result:
            time.sleep(3)
        assert_nothing_failed(result)
        assert int(balancer.figures[node.container]["stot"]) - before > 50
        assert balancer.state(node) == "UP"
    finally:
        for folder in folders:
            node.host.check_output(f"umount --lazy {folder}")
        node.host.check_output(f"systemctl kill --signal=USR1 --kill-whom=main nginx; systemctl restart {node.unit}")
