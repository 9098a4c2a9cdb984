# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the virtualenv that an app's requirements ask for."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from ansible.module_utils.api_endpoint.digests import file_digest, tree_digest, value_digest
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error
from ansible.module_utils.api_endpoint.files import chown_tree
from ansible.module_utils.api_endpoint.interpreter import (
    does_not_run,
    probe,
    python_changed,
    refuse_part,
    refuse_unusable,
)
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release.requirements import LOCAL, Plan, canonical, choose
from ansible.module_utils.api_endpoint.release.secrets import quote
from ansible.module_utils.api_endpoint.sandbox import Sandbox
from ansible.module_utils.api_endpoint.urls import Credentials, git_environment, hide, netrc, take
from ansible.module_utils.basic import AnsibleModule

COMPLETE = ".complete"
RUN = "/run"  # memory: what is written there is on no disk
# What installed packages fit to. A correction of the same Python, which hosts get at different times, changes none of it.
ABI = "import sys, sysconfig; print(sys.version_info[:2], sysconfig.get_config_var('SOABI'), sysconfig.get_platform())"
# The variables of the run's environment that are for pip and compilers.
INHERITED = re.compile(
    r"(https?|ftp|all|no)_proxy|(PIP|LC)_\w+|LANG|TZ|CC|CXX|\w*FLAGS|\w*CA_BUNDLE|SSL_CERT_\w+",
    re.I,
)
# Writes, as constraints, one package of each name in folders of packages: the best that fits, or one that pip refuses.
# A name with such a constraint is never looked for on an index.
FOUND_LOCALLY = """
import pathlib, sys
from pip._vendor.packaging import tags, utils
rank = {tag: place for place, tag in enumerate(reversed(list(tags.sys_tags())))}
best = {}
for folder in sys.argv[2:]:
    for path in sorted(pathlib.Path(folder).glob("*")):
        try:
            if path.suffix == ".whl":
                name, version, build, fits = utils.parse_wheel_filename(path.name)
                place = max(rank.get(tag, -1) for tag in fits)
                order = (place >= 0, version, 1, place)
            else:
                name, version = utils.parse_sdist_filename(path.name)
                order = (True, version, 0, 0)
        except (utils.InvalidWheelFilename, utils.InvalidSdistFilename):
            continue
        if name not in best or order > best[name][0]:
            best[name] = (order, path)
with open(sys.argv[1], "w") as file:
    for name, (order, path) in sorted(best.items()):
        if name != "gunicorn":
            print(f"{name} @ {path.resolve().as_uri()}", file=file)
            if not order[0]:
                print(path.name)
"""


