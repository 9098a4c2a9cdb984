"""No host of the cluster tells who called through the balancer."""

import secrets
from dataclasses import asdict

import pytest
from attack import Attack, bring_search, order
from conftest import Balancer, Cluster, all_gone
from outcomes import wait_until

ANSWERED = (
    "/readyz",
    "/environ",
    "/echo",
    "/status/404",
    "/status/503",
    "/traceback",
    "/headers?X-A=1",
)
HAPROXY_LOG = "/var/log/haproxy"


@pytest.fixture(scope="module")
def attack(cluster: Cluster) -> Attack:
    """Return an attack on the balancer, with marks of its own, and bring the search to all hosts."""
    for node in (*cluster.balancers, *cluster.endpoints):
        bring_search(node.container)
    return Attack(cluster.balancer)


def wait_for_log(balancer: Balancer) -> None:
    """Wait until a balancer's log has what was sent before: rsyslog writes it in order."""
    last = f"/{secrets.token_hex(8)}"
    balancer.get(last)
    wait_until(lambda: any(last in line for line in balancer.log), "the last request is logged")


def assert_nobody_is_named(cluster: Cluster, attack: Attack) -> None:
    """Nothing on any host tells who called."""
    for balancer in cluster.balancers:
        wait_for_log(balancer)
    for node in (*cluster.balancers, *cluster.endpoints):
        is_balancer = node in cluster.balancers
        units = (
            ["haproxy.service", "rsyslog.service"]
            if is_balancer
            else [node.unit, "nginx.service", "rsyslog.service"]
        )
        node.host.run("journalctl --sync")
        found = order(
            node.container, do="search", marks=[asdict(attack.marks)], callers=sorted(set(attack.callers)),
            since=attack.begun, processes=[pid for pid in map(node.main_pid, units) if pid],
            log_dir=HAPROXY_LOG if is_balancer else "/var/log/gunicorn",
        )  # fmt: skip
        assert found["failed"] == []
        assert found["leaks"] == [], node.container
        log = f"{HAPROXY_LOG}/access.log" if is_balancer else "/var/log/nginx/access.log"
        if node not in cluster.balancers[1:]:
            assert log in {place for _kind, place in found["met"]}, (
                "the search does not see what was logged"
            )


def test_no_host_tells_who_called(cluster: Cluster, attack: Attack):
    outcomes = attack.outside(150, paths=ANSWERED)
    assert {"200", "400", "404"} <= set(outcomes), outcomes
    assert_nobody_is_named(cluster, attack)


@pytest.mark.full
def test_a_thousand_requests_of_every_kind(cluster: Cluster, attack: Attack):
    outcomes = attack.outside(1050, paths=ANSWERED)
    outcomes += attack.inside(300, paths=ANSWERED, family=6)
    assert {"200", "204", "400", "404", "500", "503", "aborted by us"} <= set(outcomes), outcomes
    with all_gone(cluster):
        assert attack.outside(40, "get", "get with a query")["503"] == 40
    # HAProxy notes the callers of answers that it could not send; nothing of that is written.
    cluster.balancer.host.check_output("systemctl reload haproxy")
    attack.outside(60, paths=ANSWERED)
    cluster.balancer.host.check_output("logrotate --force /etc/logrotate.d/load-balancer")
    attack.outside(60, paths=ANSWERED)
    assert_nobody_is_named(cluster, attack)


@pytest.mark.full
def test_the_search_finds_what_a_balancer_would_write(cluster: Cluster, attack: Attack):
    host, config = cluster.balancer.host, "/etc/haproxy/haproxy.cfg"
    marked = Attack(cluster.balancer)
    host.check_output(
        f"cp -p {config} /root/config && sed -i 's|%HM |%ci %HM |' {config} && systemctl reload haproxy"
    )
    try:
        marked.outside(5, "get")
        wait_for_log(cluster.balancer)
        found = order(
            cluster.balancer.container, do="search", marks=[asdict(marked.marks)], callers=marked.callers,
            since=marked.begun, processes=[], log_dir=HAPROXY_LOG,
        )  # fmt: skip
    finally:
        host.check_output(
            f"mv /root/config {config} && systemctl reload haproxy; rm -f {HAPROXY_LOG}/access.log*"
        )
        host.check_output("systemctl kill --signal=HUP --kill-whom=main rsyslog")
    assert {
        kind for kind, place, _excerpt in found["leaks"] if place == f"{HAPROXY_LOG}/access.log"
    } == {"caller's address"}


@pytest.mark.full
def test_the_audit_covers_the_balancers(cluster: Cluster):
    run = cluster.play(name="playbooks/privacy_audit.yml")
    assert run.status == 0, run.output
    assert run.said.count("nobody is named anywhere") == len(cluster.balancers) + len(
        cluster.endpoints
    )
    assert "Privacy audit of haproxy" in run.said
