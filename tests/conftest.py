"""What every unit test has."""

import os
from types import SimpleNamespace

import helpers  # noqa: F401  (makes the role's modules importable)
import pytest
from ansible.module_utils import api_endpoint_store


@pytest.fixture(autouse=True)
def _own_account(monkeypatch):
    """Let files belong to whoever runs the tests: the accounts of a host are tested on a host, by Molecule."""
    account = SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())
    monkeypatch.setattr(api_endpoint_store.pwd, "getpwnam", lambda _name: account)
    monkeypatch.setattr(api_endpoint_store.grp, "getgrnam", lambda _name: account)
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)
