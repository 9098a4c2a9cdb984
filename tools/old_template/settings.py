# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the old template's settings files: of gunicorn, uWSGI, systemd and nginx."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from old_template.notes import Notes

Settings = dict[str, Any]
Given = Callable[[str, Any], bool]  # takes a setting by gunicorn's name; tells whether it was one

NUMBERS = ("workers", "threads", "timeout", "graceful_timeout", "max_requests")
# What the role does in its own way.
NEEDLESS_GUNICORN = {
    "bind", "umask", "accesslog", "errorlog", "loglevel", "access_log_format", "capture_output", "user",
    "group", "pidfile", "proc_name", "daemon", "worker_tmp_dir", "forwarded_allow_ips", "reload",
    "max_requests_jitter",
}  # fmt: skip
NEEDLESS_UWSGI = {
    "master", "socket", "chmod-socket", "chown-socket", "vacuum", "die-on-term", "plugins", "plugin", "virtualenv",
    "home", "venv", "logto", "uid", "gid", "enable-threads", "need-app", "log-format", "disable-logging",
    "procname-prefix", "pidfile", "single-interpreter", "thunder-lock", "strict", "file", "wsgi-file",
    "logger", "log-date", "log-maxsize", "manage-script-name",
}  # fmt: skip
NEEDLESS_SERVICE = {
    "Description", "After", "Requires", "Wants", "User", "Group", "Restart", "RestartSec", "StandardError",
    "StandardOutput", "NotifyAccess", "KillSignal", "KillMode", "WantedBy", "Type",
    "TimeoutStopSec", "PIDFile", "ExecReload", "ExecStop", "SyslogIdentifier", "Documentation", "RuntimeDirectory",
    "StartLimitInterval", "StartLimitBurst",
}  # fmt: skip
NEEDLESS_NGINX = {
    "log_format", "access_log", "error_log", "include", "proxy_set_header", "proxy_http_version", "proxy_redirect",
    "uwsgi_pass", "proxy_connect_timeout", "proxy_send_timeout", "server_tokens",
    "keepalive_timeout", "sendfile", "uwsgi_param", "proxy_pass", "charset", "default_type",
}  # fmt: skip
BUFFERING = (
    "The role passes an answer on as the app makes it. One that goes on for longer than api_endpoint_timeout is cut off: "
    "raise that, and api_endpoint_proxy_timeout."
)
SHORT = {
    "-w": "--workers",
    "-k": "--worker-class",
    "-t": "--timeout",
    "-c": "--config",
    "-b": "--bind",
    "-e": "--env",
}


