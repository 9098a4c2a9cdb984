"""A balancer's host: HAProxy under systemd, its log, and runs of its playbook.

tests/component/test_haproxy.py has what HAProxy itself decides.
"""

import re
import time

import pytest
from load import KEEP_ALIVE, NEW, assert_nothing_failed, load
from outcomes import assert_json_error, assert_readable_by_a_browser, wait_until

PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "content-type, x-token",
}


def test_answers_of_nginx_and_the_app_come_through(balancer):
    for path in ("/", "/status/404", "/status/500", "/nowhere"):
        assert_readable_by_a_browser(balancer.get(path))
    assert balancer.ask("POST", "/echo", b"x" * 200_000).body == b"x" * 200_000
    assert_json_error(balancer.ask("POST", "/echo", b"x" * 1_500_000), 413)
    assert_json_error(balancer.ask("TRACE", "/"), 405)
    assert_json_error(balancer.get("/" + "x" * 20_000), 414)
    assert_json_error(balancer.get("/", headers={"X-Large": "x" * 20_000}), 431)
    preflight = balancer.ask("OPTIONS", "/echo", headers=PREFLIGHT)
    assert preflight.status == 204
    assert "POST" in preflight.all("Access-Control-Allow-Methods")[0]


def test_the_app_knows_how_it_was_called_and_not_by_whom(balancer):
    known = balancer.get("/environ", headers={"X-Forwarded-Proto": "https"}).json
    assert known["wsgi.url_scheme"] == "https"
    assert known["HTTP_HOST"] == balancer.name
    assert balancer.host.check_output("ip route show default").split()[2] not in str(known)


def test_the_log_says_what_was_asked_and_not_by_whom(balancer):
    marker = f"/status/404?marker={time.time_ns()}"
    balancer.get(marker)
    wait_until(lambda: any(marker in line for line in balancer.log), "the request is logged")
    line = next(line for line in balancer.log if marker in line)
    assert re.fullmatch(
        rf'\[\d\d/\w{{3}}/\d{{4}}:[\d:]{{8}} \+0000\] "GET {re.escape(marker)} HTTP/1\.1" 404 \d+ \d+ cluster-\w+',
        line,
    )
    # Debian's own file has what HAProxy says when it starts.
    assert balancer.host.run("grep -c 'GET ' /var/log/haproxy.log").stdout.strip() in ("", "0")


def test_it_runs_confined_without_root(cluster):
    for balancer in cluster.balancers:
        owners = set(balancer.host.check_output("ps -o user= -C haproxy").split())
        assert owners == {"haproxy"}
        score = balancer.host.check_output(
            "systemd-analyze security haproxy --no-pager | tail -n 1"
        )
        assert float(re.search(r": ([0-9.]+) ", score)[1]) < 2.0, score


@pytest.mark.parametrize("victim", ["master", "worker"])
def test_it_comes_back_when_it_is_killed(cluster, victim):
    for balancer in cluster.balancers:
        main = balancer.main_pid("haproxy")
        balancer.kill(main if victim == "master" else balancer.workers("haproxy")[0])

        def is_new(balancer=balancer, main=main):
            return balancer.main_pid("haproxy") not in (0, main)

        wait_until(is_new, "HAProxy was started anew")
        balancer.wait_until_it_answers("/readyz")


@pytest.mark.full
def test_a_reload_under_load_fails_no_request(cluster, balancer):
    worker = balancer.workers("haproxy")
    with load(balancer, modes=(NEW, KEEP_ALIVE), retry_once=False) as result:
        for rate in (90, 100):
            run = cluster.play("-e", f"load_balancer_client_rate={rate}", "--limit", balancer.container,
                               name="playbooks/load_balancers.yml")  # fmt: skip
            assert run.status == 0, run.output
            # The file, the look at what HAProxy has read, and the reload.
            assert run.changed == [3], run.output
    assert_nothing_failed(result)
    assert balancer.workers("haproxy") != worker


@pytest.mark.full
def test_a_run_makes_up_for_one_that_was_cut_off_before_the_reload(cluster, balancer):
    balancer.host.check_output(f"echo {'0' * 64}  /etc/haproxy/haproxy.cfg > /run/haproxy/loaded")
    try:
        dry = cluster.play("--check", "--diff", name="playbooks/load_balancers.yml")
    finally:
        balancer.host.check_output("systemctl reload haproxy")
    assert dry.status == 0, dry.output
    assert sum(dry.changed) == 1, dry.output
    assert "RUNNING HANDLER [load_balancer : Reload HAProxy]" in dry.output


@pytest.mark.full
def test_a_configuration_that_haproxy_rejects_replaces_nothing(cluster, balancer):
    before = balancer.host.check_output("sha256sum /etc/haproxy/haproxy.cfg")
    servers = '{"load_balancer_servers": [{"name": "x", "address": "10.0.0.1"}], "load_balancer_health_path": "/{"}'
    # HAProxy knows no such status, and the preflight does not look for that.
    run = cluster.play(
        "-e", servers, "-e", '{"__load_balancer_errors": {"999": "no such error"}}', "--limit", balancer.container,
        name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status != 0
    assert "999" in run.said
    assert balancer.host.check_output("sha256sum /etc/haproxy/haproxy.cfg") == before
    assert balancer.get("/").status == 200


@pytest.mark.full
def test_invalid_settings_are_refused_before_anything_is_touched(cluster, balancer):
    run = cluster.play(
        "-e", "load_balancer_prot=81", "-e", "load_balancer_queue_timeout=0", "-e", '{"load_balancer_servers": []}',
        "--limit", balancer.container, name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status != 0
    assert "Nothing was touched" in run.said
    for said in (
        "Did you mean load_balancer_port?",
        "load_balancer_queue_timeout is '0'",
        "load_balancer_servers is []",
    ):
        assert said in run.said
    assert run.changed == [0]


@pytest.mark.full
def test_balancers_share_an_address_that_moves(cluster):
    address = ".".join([*cluster.balancer.address.split(".")[:2], "250", "250"])
    caller = cluster.endpoints[0].host

    def owners() -> list[str]:
        return [
            node.container
            for node in cluster.balancers
            if f" {address}/" in node.host.check_output("ip -br address")
        ]

    def answers() -> bool:
        return (
            caller.run(
                f"curl -s -f -m 2 -H 'Host: {cluster.balancer.name}' http://{address}/readyz"
            ).rc
            == 0
        )

    run = cluster.play(
        "-e", f"load_balancer_floating_address={address}/16", "-e", "load_balancer_floating_interface=eth0",
        name="playbooks/load_balancers.yml",
    )  # fmt: skip
    assert run.status == 0, run.output
    try:
        wait_until(lambda: len(owners()) == 1 and answers(), "one of them has it")
        first = next(node for node in cluster.balancers if node.container in owners())
        other = next(node for node in cluster.balancers if node is not first)
        first.host.check_output("systemctl stop haproxy")
        wait_until(lambda: owners() == [other.container] and answers(), "the other has it")
        first.host.check_output("systemctl start haproxy")
        first.wait_until_it_answers("/readyz")
        log = "journalctl --unit=keepalived --output=cat"
        wait_until(
            lambda: first.host.check_output(f"{log} | grep 'Entering' | tail -n 1").endswith(
                "Entering BACKUP STATE"
            ),
            "the first is ready to take the address over",
        )
        assert owners() == [other.container]
    finally:
        for node in cluster.balancers:
            node.host.check_output("systemctl disable --now keepalived; systemctl start haproxy")
