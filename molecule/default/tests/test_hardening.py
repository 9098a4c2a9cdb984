"""What the service may do on the hosts, and what each variable changes about that. Each run is one for all hosts."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from outcomes import PROJECT, ROOT, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
FAULT_APP = {
    "api_endpoint_app_dir": "molecule/shared/fault_app", "api_endpoint_artifacts": [], "api_endpoint_smoke_requests": [],
}  # fmt: skip
METADATA = "169.254.169.254"  # where clouds tell an instance about itself


SECRETS = {"API_KEY": 'a "secret" of $HOME \\ `x` ü', "LINES": "first-line\nsecond-line"}


@pytest.fixture(scope="module")
def with_settings(everywhere, apis):
    """Return a function that brings settings live, and no others; after all tests the repository's own are live again."""
    before = [api.release for api in apis]

    def run(*options, **settings):
        given = {f"api_endpoint_{name}": value for name, value in settings.items()}
        done = everywhere("--tags", "app,model", "-e", json.dumps({**FAULT_APP, **given}), *options)
        assert done.status == 0, done.output
        return done

    yield run
    assert everywhere("--tags", "app,model").status == 0
    assert [api.release for api in apis] == before, (
        "the same settings did not lead to the same releases"
    )


@pytest.fixture(scope="module")
def confined(with_settings):
    """Bring an app live that needs no network, with limits and secrets of its own; return the run."""
    return with_settings(
        "--diff", "-vvv",
        outbound_network=False, jit=False, secrets=SECRETS,
        memory_limit="3G", service_settings={"LimitNOFILE": 5000, "TasksMax": 300, "CPUWeight": 50},
    )  # fmt: skip


def exposure(api):
    """Return what systemd thinks of the live slot's unit: 0 is safe, 10 is not."""
    said = api.host.run(f"systemd-analyze security --no-pager {api.unit}").stdout
    return float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)[1])


def connects(api, host, port):
    return api.get(f"/connect?host={host}&port={port}").json["connected"]


@contextlib.contextmanager
def listener(api) -> Iterator[str]:
    """Run a server at the address of a cloud's metadata, and at one of the host's own; return that."""
    own = api.host.check_output("hostname -i").split()[0]
    api.host.check_output(
        f"ip address add {METADATA}/32 dev lo && "
        "systemd-run --quiet --unit=listener python3 -m http.server 8169 --bind 0.0.0.0"
    )
    listens = "python3 -c 'import socket; socket.create_connection((\"{}\", 8169))'"
    try:
        for address in (own, METADATA):
            wait_until(
                lambda address=address: api.host.run(listens.format(address)).rc == 0,
                f"{address} listens",
            )
        yield own
    finally:
        api.host.check_output(f"systemctl stop listener && ip address del {METADATA}/32 dev lo")


def test_the_app_reaches_the_network_but_not_what_the_cloud_tells_its_instances(
    apis, with_settings
):
    slots = [api.slot for api in apis]
    with_settings()
    assert all(api.slot != slot for api, slot in zip(apis, slots, strict=True)), (
        "no other slot went live"
    )
    for api in apis:
        assert exposure(api) <= 1.2
        with listener(api) as own:
            assert connects(api, own, 8169)
            assert not connects(api, METADATA, 8169)


def test_an_app_that_needs_no_network_gets_none(apis, confined):
    for api in apis:
        assert exposure(api) <= 0.8
        with listener(api) as own:
            assert not connects(api, own, 8169)
        assert api.get("/readyz").status == 200
        limits = api.host.check_output(
            f"systemctl show --property=MemoryDenyWriteExecute,PrivateNetwork --value {api.unit}"
        )
        assert limits.split() == ["yes", "yes"]


def test_limits_are_set_and_can_be_changed(apis, confined):
    for api in apis:
        shown = api.host.check_output(
            "systemctl show --property=MemoryMax,TasksMax,LimitNOFILE,LimitCORE,OOMPolicy,CPUWeight "
            + api.unit
        )
        assert set(shown.splitlines()) == {
            f"MemoryMax={3 * 2**30}", "TasksMax=300", "LimitNOFILE=5000", "LimitCORE=0",
            "OOMPolicy=continue", "CPUWeight=50",
        }  # fmt: skip


def test_secrets_reach_the_app_and_nobody_else(apis, confined):
    words = ("of $HOME", "second-line")
    assert not [word for word in words if word in confined.output]
    where = f"/var/log /etc {ROOT}/releases {ROOT}/history.json /tmp /var/tmp /run"
    for api in apis:
        for name, value in SECRETS.items():
            assert api.get(f"/secret?name={name}").json["value"] == value
        for word in words:
            assert api.host.run(f"grep -rlF '{word}' {where} 2>/dev/null").stdout == ""
            assert (
                api.host.run(
                    f"journalctl --no-pager --output=export | grep --text -F '{word}'"
                ).stdout
                == ""
            )
            assert api.host.run(f"ps -eww -o args | grep -v grep | grep -F '{word}'").stdout == ""
        [file] = api.host.run(f"find {ROOT}/secrets -type f").stdout.split()
        assert api.host.file(file).mode == 0o600
        assert api.as_service(f"cat {file}").rc != 0


def test_core_dumps_are_off(apis):
    for api in apis:
        for unit in (api.unit, "nginx.service"):
            for pid in api.workers(unit):
                limits = api.host.file(f"/proc/{pid}/limits").content_string
                assert re.search(r"Max core file size\s+0\s", limits), unit


@pytest.mark.full
def test_pytorch_runs_under_the_defaults(apis, with_settings, tmp_path):
    """On one host, with the build of PyTorch for the CPU; the one that pip fetches by itself is several gigabytes larger."""
    [api] = [api for api in apis if api.container.endswith("debian13")]
    app = SCENARIO / "pytorch_app"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--dest", tmp_path, "--only-binary=:all:",
         "--python-version=3.13", "--requirement", app / "requirements.txt", "gunicorn==27.0.1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip("no build of PyTorch for the CPU is to be had here")
    assert done.returncode == 0, done.stderr
    subprocess.run(
        ["docker", "cp", "--quiet", f"{tmp_path}/.", f"{api.container}:/srv/wheels"], check=True
    )
    api.host.check_output("chmod -R a+rX /srv/wheels")
    with_settings(
        "--limit", api.container,
        app_dir=str(app.relative_to(PROJECT)), pip_options=["--no-index", "--find-links=/srv/wheels"],
        profile="pytorch", workers=1,
    )  # fmt: skip
    answer = api.get("/")
    assert answer.status == 200, answer.body
    assert len(answer.json["scores"]) == 2
    assert exposure(api) <= 1.3  # /proc/cpuinfo
