"""Owners, rights and the effective configuration on the hosts."""

import json
import re
import socket

from outcomes import ROOT


def test_the_processes_belong_to_www_data(api):
    owners = api.host.check_output(
        f"ps -o user= -p $(systemctl show --property=MainPID --value {api.unit}) --ppid {api.main_pid()}"
    ).split()
    assert len(owners) == 5  # the master and four workers
    assert set(owners) == {"www-data"}


def test_the_socket_is_for_www_data_alone(api):
    found = api.host.file(f"/run/api-endpoint/{api.slot}/gunicorn.sock")
    assert (found.user, found.group, found.mode) == ("www-data", "www-data", 0o770)


def test_nginx_speaks_uwsgi_to_the_live_version(api):
    with socket.create_connection(("127.0.0.1", api.port), 60) as client:
        client.sendall(f"GET /ü HTTP/1.1\r\nHost: {api.name}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 404 "), "in HTTP the app's server would have refused it"


def test_a_release_is_whole_and_belongs_to_root(api):
    current = api.host.check_output(f"readlink -f {ROOT}/current")
    record = json.loads(api.host.file(f"{current}/release.json").content_string)
    assert current == f"{ROOT}/releases/{record['id']}"
    assert set(record["components"]) == {
        "code",
        "virtualenv",
        "artifacts",
        "settings",
        "writable_paths",
        "secrets",
        "data_dir",
    }
    assert api.host.check_output(f"find {current} -not -user root").strip() == ""
    assert api.host.check_output(f"readlink -f {ROOT}/p3env").startswith(f"{ROOT}/venvs/")
    assert (
        api.host.check_output("readlink -f /etc/api-endpoint/gunicorn.conf.py")
        == f"{current}/gunicorn.conf.py"
    )
    assert api.host.file(f"{current}/lid.176.ftz").linked_to.startswith("/srv/api-endpoint/data/")


def test_the_service_cannot_write(api):
    paths = [
        *(f"{ROOT}/current/{name}" for name in ("wsgi.py", "flask_config.yaml", "lid.176.ftz")),
        *(
            f"{ROOT}/{name}"
            for name in ("p3env/bin/gunicorn", "releases/new", "state/new", "state/app/new")
        ),
        *(
            f"{folder}/new"
            for folder in ("/srv/api-endpoint/data", "/etc/api-endpoint", "/var/log/nginx", "/home")
        ),
    ]
    tried = api.as_service(
        f"for path in {' '.join(paths)}; do (echo x >> $path) 2>&1 || echo refused; done"
    ).stdout
    lines = tried.splitlines()
    assert lines[1::2] == ["refused"] * len(paths), tried
    for path, line in zip(paths, lines[::2], strict=True):
        assert path in line, tried
        assert "Read-only file system" in line or "Permission denied" in line, tried


def test_the_service_can_write_its_state_and_sees_its_release_in_etc(api):
    assert api.as_service(f"echo x > {ROOT}/state/home/test && rm {ROOT}/state/home/test").rc == 0
    assert api.as_service("head -c 1 /etc/api-endpoint/wsgi.py").rc == 0


def test_other_users_of_the_host_cannot_read(api):
    paths = [
        f"{ROOT}/current/wsgi.py",
        "/srv/api-endpoint/data",
        "/var/log/gunicorn/access.log",
        "/var/log/nginx/access.log",
    ]
    api.host.check_output(f"ls -d {' '.join(paths)}")
    tried = api.host.run(
        f"setpriv --reuid nobody --regid nogroup --clear-groups head -c 1 {' '.join(paths)}"
    )
    assert tried.stdout == ""
    assert tried.stderr.count("Permission denied") == len(paths), tried.stderr


def test_the_effective_nginx_configuration_names_nobody(api):
    shown = api.host.run("nginx -T")
    assert shown.rc == 0
    assert "log_format private" in shown.stdout
    for word in (
        "remote_addr",
        "http_user_agent",
        "http_x_forwarded_for",
        "proxy_add_x_forwarded_for",
        "combined",
    ):
        assert f"${word}" not in shown.stdout.replace("combined", "$combined")
    assert "proxy_params" not in shown.stdout
    lines = {
        line.strip() for line in shown.stdout.splitlines() if line.strip().startswith("error_log")
    }
    # Of each endpoint: what root's own requests, which prove a version, make nginx log.
    error_logs = {
        line
        for line in lines
        if not re.fullmatch(r"error_log /run/nginx-log/[a-z-]+-proof\.log warn;", line)
    }
    assert error_logs == {
        "error_log /var/log/nginx/error.log warn;",
        "error_log syslog:server=unix:/run/nginx-log/error.sock,nohostname,tag=nginx warn;",
    }


def test_all_is_enabled_for_the_next_boot(api):
    for unit in (api.unit, "nginx", "rsyslog"):
        assert api.host.service(unit).is_enabled
