"""What a hostile app gets at: each attempt, and what must become of it, for the app itself, for pip and for commands."""

import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest
from outcomes import Api, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
METADATA = "169.254.169.254"  # where clouds tell an instance about itself
OTHER = {
    "api_endpoint_name": "other-api", "api_endpoint_server_names": ["other.wmcloud.org"],
    "api_endpoint_secrets": {"SECRET": "the-other-secret"}, "api_endpoint_metrics_listen": "", "api_endpoint_cache": {},
}  # fmt: skip

NOT_SEEN, REFUSED, FULL = {"ENOENT", "EACCES"}, {"EPERM", "EACCES"}, {"ENOSPC"}
EXPECTED = {
    "read the secrets of another endpoint from its processes": {"nothing"},
    "read the environment of the version that is live": NOT_SEEN,
    "see what runs, by D-Bus": REFUSED,
    "write lines past the journal": NOT_SEEN,
    "write in /run": {"EROFS", "EACCES"},
    "see nginx's process": NOT_SEEN,
    "reach the host's files through nginx's root": NOT_SEEN,
    "read nginx's memory": NOT_SEEN,
    "stop nginx": REFUSED,
    "stop another endpoint": REFUSED,
    "stop what counts requests": REFUSED,
    "read nginx's log": REFUSED,
    "read what nginx's cache keeps": REFUSED,
    "read another endpoint's code": REFUSED,
    "read another endpoint's data": REFUSED,
    "read another endpoint's log": REFUSED,
    "reach another endpoint's socket": REFUSED,
    "reach another endpoint's socket in /run": REFUSED,
    "read its secrets from the disk": REFUSED,
    "write another virtualenv": {"EROFS", "EACCES"},
    "write its release": {"EROFS", "EACCES"},
    "write its code's folder": {"EROFS", "EACCES"},
    "forge a line of nginx's error log": REFUSED,
    "forge a request for Prometheus": REFUSED,
    "let a file of its state grow": {"EFBIG"},
    "fill /tmp": FULL,
    "fill /var/tmp": FULL,
    "fill /dev/shm": FULL,
    "ask the cloud for the instance's secrets": {"TimeoutError", "ETIMEDOUT", "EPERM"},
    "stop nginx by systemd": REFUSED,
    "leave its walls by a unit of its own": REFUSED,
}


@pytest.fixture(scope="module")
def api(host):
    """Return the hostile API."""
    return Api(host, "hostile.wmcloud.org")


