"""What every unit test has."""

import os
import shutil
from types import SimpleNamespace

import helpers  # noqa: F401  (makes the role's modules importable)
import pytest
from ansible.module_utils.api_endpoint import files
from ansible.module_utils.api_endpoint import sandbox as api_endpoint_commands
from ansible.module_utils.api_endpoint.sandbox import Sandbox


@pytest.fixture(autouse=True)
def _own_account(monkeypatch):
    """Let files belong to whoever runs the tests: the accounts of a host are tested on a host, by Molecule."""
    account = SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())
    monkeypatch.setattr(files.pwd, "getpwnam", lambda _name: account)
    monkeypatch.setattr(files.grp, "getgrnam", lambda _name: account)
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)


@pytest.fixture
def without_systemd(monkeypatch):
    """Let the tools of a sandbox run on this machine, with the sandbox's limits, without its walls."""

    def arguments(self, command):
        limits = [f"--{name.lower()}={limit}" for name, limit in self.limits.items()]
        return [
            "prlimit",
            *limits,
            str(shutil.which(command[0])),
            *command[1:],
        ]  # a path, as systemd makes of it

    monkeypatch.setattr(Sandbox, "arguments", arguments)
    monkeypatch.setattr(api_endpoint_commands, "systemctl", lambda *_words: None)
