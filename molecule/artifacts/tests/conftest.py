"""The API of the scenario, the server that its data comes from, and runs that bring other data."""

import json
from pathlib import Path

import pytest
import yaml
from load import REPORTS
from outcomes import Api, Run
from served import DATA, FIGURES, SCENARIO, Background, Memory, Server, Store


class Deploy:
    """Runs site.yml with the scenario's artifacts, some of them changed."""

    def __init__(self, playbook, folder: Path) -> None:
        self.playbook = playbook
        self.folder = folder
        self.own = yaml.safe_load((SCENARIO / "vars.yml").read_text())["api_endpoint_artifacts"]

    def start(
        self,
        *changed: dict,
        options: tuple[str, ...] = ("--tags", "model"),
        name: str = "site.yml",
        **variables,
    ):
        """Start a run; `changed` takes the place of artifacts of the same dest, or is added. Do not wait for it."""
        artifacts = {artifact["dest"]: artifact for artifact in (*self.own, *changed)}
        given = {f"api_endpoint_{variable}": value for variable, value in variables.items()}
        given["api_endpoint_artifacts"] = list(artifacts.values())
        # A file, because the list of processes shows the options of a command.
        file = self.folder / f"{len(self.playbook.started)}.json"
        file.write_text(json.dumps(given))
        return self.playbook.start(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", f"@{file}", *options, name=name
        )

    def __call__(self, *changed: dict, **more) -> Run:
        """Run site.yml, the data alone unless told otherwise."""
        return self.start(*changed, **more).wait()

    def back(self) -> Run:
        """Run rollback.yml."""
        return self.start(options=(), name="playbooks/rollback.yml").wait()


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "artifacts.wmcloud.org")


@pytest.fixture(scope="module")
def server(host):
    """Return the server, with nothing counted so far."""
    return Server(host)


@pytest.fixture(scope="module")
def store(host):
    """Return the data on this host."""
    return Store(host)


@pytest.fixture(scope="module")
def background(host):
    """Return the process that brings data to this host."""
    return Background(host)


@pytest.fixture(scope="module")
def deploy(playbook, tmp_path_factory):
    """Return what brings other data live on this host."""
    return Deploy(playbook, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def memory(host):
    """Return what measures memory."""
    return Memory(host)


@pytest.fixture
def offline(host):
    """Cut the host off from every network but the one that the test asks over."""
    # The server is a neighbour, to which no default route is needed.
    address = host.check_output("getent ahostsv4 artifacts-server").split()[0]
    host.check_output(f"ip route add unreachable {address}")
    routes = [
        (family, host.check_output(f"ip {family} route show default")) for family in ("-4", "-6")
    ]
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route del default")
    assert host.run("curl --silent --max-time 2 http://artifacts-server:8080/stats").rc != 0
    yield
    host.check_output(f"ip route del unreachable {address}")
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route add {route}")


@pytest.fixture
def full_soon(host):
    """Return a function that leaves so many bytes free on the disk of the data; 0 makes the disk large again."""

    def leave(count: int) -> None:
        size = 0  # of a tmpfs without a limit
        if count:
            total, free = map(
                int, host.check_output(f"stat --file-system --format='%b %a' {DATA}").split()
            )
            size = (total - free) * 4096 + count
        host.check_output(f"mount -o remount,size={size or '50%'} {DATA}")

    yield leave
    leave(0)


def pytest_terminal_summary(terminalreporter):
    """Show what was measured."""
    terminalreporter.section("what was measured")
    for line in [*FIGURES, *map(str, REPORTS)]:
        terminalreporter.write_line(line)
