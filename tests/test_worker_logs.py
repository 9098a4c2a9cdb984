"""gunicorn's logs as the role has them: the same lines, and no fault of a log ends the service."""

import logging
import os
import subprocess
import sys
from datetime import timedelta
from logging.handlers import RotatingFileHandler
from types import SimpleNamespace

import api_endpoint_worker
import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger
from rendering import render

ENVIRON = {
    "REQUEST_METHOD": "GET",
    "RAW_URI": "/a?b=c",
    "PATH_INFO": "/a",
    "SERVER_PROTOCOL": "HTTP/1.1",
}


@pytest.fixture(autouse=True)
def _logging_is_as_it_was(monkeypatch):
    """What protect_logs() changes is changed back."""
    for owner, name in (
        (logging.Handler, "handleError"),
        (logging.FileHandler, "emit"),
        (logging.FileHandler, "__init__"),
        (Logger, "reopen_files"),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))
    yield
    for name in ("gunicorn.error", "gunicorn.access"):
        log = logging.getLogger(name)
        log.filters.clear()
        for handler in list(log.handlers):
            log.removeHandler(handler)


@pytest.fixture
def logs(tmp_path):
    """Return a function that makes gunicorn's logs in a folder, with settings; they are protected."""
    api_endpoint_worker.protect_logs(query_strings=True)

    def make(logger_class=api_endpoint_worker.AccessLog, **settings):
        config = Config()
        for name, value in {
            "accesslog": f"{tmp_path}/access.log",
            "errorlog": f"{tmp_path}/error.log",
            **settings,
        }.items():
            config.set(name, value)
        return logger_class(config)

    return make


def access(log, **environ):
    response = SimpleNamespace(status="404 NOT FOUND", sent=17, headers=[("A", "b")])
    request = SimpleNamespace(headers=[("HOST", "x")])
    log.access(response, request, {**ENVIRON, **environ}, timedelta(seconds=2, microseconds=5))


@pytest.mark.parametrize("kept", [True, False], ids=["with query and referrer", "without"])
@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"RAW_URI": '/"?b="', "PATH_INFO": '/"', "HTTP_REFERER": 'https://x/"y"'},
        {"RAW_URI": "/%C3%BC", "PATH_INFO": "/Ã¼", "HTTP_REFERER": "https://x/Ã¼"},
    ],
)
def test_lines_of_the_access_log_are_those_that_gunicorn_would_write(logs, tmp_path, kept, environ):
    settings = {}
    variables = {"api_endpoint_log_query_string": kept, "api_endpoint_log_referrer": kept}
    exec(render("gunicorn.conf.py.j2", api_endpoint_server_names=["x"], **variables), settings)
    lines = []
    for logger_class in (Logger, api_endpoint_worker.AccessLog):
        path = tmp_path / logger_class.__name__
        log = logs(
            logger_class, accesslog=str(path), access_log_format=settings["access_log_format"]
        )
        log.now = lambda: "[25/Nov/2026:10:00:00 +0000]"
        access(log, **environ)
        lines.append(path.read_text())
    assert lines[0] == lines[1]
    assert lines[0].endswith(" 2000005\n")
    assert ("?b" in lines[0]) == (kept and "?b" in environ.get("RAW_URI", ENVIRON["RAW_URI"]))


def test_a_line_that_finds_no_room_is_dropped_and_not_printed(logs, tmp_path, capsys):
    (tmp_path / "access.log").symlink_to("/dev/full")
    (tmp_path / "error.log").symlink_to("/dev/full")
    log = logs()
    access(log, RAW_URI="/marked")
    log.error("%s", "marked")
    assert capsys.readouterr().err == 2 * "Dropped a log line: No space left on device\n"
    # What is left of those lines does not keep the logs from being opened anew.
    for name in ("access.log", "error.log"):
        (tmp_path / name).unlink()
    log.reopen_files()
    access(log, RAW_URI="/after")
    log.error("after")
    assert "/after" in (tmp_path / "access.log").read_text()
    assert "after" in (tmp_path / "error.log").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("logger_class", [Logger, api_endpoint_worker.AccessLog])
