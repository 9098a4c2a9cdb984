"""Hosts that die, hang, are cut off, are slow or have a full disk, under load: no GET fails."""

import threading

import pytest
from conftest import Balancer, Cluster, Watch
from load import assert_nothing_failed, load
from outcomes import Asked, wait_until


def posts(balancer: Balancer, ended: threading.Event, failed: list[str]) -> None:
    """POST one request after the other until the end."""
    while not ended.wait(0.02):
        try:
            answer = balancer.ask("POST", "/echo", b"x" * 1000)
            if answer.status != 200 or answer.body != b"x" * 1000:
                failed.append(f"status {answer.status}")
        except OSError as error:
            failed.append(type(error).__name__)


@pytest.mark.parametrize("end", ["kill", pytest.param("stop", marks=pytest.mark.full)])
def test_a_host_that_dies_fails_no_get_and_comes_back_by_itself(
    cluster: Cluster, balancer: Balancer, end
):
    node = cluster.endpoints[0]
    ended, failed = threading.Event(), []
    others = threading.Thread(target=posts, args=(balancer, ended, failed), daemon=True)
    with Watch(balancer) as watch, load(balancer, f"{end} of a host") as result:
        others.start()
        node.docker(end)
        watch.wait_for(node, "DOWN")
        node.docker("start")
        balancer.wait_for(node, "UP")
        before = balancer.requests(node)
        wait_until(lambda: balancer.requests(node) > before + 10, "the host gets requests again")
        ended.set()
        others.join()
    assert_nothing_failed(result)
    # At most one POST was in flight on it. It may have been processed, so it is not sent again.
    assert len(failed) <= 1, failed


@pytest.mark.full
def test_a_host_that_is_cut_off(cluster: Cluster, balancer: Balancer):
    """Its packets get lost, and it cannot say so: what is in flight on it is sent to another host."""
    node = cluster.endpoints[1]
    with load(balancer, "a host that is cut off") as result:
        # Some for each host, and the answers come after the cut.
        asked = [Asked(balancer, "/sleep?seconds=3") for _ in range(3 * len(cluster.endpoints))]
        wait_until(
            lambda: int(balancer.figures[node.container]["scur"]) > 0,
            "requests are in flight on it",
        )
        node.host.check_output(f"ip route add blackhole {balancer.address}")
        try:
            balancer.wait_for(node, "DOWN")
            statuses = [answer.wait().status for answer in asked]
        finally:
            node.host.check_output(f"ip route del blackhole {balancer.address}")
    assert statuses == [200] * len(asked)
    assert_nothing_failed(result)


@pytest.mark.full
def test_an_app_that_hangs_gets_few_requests_and_then_none(cluster: Cluster, balancer: Balancer):
    """Its nginx goes on. The host with the most requests in flight gets the fewest, until two checks have timed out."""
    node = cluster.endpoints[-1]
    with load(balancer, "an app that hangs") as result, node.held_still():
        balancer.wait_for(node, "DOWN")
    # A few wait longer than nginx does.
    assert result.failed <= 20, str(result)


@pytest.mark.full
def test_a_host_that_is_slow_is_not_taken_out(cluster: Cluster, balancer: Balancer):
    node = cluster.endpoints[0]
    with Watch(balancer) as watch, load(balancer, "a slow host") as result:
        # Most of the time its nginx is held still, for less than a check waits.
        node.host.check_output(
            "for i in 1 2 3 4 5 6 7 8; do pkill -STOP nginx; sleep 0.7; pkill -CONT nginx; sleep 0.1; done"
        )
    assert_nothing_failed(result)
    assert {states[node.container] for states in watch.seen} == {"UP"}


@pytest.mark.full
def test_a_host_whose_disk_is_full_goes_on_serving(cluster: Cluster, balancer: Balancer):
    node = cluster.endpoints[1]
    folders = {"/var/log/nginx": "nginx", "/var/log/gunicorn": "www-data"}
    for folder, owner in folders.items():
        node.host.check_output(f"mount -t tmpfs -o size=16k,uid=$(id -u {owner}) tmpfs {folder}")
        node.host.run(f"head -c 100k /dev/zero > {folder}/filler")
    try:
        node.host.check_output("systemctl kill --signal=USR1 --kill-whom=main nginx")
        before = balancer.requests(node)
        with load(balancer, "a host whose disk is full") as result:
            wait_until(lambda: balancer.requests(node) > before + 50, "the host gets requests")
        assert_nothing_failed(result)
        assert balancer.state(node) == "UP"
    finally:
        for folder in folders:
            node.host.check_output(f"umount --lazy {folder}")
        node.host.check_output(
            f"systemctl kill --signal=USR1 --kill-whom=main nginx; systemctl restart {node.unit}"
        )
