"""Versions of an app that answers with its version, and runs that bring them live."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from outcomes import PROJECT, Api, Run, wait_until
from playbook import Started

APP = PROJECT / "molecule" / "releases" / "app"


class App:
    """A copy of the app, to be changed. One that is held loads until the file `load_until` appears on the host."""

    def __init__(self, folder: Path, version: str, is_held: bool, flags: str = "/run") -> None:
        self.folder = folder
        self.version = version
        self.load_until = f"{flags}/load-{version}" if is_held else ""
        shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.replace("wsgi.py", 'VERSION = "first"', f'VERSION = "{version}"')
        self.replace("flask_config.yaml", 'LOAD_UNTIL: ""', f'LOAD_UNTIL: "{self.load_until}"')

    def replace(self, name: str, old: str, new: str) -> None:
        """Replace a part of a file that is there once."""
        text = (self.folder / name).read_text()
        assert text.count(old) == 1, f"{old!r} is in {name} {text.count(old)} times"
        (self.folder / name).write_text(text.replace(old, new))


class Deploy:
    """Runs site.yml, and rollback.yml, with a scenario's variables."""

    def __init__(self, playbook, api: Api, scenario: Path) -> None:
        self.playbook = playbook
        self.api = api
        self.variables = scenario / "vars.yml"
        self.last: App | None = (
            None  # the app that was brought live last; None is the scenario's own
        )
        self.lived = [api.release]  # the releases that site.yml brought live, in order

    def start(
        self, app: App | None, *options: str, user: str = "ada", name: str = "site.yml", **variables
    ) -> Started:
        """Start a run with an app; `variables` are the role's, without their prefix. Do not wait for it."""
        given = {f"api_endpoint_{variable}": value for variable, value in variables.items()}
        if app:
            given["api_endpoint_app_dir"] = str(app.folder)
        return self.playbook.start(
            "-e", f"@{self.variables}", "-e", json.dumps(given), *options,
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
            lambda: (
                run.has_ended
                or self.api.host.run(f"systemctl is-active {idle}").stdout.strip() == "activating"
            ),
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