def test_a_log_that_cannot_be_opened_is_tried_again_with_its_next_line(
    logs, tmp_path, capsys, logger_class
):
    log = logs(logger_class)
    files = [tmp_path / name for name in ("access.log", "error.log")]
    for file in files:
        file.rename(f"{file}.1")
        file.mkdir()  # in its place
    log.reopen_files()
    for _ in range(3):
        access(log)
        log.error("lost")
    said = capsys.readouterr().err.splitlines()
    assert sorted(said) == [
        f"Cannot open the log {file}: Is a directory. Its lines are dropped until it can be opened."
        for file in files
    ]
    for file in files:
        file.rmdir()
    access(log)
    log.error("kept")
    assert [len(file.read_text().splitlines()) for file in files] == [1, 1]
    assert "kept" in files[1].read_text()
    assert capsys.readouterr().err == ""


def test_of_each_rotation_that_fails_it_is_said(logs, tmp_path, capsys):
    log = logs()
    for _ in range(2):
        (tmp_path / "error.log").rename(tmp_path / "error.log.1")
        (tmp_path / "error.log").mkdir()
        log.reopen_files()
        assert capsys.readouterr().err.count("Cannot open the log") == 1
        (tmp_path / "error.log").rmdir()
        log.error("back")


def test_the_apps_own_log_is_rotated_where_it_lies(tmp_path):
    """The release, which is read-only, has a link to it."""
    api_endpoint_worker.protect_logs(query_strings=True)
    release, state = tmp_path / "release", tmp_path / "state/app/app.log"
    release.mkdir()
    state.mkdir(parents=True)
    (release / "app.log").symlink_to(state / "app.log")
    release.chmod(0o500)
    handler = RotatingFileHandler(release / "app.log", maxBytes=2000, backupCount=2)
    for number in range(100):
        handler.handle(logging.makeLogRecord({"msg": f"line {number} {'x' * 80}"}))
    handler.close()
    release.chmod(0o700)
    assert sorted(path.name for path in state.iterdir()) == ["app.log", "app.log.1", "app.log.2"]
    assert [path.name for path in release.iterdir()] == ["app.log"]
    assert (state / "app.log").read_text().splitlines()[-1].startswith("line 99 ")


def test_a_log_by_another_link_is_opened_as_python_does(tmp_path):
    api_endpoint_worker.protect_logs(query_strings=True)
    (tmp_path / "there").touch()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for path in (tmp_path / "link", "/dev/stdout"):
        handler = logging.FileHandler(path)
        assert handler.baseFilename == str(path)
        handler.close()


def complaint(text, *words):
    record = logging.makeLogRecord({"name": "gunicorn.error", "msg": text, "args": words})
    logging.getLogger("gunicorn.error").filter(record)
    return record.getMessage()


@pytest.mark.parametrize("query_strings", [True, False])
def test_a_malformed_request_is_not_quoted(query_strings):
    api_endpoint_worker.protect_logs(query_strings)
    refused = complaint("Invalid request from ip=: Invalid HTTP request line: '203.0.113.7'")
    assert refused == "Rejected a malformed request."
    path = "/x?a=b" if query_strings else "/x"
    assert (
        complaint("Error handling request %s %s", "GET", "/x?a=b")
        == f"Error handling request GET {path}"
    )
    assert complaint("Booting worker with pid: %d", 7) == "Booting worker with pid: 7"


CAPTURED = """
import os
from api_endpoint_worker import AccessLog, protect_logs
from gunicorn.config import Config

protect_logs(query_strings=True)
config = Config()
config.set("errorlog", "error.log")
config.set("capture_output", True)
log = AccessLog(config)
for number in (1, 2):
    os.rename("error.log", f"error.log.{number}")
    if number == 2:
        os.mkdir("error.log")
    log.reopen_files()
    print("printed", number, flush=True)
"""


def test_output_that_the_user_has_captured_goes_to_the_new_log(tmp_path):
    """The second one cannot be opened: output goes on to the one before."""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(api_endpoint_worker.__file__)}
    subprocess.run([sys.executable, "-c", CAPTURED], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "error.log.1").read_text() == ""
    first, *rest = (tmp_path / "error.log.2").read_text().splitlines()
    assert first == "printed 1"
    assert rest[-1] == "printed 2"
    assert sum("Cannot open the log" in line for line in rest) == 1, rest
