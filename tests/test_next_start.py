"""What the next start would fail for is found while the live version still runs, and named after a start that failed."""

import os
import pwd
import time
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.diagnosis import diagnose as checks
from ansible.module_utils.api_endpoint.diagnosis.checks import app, start
from ansible.module_utils.api_endpoint.diagnosis.findings import CAUSE, RISK
from ansible.module_utils.api_endpoint.diagnosis.state import EndpointState
from helpers import make_virtualenv
from test_diagnosis import observed

RELEASE = "0123456789ab"
NEXT_START = [check for _title, check in checks.CHECKS if check.__module__ == start.__name__] + [
    app.parts
]
SITE = "ansible-playbook -i inventory site.yml"
JOURNAL = "api-endpoint-diagnosis-1.service: Failed at step NAMESPACE spawning /x/gunicorn: No such file or directory"


@pytest.fixture
def endpoint(tmp_path, monkeypatch):
    """A live version that runs, answers, and would start again."""
    root = tmp_path / "root"
    for path in ("bin", "slots/blue", f"releases/{RELEASE}", "mounted"):
        (root / path).mkdir(parents=True)
    for name in ("python3.11", "python3.13"):
        (root / "bin" / name).touch()
    (root / "bin/python3").symlink_to("python3.13")
    make_virtualenv(root / "venvs/v", root / "bin/python3", "3.13")
    (root / "venvs/v/.complete").touch()
    (root / "releases" / RELEASE / "release.json").write_text('{"components": {"virtualenv": "v"}}')
    (root / "releases" / RELEASE / "gunicorn.conf.py").touch()
    (root / "releases" / RELEASE / "p3env").symlink_to(root / "venvs/v")
    (root / "slots/blue/release").symlink_to(f"../../releases/{RELEASE}")
    (tmp_path / "unit").touch()
    monkeypatch.setattr(EndpointState, "template", tmp_path / "unit")
    monkeypatch.setattr(
        EndpointState, "state", {"ActiveState": "active", "SubState": "running", "NRestarts": "0"}
    )
    monkeypatch.setattr(EndpointState, "answers", True)
    monkeypatch.setattr(EndpointState, "is_healthy", True)
    monkeypatch.setattr(EndpointState, "start_check", (0, "gunicorn (version 27)"))
    monkeypatch.setattr(start, "FSTAB", tmp_path / "fstab")
    monkeypatch.setattr(
        start.os.path, "ismount", lambda path: str(path) in ("/", str(root / "mounted"))
    )
    return root


def look(endpoint):
    state = observed(endpoint.parent)
    return [finding for check in NEXT_START for finding in check(state)]


def upgrade(endpoint):
    (endpoint / "bin/python3").unlink()
    (endpoint / "bin/python3").symlink_to("python3.11")


def remove(path):
    return lambda endpoint: (endpoint / path).rename(endpoint / "aside")


def started(status, words):
    return lambda _endpoint, patch: patch.setattr(EndpointState, "start_check", (status, words))


def no_account(_endpoint, patch):
    patch.setattr(pwd, "getpwnam", lambda name: {}[name])


def noexec(endpoint, patch):
    patch.setattr(start.os, "statvfs", lambda _path: SimpleNamespace(f_flag=os.ST_NOEXEC))
    patch.setattr(EndpointState, "start_check", (203, JOURNAL.replace("NAMESPACE", "EXEC")))


def without_a_package(endpoint):
    later = time.time() + 60
    os.utime(endpoint / "venvs/v/lib/python3.13/site-packages", (later, later))