@pytest.fixture(scope="module")
def deploy(playbook):
    """Return a function that runs site.yml with some variables changed."""
    return lambda **changes: playbook("-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(changes))


def other_unit(host):
    """Return the unit of the other endpoint that is live."""
    return f"other-api@{host.check_output('basename $(readlink /var/lib/other-api/live)')}.service"


@pytest.fixture(scope="module")
def targets(host, api, deploy):
    """Deploy a good endpoint beside the hostile one, and tell the hostile one where everything is."""
    done = deploy(**OTHER)
    assert done.status == 0, done.output
    assert Api(host, "other.wmcloud.org").get("/").status == 200
    assert api.get("/cached").status == 200
    host.check_output(
        f"ip address add {METADATA}/32 dev lo && "
        "systemd-run --quiet --unit=listener python3 -m http.server 8169 --bind 0.0.0.0"
    )
    listens = f"python3 -c 'import socket; socket.create_connection((\"{METADATA}\", 8169))'"
    wait_until(lambda: host.run(listens).rc == 0, "something listens at the metadata address")
    found = {
        "live": api.main_pid(),
        "nginx": api.workers("nginx.service")[0],
        "other": api.main_pid(other_unit(host)),
        "counter": api.main_pid("api-endpoint-metrics.service"),
        "virtualenv": host.check_output("readlink -f /var/lib/other-api/p3env"),
        "socket": f"/run/other-api/{other_unit(host).split('@')[1].removesuffix('.service')}/gunicorn.sock",
        "metadata": METADATA,
    }
    assert all(found.values()), found
    host.check_output(f"echo '{json.dumps(found)}' >/etc/targets.json")
    yield found
    host.check_output(
        f"systemctl stop listener && ip address del {METADATA}/32 dev lo; rm /etc/targets.json"
    )


def assert_walls_held(found, exceptions=None, without=""):
    expected = {**EXPECTED, **(exceptions or {})}
    expected.pop(without, None)
    assert set(found) == set(expected)
    passed = {name: got for name, got in found.items() if got not in expected[name]}
    assert not passed


def reported(run):
    """Return what the attempts said in the output of a run that failed."""
    return json.loads(re.search(r"ATTEMPTS (\{.*?\})", run.said)[1])


def test_the_app_gets_at_nothing_that_is_not_its_own(host, api, targets):
    before = host.check_output("wc -c </var/log/nginx/error.log")
    found = api.ask("POST", "/attempts").json
    assert found.pop("read the environment of the version that is live").startswith("GOT"), (
        "it is its own"
    )
    assert_walls_held(found, without="read the environment of the version that is live")
    assert "198.51.100.99" not in host.check_output("cat /var/log/nginx/error.log")
    assert host.check_output("wc -c </var/log/nginx/error.log") == before
    for unit in ("nginx", "api-endpoint-metrics", other_unit(host)):
        assert host.service(unit).is_running, unit


def test_pipes_and_links_among_its_logs_hold_up_no_rotation(host, api):
    """The folder is the app's. A pipe in place of a rotated log would hold logrotate up, and all of the host's logs."""
    folder = "/var/log/gunicorn"
    api.get("/")
    made = api.as_service(
        f"rm -f {folder}/access.log.1 && mkfifo {folder}/access.log.1 && ln -s /etc/passwd {folder}/x.log"
    )
    assert made.rc == 0, made.stderr
    done = host.run("timeout 300 logrotate --force /etc/logrotate.d/api-endpoint")
    assert done.rc == 0, done.stderr
    kinds = host.check_output(
        f"stat --format '%F' {folder}/access.log {folder}/access.log.1"
    ).splitlines()
    assert all("regular" in kind for kind in kinds), kinds


def test_each_account_has_one_program(host, api, targets):
    """Who owns which process: an account that two programs share is a door between them."""
    owners = {}
    for line in host.check_output("ps -e -o user:32=,unit:64=").splitlines():
        user, unit = line.split()
        if user != "root":
            owners.setdefault(user, set()).add(unit)
    assert owners["www-data"] == {api.unit}
    assert owners["other-api"] == {other_unit(host)}
    assert owners["nginx"] == {"nginx.service"}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """Make a package whose setup.py is hostile."""
    folder = tmp_path_factory.mktemp("package") / "hostile-1.0"
    folder.mkdir()
    (folder / "setup.py").write_text((SCENARIO / "app/attempts.py").read_text())
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n")
    archive = folder.parent / "hostile-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, folder.name)
    return archive


# What pip and commands may do and the app may not: their temporary folders are theirs alone, and large.
OF_COMMANDS = {
    "let a file of its state grow": {"GOT '8 MB written'", "EROFS"},
    **{f"fill {folder}": {"GOT '8 MB written'"} for folder in ("/tmp", "/var/tmp", "/dev/shm")},
}


def test_pip_gets_at_nothing_either_and_leaves_nothing_running(host, api, deploy, targets, sdist):
    subprocess.run(["docker", "cp", "--quiet", sdist, f"{api.container}:/srv/"], check=True)
    host.check_output("chmod a+r /srv/hostile-1.0.tar.gz")
    before = api.release
    run = deploy(api_endpoint_pip_packages=["/srv/hostile-1.0.tar.gz"])
    assert run.status != 0
    assert_walls_held(reported(run), OF_COMMANDS)
    assert host.run("pgrep --full '^sleep 654321'").stdout == ""
    assert api.release == before


@pytest.mark.parametrize(
    "changes",
    [
        {"api_endpoint_build_commands": ["python attempts.py"]},
        {"api_endpoint_warm_up": "python attempts.py"},
        {
            "api_endpoint_artifacts": [
                {"dest": "made", "command": 'python "$API_ENDPOINT_APP/attempts.py"'}
            ]
        },
    ],
    ids=lambda changes: next(iter(changes)).removeprefix("api_endpoint_"),
)
@pytest.mark.full
def test_neither_do_commands(host, api, deploy, targets, changes):
    before = api.release
    run = deploy(**changes)
    assert run.status != 0
    assert_walls_held(reported(run), OF_COMMANDS)
    assert host.run("pgrep --full '^sleep 654321'").stdout == ""
    assert api.release == before
