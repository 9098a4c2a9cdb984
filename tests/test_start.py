"""A run begins from any folder, with any inventory, without ansible.cfg, and only with an Ansible that is new enough."""

import os
import subprocess

import pytest
import yaml
from helpers import PROJECT, ROLE

PLAYBOOKS = sorted((PROJECT / "playbooks").glob("*.yml"))
LEAST = yaml.safe_load((ROLE / "tasks" / "check_ansible.yml").read_text())[0][
    "ansible.builtin.assert"
]["that"]
INVENTORIES = {
    "hosts.ini": (
        "[api_endpoints]\nnobody ansible_host=127.0.0.1 ansible_port=1 "
        "api_endpoint_server_names=\"['a.example']\"\n"
    ),
    "hosts.yml": "api_endpoints: {hosts: {nobody: {ansible_host: 127.0.0.1, ansible_port: 1, "
    "api_endpoint_server_names: [a.example]}}}\n",
}


@pytest.mark.parametrize("name", INVENTORIES)
@pytest.mark.parametrize(
    "playbook", ["site.yml", "playbooks/rollback.yml", "playbooks/diagnose.yml"]
)
def test_a_run_from_another_folder_comes_as_far_as_the_host(tmp_path, name, playbook):
    (tmp_path / name).write_text(INVENTORIES[name])
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")
    }
    done = subprocess.run(
        ["ansible-playbook", "-i", name, PROJECT / playbook],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Connection refused" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize("path", PLAYBOOKS, ids=lambda path: path.stem)
def test_every_playbook_refuses_an_old_ansible_before_it_loads_a_role(path):
    play = yaml.safe_load(path.read_text())[0]
    assert "roles" not in play, "an old Ansible fails when it loads them"
    assert (
        play["tasks"][0]["ansible.builtin.import_tasks"]
        == "../roles/api_endpoint/tasks/check_ansible.yml"
    )
    assert play["tasks"][0]["tags"] == ["always"]
    assert all("ansible.builtin.include_role" in task for task in play["tasks"][1:]), (
        "imported roles are loaded before the first task"
    )


@pytest.mark.parametrize("role", ["api_endpoint", "load_balancer"])
def test_the_least_version_is_the_roles_own(role):
    least = yaml.safe_load((PROJECT / "roles" / role / "meta" / "main.yml").read_text())[
        "galaxy_info"
    ]["min_ansible_version"]
    assert f"version('{least}', '>=')" in LEAST
    assert f"ansible-core {least} or newer" in (PROJECT / "README.md").read_text()
