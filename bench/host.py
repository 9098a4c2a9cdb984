"""The instance on which answers are measured: the demo's, with the old template's configuration beside ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CONTAINER = "api-endpoint-demo"
APP = PROJECT / ".cache" / "bench" / "app"
ROOT = "/var/lib/api-endpoint"
QUESTION = "/api/v1/language?text=bonjour"

# What the old template wrote, for the same app: 2 x CPU + 1 sync workers, one new HTTP/1.0 connection a request, the
# proxy headers of Debian, and a line in two logs for each request.
OLD_NGINX = """
server {
    listen 81;
    access_log /var/log/nginx/old_access.log combined;
    location / {
        include proxy_params;
        proxy_pass http://unix:/run/old/gunicorn.sock;
    }
}
"""
STATIC_NGINX = """
server {
    listen 82;
    access_log off;
    location / {
        default_type application/json;
        return 200 '{"languages":[{"language":"fr","score":0.9}],"model":"lid.176"}';
    }
}
"""
OLD_GUNICORN = """
import multiprocessing
bind = "unix:/run/old/gunicorn.sock"
workers = multiprocessing.cpu_count() * 2 + 1
preload_app = True
timeout = 30
accesslog = "/var/log/gunicorn/old_access.log"
errorlog = "/var/log/gunicorn/old_error.log"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
control_socket_disable = True
wsgi_app = "bench_wsgi:app"
"""


@dataclass(frozen=True)
class Answers:
    """What a client saw: requests answered a second, and times in seconds."""

    rate: float
    p50: float
    p99: float
    refused: int


def run(*command: str, text: str | None = None) -> str:
    """Run a command, and return what it says; what it complains of is shown when it fails."""
    result = subprocess.run(command, cwd=PROJECT, input=text, text=True, capture_output=True)
    if result.returncode:
        raise SystemExit(
            f"{' '.join(command)} failed:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        )
    return result.stdout


def inside(command: str, text: str | None = None) -> str:
    """Run a shell command on the instance."""
    return run("docker", "exec", "--interactive", CONTAINER, "sh", "-euc", command, text=text)


def playbook(*options: str, **settings: object) -> None:
    """Deploy to the instance, over SSH."""
    run("ansible-playbook", "-i", "tools/demo.yml", *options, "--extra-vars", json.dumps(settings))


def start() -> None:
    """Bring up the instance with the example app."""
    run("tools/demo.sh", "up")


def make_app() -> str:
    """Make the app that is measured, and return its folder."""
    shutil.rmtree(APP, ignore_errors=True)
    shutil.copytree(PROJECT / "app", APP, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for module in (PROJECT / "bench" / "app").glob("*.py"):
        shutil.copy(module, APP)
    return os.path.relpath(APP, PROJECT)


def settings(**more: object) -> dict:
    """Return the project's defaults for the app that is measured, but for the limits on one client: there is only one."""
    return {
        "api_endpoint_app_dir": make_app(),
        "api_endpoint_wsgi": "bench_wsgi:app",
        "api_endpoint_client_rate": 0,
        "api_endpoint_trusted_proxies": [
            run(
                "docker", "inspect", "--format", "{{ .NetworkSettings.Gateway }}", CONTAINER
            ).strip()
        ],
        **more,
    }


def start_rivals() -> None:
    """Start, beside the endpoint: the old template's configuration, gunicorn alone, and an answer of nginx's own."""
    inside("cat >/etc/nginx/conf.d/old.conf", OLD_NGINX + STATIC_NGINX)
    inside("cat >/etc/old_gunicorn.py", OLD_GUNICORN)
    unit = "systemd-run --quiet --collect --property=User=www-data --property=RuntimeDirectory={name} --unit={name} {extra}"
    inside(
        "systemctl stop old alone 2>/dev/null || true;"
        + unit.format(name="old", extra=f"--working-directory={ROOT}/current/")
        + f" {ROOT}/p3env/bin/gunicorn --config /etc/old_gunicorn.py;"
        + unit.format(name="alone", extra=f"--working-directory={ROOT}/current/")
        + f" {ROOT}/p3env/bin/gunicorn --config gunicorn.conf.py --bind 0.0.0.0:8000;"
        "nginx -s reload; sleep 3"
    )


def address() -> str:
    """Return the instance's address."""
    return run(
        "docker", "inspect", "--format", "{{ .NetworkSettings.IPAddress }}", CONTAINER
    ).strip()


def load(
    port: int, path: str, connections: int, seconds: int, at: str = "", body: str = ""
) -> Answers:
    """Let so many clients ask the instance, or another address, each again as soon as it is answered; a body is a POST."""
    said = run(
        *(
            "wrk",
            "--threads",
            "1",
            "--connections",
            str(connections),
            "--duration",
            f"{seconds}s",
            "--timeout",
            "30s",
        ),
        *(
            "--header",
            "Host: localhost",
            "--script",
            "bench/wrk.lua",
            f"http://{at or address()}:{port}{path}",
        ),
        *(["--", body] if body else []),
    )
    figures = json.loads(said.strip().splitlines()[-1])
    if figures["broken"]:
        raise SystemExit(f"Port {port}, {path}: {figures['broken']} requests got no answer.")
    served = figures["requests"] - figures["refused"]
    return Answers(
        rate=served / (figures["duration"] / 1e6),
        p50=figures["p50"] / 1e6,
        p99=figures["p99"] / 1e6,
        refused=figures["refused"],
    )
