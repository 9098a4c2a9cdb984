"""What a diagnosis tells, and what it must never tell."""

import json
import os
import pwd
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.diagnosis import diagnose as checks
from ansible.module_utils.api_endpoint.diagnosis.checks import host
from ansible.module_utils.api_endpoint.diagnosis.findings import (
    CAUSE,
    LENGTH,
    LINES,
    NOTE,
    RISK,
    SYMPTOM,
    Finding,
    Redactor,
    is_well,
    last_traceback,
    ranked,
    summary,
)
from ansible.module_utils.api_endpoint.diagnosis.state import (
    EndpointState,
    run_command,
    sandbox_of,
    tail,
)
from ansible.module_utils.api_endpoint.release.secrets import quote, unquote

VALUES = ["s3cr3t-value", 'with "quotes" & more', "two\nlines-of-it", "a+b/c=="]
ADDRESSES = [
    "203.0.113.77", "10.0.0.1", "2001:db8::77", "fe80::1%eth0", "::ffff:203.0.113.77", "::1",
    "2001:DB8:0:0:8:800:200C:417A", "203-0-113-77",
]  # fmt: skip


@pytest.fixture
def mask():
    return Redactor(VALUES)


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "client: {}, server: _",
        "from {}: refused",
        "[{}]:443",
        '"{}"',
        "x={}",
        "({})",
        "at {}.",
        "http://[{}]/path",
        "{},{}",
    ],
)
def test_no_address_is_told(mask, address, line):
    told = mask.text(line.format(address, address))
    assert address not in told
    assert "203" not in told
    assert "db8" not in told.lower()
    assert "[address]" in told


@pytest.mark.parametrize(
    "line",
    [
        "[2026-11-25 13:21:43 +0000] [1475] [INFO] Starting gunicorn 27.0.1",
        "unix:/run/api-endpoint/blue/gunicorn.sock",
        'File "/var/lib/api-endpoint/current/wsgi.py", line 13, in <module>',
        "ModuleNotFoundError: No module named 'flask'",
        "12 std::string",
        "sudo mv /var/lib/api-endpoint/releases/0123456789ab /x",
        "-rw-r----- 0:33 wsgi.py",
    ],
)
def test_what_helps_is_told(mask, line):
    assert mask.text(line) == line


@pytest.mark.parametrize("value", VALUES)
def test_no_secret_is_told(mask, value):
    for form in (value, repr(value), json.dumps(value), f"KeyError: {value}", f"{value}{value}"):
        told = mask.text(form)
        for part in value.splitlines():
            assert part not in told.splitlines() or len(part) < 4, told
        assert "s3cr3t" not in told
        assert "lines-of-it" not in told


