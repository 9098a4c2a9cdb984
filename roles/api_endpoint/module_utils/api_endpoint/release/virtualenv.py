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
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from ansible.module_utils.api_endpoint.jobs import Background
from ansible.module_utils.api_endpoint.lock import Lock
from ansible.module_utils.api_endpoint.release import uv
from ansible.module_utils.api_endpoint.release.installing import is_only_uvs, progress, reason
from ansible.module_utils.api_endpoint.release.requirements import LOCAL, Plan, canonical, choose
from ansible.module_utils.api_endpoint.release.secrets import quote
from ansible.module_utils.api_endpoint.sandbox import Outcome, Sandbox
from ansible.module_utils.api_endpoint.systemd import systemctl
from ansible.module_utils.api_endpoint.urls import Credentials, git_environment, hide, netrc, take
from ansible.module_utils.basic import AnsibleModule

COMPLETE = ".complete"
HOME = "cache"  # in the endpoint's folder: the account's home while it builds
NETRC = "netrc"  # in that
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
# Prints the wheels that a virtualenv of Python's own has: pip, and setuptools where it belongs to Python.
BUNDLED = """
import ensurepip, glob, os, sys, sysconfig
places = [sysconfig.get_config_var("WHEEL_PKG_DIR"), os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")]
for name in ["pip"] + ["setuptools"] * (sys.version_info < (3, 12)):
    found = [path for place in places if place for path in glob.glob(os.path.join(place, name + "-*.whl"))]
    if found:
        print(found[0])
"""
# Tests of packages, half of the files of large ones, and pip: no app imports them.
NOT_COMPILED = r"/site-packages/(pip/|.*/tests?/)"
NOT_FOUND = "was not found in the package registry"
CACHE_SHARE = 3  # virtualenvs' worth of packages that uv's cache may hold before it is emptied
POLL_SECONDS = 5  # between two words on how far it is
Say = Callable[[str], None]


