"""A host is broken, in one way after the other: the first cause named is the right one, and what it says mends it."""

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
    """A way to break a host, and what is said of it."""

    how: str
    first: str
    after: str = ""  # what puts away the last of it, when the remedy leaves something


def again(change: str) -> str:
    """A change that is noticed when the service starts anew."""
    return f"{change} && systemctl restart --no-block {UNIT}"


BROKEN = {
    "import error put live by hand": Broken(
        again(f'sed -i \'1i import os; raise RuntimeError(os.environ["API_KEY"] + " {ADDRESS}")\' {LIVE}/wsgi.py'),
        "[cause] The live version was changed by hand, so it is not what was proven: wsgi.py",
    ),
    "module missing in the virtualenv": Broken(
        again(f"mv {ROOT}/p3env/lib/python3*/site-packages/jinja2 /root/"),
        "[cause] The app does not load: ModuleNotFoundError: No module named 'jinja2'",
    ),
    "data removed": Broken(f"rm {WORDS}", "[cause] The model data words.txt is gone"),
    "data altered": Broken(f"echo more >> {WORDS}", "[cause] The model data words.txt was changed since it was verified"),
    "folder of the app closed": Broken(
        again(f"chmod 0700 {ROOT}"), f"[cause] The service's account, www-data, may not use {ROOT}"
    ),
    "folder above closed": Broken(again("chmod 0700 /srv"), "[cause] The service's account, www-data, may not use /srv"),
    "disk full": Broken(
        "mkdir /root/logs && mount -t tmpfs -o size=2m,mode=0755 tmpfs /var/log/nginx && "
        "touch /var/log/nginx/access.log /var/log/nginx/error.log && "
        "(cat /dev/zero > /var/log/nginx/forgotten 2>/dev/null || true)",
        "[cause] The disk of /var/log/nginx is full: it has no room",
        "umount --lazy /var/log/nginx",
    ),
    "no place for files": Broken(
        "mount -t tmpfs -o size=200m,nr_inodes=2000,mode=0755 tmpfs /var/log/gunicorn && mkdir /var/log/gunicorn/queue && "
        "chown -R www-data:adm /var/log/gunicorn && "
        "(cd /var/log/gunicorn/queue; seq 3000 | xargs touch 2>/dev/null || true)",
        "[cause] The disk of /var/log/gunicorn is full: it has no place for another file",
        "umount --lazy /var/log/gunicorn",
    ),
    "nginx's configuration broken by hand": Broken(
        "sed -i 's/server_name/server_nam/' /etc/nginx/sites-available/api-endpoint",
        "[cause] nginx's configuration is wrong: it runs on the old one",
    ),
    "a file of somebody's in nginx's folder": Broken(
        "echo 'listen 81' > /etc/nginx/sites-enabled/mine", "[cause] nginx's configuration is wrong: it runs on the old one"
    ),
    "nginx stopped": Broken("systemctl stop nginx", "[cause] nginx is stopped"),
    "another program on the port": Broken(
        "systemctl stop nginx && systemd-run --quiet --unit=squatter python3 -m http.server 80 && sleep 1",
        "[cause] Port 80, where nginx belongs, is taken by another program: python3",
    ),
    "live link turned": Broken(
        f"ln -sfn slots/nowhere {ROOT}/live",
        f"[cause] The link {ROOT}/live, by which nginx finds the live version, leads to",
    ),
    "socket removed": Broken("rm /run/api-endpoint/*/gunicorn.sock", "[cause] The service runs, and its socket is gone"),
    "service stopped": Broken(f"systemctl stop {UNIT}", "[cause] The service is stopped"),
    "service masked": Broken(f"systemctl mask --now {UNIT}", "[cause] The service is masked"),
    "service off at the next boot": Broken(
        f"systemctl disable {UNIT}", "[risk] The service will not start at the next boot"
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
    "hanging": Broken(f"systemctl kill --signal=STOP {UNIT}", "[symptom] The app runs, and does not answer: it hangs"),
    "secrets gone": Broken(again(f"rm {ROOT}/secrets/*"), "[cause] The file of its secrets is missing"),
    "unit edited by hand": Broken(
        again(
            "sed -i 's/^ReadWritePaths=.*/ReadWritePaths=/' /etc/systemd/system/api-endpoint@.service && "
            "systemctl daemon-reload"
        ),
        "[cause] Not as the role leaves it: file /etc/systemd/system/api-endpoint@.service.",
    ),
    "rights opened by hand": Broken(
        f"chmod 0777 {ROOT}/slots", f"[risk] Not as the role leaves it: owner or rights {ROOT}/slots"
    ),
    "workers killed as by the kernel": Broken(
        f'main="$(systemctl show --property=MainPID --value {UNIT})" && '
        'test "$main" -gt 1 && pkill --signal KILL --parent "$main"',
        "[risk] Memory ran out, and processes were killed for it",
    ),
}


def test_a_well_host(api, diagnose, report):
    report.unlink(missing_ok=True)
    api.host.check_output("touch /root/before")
    for options in ((), ("--check",)):
        found = diagnose(*options)
        assert found.run.status == 0, found.run.output
        assert found.findings == [], found.run.output
        assert found.run.changed == [0]
    assert "Well: nothing needs to be done." in report.read_text()
    # It has left nothing behind. What requests and services write is theirs.
    touched = api.host.check_output(
        "find /etc /opt /root /run /srv /usr /var -newer /root/before ! -path '*/systemd*' ! -path '/*/log/*'"
    )
    assert touched.split() in ([], ["/run"]), touched


def test_a_host_where_nothing_was_deployed(diagnose):
    found = diagnose("-e", "api_endpoint_name=another")
    assert found.run.status == 2
    assert found.first == "[cause] Nothing was ever deployed to this host under the name another."
    assert found.remedy == ["ansible-playbook -i inventory site.yml"]


def look(api, diagnose, report, broken: Broken, *options: str):
    """Break the host, and see what is said of it."""
    api.host.check_output(broken.how)
    time.sleep(3 if "restart" in broken.how else 0.2)
    found = diagnose(*options)
    assert found.run.status == 2, found.run.output
    assert found.first.startswith(broken.first), "\n".join(found.findings)
    text = report.read_text()
    assert broken.first.partition("] ")[2].replace("'", "&#39;") in text
    for told in (text, found.run.output):
        assert SECRET not in told
        assert ADDRESS not in told
    return found, text


@pytest.mark.parametrize("name", BROKEN)
def test_broken(api, diagnose, do, report, name):
    broken = BROKEN[name]
    try:
        found, text = look(api, diagnose, report, broken)
        assert ("[secret] [address]" in text) is (ADDRESS in broken.how)
        for command in found.remedy:
            do(command)
    finally:
        if broken.after:
            api.host.check_output(broken.after)
    api.wait_until_it_answers("/readyz", 10)
    assert api.running == api.enabled == [api.unit]
    wait_until(lambda: api.get("/readyz").status == 200, "well again", 10)


def test_names_are_not_resolved(api, diagnose, report):
    """What mends it depends on the network, so that is not told."""
    broken = Broken(
        f"cp /etc/resolv.conf /root/ && echo nameserver {ADDRESS} > /etc/resolv.conf",
        "[risk] Names of other hosts are not resolved",
    )
    try:
        _found, text = look(api, diagnose, report, broken)
    finally:
        api.host.check_output("cat /root/resolv.conf > /etc/resolv.conf")
    assert "nameserver [address]" in text


def test_the_clock_is_wrong(api, diagnose, report, tmp_path):
    """Hosts of tests share this machine's clock: the diagnosis alone runs with a wrong one."""
    late = '#!/bin/sh\nexec faketime -f -2h /usr/bin/python3 "$@"\n'
    broken = Broken(f"printf '{late}' > /root/late && chmod +x /root/late", "[risk] The clock is ")
    inventory = tmp_path / "late.yml"
    inventory.write_text(f"all: {{hosts: {{{api.container}: {{ansible_python_interpreter: /root/late}}}}}}")
    found, _text = look(api, diagnose, report, broken, "-i", str(inventory))
    assert "behind" in found.first


def test_well_in_the_end(diagnose):
    """What was mended is whole."""
    found = diagnose()
    assert found.findings == [], found.run.output
    assert found.run.status == 0
