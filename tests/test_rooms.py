"""The map of rooms in docs/architecture.md is true, and no room imports one below it."""

import re

import pytest
from helpers import PROJECT, ROLE, load_file

PACKAGE = ROLE / "module_utils" / "api_endpoint"
PAGE = (PROJECT / "docs" / "architecture.md").read_text()
ROOMS = [room.rstrip("/") for room in re.findall(r"^\| `(\w+/?)` \|", PAGE, re.M)]
IMPORTS = "api_endpoint_imports"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_is_on_the_map():
    assert {room_of(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_above_it(path):
    found = re.findall(
        r"ansible\.module_utils\.api_endpoint\.?([\w.]*) import (\w+)", path.read_text()
    )
    imported = {(package or name).partition(".")[0] for package, name in found}
    own = ROOMS.index(room_of(path))
    assert [room for room in imported if ROOMS.index(room) > own] == []


def test_every_file_that_the_map_names_exists():
    section = PAGE[
        PAGE.index("## The rooms of the package") : PAGE.index("## Contracts and their tests")
    ]
    row = ""
    for line in section.splitlines():
        row = match[1] if (match := re.match(r"\| `(\w+/)` \|", line)) else ""
        for name in re.findall(r"`([\w/.]+\.(?:py|yml|j2))`", line):
            places = [PACKAGE / row, ROLE, PROJECT]
            assert any((place / name).exists() for place in places), name


@pytest.mark.parametrize(
    "path", sorted((ROLE / "library").glob("*.py")), ids=lambda path: path.stem
)
def test_a_module_is_its_documentation_its_argument_spec_and_one_call(path):
    functions = re.findall(r"^def (\w+)", path.read_text(), re.M)
    assert functions == ["main"]
    load_file(path)  # what it imports is there


@pytest.mark.parametrize(
    "path",
    sorted(path for path in ROLE.parent.glob("*/action_plugins/*.py") if path.stem != IMPORTS),
    ids=lambda path: path.stem,
)
def test_one_helper_makes_the_package_importable_on_the_laptop(path):
    text = path.read_text()
    assert "__path__" not in text
    assert "sys.path" not in text
    head, imports, _ = text.partition("\nfrom ansible.module_utils.api_endpoint.")
    assert not imports or f'action_loader.get("{IMPORTS}", class_only=True)' in head


def test_both_roles_have_that_helper():
    found = {path.resolve() for path in ROLE.parent.glob(f"*/action_plugins/{IMPORTS}.py")}
    assert found == {ROLE / "action_plugins" / f"{IMPORTS}.py"}
    assert len(list(ROLE.parent.glob(f"*/action_plugins/{IMPORTS}.py"))) == 2
