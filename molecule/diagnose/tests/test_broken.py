"""A host is broken in one way after the other: the first cause named is the right one, and its remedy repairs the host."""

import os
import time
from dataclasses import dataclass

import pytest
from outcomes import ROOT, wait_until

LIVE = f"{ROOT}/current"
UNIT = 'api-endpoint@"$(basename "$(readlink /var/lib/api-endpoint/live)")".service'
ADDRESS = "192.0.2.7"
SECRET = "a-secret-that-no-report-may-show"
WORDS = f'"$(readlink {LIVE}/words.txt)"'


@dataclass
class Broken:
    """A way to break a host, and the first finding."""

    how: str
    first: str
    after: str = ""  # removes what the remedy leaves


def again(change: str) -> str:
    """Make a change and restart the service, which notices it then."""
    return f"{change} && (systemctl restart {UNIT} || true)"


def until(condition: str) -> str:
    """Wait for a condition of the shell."""
    return f"timeout 60 sh -c 'until {condition}; do sleep 0.1; done'"


# The remedy is one or more commands on the host.
BY_HAND = {
    "folder above closed": Broken(
        again("chmod 0700 /srv"), "[cause] The service's account, www-data, may not use /srv"
    ),
    "disk full": Broken(
        "mkdir /root/logs && mount -t tmpfs -o size=2m,mode=0755 tmpfs /var/log/nginx && "
        "touch /var/log/nginx/access.log /var/log/nginx/error.log && "
        "(cat /dev/zero > /var/log/nginx/forgotten 2>/dev/null || true)",
        "[cause] The disk of /var/log/nginx is full",
        "umount --lazy /var/log/nginx && rmdir /root/logs",
    ),
    "no place for files": Broken(
        "mount -t tmpfs -o size=200m,nr_inodes=2000,mode=0755 tmpfs /var/log/gunicorn && mkdir /var/log/gunicorn/queue && "
        "chown -R www-data:adm /var/log/gunicorn && "
        "(cd /var/log/gunicorn/queue; seq 3000 | xargs touch 2>/dev/null || true)",
        "[cause] The disk of /var/log/gunicorn is out of inodes",
        "umount --lazy /var/log/gunicorn",
    ),
    "a foreign file in nginx's folder": Broken(
        "echo 'listen 81' > /etc/nginx/sites-enabled/mine",
        "[cause] nginx's configuration is wrong: it runs on the old one",
    ),
    "nginx stopped": Broken("systemctl stop nginx", "[cause] nginx is stopped"),
    "another program on the port": Broken(
        "systemctl stop nginx && systemd-run --quiet --unit=squatter python3 -m http.server 80 && "
        + until("ss --no-header --listening --tcp --numeric | grep -q :80"),
        "[cause] Port 80, where nginx belongs, is taken by another program: python3",
        "systemctl stop squatter 2>/dev/null || true",
    ),
    "live link turned": Broken(
        f"ln -sfn slots/nowhere {ROOT}/live",
        f"[cause] The link {ROOT}/live, by which nginx finds the live version, leads to",
    ),
    "socket removed": Broken(
        "rm /run/api-endpoint/*/gunicorn.sock", "[cause] The service runs, and its socket is gone"
    ),
    "service stopped": Broken(f"systemctl stop {UNIT}", "[cause] The service is stopped"),
    "service masked": Broken(f"systemctl mask --now {UNIT}", "[cause] The service is masked"),
    "service off at the next boot": Broken(
        f"systemctl disable {UNIT}", "[risk] The service will not start at the next boot"
    ),
    "hanging": Broken(
        f"systemctl kill --signal=STOP {UNIT}",
        "[symptom] The app runs, and does not answer: it hangs",
    ),
}
# A playbook run is part of the remedy: carried out once for each kind of run, and for all of them in the full run.
BY_RUN = {
    "import error put live by hand": Broken(
        again(
            f'sed -i \'1i import os; raise RuntimeError(os.environ["API_KEY"] + " {ADDRESS}")\' {LIVE}/wsgi.py'
        ),
        "[cause] The live version was changed by hand, so it is not what was proven: wsgi.py",
    ),
    "data altered": Broken(
        f"echo more >> {WORDS}",
        "[cause] The model data words.txt was changed since it was verified",
    ),
    "module missing in the virtualenv": Broken(
        again(f"mv {ROOT}/p3env/lib/python3*/site-packages/jinja2 /root/"),
        "[cause] The app does not load: wsgi.py line 11: No module named 'jinja2'.",
        "rm -r /root/jinja2",
    ),
    "data removed": Broken(f"rm {WORDS}", "[cause] The model data words.txt is gone"),
    "folder of the app closed": Broken(
        again(f"chmod 0700 {ROOT}"), f"[cause] The service's account, www-data, may not use {ROOT}"
    ),
    "nginx's configuration broken by hand": Broken(
        "sed -i 's/server_name/server_nam/' /etc/nginx/sites-available/api-endpoint",
        "[cause] nginx's configuration is wrong: it runs on the old one",
    ),
    "gunicorn's settings edited by hand": Broken(
        again(f"sed -i 's/^workers = .*/workers = \"many\"/' {LIVE}/gunicorn.conf.py"),
        "[cause] The live version was changed by hand, so it is not what was proven: gunicorn.conf.py",
    ),
    "too little time for the start": Broken(
        again(
            f"printf 'ExecStartPre=/bin/sleep 3\\nTimeoutStartSec=1\\n' >> /etc/systemd/system/{UNIT}.d/release.conf && "
            "systemctl daemon-reload"
        ),
        "[cause] The app needs longer to start than it is given: 1s. That was changed by hand",
    ),
    "secrets gone": Broken(
        again(f"rm {ROOT}/secrets/*"), "[cause] The file of its secrets is missing"
    ),
    "workers killed as by the kernel": Broken(
        f'main="$(systemctl show --property=MainPID --value {UNIT})" && '
        'test "$main" -gt 1 && pkill --signal KILL --parent "$main" && '
        + until('tail -n 20 /var/log/gunicorn/error.log | grep -q "was sent SIGKILL"'),
        "[risk] Memory ran out, and processes were killed for it",
    ),
}
# Found by other modules of the playbook, not by the diagnosis module.
EDITED = Broken(
    again(
        "sed -i 's/^ReadWritePaths=.*/ReadWritePaths=/' /etc/systemd/system/api-endpoint@.service && systemctl daemon-reload"
    ),
    "[cause] Not as the role leaves it: file /etc/systemd/system/api-endpoint@.service.",
)
OPENED = Broken(
    f"chmod 0777 {ROOT}/slots", f"[risk] Not as the role leaves it: owner or rights {ROOT}/slots"
)
DRIFT = {
    "unit edited and rights opened by hand": Broken(
        f"{OPENED.how} && {EDITED.how}",
        f"[cause] Not as the role leaves it: owner or rights {ROOT}/slots and 1 more.",
    ),
    "unit edited by hand": EDITED,
    "rights opened by hand": OPENED,
}
IN_THE_GATE = (
    "import error put live by hand",
    "data altered",
    "unit edited and rights opened by hand",
)


