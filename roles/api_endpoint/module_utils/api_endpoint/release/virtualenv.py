# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the virtualenv that an app's requirements ask for."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.interpreter import does_not_run, probe, python_changed, refuse_part, refuse_unusable
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.sandbox import Sandbox
from ansible.module_utils.basic import AnsibleModule

COMPLETE = ".complete"
# What installed packages fit to. A correction of the same Python, which hosts get at different times, changes none of it.
ABI = "import sys, sysconfig; print(sys.version_info[:2], sysconfig.get_config_var('SOABI'), sysconfig.get_platform())"
# The variables of the run's environment that are for pip and compilers.
INHERITED = re.compile(r"(https?|ftp|all|no)_proxy|(PIP|LC)_\w+|LANG|TZ|CC|CXX|\w*FLAGS|\w*CA_BUNDLE|SSL_CERT_\w+", re.I)
NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")
INCLUDE = re.compile(r"^(-r|-c|--requirement|--constraint)[ =]\s*(\S+)$")
LOCAL = re.compile(r"^(-e\b|--editable\b|\.{1,2}(/|$)|file:|/)")


def canonical(name: str) -> str:
    """Return a package's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement: str) -> str:
    """Return the canonical name of the package that a line asks for; empty for an option or a URL."""
    match = NAME.match(requirement)
    return canonical(match[1]) if match and not requirement.startswith("-") and "://" not in match[0] else ""


def logical_lines(text: str) -> list[str]:
    """Return a requirements file's lines: continued ones joined, comments and blank ones dropped."""
    joined = re.sub(r"\\\r?\n", " ", text)
    lines = (re.sub(r"(^|\s)#.*$", "", line).strip() for line in joined.splitlines())
    return [line for line in lines if line]


def flatten(folder: Path, name: str, seen: frozenset[str] = frozenset()) -> tuple[list[str], list[str]]:
    """Return the requirements and the constraints of a file together with those of the files that it includes."""
    requirements: list[str] = []
    constraints: list[str] = []
    if not name or name in seen:
        return requirements, constraints
    for line in logical_lines((folder / name).read_text(encoding="utf-8")):
        include = INCLUDE.match(line)
        if include and "://" not in include[2]:
            inner = os.path.normpath(os.path.join(os.path.dirname(name), include[2]))
            more, limits = flatten(folder, inner, seen | {name})
            if "r" in include[1].strip("-")[:1]:
                requirements += more
                constraints += limits
            else:
                constraints += more + limits
        elif LOCAL.match(line):
            raise DeployError(
                f"{name}: {line!r} installs from a local path. Packages beside wsgi.py are imported without being "
                "installed: leave the line out, or publish the package and name it here."
            )
        else:
            requirements.append(line)
    return requirements, constraints


class Virtualenv:
    """The virtualenv that the parameters describe."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.excluded: list[str] = []
        self.requirements: list[str] = []
        self.constraints: list[str] = []

    def read(self, code: Path) -> None:
        """Work out the requirements and constraints."""
        given = self.given
        first = (code / "first_requirements_file").read_text(encoding="utf-8")
        lines, limits = flatten(code / "requirements", first)
        unwanted = {canonical(name) for name in given["exclude"]}
        self.excluded = [line for line in lines if name_of(line) in unwanted]
        extra = list(given["packages"])
        named_twice = {name_of(line) for line in extra} - {""}
        lines = [line for line in lines if name_of(line) not in unwanted | named_twice]
        self.requirements = lines + extra
        if "gunicorn" not in {name_of(line) for line in self.requirements}:
            self.requirements.append(given["gunicorn"])
        self.constraints = limits + given["constraints"]
        for name in sorted(unwanted - {name_of(line) for line in self.excluded}):
            self.module.warn(f"api_endpoint_pip_exclude names {name!r}, which the app does not require.")

    def key(self) -> str:
        """Return the name that stands for all that goes into the virtualenv."""
        given = self.given
        try:
            abi = subprocess.run([given["python"], "-c", ABI], capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise does_not_run(given["python"], error, getattr(error, "stderr", "")) from error
        return value_digest(
            {
                "requirements": self.requirements,
                "constraints": self.constraints,
                "index": [given["index_url"], *given["extra_index_urls"]],
                "options": given["options"],
                "python": [given["python"], abi],
            },
            16,
        )

    def build(self, folder: Path, home: Path) -> None:
        """Make the virtualenv and install into it, as its owner."""
        account = pwd.getpwnam(self.given["user"])
        # setup.py is code of strangers: it gets what the app gets, and nothing that it starts stays.
        sandbox = Sandbox(
            name=self.given["name"],
            task="virtualenv",
            root=Path(self.given["root"]),
            user=self.given["user"],
            folder=folder,
            environment={"HOME": str(home), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            inherited=tuple(name for name in os.environ if INHERITED.fullmatch(name)),
            writable=(str(folder), str(home)),
            timeout=None,
        )
        sandbox.end()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "requirements.txt").write_text("\n".join(self.requirements) + "\n", encoding="utf-8")
        (folder / "constraints.txt").write_text("\n".join(self.constraints) + "\n", encoding="utf-8")
        for name in ("requirements.txt", "constraints.txt"):
            os.chmod(folder / name, 0o644)
        for path in (folder, home):
            path.mkdir(exist_ok=True)
            os.chmod(path, 0o750)  # noqa: S103
            os.chown(path, account.pw_uid, account.pw_gid)

        def run(step: str, *command: str) -> None:
            done = sandbox.run(list(command))
            if done.status != 0:
                raise DeployError(
                    f"{step} failed (exit status {done.status}):\n{done.output}\n"
                    f"The command was: {shlex.join(command)}\n"
                    "Remedies: api_endpoint_pip_exclude leaves a requirement out, api_endpoint_pip_constraints pins one, "
                    "api_endpoint_apt_packages adds what compiling needs (build-essential, python3-dev)."
                )

        run("Making the virtualenv", self.given["python"], "-m", "venv", str(folder))
        options = ["--requirement", "requirements.txt", "--constraint", "constraints.txt"]
        if self.given["index_url"]:
            options += ["--index-url", self.given["index_url"]]
        for url in self.given["extra_index_urls"]:
            options += ["--extra-index-url", url]
        run(
            "Installing the requirements",
            str(folder / "bin" / "python"), "-m", "pip", "install", "--progress-bar", "off",
            *options, *self.given["options"],
        )  # fmt: skip


def ensure(module: AnsibleModule) -> dict[str, object]:
    """Make sure that the virtualenv is there."""
    root = Path(module.params["root"])
    code = root / "code" / module.params["code"]
    if not module.params["code"] or not code.is_dir():
        if module.check_mode:
            return {"changed": True}
        raise DeployError(f"The code {code} is not on the host. Run site.yml without tags, or with --tags app.")
    if module.params["part"]:
        refuse_part(python_changed(root / "p3env"))
    virtualenv = Virtualenv(module)
    virtualenv.read(code)
    refuse_unusable(module.params["python"], module.params["user"])
    key = virtualenv.key()
    folder = root / "venvs" / key
    changed = not (folder / COMPLETE).exists()
    if changed:
        probe(module.params["python"], module.params["name"], module.params["user"], root)
    if changed and not module.check_mode:
        try:
            virtualenv.build(folder, root / "cache")
            os.sync()
            (folder / COMPLETE).touch()
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return {"changed": changed, "key": key, "excluded": virtualenv.excluded}


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result = ensure(module)
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error, module.params["root"]))
    module.exit_json(**result)
