"""The API of the scenario, versions of its app, and runs that bring them live."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from load import REPORTS
from outcomes import Api, Run, wait_until
from playbook import Started

SCENARIO = Path(__file__).resolve().parents[1]


class App:
    """A copy of the scenario's app, to be changed. One that is held loads until `load_until` appears on the host."""

    def __init__(self, folder: Path, version: str, is_held: bool) -> None:
        self.folder = folder
        self.version = version
        self.load_until = f"/run/load-{version}" if is_held else ""
        shutil.copytree(SCENARIO / "app", folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.replace("wsgi.py", 'VERSION = "first"', f'VERSION = "{version}"')
        self.replace("flask_config.yaml", 'LOAD_UNTIL: ""', f'LOAD_UNTIL: "{self.load_until}"')

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace a part of a file that is there once."""
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{old!r} is in {name} {text.count(old)} times"
        (self.folder / name).write_text(text.replace(old, new))


class Deploy:
    """Runs site.yml, and rollback.yml, with the scenario's variables."""

    def __init__(self, playbook, api: Api) -> None:
        self.playbook = playbook
        self.api = api
        self.last: App | None = None  # the app that was brought live last; None is the scenario's own
        self.lived = [api.release]  # the releases that site.yml brought live, in order

    def start(self, app: App | None, *options: str, user: str = "ada", name: str = "site.yml", **variables) -> Started:
        """Start a run with an app; `variables` are the role's, without their prefix. Do not wait for it."""
        given = {f"api_endpoint_{variable}": value for variable, value in variables.items()}
        if app:
            given["api_endpoint_app_dir"] = str(app.folder)
        return self.playbook.start(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options,
            name=name, environment={"USER": user, "LOGNAME": user},
        )  # fmt: skip

    def __call__(self, app: App | None, *options: str, **more) -> Run:
        """Run site.yml with an app."""
        return self.note(self.start(app, *options, **more).wait(), app)

    def note(self, run: Run, app: App | None) -> Run:
        """Remember what a run of site.yml brought live."""
        if run.status == 0 and self.api.release != self.lived[-1]:
            self.last = app
            self.lived.append(self.api.release)
        return run

    @contextlib.contextmanager
    def loading(self, app: App, *options: str, **more) -> Iterator[Started]:
        """Start a run with an app that is held; in the block its load goes on, afterwards the app may start."""
        idle = f"api-endpoint@{self.api.idle_slot}.service"
        self.api.host.check_output(f"rm --force {app.load_until}")
        run = self.start(app, *options, **more)
        wait_until(
            lambda: run.has_ended or self.api.host.run(f"systemctl is-active {idle}").stdout.strip() == "activating",
            "the new version loads",
        )
        assert not run.has_ended, run.output
        try:
            yield run
        finally:
            self.api.host.check_output(f"touch {app.load_until}")

    def back(self, release: str = "") -> Run:
        """Run rollback.yml."""
        given = {"release": release} if release else {}
        return self.start(None, name="playbooks/rollback.yml", **given).wait()

    def listed(self) -> Run:
        """Run releases.yml."""
        return self.start(None, name="playbooks/releases.yml").wait()


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    return Api(host, "releases.wmcloud.org")


@pytest.fixture(scope="module")
def deploy(playbook, api):
    """Return what brings versions live on this host."""
    return Deploy(playbook, api)


@pytest.fixture
def new_app(tmp_path):
    """Return a function that makes a version of the app, with a name of its own."""

    def make(version: str, is_held: bool = False) -> App:
        return App(tmp_path / version, version, is_held)

    return make


@pytest.fixture
def offline(host):
    """Cut the host off from every network but the one that the test asks over."""
    routes = [(family, host.check_output(f"ip {family} route show default")) for family in ("-4", "-6")]
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route del default")
    assert host.run("python3 -c 'import socket; socket.create_connection((\"1.1.1.1\", 53), 2)'").rc != 0
    yield
    for family, route in routes:
        if route:
            host.check_output(f"ip {family} route add {route}")


def pytest_terminal_summary(terminalreporter):
    """Show what the load measured."""
    terminalreporter.section("what clients noticed")
    for result in REPORTS:
        terminalreporter.write_line(str(result))