def test_a_well_host(api, well, report, arguments):
    assert well.status == 0, well.output
    assert well.changed == [0]
    assert "api-endpoint: well." in well.output, well.output
    assert "Well: nothing needs to be done." in report.read_text()
    assert SECRET not in well.output
    # The clock of the host is compared with that of this machine, in seconds since 1970.
    assert report.stat().st_mtime - 600 < arguments["laptop_time"] < report.stat().st_mtime
    # The run left nothing behind but what requests and services write.
    touched = api.host.check_output(
        "find /etc /opt /root /run /srv /usr /var -newer /root/before ! -path '*/systemd*' ! -path '/*/log/*' "
        "! -path '/opt/saved*' ! -path '/opt/diagnosis*' ! -path /opt"
    )
    assert touched.split() in ([], ["/run"]), touched


@pytest.mark.full
def test_a_dry_run_on_a_well_host(diagnose, report):
    report.unlink(missing_ok=True)
    run, found = diagnose("--check")
    assert (run.status, run.changed, found.findings) == (0, [0], []), run.output
    assert "Well: nothing needs to be done." in report.read_text()


def test_a_host_where_nothing_was_deployed(look):
    found = look(name="another", root="/var/lib/another", data_dir="/srv/another/data")
    assert found.first.startswith(
        "[cause] Nothing was ever deployed to this host under the name another."
    )
    assert found.remedy == ["ansible-playbook -i inventory site.yml"]


