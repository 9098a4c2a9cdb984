"""Where things are; makes the role's modules and plugins importable, as Ansible does."""

import importlib.util
import sys
from pathlib import Path

import yaml
from ansible.plugins.loader import action_loader

PROJECT = Path(__file__).resolve().parents[1]
ROLE = PROJECT / "roles" / "api_endpoint"
action_loader.add_directory(str(ROLE / "action_plugins"))
action_loader.get("api_endpoint_imports", class_only=True)


def load_file(path: Path):
    """Import a plugin, a tool or another file that is in no package."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def load(name: str):
    """Import a module of the role by its file."""
    return load_file(ROLE / "library" / f"{name}.py")


def role_tags() -> set[str]:
    """Return the tags by which a run can be limited."""
    files = [
        yaml.safe_load((ROLE / "tasks" / f"{name}.yml").read_text())
        for name in ("build", "activate")
    ]
    tasks = [inner for file in files for task in file for inner in task.get("block", [task])]
    return {tag for task in tasks for tag in task["tags"]} - {"always"}


def make_virtualenv(folder: Path, python: Path | str = sys.executable, *versions: str) -> Path:
    """Make what a virtualenv is recognized by, with packages for some versions of Python."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to("python3")
    (folder / "bin/python3").symlink_to(python)
    (folder / "bin/gunicorn").write_text("")
    for version in versions:
        (folder / f"lib/python{version}/site-packages").mkdir(parents=True)
    return folder


class Stub:
    """Stands for AnsibleModule: parameters in, warnings out."""

    def __init__(self, check_mode: bool = False, **params) -> None:
        self.params = params
        self.check_mode = check_mode
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


class Clock:
    """Stands for the module `time` in a module of the role: to sleep only moves the clock on."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