class Reader:
    """Collects settings under gunicorn's names, and the role's variables."""

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.gunicorn: Settings = {}
        self.variables: Settings = {}
        self.environment: dict[str, str] = {}
        self.chdir = ""

    # --- gunicorn.conf.py

    def gunicorn_conf(self, text: str, file: str) -> None:
        """Read gunicorn's settings; an expression that is no plain value is noted."""
        try:
            statements = ast.parse(text).body
        except SyntaxError as error:
            self.notes.add(
                file,
                error.lineno or 1,
                str(error.text or ""),
                "This is no Python that can be read.",
            )
            return
        lines = text.splitlines()
        for statement in statements:
            line = lines[statement.lineno - 1]
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                self.assigned(
                    statement.targets[0].id, statement.value, file, statement.lineno, line
                )
            elif not isinstance(statement, (ast.Import, ast.ImportFrom)) and not is_text(statement):
                self.notes.add(
                    file,
                    statement.lineno,
                    line,
                    "Hooks and computed settings of gunicorn are not taken over.",
                )

    def assigned(self, name: str, node: ast.expr, file: str, number: int, line: str) -> None:
        """Read one assignment."""
        if name in NEEDLESS_GUNICORN:
            return
        try:
            value = ast.literal_eval(node)
        except ValueError:
            why = (
                f"{name} is computed. Give api_endpoint_{name} a number."
                if name in NUMBERS
                else f"{name} is computed."
            )
            if name in NUMBERS:
                why += " Until then it is the role's default."
            self.notes.add(file, number, line, why)
            return
        if name == "raw_env":
            self.environment |= pairs(value)
        elif name == "chdir":
            self.chdir = str(value)
        else:
            self.gunicorn[name] = value

    # --- uwsgi.ini

    def uwsgi_ini(self, text: str, file: str) -> None:
        """Read uWSGI's settings, as gunicorn calls them."""
        names = {
            "processes": "workers",
            "workers": "workers",
            "threads": "threads",
            "harakiri": "timeout",
            "max-requests": "max_requests",
        }
        module = ""
        for number, line in numbered(text, "#;"):
            name, _, value = (part.strip() for part in line.partition("="))
            if name in names and value.isdigit():
                self.gunicorn[names[name]] = int(value)
            elif name in ("lazy", "lazy-apps"):
                self.gunicorn["preload_app"] = value not in ("true", "1")
            elif name == "env" and "=" in value:
                self.environment |= pairs([value])
            elif name == "chdir":
                self.chdir = value
            elif name in ("pythonpath", "python-path", "pp"):
                self.gunicorn["pythonpath"] = value
            elif name in ("module", "wsgi"):
                module = value
            elif name == "callable":
                module = f"{module.partition(':')[0] or 'wsgi'}:{value}"
            elif name not in NEEDLESS_UWSGI and not line.startswith("["):
                self.notes.add(
                    file, number, line, "This setting of uWSGI has no counterpart that is known."
                )
        if module:
            self.gunicorn["wsgi_app"] = module if ":" in module else f"{module}:application"

    # --- model.service

    def service(self, text: str, file: str) -> None:
        """Read the unit."""
        for number, line in numbered(re.sub(r"\\\n\s*", " ", text), "#;"):
            name, _, value = (part.strip() for part in line.partition("="))
            if name == "ExecStart":
                self.command_line(value, file, number)
            elif name in ("WorkingDirectory", "chdir"):
                self.chdir = self.chdir or value
            elif name == "Environment":
                self.environment |= pairs(shlex.split(value))
            elif name in ("MemoryMax", "MemoryLimit"):
                self.variables["api_endpoint_memory_limit"] = value
            elif name.startswith("Limit") or name in ("Nice", "CPUQuota", "TasksMax"):
                self.variables.setdefault("api_endpoint_service_settings", {})[name] = value
            elif name not in NEEDLESS_SERVICE and not line.startswith("["):
                self.notes.add(
                    file,
                    number,
                    line,
                    "Translate it by hand, if it is needed: api_endpoint_service_settings.",
                )
            if name == "User" and value != "www-data":
                self.notes.add(
                    file, number, line, "The role runs this app as www-data: see api_endpoint_user."
                )

    def command_line(self, value: str, file: str, number: int) -> None:
        """Read gunicorn's options in the unit; they win over those in its file."""
        program, *words = shlex.split(value)
        if program.rpartition("/")[2] == "uwsgi":
            return
        if program.rpartition("/")[2] != "gunicorn":
            self.notes.add(
                file,
                number,
                value,
                "This is no Python app behind gunicorn or uWSGI. The role cannot run it.",
            )
            return
        left = iter(words)
        for word in left:
            flag, equals, given = word.partition("=")
            flag = SHORT.get(flag, flag)
            if flag in ("--preload",):
                self.gunicorn["preload_app"] = True
            elif flag.startswith("--"):
                given = given if equals else next(left, "")
                name = flag[2:].replace("-", "_")
                if name == "env" and "=" in given:
                    self.environment |= pairs([given])
                elif name == "chdir":
                    self.chdir = given
                elif name not in NEEDLESS_GUNICORN | {
                    "config",
                    "access_logfile",
                    "error_logfile",
                    "log_level",
                }:
                    self.gunicorn[name] = int(given) if given.isdigit() else given
            elif ":" in word:
                self.gunicorn["wsgi_app"] = word
            else:
                self.notes.add(file, number, word, "This option of gunicorn is not known.")

    # --- model.nginx

    def nginx(self, text: str, file: str) -> None:
        """Read the site."""
        names: list[str] = []
        for number, (name, *values) in directives(text):
            if name == "server_name":
                names += [value for value in values if value != "_"]
            elif why := self.directive(name, values):
                self.notes.add(file, number, " ".join([name, *values]), why)
        self.variables["api_endpoint_server_names"] = list(dict.fromkeys(names))

    def directive(self, name: str, values: list[str]) -> str:
        """Read one of nginx's directives; return why it was not taken over, if so."""
        is_cors = name == "add_header" and values[0].lower().startswith("access-control-")
        if name == "listen":
            port = re.sub(r"^.*:", "", values[0])
            if port.isdigit() and port != "80":
                self.variables["api_endpoint_port"] = int(port)
        elif name == "client_max_body_size":
            self.variables["api_endpoint_max_body_size"] = values[0]
        elif name in ("proxy_read_timeout", "uwsgi_read_timeout") and (
            seconds := seconds_of(values[0])
        ):
            self.variables["api_endpoint_proxy_timeout"] = seconds
        elif is_cors and values[0].lower().endswith("-origin") and values[1] != "*":
            self.variables["api_endpoint_cors_origins"] = [values[1]]
        elif name == "proxy_pass" and not values[0].startswith("http://unix:"):
            return "The API is not behind a socket here. The role makes one of its own."
        elif name == "proxy_buffering":
            return BUFFERING if values == ["off"] else ""
        elif not (
            is_cors
            or name in NEEDLESS_NGINX
            or (name, values) in (("location", ["/"]), ("server", []))
        ):
            return "The role writes nginx's site itself, and has nothing like this."
        return ""


def pairs(words: list[str]) -> dict[str, str]:
    """Return NAME=VALUE as names and values."""
    return {
        name: value for name, equals, value in (word.partition("=") for word in words) if equals
    }


def is_text(statement: ast.stmt) -> bool:
    """Tell whether a statement is only a text, such as a description."""
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def numbered(text: str, comments: str) -> Iterator[tuple[int, str]]:
    """Return the lines that say something, with their numbers."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and line.strip()[0] not in comments:
            yield number, line.strip()


def seconds_of(value: str) -> int:
    """Return nginx's idea of a time in seconds; 0 when it is none."""
    match = re.fullmatch(r"(\d+)([smh]?)", value)
    return int(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]] if match else 0


def directives(text: str) -> Iterator[tuple[int, list[str]]]:
    """Return nginx's directives, each with its line and its words."""
    words: list[str] = []
    started = 1
    for match in re.finditer(
        r"#[^\n]*|\"(?:\\.|[^\"])*\"|'(?:\\.|[^'])*'|[{};]|[^\s{};\"']+", text
    ):
        part = match[0]
        if part.startswith("#"):
            continue
        if not words:
            started = text.count("\n", 0, match.start()) + 1
        if part in "{};":
            if words:
                yield started, words
            words = []
        else:
            words.append(part[1:-1] if part[0] in "\"'" else part)
