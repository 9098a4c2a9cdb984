"""Runs of the project's playbooks."""

import contextlib
import os
import signal
import subprocess
import tempfile
from pathlib import Path

from outcomes import PROJECT, Run


class Started:
    """A run of a playbook that has not ended."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - open as long as the run
        self._process = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    @property
    def output(self) -> str:
        """What it has said so far."""
        return Path(self._file.name).read_text(errors="replace")

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> Run:
        """Wait for its end."""
        return Run(self._process.wait(), self.output)

    def kill(self) -> Run:
        """Kill it with all its processes, at once: each is stopped before its children are looked for."""
        if self.has_ended:
            return self.wait()
        processes = [self._process.pid]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
            shown = subprocess.run(
                ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
            ).stdout
            pairs = (line.split() for line in shown.splitlines())
            processes += [int(pid) for pid, parent in pairs if int(parent) == process]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return self.wait()


class Playbook:
    """Runs the project's playbooks against one host, or all of them: `playbook("--tags", "app")`."""

    def __init__(self, host=None, inventory: str = "") -> None:
        self.inventory = inventory or os.environ["MOLECULE_INVENTORY_FILE"]
        self.limit = ["--limit", host.backend.get_hostname()] if host else []
        self.started: list[Started] = []

    def start(
        self, *options: str, name: str = "site.yml", environment: dict[str, str] | None = None
    ) -> Started:
        """Start a playbook, and do not wait for it."""
        command = [
            "ansible-playbook", "-i", self.inventory,
            *self.limit, str(PROJECT / name), *options,
        ]  # fmt: skip
        self.started.append(Started(command, environment or {}))
        return self.started[-1]

    def __call__(
        self, *options: str, name: str = "site.yml", environment: dict[str, str] | None = None
    ) -> Run:
        """Run a playbook."""
        return self.start(*options, name=name, environment=environment).wait()

    def end(self) -> None:
        """Kill the runs that have not ended."""
        for started in self.started:
            if not started.has_ended:
                started.kill()
