"""The API of the scenario, and looks at it."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from outcomes import PROJECT, Api, Run

SCENARIO = Path(__file__).resolve().parents[1]


@dataclass
class Diagnosis:
    """What playbooks/diagnose.yml has told, as a user reads it."""

    run: Run

    @property
    def findings(self) -> list[str]:
        """The findings, each with its evidence and its remedy."""
        # A debug task prints lines as they are, and the recap comes after an empty line.
        told = self.run.output.partition("Say what was found]")[2].partition("\n\n")[0]
        return re.split(r"\n +\d+\. ", told)[1:]

    @property
    def first(self) -> str:
        """The first one's kind, and what it says."""
        return self.findings[0].splitlines()[0] if self.findings else "nothing"

    @property
    def remedy(self) -> list[str]:
        """The first one's commands."""
        return re.findall(r"(?m)^ +\$ (.*)$", self.findings[0])


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "diagnose.wmcloud.org")


@pytest.fixture(scope="module")
def diagnose(playbook):
    """Return what looks at the host."""

    def look(*options: str) -> Diagnosis:
        given = ("-e", f"@{SCENARIO / 'vars.yml'}", *options)
        return Diagnosis(playbook(*given, name="playbooks/diagnose.yml", environment={"ANSIBLE_FORCE_COLOR": "false"}))

    return look


@pytest.fixture(scope="module")
def report(host) -> Path:
    """Return the file of the report on this machine."""
    return PROJECT / "reports" / f"diagnosis-{host.backend.get_hostname()}.html"


@pytest.fixture(scope="module")
def do(host, playbook):
    """Return what runs a command of a remedy, where it belongs."""

    def run(command: str) -> None:
        words = command.split()
        if words[0] == "ansible-playbook":
            # The scenario's inventory and variables stand for the user's.
            done = playbook("-e", f"@{SCENARIO / 'vars.yml'}", *words[4:], name=words[3])
            assert done.status == 0, done.output
        else:
            host.check_output(command)

    return run