class Virtualenv:
    """The virtualenv that the parameters describe."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.credentials: Credentials = dict(module.params["credentials"])

    def read(self, code: Path) -> None:
        """Work out what is installed."""
        given = self.given
        self.code = code
        self.plan = Plan.load(code)
        self.choice = choose(self.plan, given["exclude"], given["packages"], given["gunicorn"])
        if self.choice.problems:
            raise DeployError("\n".join(self.choice.problems))
        own = self.choice.requirements_without_hash if self.plan.has_hashes else []
        # The server comes in a step of its own, and what has no hash or is in no folder of packages with it.
        self.first = [
            self.without_credentials(line.text)
            for line in self.choice.requirements
            if line not in own
        ]
        self.own = [
            line.text for line in own
        ]  # between the two, as they may ask for another server
        self.second: list[str] = []
        is_closed = self.plan.has_hashes or any(
            line.text == "--no-index" for line in self.plan.options
        )
        (self.second if is_closed else self.first).extend(self.choice.added)
        self.second.append(self.choice.server)
        self.constraints = [
            *(self.without_credentials(line.text) for line in self.choice.constraints),
            *given["constraints"],
        ]
        self.options = [self.without_credentials(line.text) for line in self.plan.options]
        if given["index_url"]:
            self.options.append(f"--index-url {given['index_url']}")
        self.options += [f"--extra-index-url {url}" for url in given["extra_index_urls"]]
        # For pip an index replaces those before it, further ones included.
        self.options.sort(key=lambda line: not line.startswith("--index-url"))
        self.excluded = [hide(line.text) for line in self.choice.excluded]
        known = {line.name for line in (*self.choice.excluded, *self.choice.servers)}
        for name in sorted({canonical(name) for name in given["exclude"]} - known):
            self.module.warn(
                f"api_endpoint_pip_exclude names {name!r}, which the app does not require."
            )

    def without_credentials(self, text: str) -> str:
        """Return a line of the app's whose URLs have lost their credentials, which pip and git get in another way."""
        clean, found = take(text)
        self.credentials.update(found)
        return clean

    def for_git(self) -> dict[str, str]:
        """Return the environment by which git gets the credentials of its URLs; pip has the others."""
        return git_environment(
            {url: word for url, word in self.credentials.items() if url.startswith("git+")}
        )

    @property
    def local(self) -> list[str]:
        """The files and folders that came along with the code, by their places in the store."""
        lines = [*self.choice.requirements, *self.choice.constraints, *self.plan.options]
        return sorted({line.local for line in lines if line.local})

    def key(self) -> str:
        """Return the name that stands for all that goes into the virtualenv."""
        given = self.given
        try:
            abi = subprocess.run(
                [given["python"], "-c", ABI], capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError) as error:
            raise does_not_run(given["python"], error, getattr(error, "stderr", "")) from error
        places = [self.code / place for place in self.local]
        return value_digest(
            {
                "requirements": [self.first, *([self.own] if self.own else []), self.second],
                "constraints": self.constraints,
                "index": self.options,
                "options": given["options"],
                "python": [given["python"], abi],
                "local": [
                    tree_digest(place) if place.is_dir() else file_digest(place) for place in places
                ],
            },
            16,
        )

    def build(self, folder: Path, home: Path) -> None:
        """Make the virtualenv and install into it, as its owner."""
        account = pwd.getpwnam(self.given["user"])
        secret, carried = home / "netrc", folder / "local"
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=RUN, prefix="api-endpoint-"
        ) as variables:
            variables.writelines(
                f"{name}={quote(value)}\n" for name, value in self.for_git().items()
            )
            variables.flush()
            # setup.py is code of strangers: it gets what the app gets, and nothing that it starts stays.
            sandbox = Sandbox(
                name=self.given["name"],
                task="virtualenv",
                root=Path(self.given["root"]),
                user=self.given["user"],
                folder=folder,
                environment={
                    "HOME": str(home), "NETRC": str(secret), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1",
                },
                inherited=tuple(name for name in os.environ if INHERITED.fullmatch(name)),
                writable=(str(folder), str(home)),
                timeout=None,
                secrets=Path(variables.name),
            )  # fmt: skip
            sandbox.end()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            # All that root writes there is written before the account may.
            self.write_files(folder, carried)
            self.carry(carried)
            for path in (folder, home):
                path.mkdir(exist_ok=True)
                os.chmod(path, 0o750)  # noqa: S103
                os.chown(path, account.pw_uid, account.pw_gid)
            secret.unlink(missing_ok=True)
            try:
                self.write_netrc(secret, account)
                self.install(sandbox, folder, carried)
            finally:
                secret.unlink(missing_ok=True)
                shutil.rmtree(carried, ignore_errors=True)

    def write_files(self, folder: Path, carried: Path) -> None:
        """Write what pip reads."""
        # The server's own packages come from an index, whatever the app's file says of itself.
        passed = [
            line
            for line in self.options
            if not line.startswith(("--no-index", "--require", "--constraint"))
        ]
        files = {
            "requirements.txt": [*self.options, *self.first],
            "constraints.txt": self.constraints,
            "own.txt": [
                *(
                    line
                    for line in self.options
                    if not line.startswith(("--require", "--constraint"))
                ),
                *self.own,
            ],
            "server.txt": [*passed, *self.second],
            # The server's packages change nothing that the app pins.
            "pins.txt": [pin for line in self.choice.requirements if (pin := line.pin)],
        }
        for name, lines in files.items():
            text = "".join(f"{line}\n" for line in lines)
            (folder / name).write_text(text.replace(LOCAL, str(carried)), encoding="utf-8")
            os.chmod(folder / name, 0o644)

    def carry(self, target: Path) -> None:
        """Put what came along with the code where the account may build in it."""
        for place in self.local:
            copy = target / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            if (self.code / place).is_dir():
                shutil.copytree(self.code / place, copy, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copyfile(self.code / place, copy)
        if target.exists():
            chown_tree(target, self.given["user"], self.given["user"])

    def write_netrc(self, file: Path, account: pwd.struct_passwd) -> None:
        """Write what pip sends to which host, for the account alone."""
        try:
            content = netrc(self.credentials)
        except ValueError as error:
            raise DeployError(
                f"There are two passwords or tokens for {error}, and pip takes one for each host. "
                "Give one that may read both places."
            ) from error
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as opened:
            opened.write(content)
            os.fchown(opened.fileno(), account.pw_uid, account.pw_gid)

    def install(self, sandbox: Sandbox, folder: Path, carried: Path) -> None:
        """Make the virtualenv, install what the app requires, and then the server and what the role adds."""
        python = str(folder / "bin" / "python")

        unfit: list[str] = []

        def run(step: str, *command: str) -> str:
            done = sandbox.run(list(command))
            if done.status != 0:
                version = Path(os.path.realpath(self.given["python"])).name.removeprefix("python")
                platforms = " ".join(
                    f"--platform {kind}_{os.uname().machine}"
                    for kind in ("manylinux_2_28", "manylinux2014")
                )
                others = (
                    f"For another Python or computer than the host's, and so not installed: {', '.join(unfit)}. "
                    f"`pip download --only-binary :all: --python-version {version} {platforms} --dest FOLDER NAME` fetches "
                    "those that fit.\n"
                )
                raise DeployError(
                    f"{step} failed (exit status {done.status}):\n{hide(done.output, self.credentials)}\n"
                    f"The command was: {shlex.join(command)}\n"
                    f"{others if unfit else ''}"
                    "Remedies: api_endpoint_pip_exclude leaves a requirement out, api_endpoint_pip_constraints pins one, "
                    "api_endpoint_apt_packages adds what compiling needs (build-essential, python3-dev)."
                )
            return str(done.output)

        def install(step: str, file: str, *options: str) -> None:
            run(
                step, python, "-m", "pip", "install", "--progress-bar", "off", "--requirement", file,
                "--constraint", "constraints.txt", *options, *self.given["options"],
            )  # fmt: skip

        run("Making the virtualenv", self.given["python"], "-m", "venv", str(folder))
        found: list[str] = []
        # With hashes the content of every package is known already.
        if (
            places := [str(carried / line.local) for line in self.plan.options if line.local]
        ) and not self.plan.has_hashes:
            found = ["--constraint", str(carried / "found.txt")]
            unfit += run(
                "Reading the folders of packages", python, "-c", FOUND_LOCALLY, found[1], *places
            ).split()
        strict = ["--require-hashes"] if self.plan.has_hashes else []
        if strict and (self.choice.excluded or self.choice.replaced):
            # A file with hashes lists all there is; what was taken out of it may not come back without one.
            strict.append("--no-deps")
        install("Installing the requirements", "requirements.txt", *found, *strict)
        if self.own:
            install("Installing the app's own packages", "own.txt", "--constraint", "pins.txt")
        install("Installing the server", "server.txt", "--constraint", "pins.txt", *found)


def ensure(module: AnsibleModule) -> dict[str, object]:
    """Make sure that the virtualenv is there."""
    root = Path(module.params["root"])
    code = root / "code" / module.params["code"]
    if not module.params["code"] or not code.is_dir():
        if module.check_mode:
            return {"changed": True}
        raise DeployError(
            f"The code {code} is not on the host. Run site.yml without tags, or with --tags app."
        )
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
    if changed and virtualenv.choice.note:
        module.warn(virtualenv.choice.note)
    if changed and not module.check_mode:
        try:
            virtualenv.build(folder, root / "cache")
            os.sync()
            (folder / COMPLETE).touch()
            (folder / COMPLETE).chmod(0o644)  # as setup wants it, whatever the host's umask is
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