@pytest.mark.full
def test_a_host_where_nothing_was_deployed_by_the_playbook(diagnose):
    run, found = diagnose("-e", "api_endpoint_name=another")
    assert run.status == 2, run.output
    assert found.first.startswith(
        "[cause] Nothing was ever deployed to this host under the name another."
    )
    assert found.remedy == [
        f"ansible-playbook -i {os.environ['MOLECULE_INVENTORY_FILE']} site.yml"
    ], "the inventory at hand"


def assert_found(broken: Broken, found) -> None:
    """The first finding is the right one, and shows neither a secret nor an address."""
    assert found.first.startswith(broken.first), found.text
    assert SECRET not in found.text
    assert ADDRESS not in found.text
    assert ("[secret] [address]" in found.text) is (ADDRESS in broken.how)


def assert_well(api) -> None:
    """The service answers, and runs after the next boot."""
    api.wait_until_it_answers("/readyz")
    wait_until(lambda: api.get("/readyz").status == 200, "the health check passes", 60)
    assert api.running == api.enabled == [api.unit]


@pytest.mark.parametrize("name", [*BY_HAND, *BY_RUN])
def test_broken(api, look, do, restore, name):
    """The diagnosis module names the cause. A remedy on the host is carried out; in place of a run the host is restored."""
    broken, is_repaired = {**BY_HAND, **BY_RUN}[name], False
    api.host.check_output(broken.how)
    try:
        found = look()
        assert_found(broken, found)
        assert found.needs_a_run is (name in BY_RUN), found.remedy
        if not found.needs_a_run:
            for command in found.remedy:
                do(command)
            is_repaired = True
    finally:
        if broken.after:
            api.host.check_output(broken.after)
        if not is_repaired:
            restore()
    assert_well(api)


def test_names_are_not_resolved(api, look):
    """The remedy depends on the network, so that the finding names the file only."""
    api.host.check_output(
        f"cp /etc/resolv.conf /root/ && echo nameserver {ADDRESS} > /etc/resolv.conf"
    )
    try:
        found = look()
    finally:
        api.host.check_output("cat /root/resolv.conf > /etc/resolv.conf")
    assert found.first.startswith("[risk] DNS fails: the app cannot resolve host names"), found.text
    assert "nameserver [address]" in found.text


def test_the_clock_is_wrong(look):
    """The host's clock is that of this machine: the module is told another time."""
    found = look(laptop_time=time.time() + 7200)
    assert found.first.startswith("[risk] The clock is "), found.text
    assert "behind" in found.first


def test_everything_is_repaired(look):
    found = look()
    assert found.findings == [], found.text


@pytest.mark.parametrize(
    "name",
    [
        name if name in IN_THE_GATE else pytest.param(name, marks=pytest.mark.full)
        for name in [*DRIFT, *BY_RUN]
    ],
)
def test_broken_and_repaired_by_a_run(api, diagnose, do, report, name):
    """The playbook names the cause in its output and in the report, and its remedy repairs the host."""
    broken = {**BY_RUN, **DRIFT}[name]
    api.host.check_output(broken.how)
    try:
        run, found = diagnose()
        assert run.status == 2, run.output
        assert_found(broken, found)
        assert found.needs_a_run, found.remedy
        text = report.read_text()
        assert broken.first.partition("] ")[2].replace("'", "&#39;") in text
        for said in (text, run.output):
            assert SECRET not in said
            assert ADDRESS not in said
        for command in found.remedy:
            do(command)
    finally:
        if broken.after:
            api.host.check_output(broken.after)
    assert_well(api)


def test_everything_is_repaired_in_the_end(look):
    found = look()
    assert found.findings == [], found.text