class Virtualenv:
    """The virtualenv that the parameters describe."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given = module.params
        self.credentials: Credentials = dict(module.params["credentials"])
        self.notes: list[str] = []  # what the run has to tell

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

    def build(self, folder: Path, home: Path, say: Say = lambda _text: None) -> None:
        """Make the virtualenv and install into it, as its owner: by uv, or by pip where uv cannot."""
        given = self.credentials
        try:
            told = uv.settings(self.plan, self.options, self.given["options"], os.environ, home)
            self.credentials = {**told.credentials, **given}
            try:
                netrc(self.credentials)
            except ValueError as error:
                raise uv.PipNeededError(f"takes one password or token for {error}") from error
            self.build_by(told, folder, home, say)
        except uv.PipNeededError as why:
            self.notes.append(
                f"pip built the virtualenv, which takes longer: uv {hide(str(why), self.credentials)}."
            )
            self.credentials = given  # pip reads the host's settings by itself
            self.build_by(None, folder, home, say)

    def build_by(self, told: uv.Settings | None, folder: Path, home: Path, say: Say) -> None:
        """Make the virtualenv and install into it: by uv with these settings, or by pip."""
        account = pwd.getpwnam(self.given["user"])
        root = Path(self.given["root"])
        secret, carried = home / NETRC, folder / "local"
        secrets = {**self.for_git(), **(told.environment if told else {})}
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=RUN, prefix="api-endpoint-"
        ) as variables:
            variables.writelines(f"{name}={quote(value)}\n" for name, value in secrets.items())
            variables.flush()
            # setup.py is code of strangers: it gets what the app gets, and nothing that it starts stays.
            sandbox = Sandbox(
                name=self.given["name"],
                task="virtualenv",
                root=root,
                user=self.given["user"],
                folder=folder,
                environment={
                    "HOME": str(home), "NETRC": str(secret), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1",
                    "UV_CACHE_DIR": str(uv.cache(root)),
                },
                inherited=tuple(name for name in os.environ if INHERITED.fullmatch(name)),
                writable=(str(folder), str(home), *([str(uv.cache(root))] if told else [])),
                timeout=None,
                secrets=Path(variables.name),
            )  # fmt: skip
            sandbox.end()
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            # All that root writes there is written before the account may.
            self.write_files(folder, carried, told)
            self.carry(carried)
            for path in (folder, home):
                path.mkdir(exist_ok=True)
                os.chmod(path, 0o750)  # noqa: S103
                os.chown(path, account.pw_uid, account.pw_gid)
            if told:
                uv.claim(root, account.pw_uid, account.pw_gid)
            secret.unlink(missing_ok=True)
            try:
                self.write_netrc(secret, account)
                if told:
                    self.install_by_uv(sandbox, folder, carried, told, say)
                else:
                    self.install_by_pip(sandbox, folder, carried, say)
            finally:
                for file in (secret, folder / "uv.toml", folder / "uv.txt"):
                    file.unlink(missing_ok=True)
                shutil.rmtree(carried, ignore_errors=True)

    def write_files(self, folder: Path, carried: Path, told: uv.Settings | None) -> None:
        """Write what uv and pip read."""
        # The server's own packages come from an index, whatever the app's file says of itself.
        passed = [
            line
            for line in self.options
            if not line.startswith(("--no-index", "--require", "--constraint"))
        ]
        own = self.options
        fetched = [*passed, f"uv=={uv.VERSION}"]
        if told:
            # Its settings have them; what it does not know in a requirements file it would leave out.
            own, passed = (
                [line for line in lines if line.startswith(("--require", "--constraint"))]
                for lines in (own, passed)
            )
        files = {
            "requirements.txt": [*own, *self.first],
            "constraints.txt": self.constraints,
            "own.txt": [
                *(line for line in own if not line.startswith(("--require", "--constraint"))),
                *self.own,
            ],
            "server.txt": [*passed, *self.second],
            # The server's packages change nothing that the app pins.
            "pins.txt": [pin for line in self.choice.requirements if (pin := line.pin)],
        }
        if told:
            files |= {"uv.toml": told.text(self.credentials).splitlines(), "uv.txt": fetched}
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

    def fail(self, step: str, command: list[str], done: Outcome, unfit: list[str]) -> DeployError:
        """Return the error for a command that failed; `unfit` are wheels that are not for this host."""
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
        remedies = (
            "Remedies: api_endpoint_pip_exclude leaves a requirement out, api_endpoint_pip_constraints pins one, "
            "api_endpoint_apt_packages adds what compiling needs (build-essential, python3-dev)."
        )
        return DeployError(
            f"{step} failed (exit status {done.status}):\n{hide(done.output, self.credentials)}\n"
            f"The command was: {shlex.join(command)}\n{others if unfit else ''}{reason(done.output) or remedies}"
        )

    def run(self, sandbox: Sandbox, say: Say, step: str, *command: str) -> Outcome:
        """Run a command of the building, and say how far it is."""
        begun = time.monotonic()

        def watch(output: str) -> None:
            seconds = time.monotonic() - begun
            done = hide(progress(output), self.credentials)
            say(f"{step}{': ' if done else ''}{done} ({seconds:.0f} s)")

        return sandbox.run(list(command), watch)

    def files_to_install(self) -> list[tuple[str, str, list[str]]]:
        """Return what is installed in which order: the step, the file, and the options that uv and pip have in common."""
        strict = ["--require-hashes"] if self.plan.has_hashes else []
        if strict and (self.choice.excluded or self.choice.replaced):
            # A file with hashes lists all there is; what was taken out of it may not come back without one.
            strict.append("--no-deps")
        return [
            ("Installing the requirements", "requirements.txt", strict),
            *([("Installing the app's own packages", "own.txt", [])] if self.own else []),
            ("Installing the server", "server.txt", []),
        ]

    def places(self, carried: Path) -> list[str]:
        """Return the app's folders of packages; with hashes the content of every package is known already."""
        found = [str(carried / line.local) for line in self.plan.options if line.local]
        return [] if self.plan.has_hashes else found

    def install_by_pip(self, sandbox: Sandbox, folder: Path, carried: Path, say: Say) -> None:
        """Make the virtualenv, install what the app requires, and then the server and what the role adds."""
        python = str(folder / "bin" / "python")
        unfit: list[str] = []

        def run(step: str, *command: str) -> str:
            done = self.run(sandbox, say, step, *command)
            if done.status != 0:
                raise self.fail(step, list(command), done, unfit)
            return done.output

        run("Making the virtualenv", self.given["python"], "-m", "venv", str(folder))
        local: list[str] = []
        if places := self.places(carried):
            local = ["--constraint", str(carried / "found.txt")]
            unfit += run(
                "Reading the folders of packages", python, "-c", FOUND_LOCALLY, local[1], *places
            ).split()  # fmt: skip
        for step, file, options in self.files_to_install():
            pins = [] if file == "requirements.txt" else ["--constraint", "pins.txt"]
            run(
                step, python, "-m", "pip", "install", "--progress-bar", "off", "--requirement", file,
                "--constraint", "constraints.txt", *pins, *([] if file == "own.txt" else local), *options,
                *self.given["options"],
            )  # fmt: skip

    def install_by_uv(
        self, sandbox: Sandbox, folder: Path, carried: Path, told: uv.Settings, say: Say
    ) -> None:
        """Do the same by uv; raise PipNeededError where pip may be able to."""
        python, root = str(folder / "bin" / "python"), Path(self.given["root"])
        bundled = self.bundled()
        program = self.program(sandbox, folder, told, bundled[0], say)
        install = [
            str(program), "pip", "install", "--python", python, "--config-file", "uv.toml", "--color", "never"
        ]  # fmt: skip
        unfit: list[str] = []

        def run(step: str, *command: str) -> str:
            done = self.run(sandbox, say, step, *command)
            if done.status != 0:
                if NOT_FOUND in done.output:
                    done = done._replace(
                        output=f"{done.output}\n{self.hints(sandbox, say, command)}"
                    )
                if not unfit and is_only_uvs(done.output):
                    words = done.output.splitlines() or [f"exit status {done.status}"]
                    said = next((line for line in words if line.startswith("error")), words[-1])
                    raise uv.PipNeededError(f"could not ({said.removeprefix('error: ')})")
                raise self.fail(step, list(command), done, unfit)
            return done.output

        run(
            "Making the virtualenv",
            self.given["python"],
            "-m",
            "venv",
            "--without-pip",
            str(folder),
        )
        run("Making the virtualenv", *install, "--offline", "--no-index", "--no-deps", *bundled)
        local: list[str] = []
        if places := self.places(carried):
            local = ["--constraints", str(carried / "found.txt")]
            unfit += run(
                "Reading the folders of packages", python, "-c", FOUND_LOCALLY, local[1], *places
            ).split()  # fmt: skip
        for step, file, options in self.files_to_install():
            pins = [] if file == "requirements.txt" else ["--constraints", "pins.txt"]
            closed = ["--no-index"] if told.is_closed and file != "server.txt" else []
            run(
                step, *install, "--requirements", file, "--constraints", "constraints.txt", *pins,
                *([] if file == "own.txt" else local), *closed, *options, *told.options,
            )  # fmt: skip
        # A file that does not compile is a template or of another Python, so the app does not import it.
        self.run(
            sandbox, say, "Compiling", python, "-m", "compileall", "-q", "-q", "-j", "0", "-x", NOT_COMPILED,
            str(folder / "lib"),
        )  # fmt: skip
        self.bound_cache(sandbox, program, folder, root)
        (folder / ".lock").unlink(missing_ok=True)  # uv's, which every account may write

    def hints(self, sandbox: Sandbox, say: Say, command: tuple[str, ...]) -> str:
        """Return uv's words on an index that refuses access, which it says only where one comes before the other."""
        done = self.run(
            sandbox, say, "Looking for the reason", *command, "--dry-run", "--index-strategy", "first-index"
        )  # fmt: skip
        return "\n".join(line for line in done.output.splitlines() if line.startswith("hint: An"))

    def bundled(self) -> list[str]:
        """Return the wheels of pip, and of setuptools where it belongs to it, that the Python brings along."""
        found = subprocess.run(
            [self.given["python"], "-c", BUNDLED], capture_output=True, text=True, check=False
        ).stdout.split()
        if not found:
            raise uv.PipNeededError(f"needs the wheel of pip, and {self.given['python']} has none")
        return found

    def program(
        self, sandbox: Sandbox, folder: Path, told: uv.Settings, pip: str, say: Say
    ) -> Path:
        """Return uv's program, fetched from the package index where it is not there."""
        program = uv.program(Path(self.given["root"]))
        if program.exists():
            return program
        target = folder / "uv"
        done = self.run(
            sandbox, say, "Fetching uv", "/usr/bin/env", f"PYTHONPATH={pip}", self.given["python"], "-m", "pip",
            "download", "--quiet", "--retries", "1", "--no-deps", "--only-binary", ":all:", "--dest", str(target),
            "--requirement", "uv.txt", *told.network,
        )  # fmt: skip
        wheels = list(target.glob("*.whl"))
        if done.status != 0 or not wheels:
            said = [line for line in done.output.splitlines() if "ERROR" in line] or ["ERROR: none"]
            why = said[-1].partition("ERROR: ")[2].rstrip(".")
            raise uv.PipNeededError(f"{uv.VERSION} could not be fetched ({why})")
        if not uv.unpack(wheels[0], program):
            raise uv.PipNeededError(
                f"{uv.VERSION} from the package index is not the known one: {wheels[0].name} has another digest"
            )
        shutil.rmtree(target, ignore_errors=True)
        return program

    def bound_cache(self, sandbox: Sandbox, program: Path, folder: Path, root: Path) -> None:
        """Keep uv's cache small: what is left over goes, and all of it where it is much more than is installed."""
        shutil.rmtree(Path(sandbox.environment["HOME"], ".cache", "pip"), ignore_errors=True)
        most = CACHE_SHARE * size_of(folder)
        command = "prune" if size_of(uv.cache(root)) <= most else "clean"
        sandbox.run([str(program), "cache", command, "--quiet", "--no-config"])


