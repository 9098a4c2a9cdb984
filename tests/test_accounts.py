"""Accounts of services are made when they are missing, and none of a person's becomes an app's."""

import subprocess
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.host import accounts

WANTED = {"my-api": [], "nginx": ["my-api"]}


@pytest.fixture
def host(monkeypatch):
    """A host whose accounts and memberships are two dictionaries; it notes how accounts would be made."""
    found = SimpleNamespace(uids={}, members={}, calls=[], status=0)

    def getpwnam(name):
        return SimpleNamespace(pw_uid=found.uids[name])

    def getgrnam(name):
        return SimpleNamespace(gr_mem=found.members[name])

    def run(command, **_options):
        found.calls.append(command)
        return subprocess.CompletedProcess(command, found.status, "", "read-only")

    monkeypatch.setattr(accounts.pwd, "getpwnam", getpwnam)
    monkeypatch.setattr(accounts.grp, "getgrnam", getgrnam)
    monkeypatch.setattr(accounts.subprocess, "run", run)
    return found


def test_what_is_missing_is_made_in_one_go(host):
    assert accounts.ensure(WANTED, check_mode=True) == ["my-api", "nginx"]
    assert host.calls == []
    assert accounts.ensure(WANTED, check_mode=False) == ["my-api", "nginx"]
    (call,) = host.calls
    assert call[:2] == ["systemd-sysusers", "--inline"]
    assert [line.split()[:3] for line in call[2:]] == [
        ["u", "my-api", "-"],
        ["u", "nginx", "-"],
        ["m", "nginx", "my-api"],
    ]


def test_what_is_there_is_left(host):
    host.uids = {"my-api": 998, "nginx": 997}
    host.members = {"my-api": ["nginx"]}
    assert accounts.ensure(WANTED, check_mode=False) == []
    assert host.calls == []


def test_a_membership_alone(host):
    host.uids = {"my-api": 998, "nginx": 997}
    host.members = {"my-api": ["somebody"]}
    assert accounts.ensure(WANTED, check_mode=False) == ["nginx"]
    assert host.calls[0][2:] == ["m nginx my-api"]


@pytest.mark.parametrize(
    ("uid", "whose"), [(0, "root's"), (1000, "a person's"), (60000, "a person's")]
)
def test_no_person_and_not_root(host, uid, whose):
    host.uids = {"my-api": uid}
    with pytest.raises(
        DeployError, match=rf"'my-api' of this host is {whose}.*Set api_endpoint_user"
    ):
        accounts.ensure(WANTED, check_mode=True)
    assert host.calls == []


@pytest.mark.parametrize("uid", [33, 999, 60001])
def test_an_account_of_the_system_may_be_the_apps(host, uid):
    host.uids = {"my-api": uid, "nginx": 997}
    host.members = {"my-api": ["nginx"]}
    assert accounts.ensure(WANTED, check_mode=False) == []


def test_a_failure_is_told(host):
    host.status = 1
    with pytest.raises(DeployError, match="my-api, nginx could not be made: read-only"):
        accounts.ensure(WANTED, check_mode=False)
