"""A port that another program has is found, with the program's name and the way to stop it."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from ansible.module_utils.api_endpoint.controller.preflight import LISTENED_ON
from ansible.module_utils.api_endpoint.controller.processes import (
    IPV6_LOOK,
    NO_IPV6,
    Process,
    in_the_way,
    is_listened_on,
    listeners_look,
    taken,
)
from helpers import PROJECT, ROLE, load_file

preflight = load_file(ROLE / "action_plugins" / "api_endpoint_preflight.py")
balancer = load_file(
    PROJECT / "roles" / "load_balancer" / "action_plugins" / "load_balancer_preflight.py"
)


def shell(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", "::1", "::"])
def listener(request):
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        yield request.param, server.getsockname()[1]


def test_a_listener_is_found_on_any_address(listener):
    _, port = listener
    assert shell(is_listened_on(port)).returncode == 0
    found = in_the_way(shell(listeners_look(port)).stdout, port, "nginx.service")
    assert [process.pid for process in found] == [str(os.getpid())]


@pytest.mark.parametrize("own", ["127.0.0.1", "[::1]", "10.1.2.3"])
def test_a_listener_on_another_address_is_not_in_the_way(listener, own):
    address, port = listener
    is_in_the_way = address in ("0.0.0.0", "::", own.strip("[]"))
    assert (shell(is_listened_on(port, own)).returncode == 0) == is_in_the_way
    assert bool(in_the_way(shell(listeners_look(port, own)).stdout, port, "")) == is_in_the_way


def test_what_was_once_listened_on_is_free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert shell(is_listened_on(port)).returncode != 0
    assert shell(listeners_look(port)).stdout == ""


@pytest.mark.parametrize(
    ("unit", "command", "said"),
    [
        (
            "apache2.service",
            "/usr/sbin/apache2 -k start",
            "/usr/sbin/apache2 -k start (process 7, apache2.service) listens on",
        ),
        (
            "apache2.service",
            "/usr/sbin/apache2 -k start",
            "(`sudo systemctl disable --now apache2.service`)",
        ),
        ("caddy.service", "/usr/bin/caddy run", "(`sudo systemctl disable --now caddy.service`)"),
        (
            "haproxy.service",
            "/usr/sbin/haproxy",
            "(`sudo systemctl disable --now haproxy.service`)",
        ),
        ("session-3.scope", "python3 -m http.server 80", "(`sudo kill 7`)"),
        (
            "docker.service",
            "/usr/bin/docker-proxy -proto tcp",
            "(`docker ps` shows the container that has it)",
        ),
        (
            "docker-0a1b.scope",
            "nginx: master process",
            "nginx: master process (process 7, docker-0a1b.scope)",
        ),
        ("init.scope", "/sbin/init", "(`systemctl list-sockets` shows the unit that has it)"),
    ],
)
def test_the_sentence_names_the_program_and_the_way_to_stop_it(unit, command, said):
    answer = f"port 80\t7\t{unit}\t{command} \nport 80\t7\t{unit}\t{command} \n"
    others = in_the_way(answer, 80, "nginx.service")
    assert len(others) == 1
    told = taken("api_endpoint_port", 80, others)
    assert told.startswith("api_endpoint_port is 80, where ")
    assert said in told
    assert "or give another port to api_endpoint_port" in told


@pytest.mark.parametrize("unit", ["ssh.service", "sshd.service", "ssh@7.service"])
def test_nobody_is_told_to_stop_the_ssh_server(unit):
    told = taken(
        "api_endpoint_port",
        22,
        in_the_way(f"port 22\t7\t{unit}\tsshd: /usr/sbin/sshd -D\n", 22, "nginx.service"),
    )
    assert told.endswith("The host is reached by it, so give another port to api_endpoint_port.")
    assert "systemctl" not in told


def test_the_owner_of_the_port_may_have_it():
    assert (
        in_the_way("port 80\t7\tnginx.service\tnginx: master process \n", 80, "nginx.service") == []
    )
    assert in_the_way("port 8080\t7\tapache2.service\tapache2 \n", 80, "nginx.service") == []


def test_a_program_that_nobody_can_name_is_said_to_be_unknown():
    assert str(Process("port 80", "", "", "")) == "an unknown program"
    assert str(Process("lock", "0", "", " ")) == "an unknown program"


@pytest.mark.parametrize(
    ("site", "runs", "is_left"),
    [
        ("    listen {port};", True, True),
        ("\tlisten {port} default_server;", True, True),
        ("    listen {port};", False, False),  # nginx has stopped, and something else came
        ("    listen {port}9;", True, False),
        ("# listen {port};", True, False),
        ("", True, False),
    ],
)
def test_nginx_with_a_site_on_the_port_is_known_without_root(tmp_path, site, runs, is_left):
    (tmp_path / "sites-enabled").mkdir()
    (tmp_path / "nginx.pid").write_text(f"{os.getpid() if runs else 0}\n")
    own_name = Path("/proc/self/comm").read_text().strip()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / "sites-enabled" / "any").write_text(
            f"server {{\n{site.format(port=port)}\n}}\n"
        )
        look = preflight.foreign_listeners("api-endpoint", port, "").replace(
            "-qsx nginx", f"-qsxF '{own_name}'"
        )
        look = look.replace("/etc/nginx", str(tmp_path)).replace(
            "/run/nginx.pid", str(tmp_path / "nginx.pid")
        )
        assert shell(look).stdout == ("" if is_left else f"{LISTENED_ON}{port}\n")


@pytest.mark.parametrize(
    ("listen", "is_left"),
    [
        ("127.0.0.1:{port}", True),
        ("0.0.0.0:{port}", True),
        ("[::]:{port}", True),
        ("127.0.0.1:{port}0", False),
        (None, False),
    ],
)
def test_the_socket_of_the_metrics_is_known_without_root(tmp_path, listen, is_left):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if listen:
            (tmp_path / "api-endpoint-metrics.socket").write_text(
                f"[Socket]\nListenStream={listen.format(port=port)}\n"
            )
        look = preflight.foreign_listeners("api-endpoint", None, f"127.0.0.1:{port}").replace(
            "/etc/systemd/system", str(tmp_path)
        )
        assert shell(look).stdout == ("" if is_left else f"{LISTENED_ON}{port}\n")


def test_a_balancer_asks_who_listens_only_where_its_haproxy_does_not(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (tmp_path / "haproxy.cfg").write_text(f"frontend public\n    bind :{port}\n")
        (tmp_path / "haproxy.pid").write_text(f"{os.getpid()}\n")
        own_name = Path("/proc/self/comm").read_text().strip()
        look = (
            balancer.question({"load_balancer_port": port})
            .replace("cat /etc/os-release", "true")
            .replace("/etc/haproxy/", f"{tmp_path}/")
            .replace("/run/haproxy/", f"{tmp_path}/")
        )
        assert f"{LISTENED_ON}{port}\n" in shell(look).stdout
        assert LISTENED_ON not in shell(look.replace("-qsx haproxy", f"-qsxF '{own_name}'")).stdout


def test_the_look_for_ipv6_is_quiet_where_there_is_some():
    try:
        socket.socket(socket.AF_INET6).close()
        has_ipv6 = True
    except OSError:
        has_ipv6 = False
    assert shell(IPV6_LOOK).stdout == ("" if has_ipv6 else f"{NO_IPV6}\n")
    assert shell(IPV6_LOOK.replace("10, 1", "9999, 1")).stdout == f"{NO_IPV6}\n"
