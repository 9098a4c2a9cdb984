"""No log names a caller, whatever is sent and whatever breaks."""

import re
import shlex
from contextlib import contextmanager
from pathlib import Path

import pytest
from attack import EACH
from outcomes import ROOT, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
VARIABLES = ("-e", f"@{SCENARIO / 'vars.yml'}")
AUDIT = "playbooks/privacy_audit.yml"
ANSWERED = (
    "/readyz",
    "/environ",
    "/echo",
    "/status/404",
    "/status/503",
    "/traceback",
    "/headers?X-A=1",
)
WITH_QUERY = "get with a query"
PATIENCE = 120  # seconds for an answer that comes anyway


def restart(api):
    """Start the live version anew, as after a fault."""
    api.host.check_output(f"systemctl restart {api.unit}")
    api.wait_until_it_answers("/readyz")


@contextmanager
def stopped(api, *units):
    """Some units do not run for a while."""
    api.host.check_output(f"systemctl stop {' '.join(units)}")
    try:
        yield
    finally:
        api.host.check_output(f"systemctl start {' '.join(units)}")
        api.wait_until_it_answers("/readyz")


@pytest.mark.parametrize("count", [3 * EACH, pytest.param(1000, marks=pytest.mark.full)])
def test_requests_of_every_kind_over_each_of_ipv4_and_ipv6(api, attack, count):
    for outcomes in (
        attack.outside(count, paths=ANSWERED),
        attack.inside(count, paths=ANSWERED, family=6),
    ):
        assert sum(outcomes.values()) == count
        assert {"200", "204", "400", "404", "413", "414", "431", "500", "aborted by us"} <= set(
            outcomes
        )
        assert "no connection" not in outcomes
        answered = sum(number for outcome, number in outcomes.items() if outcome.isdigit())
        assert answered > 0.7 * count, outcomes
    found = attack.assert_nobody_is_named()
    # The marks of what may be kept have arrived where it is kept.
    for kind in ("query string", "address in a query string", "referrer", "address in a referrer"):
        assert (kind, "/var/log/nginx/access.log") in found.met
    assert "client: 0.0.0.0" in api.host.file("/var/log/nginx/error.log").content_string


def test_an_app_that_fails_hangs_and_is_down(api, attack):
    assert attack.outside(5, WITH_QUERY, paths=["/traceback"], patience=PATIENCE)["500"] == 5
    assert attack.inside(5, WITH_QUERY, paths=["/traceback"], patience=PATIENCE)["500"] == 5
    traceback = api.host.run(
        "grep --count 'RuntimeError: a bug, as asked' /var/log/gunicorn/error.log"
    )
    assert int(traceback.stdout) >= 10, "where did the traceback go?"
    assert attack.inside(4, WITH_QUERY, paths=["/crash"], patience=PATIENCE)["502"] > 0
    attack.outside(4, WITH_QUERY, paths=["/half"], patience=PATIENCE)
    restart(api)
    with api.held_still():
        assert attack.outside(4, "get", patience=PATIENCE)["504"] == 4
        # These clients give up first.
        assert attack.inside(4, "get", patience=0.5)["no answer in time"] == 4
    found = attack.search()
    assert found.leaks == []
    assert ("referrer", "/var/log/nginx/error.log") in found.met, "nginx did not complain"
    with stopped(api, api.unit):
        assert attack.outside(20, WITH_QUERY, patience=PATIENCE)["502"] == 20
        assert attack.inside(20, WITH_QUERY, patience=PATIENCE)["502"] == 20
    found = attack.assert_nobody_is_named()
    assert ("query string", "/var/log/nginx/error.log") in found.met, "nginx did not complain"


def test_errors_of_nginx_while_nothing_redacts_them(api, attack):
    complaints = (
        "oversized body",
        "two hosts",
        "oversized URL",
        "wrong host",
        "a header as request line",
    )
    with stopped(api, "syslog.socket", "rsyslog.service"):
        assert attack.outside(15, *complaints, patience=PATIENCE)["413"] == 3
        api.host.check_output("systemctl reload nginx")
        assert attack.inside(15, *complaints, patience=PATIENCE)["413"] == 3
        with stopped(api, api.unit):
            attack.inside(10, WITH_QUERY)
    attack.outside(10, *complaints)
    attack.assert_nobody_is_named()
    errors = api.host.run("tail -n 5 /var/log/nginx/error.log").stdout
    assert "client: 0.0.0.0" in errors, "errors are not logged any more after rsyslog was away"