@pytest.mark.parametrize(
    "line",
    [
        "password=hunter22", "API_KEY: hunter22", "'token': 'hunter22'", "Authorization: Bearer hunter22hunter22",
        "https://me:hunter22@git.example/x", "git+https://hunter22@git.example/x",
        "redis://:hunter22@cache.example/0", "ssh://me:hunter22@git.example/x", "GET /api?text=hunter22 HTTP/1.1",
        'referrer: "https://hunter22.example/x"', "bearer hunter22hunter22",
        "db_password = 'hunter22'",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_or_a_question_is_not_told(line):
    assert "hunter22" not in Redactor([]).text(line)


def test_secrets_are_read_as_they_were_written():
    content = "".join(f"N{number}={quote(value)}\n" for number, value in enumerate(VALUES))
    assert unquote(content) == VALUES


def test_evidence_has_an_end(mask):
    found = mask.finding(
        Finding(
            CAUSE, "at 10.0.0.1", ["\n".join("x" * 1000 for _ in range(100))], ["ping 10.0.0.1"]
        )
    )
    assert len(found.evidence) == LINES
    assert max(map(len, found.evidence)) == LENGTH
    assert "10.0.0.1" not in f"{found}"


def test_a_cause_is_told_before_its_symptoms():
    found = [
        Finding(kind, str(number))
        for number, kind in enumerate([NOTE, SYMPTOM, RISK, CAUSE, SYMPTOM, CAUSE])
    ]
    assert [finding.what for finding in ranked(found)] == ["3", "5", "1", "4", "2", "0"]
    assert not is_well(found)
    assert is_well(found[:1])
    assert summary("api", ranked(found), "").splitlines()[1] == "1. [cause] 3"
    assert summary("api", [], "(x)") == "api: well. (x)\n"


def test_the_last_traceback():
    one = "Traceback (most recent call last):\n  File 'a', line 1\n    x\nKeyError: 'a'"
    two = "Traceback (most recent call last):\n  File 'b', line 1\n\n    y\nImportError: no b"
    assert last_traceback(f"begin\n{one}\nbetween\n{two}\n[2026] end") == two.splitlines()
    assert last_traceback("nothing") == []


def test_the_sandbox_of_a_unit():
    unit = (
        "# a comment=1\n[Unit]\nAfter=x\n[Service]\nType=notify\nUser=www-data\nExecStartPre=+/bin/x\n"
        "ExecStart=/x/%i/bin/gunicorn --config c.py --bind unix:/y\nRestart=always\nRestrictAddressFamilies=\n"
        '\n# another file\n[Service]\nTimeoutStartSec=30\nBindReadOnlyPaths=/x/%i:/etc/x\nEnvironment="A=5%% b"\n'
    )
    settings, command = sandbox_of(unit, "blue")
    assert settings == [
        "User=www-data",
        "RestrictAddressFamilies=",
        "BindReadOnlyPaths=/x/blue:/etc/x",
        'Environment="A=5% b"',
    ]
    assert command == ["/x/blue/bin/gunicorn", "--config", "c.py"]


def test_commands_that_are_not_there_or_late():
    assert run_command("/nowhere/at-all")[0] == 127
    assert run_command("sleep", "9", timeout=0.1)[0] == 124
    assert run_command("sh", "-c", "echo a; echo b >&2; exit 3") == (3, "a\nb")


def observed(tmp_path, **more):
    given = {
        "name": "no-such-endpoint", "root": str(tmp_path / "root"), "data_dir": str(tmp_path / "data"), "user": "www-data",
        "error_log": str(tmp_path / "log/error.log"), "port": 1, "server_name": "x", "volume": "", "outbound_network": False,
        "health": {"path": "/", "status": [], "timeout": 1}, "laptop_time": 0.0, "load_check_timeout": 5,
        "drift": {}, **more,
    }  # fmt: skip
    return EndpointState(given)


def test_a_host_where_nothing_is(tmp_path):
    found, _looked = checks.diagnose(observed(tmp_path))
    assert [finding.what for finding in found] == [
        "Nothing was ever deployed to this host under the name no-such-endpoint."
    ]
    (tmp_path / "root").mkdir()
    found, _looked = checks.diagnose(observed(tmp_path))
    assert "no version of the app is live" in found[0].what


def test_a_check_that_fails_does_not_hide_the_others(tmp_path, monkeypatch):
    (tmp_path / "root/slots/blue").mkdir(parents=True)
    (tmp_path / "root/slots/blue/release").symlink_to("../../releases/0123456789ab")

    def fails(_patient):
        raise OSError("no such disk")
        yield

    monkeypatch.setattr(checks, "CHECKS", (("a thing", fails), ("parts", checks.app.parts)))
    found, looked = checks.diagnose(observed(tmp_path))
    assert [finding.kind for finding in found] == [CAUSE, NOTE]
    assert "The folder of the live release is missing" in found[0].what
    assert looked == [("a thing", "could not be looked at"), ("parts", "found")]


def test_the_clock(tmp_path, monkeypatch):
    now = checks.host.time.time()
    for skew, kinds in (
        (0, []),
        (30, []),
        (600, [RISK]),
        (-600, [RISK]),
        (7200, [CAUSE]),
        (-7200, [CAUSE]),
    ):
        found = list(checks.host.clock(observed(tmp_path, laptop_time=now - skew)))
        assert [finding.kind for finding in found] == kinds, skew


def test_a_log_that_is_a_link_or_a_pipe_is_not_read(tmp_path):
    """The folder of the logs is the app's, and root reads them: a pipe would hold the diagnosis up for ever."""
    (tmp_path / "secret").write_text("root's\n")
    (tmp_path / "link").symlink_to("secret")
    assert tail(str(tmp_path / "link")) == ""
    os.mkfifo(tmp_path / "pipe")
    assert tail(str(tmp_path / "pipe")) == ""
    assert tail(str(tmp_path / "secret")) == "root's\n"


def test_workers_that_were_killed_before_the_last_start_are_history(monkeypatch):
    """A service that is started again within the second in which they were killed has both in its log."""
    killed = "[2026-11-30 23:20:20 +0000] [4006] [ERROR] Worker (pid:4010) was sent SIGKILL! Perhaps out of memory?"
    start = "[2026-11-30 23:20:20 +0000] [4200] [INFO] Starting gunicorn 27.0.1"
    monkeypatch.setattr(checks.host, "run_command", lambda *_command: (1, ""))
    monkeypatch.setattr(checks.host, "SCARCE", 0)
    for log, kinds in (
        ([killed], [RISK]),
        ([killed, start], []),
        ([start, killed], [RISK]),
        ([start], []),
    ):
        found = SimpleNamespace(log=log, plan={}, state={}, severity=RISK)
        assert [finding.kind for finding in checks.host.memory(found)] == kinds, log


@pytest.mark.skipif(os.getuid() != 0, reason="only root looks as somebody else")
def test_rights_name_what_is_closed_first(tmp_path, monkeypatch):
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: SimpleNamespace(pw_uid=65534, pw_gid=65534))
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    release = tmp_path / "root/releases/0123456789ab"
    (release / "package").mkdir(parents=True)
    (release / "package/it's a file.py").write_text("")
    (tmp_path / "root/slots/blue").mkdir(parents=True)
    (tmp_path / "root/slots/blue/release").symlink_to("../../releases/0123456789ab")
    assert list(checks.app.rights(observed(tmp_path))) == []
    (release / "package/it's a file.py").chmod(0o600)
    assert (
        f"may not use {release}/package/it's a file.py"
        in next(checks.app.rights(observed(tmp_path))).what
    )
    (release / "package").chmod(0o700)
    assert f"may not use {release}/package," in next(checks.app.rights(observed(tmp_path))).what


def test_the_log_of_this_start_leads_to_the_setting(tmp_path, monkeypatch):
    error = "OSError: [Errno 97] Address family not supported by protocol"
    note = "Loaded in each worker, since a fork would share or lose: the thread 'refresher'. More."
    monkeypatch.setattr(
        EndpointState, "log", ["Traceback (most recent call last):", "  File x", error, note]
    )
    monkeypatch.setattr(
        checks.app,
        "read_journal",
        lambda *_given: 2 * "Dropped a log line: Read-only file system\n",
    )
    for answers, kind in ((True, RISK), (False, CAUSE)):
        monkeypatch.setattr(EndpointState, "answers", answers)
        found = {finding.evidence[0]: finding for finding in checks.app.hints(observed(tmp_path))}
        assert {line: finding.kind for line, finding in found.items()} == {
            error: kind, note: NOTE, "Read-only file system": kind,
        }  # fmt: skip
        assert found[error].remedy == [
            "ansible-playbook -i inventory site.yml --tags app "
            "-e '{api_endpoint_service_settings: {RestrictAddressFamilies: AF_NETLINK}}'"
        ]
        assert found["Read-only file system"].what.startswith("2 log lines were lost.")


def test_a_volume_that_is_not_mounted(tmp_path):
    assert list(checks.host.volume(observed(tmp_path))) == []
    assert list(checks.host.volume(observed(tmp_path, volume="/"))) == []
    assert "not mounted" in next(checks.host.volume(observed(tmp_path, volume=str(tmp_path)))).what


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("sources.list", "# deb http://old.example x main\ndeb [signed-by=/a] http://a.example x main\n", ("a.example", 80)),
        ("sources.list.d/debian.sources", "Types: deb\nURIs: https://a.example:8443/debian\n", ("a.example", 8443)),
        ("sources.list.d/own.list", "deb https://me:secret@a.example/debian x main\n", ("a.example", 443)),
        ("sources.list", "deb file:/srv/packages x main\n", None),
    ],
)  # fmt: skip
def test_where_the_host_gets_its_packages(tmp_path, monkeypatch, file, text, found):
    monkeypatch.setattr(host, "APT", tmp_path)
    assert host.package_source() is None
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    assert host.package_source() == found
