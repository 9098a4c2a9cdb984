"""Make an endpoint of its own in this clone: an app that answers at once, its settings, and its inventory.

    python tools/new_endpoint.py NAME PROFILE [FOLDER]

FOLDER is where it is made (default `endpoints`). What is there already is left alone.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[1]
ansible.module_utils.__path__.append(str(PROJECT / "roles" / "api_endpoint" / "module_utils"))
from ansible.module_utils.api_endpoint.controller.commands import USUAL, command  # noqa: E402
from ansible.module_utils.api_endpoint.controller.validate import patterns  # noqa: E402

SKELETON = PROJECT / "skeleton"
PLACEHOLDER = "my-api"
PROFILES = sorted({path.name for path in SKELETON.iterdir()} - {"common"})
# What a skeleton shares with the example app.
SHARED = {"fasttext": ["lid.176.ftz", "NOTICE"]}


class NewEndpointError(Exception):
    """The endpoint cannot be made."""


def check(name: str, profile: str, folder: Path) -> None:
    """Raise an error when there cannot be such an endpoint."""
    if not name:
        raise NewEndpointError(
            "NAME is missing, as in `make new-endpoint NAME=my-api PROFILE=sklearn`."
        )
    for problem in patterns({"api_endpoint_name": name}):
        raise NewEndpointError(problem.replace("api_endpoint_name", "NAME"))
    if profile not in PROFILES:
        raise NewEndpointError(f"PROFILE is {profile!r}. Give one of {', '.join(PROFILES)}.")
    if (folder / name).exists():
        raise NewEndpointError(
            f"NAME is {name!r}, and {folder / name} exists already. Give another name, or remove it."
        )


def fill(endpoint: Path, name: str, profile: str) -> None:
    """Write all files; one that both the common skeleton and the profile's have is put together of both."""
    for part in ("common", profile):
        for source in sorted(
            path for path in (SKELETON / part).rglob("*.*") if path.suffix != ".pyc"
        ):
            if source.is_file():
                target = endpoint / str(source.relative_to(SKELETON / part)).replace(
                    PLACEHOLDER, name
                )
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("a", encoding="utf-8") as file:
                    file.write(source.read_text(encoding="utf-8").replace(PLACEHOLDER, name))
    for shared in SHARED.get(profile, []):
        shutil.copyfile(PROJECT / "app" / shared, endpoint / "app" / shared)


def make(name: str, profile: str, folder: Path) -> Path:
    """Make an endpoint, all of it or nothing, and return its folder."""
    check(name, profile, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as temporary:
        fill(Path(temporary) / name, name, profile)
        return (Path(temporary) / name).rename(folder / name)


def main(name: str = "", profile: str = "plain", folder: str = "endpoints") -> None:
    """Make an endpoint, and say what comes next."""
    try:
        endpoint = make(name, profile, Path(folder))
    except NewEndpointError as error:
        sys.exit(f"new-endpoint: {error} Nothing was touched.")
    sources = [str((endpoint / "inventory.yml").resolve())]
    check, deploy = (
        command(f"{USUAL}{options}", sources, str(PROJECT))
        for options in ("site.yml --check", "site.yml")
    )
    print(f"""{endpoint} is there. Put your host into {endpoint}/inventory.yml, and its public name into
{endpoint}/host_vars/{name}.yml. Then, for a start with the small model in {endpoint}/app/model.py:

  {check}   # say what it would do, touch nothing
  {deploy}""")


if __name__ == "__main__":
    main(*sys.argv[1:])