def test_logs_that_are_rotated_meanwhile(api, attack):
    started = api.main_pid(api.unit)
    for _ in range(3):
        assert "502" not in attack.outside(EACH, paths=ANSWERED)
        api.host.check_output(
            "logrotate --force /etc/logrotate.d/nginx && logrotate --force /etc/logrotate.d/api-endpoint"
        )
    assert "502" not in attack.inside(EACH, paths=ANSWERED)
    assert api.main_pid(api.unit) == started
    found = attack.assert_nobody_is_named()
    seen = {place for kind, place in found.met if kind == "path"}
    for log in ("/var/log/nginx/access.log", "/var/log/gunicorn/access.log"):
        assert {log, f"{log}.1", f"{log}.2.gz"} <= seen, (
            "rotated logs were not searched, or requests are missing in them"
        )


def test_gunicorn_is_told_once_when_each_of_its_logs_is_ready(api):
    """It loses lines when it is told to open its logs anew and one of them is not its own yet."""
    seen = "#!/bin/sh\nstat -c '%n %U %s' /var/log/gunicorn/*.log >> /root/told/seen\nexec /usr/bin/systemctl \"$@\"\n"
    api.host.check_output(
        f"mkdir /root/told && printf %s {shlex.quote(seen)} > /root/told/systemctl"
    )
    api.host.check_output("chmod +x /root/told/systemctl")
    api.host.check_output(
        "echo more | tee -a /var/log/gunicorn/access.log /var/log/gunicorn/error.log"
    )
    try:
        api.host.check_output(
            "PATH=/root/told:$PATH logrotate --force /etc/logrotate.d/api-endpoint"
        )
        told = api.host.check_output("cat /root/told/seen").splitlines()
    finally:
        api.host.check_output("rm -r /root/told")
    assert told == [f"/var/log/gunicorn/{log}.log www-data 0" for log in ("access", "error")]


def test_gunicorns_logs_have_no_room(api, attack):
    host = api.host
    host.check_output(
        "mount -t tmpfs -o size=64k,mode=0750,uid=$(id -u www-data),gid=$(getent group adm | cut -d: -f3) "
        "tmpfs /var/log/gunicorn"
    )
    try:
        restart(api)
        for name in ("filler", "access.log", "error.log"):
            host.run(f"head -c 100k /dev/zero >> /var/log/gunicorn/{name}")
            assert host.run(f"echo x >> /var/log/gunicorn/{name}").rc != 0, "there is room left"
        assert attack.outside(30, "get", WITH_QUERY, patience=PATIENCE)["200"] == 30
        assert attack.inside(30, "get", WITH_QUERY, patience=PATIENCE)["200"] == 30
        assert attack.outside(5, WITH_QUERY, paths=["/traceback"], patience=PATIENCE)["500"] == 5
        found = attack.search()
    finally:
        host.check_output(f"systemctl stop {api.unit} && umount /var/log/gunicorn")
        restart(api)
    # Python's logging tells standard error what it could not write, and standard error is the journal.
    assert found.leaks == []


def test_the_search_finds_leaks_in_files_packed_files_and_the_journal(api, attack):
    host = api.host
    attack.leaks_on_purpose = True
    attack.inside(5, "get")
    address, agent = attack.marks.ipv4, attack.marks.agent
    plain, packed, private = "/var/log/planted.log", "/var/lib/nginx/planted.1.gz", "/tmp/planted"
    host.check_output(
        f"echo 'client: {address}' > {plain}; echo '{agent}' | gzip > {packed}; echo '{agent}' | systemd-cat"
    )
    api.as_service(f"echo {attack.callers[0]} > {private}")
    try:
        found = attack.search()
    finally:
        host.check_output(f"rm {plain} {packed}")
        api.as_service(f"rm {private}")
    assert found.leaks_in(plain) == {"address in a header"}
    assert found.leaks_in(packed) == {"user agent"}
    assert found.leaks_in("journal") == {"user agent"}
    others = [place for kind, place, _excerpt in found.leaks if kind == "caller's address"]
    assert len(others) == 1, found.leaks
    assert re.fullmatch(
        r"/tmp/systemd-private-.*/tmp/planted|/proc/\d+/root/tmp/planted", others[0]
    )


@contextmanager
def a_leak_in_nginx(api):
    """Let nginx write a log of the usual kind beside the role's own."""
    host = api.host
    leak = 'log_format leak \'$remote_addr "$http_user_agent" "$http_x_forwarded_for"\';'
    site = "/etc/nginx/sites-available/api-endpoint"
    host.check_output(
        f"cp -a {site} /root/site && sed -i 's|^server {{|& access_log /var/log/nginx/leak.log leak;|' {site}"
    )
    host.check_output(f"cat > /etc/nginx/conf.d/leak.conf <<'END'\n{leak}\nEND\n")
    try:
        host.check_output("nginx -q -t && systemctl reload nginx")
        log = "/var/log/nginx/leak.log"
        wait_until(
            lambda: api.get("/readyz").status == 200 and host.run(f"test -s {log}").rc == 0,
            "nginx writes the leak",
        )
        yield log
    finally:
        host.check_output(
            f"mv /root/site {site} && rm /etc/nginx/conf.d/leak.conf && systemctl reload nginx"
        )
        host.check_output("rm -f /var/log/nginx/leak.log*")