@pytest.mark.parametrize(
    ("breaks", "word", "remedy"),
    [
        (lambda _: None, "", ""),
        (
            lambda endpoint: (endpoint / "bin/python3.13").write_text("3.13.9"),
            "",
            "",
        ),  # a correction of Debian's
        (
            upgrade,
            "its virtualenv was made for Python 3.13, and {root}/bin/python3 is 3.11 now, as after an upgrade",
            SITE,
        ),
        (
            remove("bin/python3.13"),
            "the Python of its virtualenv, {root}/bin/python3, which leads to",
            SITE,
        ),
        (remove("venvs/v"), "Its virtualenv is missing: ", SITE),
        (
            remove("venvs/v/bin/gunicorn"),
            "{root}/venvs/v/bin/gunicorn is gone",
            "sudo rm -r {root}/venvs/v",
        ),
        (
            without_a_package,
            "was changed by hand, so its next start may fail",
            "sudo rm -r {root}/venvs/v",
        ),
        (
            started(1, "Traceback\n  File x\nModuleNotFoundError: No module named 'gunicorn'"),
            "named 'gunicorn'",
            "sudo rm -r",
        ),
        (
            started(1, "ImportError: libssl.so.1.1: no such file"),
            "will fail: ImportError: libssl.so.1.1",
            SITE,
        ),
        (
            started(1, "Fatal\nModuleNotFoundError: No module named 'encodings'\nat x"),
            "named 'encodings'",
            SITE,
        ),
        (
            started(226, f"{JOURNAL}\nx.service: Failed with result 'exit-code'."),
            "fail: Failed at step NAMESPACE",
            SITE,
        ),
        (
            noexec,
            "the disk of {root}/venvs/v/bin/gunicorn is mounted with noexec",
            "sudo mount -o remount,exec",
        ),
        (started(124, ""), "", ""),  # a host that is busy
        (no_account, "its account, www-data, is not on this host", f"{SITE} --tags setup"),
        (remove(f"releases/{RELEASE}"), "The folder of the live release is missing", SITE),
        (remove("../unit"), "The service's unit is missing", SITE),
    ],
)
def test_what_runs_and_would_not_start_again(endpoint, monkeypatch, breaks, word, remedy):
    breaks(*(endpoint, monkeypatch)[: breaks.__code__.co_argcount])
    found = look(endpoint)
    assert len(found) == bool(word), found
    for finding in found:
        assert finding.kind == RISK
        assert word.format(root=endpoint) in finding.what
        assert "next start" in finding.what
        assert finding.remedy[0].startswith(remedy.format(root=endpoint))


@pytest.mark.parametrize(
    ("unit", "listed", "mounted_at", "found"),
    [
        ("/run/systemd/generator/x.mount", False, 900, 0),
        ("/etc/systemd/system/x.mount", False, 900, 0),
        ("/run/systemd/transient/x.mount", False, 900, 1),  # by systemd-mount
        ("", True, 900, 0),  # in fstab, of which systemd has not heard yet
        ("", False, 400, 0),  # by whatever mounts it while the host boots
        ("", False, 900, 1),
    ],
)
def test_a_disk_that_the_next_boot_leaves_out(
    endpoint, monkeypatch, unit, listed, mounted_at, found
):
    state = observed(endpoint.parent, data_dir=str(endpoint / "mounted/data"))
    times = {
        "FinishTimestampMonotonic": "500",
        "InactiveExitTimestampMonotonic": str(mounted_at),
        "FragmentPath": unit,
    }

    def systemctl(*words):
        asked = next(word for word in words if word.startswith("--property=")).removeprefix(
            "--property="
        )
        return SimpleNamespace(stdout=f"{times[asked]}\n")

    monkeypatch.setattr(start, "systemctl", systemctl)
    monkeypatch.setattr(start, "run_command", lambda *_: (0, "/dev/sdb1 ext4 1234-5678"))
    if listed:
        start.FSTAB.write_text(f"# a comment\nUUID=1 {endpoint}/mounted ext4 defaults 0 2\n")
    findings = list(start.mounts(state))
    assert [finding.kind for finding in findings] == [RISK] * found
    for finding in findings:
        assert (
            f"{endpoint}/mounted, where the service finds the model data, was mounted by hand"
            in finding.what
        )
        line = f"'UUID=1234-5678 {endpoint}/mounted ext4 defaults,nofail 0 2'"
        assert finding.remedy[0] == f"echo {line} | sudo tee --append {start.FSTAB}"


def test_after_a_start_that_failed_the_lost_python_is_the_cause_and_the_app_is_not_loaded(
    endpoint, monkeypatch
):
    upgrade(endpoint)
    monkeypatch.setattr(
        EndpointState, "state", {"ActiveState": "failed", "Result": "exit-code", "NRestarts": "7"}
    )
    monkeypatch.setattr(EndpointState, "answers", False)
    monkeypatch.setattr(EndpointState, "is_healthy", False)
    monkeypatch.setattr(
        EndpointState, "load_check", property(lambda _: pytest.fail("the app was loaded"))
    )
    state = observed(endpoint.parent)
    found = [*look(endpoint), *app.loads(state)]
    assert [(finding.kind, finding.remedy) for finding in found] == [(CAUSE, [SITE])]
    assert found[0].what.startswith(
        "The live version cannot start: its virtualenv was made for Python 3.13, and"
    )
