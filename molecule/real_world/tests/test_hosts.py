"""Hosts as they are (sudo with a password, a port that is taken, another apt at work), and inputs as people write them."""

import json
import subprocess
from pathlib import Path

import pytest

SCENARIO = Path(__file__).resolve().parents[1]
WORD = "sent with a password"
PASSWORD = "wordpass"
# Holds a lock of apt's, as a new instance's upgrades do.
HOLD = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(600)"


def settings(**given):
    """Return options with the scenario's settings, and these."""
    return (
        "-e",
        f"@{SCENARIO / 'vars.yml'}",
        "-e",
        json.dumps({f"api_endpoint_{name}": value for name, value in given.items()}),
    )


@pytest.fixture
def unit(host):
    """Run a program on the host as a unit of its own, for the length of a test."""
    units = []

    def run(name, *command):
        host.run_expect(
            [0], "systemd-run --quiet --unit=%s " + " ".join(["%s"] * len(command)), name, *command
        )
        units.append(name)

    yield run
    for name in units:
        host.run("systemctl stop %s; systemctl reset-failed", name)


@pytest.mark.usefixtures("on_one_host")
class TestRefused:
    """Each of these runs ends before anything is touched: the app of the test before goes on answering."""

    def test_text_where_a_list_belongs(self, playbook, api):
        before = api.get("/").json
        run = playbook(
            *settings(health_status=200, build_commands="python -V"),
            "-e",
            "api_endpoint_server_names=localhost",
        )
        assert run.status != 0
        for name in (
            "server_names is 'localhost'",
            "health_status is 200",
            "build_commands is 'python -V'",
        ):
            assert f"api_endpoint_{name}, and not a list. Give a list: " in run.output
        assert api.get("/").json == before

    def test_a_port_that_another_program_has(self, playbook, api, unit):
        before = api.get("/").json
        unit("somebody-else", "python3", "-m", "http.server", "8765")
        api.host.run_expect(
            [0], "timeout 20 sh -c 'until ss -Hltn sport = :8765 | grep -q .; do sleep 0.2; done'"
        )
        run = playbook(*settings(port=8765))
        assert run.status != 0
        assert "api_endpoint_port is 8765, where " in run.output
        assert "somebody-else.service) listens on this host already" in run.output
        assert "sudo systemctl disable --now somebody-else.service" in run.output
        assert api.get("/").json == before

    def test_apt_that_another_one_keeps(self, playbook, api, unit):
        before = api.get("/").json
        unit("first-upgrades", "python3", "-c", HOLD)
        run = playbook(*settings(apt_packages=["a-package-that-is-not-there"], apt_lock_timeout=2))
        assert run.status != 0
        assert "waiting for apt, which " in run.output
        assert "first-upgrades.service) had apt's lock /var/lib/dpkg/lock-frontend" in run.output
        assert api.get("/").json == before


@pytest.fixture
def over_ssh(host, tmp_path):
    """Return options that reach the host by SSH as a user whose sudo wants a password, as Debian's installer leaves it."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True
    )
    key = (tmp_path / "key.pub").read_text().strip()
    host.check_output(
        f"mkdir -p ~researcher/.ssh && echo '{key}' >~researcher/.ssh/authorized_keys && "
        "chown -R researcher: ~researcher/.ssh && "
        f"cp /etc/sudoers.d/researcher /root/sudoers && echo 'researcher ALL=(ALL:ALL) ALL' >/etc/sudoers.d/researcher && "
        f"echo researcher:{PASSWORD} | chpasswd && systemctl start ssh"
    )
    address = host.check_output("hostname -I").split()[0]
    yield (
        "-e",
        json.dumps(
            {
                "ansible_connection": "ssh",
                "ansible_host": address,
                "ansible_user": "researcher",
                "ansible_become_password": PASSWORD,
                "ansible_ssh_private_key_file": str(tmp_path / "key"),
                "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
            }
        ),
    )
    host.check_output("cp /root/sudoers /etc/sudoers.d/researcher")


@pytest.mark.usefixtures("on_one_host")
def test_data_arrives_where_sudo_wants_a_password(playbook, api, over_ssh, tmp_path):
    (tmp_path / "word").write_text(WORD)
    (tmp_path / "tables").mkdir()
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / "tables" / name).write_text(name)
    artifacts = [
        {"dest": "word.txt", "src": str(tmp_path / "word")},
        {"dest": "tables", "src": str(tmp_path / "tables")},
    ]
    run = playbook(
        *over_ssh, *settings(app_dir="molecule/real_world/apps/with_data", artifacts=artifacts)
    )
    assert run.status == 0, run.output
    assert api.get("/").json == {"word": WORD, "names": ["a.tsv", "b.tsv"]}