def test_the_search_finds_a_leak_that_nginx_writes(api, attack):
    attack.leaks_on_purpose = True
    with a_leak_in_nginx(api) as log:
        # As many as it takes for each header to be among them: which ones a request has is drawn.
        attack.outside(100, "get")
        attack.inside(5, "get", family=6)
        attack.inside(5, "get", family=4)
        kinds = attack.search().leaks_in(log)
    assert kinds == {"user agent", "address in a header", "caller's address"}


def test_nothing_is_left_of_the_tests_above(attack, attacks, api):
    """The marks of all tests that leaked nothing on purpose, after rotation, restarts and packing."""
    earlier = [test for test in attacks if not test.leaks_on_purpose and test is not attack]
    assert sum(test.sent for test in earlier) > 10 * EACH
    attack.assert_nobody_is_named(*earlier)


def traces(api):
    """Return what an audit might leave on the host, but for the note of its time."""
    return api.host.check_output(
        "ip -6 route show table local; ls -a --ignore=audits.json /var/log/api-endpoint /tmp /root"
    )


def test_the_audit_passes_and_says_what_it_did(api, playbook):
    before = traces(api)
    run = playbook(*VARIABLES, name=AUDIT)
    assert run.status == 0, run.output
    assert run.changed == [0]
    assert "nobody is named anywhere" in run.said
    assert re.search(r"over IPv4: 100 \(.*200: \d+.* over IPv6: 100 \(.*200: \d+", run.said), (
        run.output
    )
    assert re.search(r"/var: [1-9]\d* changed files", run.said), run.output
    assert re.search(r"the journal: [1-9]\d* entries", run.said), run.output
    assert traces(api) == before, "it left something"


def test_the_audit_fails_when_callers_are_named_and_says_where(api, playbook):
    with a_leak_in_nginx(api) as log:
        run = playbook(*VARIABLES, name=AUDIT)
    assert run.status != 0
    assert "CALLERS ARE NAMED" in run.said
    for kind in ("user agent", "address in a header", "caller's address"):
        assert f"{kind} in {log}" in run.said, run.output
    assert f"Callers are named in: {log}. Run site.yml" in run.said


@pytest.mark.full
def test_the_audit_sends_nothing_in_check_mode(api, playbook):
    before = traces(api)
    dry = playbook(*VARIABLES, "--check", name=AUDIT)
    assert dry.status == 0, dry.output
    assert "Would send 250 marked requests over IPv4" in dry.output
    assert traces(api) == before, "it left something"


@pytest.mark.full
@pytest.mark.usefixtures("on_one_host")
def test_the_audit_passes_without_query_strings_and_referrers_too(api, playbook):
    """What is written then must not hold them either: access logs, error logs, gunicorn's errors."""
    off = [f"-eapi_endpoint_log_{what}=false" for what in ("query_string", "referrer")]
    try:
        changed = playbook(*VARIABLES, *off, "--tags", "nginx,app")
        assert changed.status == 0, changed.output
        run = playbook(*VARIABLES, *off, name=AUDIT)
        assert run.status == 0, run.output
        assert "nobody is named anywhere" in run.said
        api.ask(
            "POST", "/x?name=Marie", b"x" * 2_000_000, {"Referer": "https://page.example/Marie"}
        )

        def errors():
            return api.host.check_output("cat /var/log/nginx/error.log")

        wait_until(
            lambda: "too large body: 2000000 bytes\n" in errors(), "a line without the request"
        )
        assert "Marie" not in errors()
    finally:
        back = playbook(*VARIABLES, "--tags", "nginx,app")
        assert back.status == 0, back.output


@pytest.mark.full
@pytest.mark.usefixtures("on_one_host")
def test_the_audit_says_nothing_when_nothing_answers(api, playbook):
    with stopped(api, api.unit):
        run = playbook(*VARIABLES, name=AUDIT)
    assert run.status != 0
    assert "Nothing was audited: GET /readyz through nginx on port 80: status 502" in run.said, (
        run.output
    )
    wait_until(lambda: api.host.file(f"{ROOT}/live").exists, "the slot is live")
