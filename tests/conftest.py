"""Makes the role's modules and plugins importable, as Ansible does on a host and on the laptop."""

import importlib.util
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import ansible.module_utils
import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles" / "api_endpoint"
ansible.module_utils.__path__.append(str(ROLE / "module_utils"))

from ansible.module_utils import api_endpoint_store  # noqa: E402


def load(name: str):
    """Import a module of the role by its file."""
    spec = importlib.util.spec_from_file_location(f"library_{name}", ROLE / "library" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def role_tags() -> set[str]:
    """Return the tags by which a run can be limited."""
    index = yaml.safe_load((ROLE / "tasks" / "main.yml").read_text())
    tasks = [inner for task in index for inner in task.get("block", [task]) + task.get("always", [])]
    return {tag for task in tasks for tag in task["tags"]} - {"always"}


class Stub:
    """Stands for AnsibleModule: parameters in, warnings out."""

    def __init__(self, check_mode: bool = False, **params) -> None:
        self.params = params
        self.check_mode = check_mode
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture(autouse=True)
def _own_account(monkeypatch):
    """Let files belong to whoever runs the tests: the accounts of a host are tested on a host, by Molecule."""
    account = SimpleNamespace(pw_uid=os.getuid(), gr_gid=os.getgid())
    monkeypatch.setattr(api_endpoint_store.pwd, "getpwnam", lambda _name: account)
    monkeypatch.setattr(api_endpoint_store.grp, "getgrnam", lambda _name: account)
    monkeypatch.setattr(os, "fchown", lambda *_arguments: None)
