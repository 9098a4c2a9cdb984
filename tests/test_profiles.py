"""What a profile sets, and what wins over it: by Ansible's own precedence, without a host."""

import re

import pytest
import yaml
from ansible.template import trust_as_template
from helpers import PROJECT, ROLE
from rendering import templar

SPECS = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())["argument_specs"][
    "main"
]["options"]
PROFILES = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["__api_endpoint_profiles"]
MERGED = {"environment", "service_settings"}
NAMES = sorted(set(PROFILES["plain"]) - MERGED)
SETTINGS = (
    "{{ {"
    + ", ".join(f"'{name}': api_endpoint_{name}" for name in NAMES)
    + ", 'environment': __api_endpoint_plan.environment, 'service_settings': __api_endpoint_service_settings} }}"
)


@pytest.fixture
def found(tmp_path):
    """Return a function that returns what the role makes of group variables and of those of the command line."""

    def run(group, **extra_vars):
        (tmp_path / "group_vars").mkdir()
        (tmp_path / "group_vars" / "all.yml").write_text(
            yaml.safe_dump({"api_endpoint_server_names": ["a.example"], **group})
        )
        (tmp_path / "roles").symlink_to(ROLE.parent)
        (tmp_path / "inventory.yml").write_text(
            yaml.safe_dump({"all": {"hosts": {"localhost": None}}})
        )
        play = {"hosts": "all", "gather_facts": False, "roles": ["api_endpoint"]}
        variables = templar(play, tmp_path / "inventory.yml", folder=tmp_path, **extra_vars)
        variables.available_variables = {
            **variables.available_variables,
            "ansible_search_path": [str(ROLE)],
        }
        return variables.template(trust_as_template(SETTINGS))

    return run


def test_the_profiles_are_the_choices_and_have_no_names_of_their_own():
    assert list(PROFILES) == SPECS["api_endpoint_profile"]["choices"]
    for settings in PROFILES.values():
        assert set(settings) <= set(PROFILES["plain"])
    for name in NAMES:
        assert (
            SPECS[f"api_endpoint_{name}"]["default"] == f"{{{{ __api_endpoint_profile.{name} }}}}"
        )


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_sets_the_defaults(found, profile):
    assert found({"api_endpoint_profile": profile}) == {**PROFILES["plain"], **PROFILES[profile]}


def test_without_a_profile_it_is_plain(found):
    assert found({}) == PROFILES["plain"]


def test_what_the_user_says_wins_name_by_name(found):
    group = {
        "api_endpoint_profile": "pytorch",
        "api_endpoint_workers": 3,
        "api_endpoint_jit": False,
        "api_endpoint_environment": {"OMP_NUM_THREADS": 4, "HF_HUB_OFFLINE": "1"},
        "api_endpoint_service_settings": {"ProcSubset": "pid", "LimitNOFILE": 65536},
    }
    assert found(group, api_endpoint_threads=2) == {
        **PROFILES["plain"],
        **PROFILES["pytorch"],
        "workers": 3,
        "jit": False,
        "threads": 2,
        "environment": {"OMP_NUM_THREADS": "4", "HF_HUB_OFFLINE": "1"},
        "service_settings": {"ProcSubset": "pid", "LimitNOFILE": 65536},
    }


def test_the_profile_may_come_from_the_command_line(found):
    assert (
        found({"api_endpoint_profile": "sklearn"}, api_endpoint_profile="pytorch")["preload"]
        is False
    )


def test_the_guide_has_the_values():
    rows = re.findall(
        r"^\| `(\w+)` \| (.*) \| .* \|$",
        (PROJECT / "docs" / "guides" / "your-app.md").read_text(),
        re.M,
    )
    shown = {name: text for name, text in rows if name in PROFILES}
    assert list(shown) == list(PROFILES)
    for name, settings in PROFILES.items():
        values = {key: value for key, value in settings.items() if key not in MERGED}
        lines = [f"`{key}: {str(value).lower()}`" for key, value in values.items()]
        lines += [
            f"`{key}={value}`"
            for merged in sorted(MERGED)
            for key, value in settings.get(merged, {}).items()
        ]
        assert shown[name] == ", ".join(lines)


@pytest.mark.parametrize(
    ("kind", "given", "wanted"),
    [
        ("threads", "gunicorn==27.0.1", "gunicorn==27.0.1"),
        ("gevent", "gunicorn==27.0.1", "gunicorn[gevent]==27.0.1"),
        ("gevent", "gunicorn", "gunicorn[gevent]"),
        ("gevent", "gunicorn[gevent,setproctitle]>=26", "gunicorn[gevent,setproctitle]>=26"),
    ],
)
def test_a_kind_of_worker_brings_the_packages_that_it_needs(kind, given, wanted):
    tasks = yaml.safe_load((ROLE / "tasks" / "app.yml").read_text())
    (build,) = [task["api_endpoint_venv"] for task in tasks if "api_endpoint_venv" in task]
    variables = {"api_endpoint_worker_class": kind, "api_endpoint_gunicorn": given}
    assert (
        templar({"hosts": "all"}, **variables).template(trust_as_template(build["gunicorn"]))
        == wanted
    )