def size_of(folder: Path) -> int:
    """Return the bytes that a folder takes on its disk."""
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", "--", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return int((done.stdout.split() or ["0"])[0])


def drop_large_cache(root: Path) -> None:
    """Give back what a failed build has fetched where the disk has less room; the next one needs it otherwise."""
    if size_of(uv.cache(root)) > shutil.disk_usage(root).free:
        shutil.rmtree(uv.cache(root), ignore_errors=True)


def ensure(module: AnsibleModule) -> dict[str, Any]:
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
    result = {"changed": changed, "key": key, "excluded": virtualenv.excluded}
    if module.check_mode:
        return result
    if not changed:
        end_other_build(module)
        return result

    def work(say: Say) -> dict[str, Any]:
        """Build it; the process ends with the work, not with the connection."""
        try:
            virtualenv.build(folder, root / HOME, say)
            os.sync()
            (folder / COMPLETE).touch()
            (folder / COMPLETE).chmod(0o644)  # as setup wants it, whatever the host's umask is
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            drop_large_cache(root)
            raise
        return {**result, "notes": virtualenv.notes}

    # The same virtualenv by the same passwords: what another run has begun goes on for this one.
    task = value_digest([key, virtualenv.credentials])
    background(module).begin(task, work)
    return {"task": task}


def end_other_build(module: AnsibleModule) -> None:
    """End what a run that was cut off is still building, and this one does not need."""
    other = background(module)
    if other.is_alive():
        other.end()
        systemctl("stop", f"{module.params['name']}-virtualenv.service")
    # A build that was ended, by a power cut too, has not removed the passwords, which the app could read.
    Path(module.params["root"], HOME, NETRC).unlink(missing_ok=True)


def background(module: AnsibleModule) -> Background:
    """Return the process that builds an endpoint's virtualenvs."""
    return Background(f"{module.params['name']}-virtualenv", does="builds the virtualenv")


def run_module(module: AnsibleModule) -> None:
    """Do what the module is asked for, and exit with the result."""
    try:
        with Lock(module.params["name"]).held(module.params["run"], module.check_mode):
            result: dict[str, Any] = (
                {"task": module.params["task"]} if module.params["task"] else ensure(module)
            )
        if task := str(result.get("task", "")):
            answer = background(module).wait(task, POLL_SECONDS)
            result = answer.get("result") or {"changed": False, "task": task, **answer}
    except (DeployError, OSError) as error:
        module.fail_json(msg=describe_error(error, module.params["root"]))
    for note in result.pop("notes", []):
        module.warn(note)
    module.exit_json(**result)
