"""The API of the scenario, and its diagnosis: by the playbook, or by the role's module alone."""

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ansible
import pytest
import yaml
from outcomes import PROJECT, Api, Run

SCENARIO = Path(__file__).resolve().parents[1]
SETTINGS = yaml.safe_load((SCENARIO / "vars.yml").read_text())
ROLE = PROJECT / "roles" / "api_endpoint"
THERE = "/opt/diagnosis"  # the module on the host
SAVED = "/opt/saved"  # copies of the folders that the tests break
FOLDERS = ("/etc/nginx", "/etc/systemd/system", "/srv", "/var/lib/api-endpoint")


@dataclass
class Diagnosis:
    """What a diagnosis says, as a user reads it."""

    text: str

    @property
    def findings(self) -> list[str]:
        """The findings, each with its evidence and its remedy."""
        return re.split(r"(?m)^ *\d+\. (?=\[)", self.text)[1:]

    @property
    def first(self) -> str:
        """The first finding."""
        return self.findings[0] if self.findings else "nothing"

    @property
    def remedy(self) -> list[str]:
        """The commands of the first finding."""
        return re.findall(r"(?m)^ +\$ (.*)$", self.first)

    @property
    def needs_a_run(self) -> bool:
        """Whether a playbook run is part of the remedy."""
        return any(command.startswith("ansible-playbook") for command in self.remedy)


@pytest.fixture(scope="module")
def api(host) -> Api:
    """Return the API by its name."""
    return Api(host, "diagnose.wmcloud.org")


@pytest.fixture(scope="module")
def diagnose(playbook):
    """Return a function that runs playbooks/diagnose.yml."""

    def run(*options: str) -> tuple[Run, Diagnosis]:
        given = ("-e", f"@{SCENARIO / 'vars.yml'}", *options)
        done = playbook(
            *given, name="playbooks/diagnose.yml", environment={"ANSIBLE_FORCE_COLOR": "false"}
        )
        # A debug task prints lines as they are, and the recap comes after an empty line.
        return done, Diagnosis(done.output.partition("Show the findings]")[2].partition("\n\n")[0])

    return run


@pytest.fixture(scope="module")
def well(playbook, api) -> Run:
    """Diagnose the host by the playbook before anything is broken; the output has the arguments of all modules."""
    # One file is older than all that the run might write.
    api.host.check_output("touch /root/before")
    return playbook(
        "-vvv", "-e", f"@{SCENARIO / 'vars.yml'}", name="playbooks/diagnose.yml",
        environment={"ANSIBLE_CALLBACK_RESULT_FORMAT": "json", "ANSIBLE_FORCE_COLOR": "false"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def arguments(well) -> dict:
    """Return the arguments that the role's tasks give the module."""
    _task, _, told = well.output.partition("Look for causes, from the ground up]")
    answer, _end = json.JSONDecoder().raw_decode(told[told.index("=> {") + 3 :])
    return {**answer["invocation"]["module_args"], "secrets": SETTINGS["api_endpoint_secrets"]}


@pytest.fixture(scope="module")
def look(api, arguments):
    """Return a function that runs the module on the host without Ansible, with the arguments of a real run."""
    container = api.container
    api.host.check_output(
        f"rm -rf {THERE} && mkdir -p {THERE}/ansible && touch {THERE}/ansible/__init__.py"
    )
    for path, name in (
        (f"{Path(ansible.__file__).parent}/module_utils", "ansible"),
        (f"{ROLE}/module_utils/.", "ansible/module_utils"),
        (f"{ROLE}/library/api_endpoint_diagnosis.py", "."),
    ):
        subprocess.run(["docker", "cp", "--quiet", path, f"{container}:{THERE}/{name}"], check=True)
    call = [
        "env",
        f"PYTHONPATH={THERE}",
        "TMPDIR=/dev/shm",
        "python3",
        f"{THERE}/api_endpoint_diagnosis.py",
    ]

    def run(**other: object) -> Diagnosis:
        given = {"ANSIBLE_MODULE_ARGS": {**arguments, "laptop_time": 0, **other}}
        done = subprocess.run(
            ["docker", "exec", "-i", container, *call],
            input=json.dumps(given), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return Diagnosis(json.loads(done.stdout)["summary"])

    return run


@pytest.fixture(scope="module")
def report(host) -> Path:
    """Return the file of the report on this machine."""
    return PROJECT / "reports" / f"diagnosis-{host.backend.get_hostname()}.html"


@pytest.fixture(scope="module")
def do(host, playbook):
    """Return a function that runs a command of a remedy, on the host or on this machine."""

    def run(command: str) -> None:
        words = command.split()
        if words[0] == "ansible-playbook":
            # The scenario's inventory and variables stand for the user's.
            done = playbook("-e", f"@{SCENARIO / 'vars.yml'}", *words[4:], name=words[3])
            assert done.status == 0, done.output
        else:
            host.check_output(command)

    return run


@pytest.fixture(scope="module")
def restore(api) -> Iterator:
    """Return a function that puts everything back as it was, in place of a remedy that is a playbook run."""
    api.host.check_output(
        " && ".join(
            f"mkdir -p {SAVED}{folder} && rsync -aHAX --delete {folder}/ {SAVED}{folder}"
            for folder in FOLDERS
        )
    )

    def run() -> None:
        put = " && ".join(f"rsync -aHAX --delete {SAVED}{folder}/ {folder}" for folder in FOLDERS)
        api.host.check_output(
            f"{put} && systemctl daemon-reload && systemctl restart 'api-endpoint@*.service' && systemctl restart nginx"
        )

    return run
