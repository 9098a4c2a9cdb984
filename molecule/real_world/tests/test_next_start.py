"""What runs and would not start again is named in advance; a Python that the service cannot run is refused."""

import re
from pathlib import Path

import pytest
from outcomes import ROOT

SETTINGS = ("-e", f"@{Path(__file__).resolve().parents[1] / 'vars.yml'}")
UNIT = "/etc/systemd/system/api-endpoint@.service"
PACKAGES = f"{ROOT}/p3env/lib/python3.*/site-packages"
AS_IT_WAS = f"touch --reference {ROOT}/p3env/.complete {PACKAGES}"

# How it is broken, how it is undone, and what is said of it.
BROKEN = {
    "gunicorn removed": (
        f"mv {PACKAGES}/gunicorn /root/", f"mv /root/gunicorn {PACKAGES}/ && {AS_IT_WAS}",
        "next start will fail: ModuleNotFoundError: No module named 'gunicorn'.",
    ),
    "another package removed": (
        f"mv {PACKAGES}/flask /root/", f"mv /root/flask {PACKAGES}/ && {AS_IT_WAS}",
        "The virtualenv of the live version was changed by hand",
    ),
    "the virtualenv removed": (
        f"readlink -f {ROOT}/p3env >/root/place && mv $(cat /root/place) /root/venv", "mv /root/venv $(cat /root/place)",
        "Its virtualenv is missing",
    ),
    "the account removed": (
        "cp -a /etc/passwd /etc/shadow /root/ && sed -i /^www-data:/d /etc/passwd /etc/shadow",
        "cp -a /root/passwd /root/shadow /etc/",
        "next start will fail: its account, www-data, is not on this host.",
    ),
    "a disk mounted by hand": (
        "cp -a /srv /root/srv && mount -t tmpfs tmpfs /srv && cp -a /root/srv/. /srv/", "umount /srv && rm -r /root/srv",
        "/srv, where the service finds the model data, was mounted by hand.",
    ),
    "a disk that runs nothing": (
        f"mount --bind {ROOT}/venvs {ROOT}/venvs && mount -o remount,bind,noexec {ROOT}/venvs", f"umount {ROOT}/venvs",
        "is mounted with noexec",
    ),
    "the standard library closed": (
        "chmod 0700 /usr/lib/python3.13", "chmod 0755 /usr/lib/python3.13",
        "next start will fail: ModuleNotFoundError: No module named 'encodings'.",
    ),
    "a folder of the sandbox removed": (
        "mv /var/log/gunicorn /root/logs", "mv /root/logs /var/log/gunicorn",
        "next start will fail: Failed at step NAMESPACE",
    ),
    "the unit removed": (f"mv {UNIT} /root/", f"mv '/root/api-endpoint@.service' {UNIT}", "The service's unit is missing"),
}  # fmt: skip
# How a Python comes about that the service cannot run, its path, and what is said of it.
PYTHONS = {
    "in a closed folder": ("chmod 0700 /opt/python/closed", "/opt/python/closed/python3", "may not use /opt/python/closed"),
    "of root's": (
        "mkdir -p /root/py && cp /usr/bin/python3 /root/py/ && ln -sfn /root/py/python3 /opt/python/link",
        "/opt/python/link",
        "it leads to /root/py/python3: it lies in /root, which is hidden from the service.",
    ),
    "a shim": (
        r"printf '#!/usr/bin/env bash\nexec pyenv exec python \"$@\"\n' >/opt/python/shim && chmod 0755 /opt/python/shim",
        "/opt/python/shim", "a script that looks for a Python, such as a shim of pyenv's",
    ),
    "for another processor": (
        r"cp /usr/bin/python3 /opt/python/arm && printf '\xb7\0' | dd of=/opt/python/arm bs=1 seek=18 conv=notrunc",
        "/opt/python/arm", "it is no program for this host's processor",
    ),
    "no Python": ("true", "/usr/bin/true", "does not run as www-data in the service's sandbox (exit status 0): nothing."),
    "not there": ("true", "/opt/python/none", "it is no file on this host."),
    "in a home": ("true", "/home/me/miniconda3/bin/python", "it lies in /home, which is hidden from the service."),
}  # fmt: skip
IN_THE_GATE = ("gunicorn removed", "in a closed folder")


def some(table):
    return [
        pytest.param(name, marks=() if name in IN_THE_GATE else pytest.mark.full) for name in table
    ]


@pytest.mark.parametrize("name", some(BROKEN))
def test_what_runs_and_would_not_start_again(on_one_host, api, playbook, name):
    breaks, restores, told = BROKEN[name]
    api.host.check_output(breaks)
    try:
        run = playbook(*SETTINGS, name="playbooks/diagnose.yml")
        assert api.get("/").status == 200
    finally:
        api.host.check_output(f"{restores} && systemctl daemon-reload")
    assert run.status != 0, run.output
    assert re.search(rf"1\. \[risk\] [^|]*{re.escape(told)}", run.said), run.output


@pytest.mark.parametrize("name", some(PYTHONS))
def test_a_python_that_the_service_cannot_run(on_one_host, api, playbook, name):
    makes, path, told = PYTHONS[name]
    before = api.release, api.host.check_output(f"ls {ROOT}/venvs")
    api.host.check_output(
        f"mkdir -p /opt/python/closed && cp /usr/bin/python3 /opt/python/closed/ && {makes}"
    )
    run = playbook(*SETTINGS, "--tags", "app", "-e", f"api_endpoint_python={path}")
    assert run.status != 0, run.output
    assert f"api_endpoint_python is '{path}'" in run.said
    assert told in run.said, run.output
    assert (api.release, api.host.check_output(f"ls {ROOT}/venvs")) == before
    assert api.get("/").status == 200
