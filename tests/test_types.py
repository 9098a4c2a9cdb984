"""Every variable of both roles, in every wrong shape that people write, is refused in one sentence, or works as it is."""

import json
import re

import pytest
import yaml
from ansible.module_utils.api_endpoint.controller.inputs import typed, wrong_types
from ansible.template import trust_as_template
from helpers import PROJECT
from rendering import render, templar

SPECS = {
    role: yaml.safe_load((PROJECT / "roles" / role / "meta" / "argument_specs.yml").read_text())[
        "argument_specs"
    ]["main"]["options"]
    for role in ("api_endpoint", "load_balancer")
}
SHAPES = {
    "text": "localhost", "text with commas": "a,b", "text of a list": '["a"]', "nothing": None, "number": 200,
    "fraction": 1.10, "truth": True, "list": ["a"],
    "list of lists": [["a"]], "list of a dictionary": [{"a": "b"}], "list of nothing": [None],
    "list of a truth": [True], "list of a fraction": [1.10], "dictionary": {"a": "b"}, "number in text": "8000",
    "almost a number": "8_000", "truth in text": "False", "y": "y",
}  # fmt: skip
# The shapes that work for each type, as they are.
GOOD = {
    "str": {"text", "text with commas", "text of a list", "number", "number in text", "almost a number", "truth in text",
            "y"},
    "int": {"number", "number in text"},
    "bool": {"truth", "truth in text"},
    "dict": {"dictionary"},
    "dict of known names": set(),
    "raw": set(SHAPES) - {"nothing"},
    "list of str": {"list"},
    "list of path": {"list"},
    "list of int": set(),
    "list of dict": set(),  # but see what is within
    "list of raw": {"list", "list of lists", "list of a dictionary", "list of nothing", "list of a truth",
                    "list of a fraction"},
}  # fmt: skip
GOOD["path"] = GOOD["str"]


GOOD["choice"] = set()  # its words are in a test of their own


def kind_of(option):
    if "choices" in option:
        return "choice"
    kind = option.get("type", "str")
    if kind == "dict" and "options" in option:
        return "dict of known names"
    return f"list of {option['elements']}" if kind == "list" else kind


def cases(options, within=""):
    """Every option with its label and a function that puts a value in its place."""
    for name, option in options.items():
        label = f"{within}{name}"
        yield label, option, lambda value, name=name: {name: value}
        for inner, deeper, put in cases(option.get("options", {})):
            required = {
                other: "x"
                for other, given in option["options"].items()
                if given.get("required") and other != inner.partition(".")[0]
            }
            if option["type"] == "list":
                yield (
                    f"{label}[0].{inner}",
                    deeper,
                    lambda value, name=name, put=put, more=required: {
                        name: [{**more, **put(value)}]
                    },
                )
            else:
                yield (
                    f"{label}.{inner}",
                    deeper,
                    lambda value, name=name, put=put: {name: put(value)},
                )


ALL = [
    pytest.param(role, *case, id=case[0])
    for role, options in SPECS.items()
    for case in cases(options)
]


@pytest.mark.parametrize(("role", "label", "option", "put"), ALL)
def test_a_wrong_shape_is_refused_by_name_with_its_remedy(role, label, option, put):
    for shape, value in SHAPES.items():
        problems = wrong_types(put(value), SPECS[role])
        if shape in GOOD[kind_of(option)] or str(value).lower() in option.get("choices", []):
            assert problems == [], shape
        elif value is None and "." in label:
            # A dictionary's empty part is left out by the roles; an element's would lose its default.
            is_refused = "]" in label and (option.get("required") or "default" in option)
            assert len(problems) == bool(is_refused), shape
        elif kind_of(option) != "dict" and not (
            option.get("options") and shape == "list of a dictionary"
        ):
            assert len(problems) == 1, shape
            assert problems[0].startswith(label), shape
            assert "Give " in problems[0], shape
            assert problems[0].endswith("."), shape
            assert "\n" not in problems[0], shape


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"api_endpoint_server_names": "localhost"},
         "api_endpoint_server_names is 'localhost', and not a list. Give a list: [\"localhost\"]; on the command line "
         "-e '{\"api_endpoint_server_names\": [\"localhost\"]}'."),
        ({"api_endpoint_server_names": '["a.example"]'},  # as -e name=value gives it
         "is '[\"a.example\"]', and not a list. Give a list: [\"a.example\"]; on the command line "
         "-e '{\"api_endpoint_server_names\": [\"a.example\"]}'."),
        ({"api_endpoint_health_status": 200}, "is 200, and not a list. Give a list: [200]; on the command line"),
        ({"api_endpoint_health_status": "200"}, "is '200', and not a list. Give a list: [200]; on the command line"),
        ({"api_endpoint_health_status": "200, 404"}, "is '200, 404', and not a list. Give a list: [200, 404]; on the"),
        ({"api_endpoint_methods": "GET,POST"}, "is 'GET,POST', and not a list. Give a list: [\"GET\", \"POST\"]; on the"),
        ({"api_endpoint_pip_packages": "numpy>=2,<3"}, "and not a list. Give a list: [\"numpy>=2,<3\"]; on the"),
        ({"api_endpoint_build_commands": ""}, "is '', and not a list. Give a list: []; on the command line"),
        ({"api_endpoint_artifacts": [{"dest": "m", "url": "u", "sha": "1"}]},
         "artifacts[0].sha is set, but there is no such name. Did you mean sha256?"),
        ({"api_endpoint_artifacts": [{"dest": "m", "src": "a"}, {"src": "b"}]}, "artifacts[1].dest is missing. Give text"),
        ({"api_endpoint_cache": {"frequency": 1}}, "cache.frequency is set, but there is no such name. Give paths, ttl"),
        ({"api_endpoint_preload": "maybe"}, "api_endpoint_preload is 'maybe'. Give auto, true or false."),
        ({"api_endpoint_profile": ["plain"]}, "profile is ['plain']. Give plain, sklearn, fasttext or pytorch."),
        ({"api_endpoint_volume": {"filesystem": "btrfs"}}, "api_endpoint_volume.filesystem is 'btrfs'. Give ext4 or xfs."),
        ({"api_endpoint_secrets": ["A=b"]}, "api_endpoint_secrets is not a dictionary. Give names with values, or {} for"),
        ({"api_endpoint_artifacts": {"dest": "a", "src": "b"}}, "and not a list. Give a list, a dash before each element"),
        ({"api_endpoint_artifacts": None}, "artifacts is empty. Give a list, a dash before each element, or [] for none"),
        ({"api_endpoint_artifacts": ["a"]}, "artifacts[0] is 'a', and not a dictionary. Give names with values"),
        ({"api_endpoint_artifacts": [{"dest": "a", "inputs": "b"}]}, "artifacts[0].inputs is 'b', and not a list. Give"),
        ({"api_endpoint_smoke_requests": [{"path": "", "status": 200}]}, "status is 200, and not a list. Give a list: [20"),
        ({"api_endpoint_pip_packages": [{"Flask": 3}]}, "packages[0] is {'Flask': 3}. Give text, in quotes"),
        ({"api_endpoint_git_version": 1.10}, "api_endpoint_git_version is 1.1. Give text, in quotes"),
        ({"api_endpoint_cache": "yes"}, "cache is 'yes', and not a dictionary. Give names with values, or {} for none."),
        ({"api_endpoint_cache": {"paths": "/api"}}, "api_endpoint_cache.paths is '/api', and not a list."),
        ({"api_endpoint_port": "8_000"}, "api_endpoint_port is '8_000'. Give a whole number."),
        ({"api_endpoint_jit": "maybe"}, "api_endpoint_jit is 'maybe'. Give true or false."),
    ],
)  # fmt: skip
def test_the_sentence_has_what_to_write(given, said):
    problems = wrong_types(given, SPECS["api_endpoint"])
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize("value", ["auto", "true", "false", "True", "False", True, False])
def test_a_choice_that_yaml_may_write_as_a_truth(value):
    assert wrong_types({"api_endpoint_preload": value}, SPECS["api_endpoint"]) == []


@pytest.mark.parametrize("value", ["the-secret", ["the-secret"], {"a": "the-secret"}, 1.5])
def test_a_secret_of_the_wrong_type_is_not_shown(value):
    for name in ("api_endpoint_secrets", "api_endpoint_git_key"):
        assert "the-secret" not in str(wrong_types({name: value}, SPECS["api_endpoint"]))
    artifacts = [{"dest": "a", "headers": value}]
    assert "the-secret" not in str(
        wrong_types({"api_endpoint_artifacts": artifacts}, SPECS["api_endpoint"])
    )


def test_a_template_that_fails_because_of_a_wrong_type_is_no_problem_of_its_own():
    templates = templar({"hosts": "all", "gather_facts": False}, given="text")
    variables = {
        "api_endpoint_environment": "A=b",
        "api_endpoint_jit": trust_as_template("{{ {}[['a']] }}"),
    }
    settings, problems = typed(templates, variables, SPECS["api_endpoint"])
    assert "api_endpoint_jit" not in settings
    assert [problem.split()[0] for problem in problems] == ["api_endpoint_environment"]


NEEDED = {
    "api_endpoint": {
        "api_endpoint_server_names": ["a.example"], "api_endpoint_metrics_listen": "127.0.0.1:9113",
        "__api_endpoint_preflight": {"old": {"sites": [], "unit": ""}}, "ansible_facts": {},
        "ansible_play_hosts_all": ["localhost"],        "ansible_check_mode": False,
    },
    "load_balancer": {
        "load_balancer_servers": [{"name": "one", "address": "10.0.0.1", "port": 80}],
        "load_balancer_server_name": "a.example", "__load_balancer_found": {"addresses": {}, "has_ipv6": True},
    },
}  # fmt: skip


def template_names(role):
    return sorted(
        path.name
        for path in (PROJECT / "roles" / role / "templates").glob("*.j2")
        if not path.name.endswith(".html.j2")
    )


@pytest.mark.parametrize("role", SPECS)
@pytest.mark.parametrize("is_on", [True, False])
def test_numbers_and_truths_given_as_text_are_what_they_say(role, is_on):
    """As `-e name=value` and INI inventories give them."""
    values = {
        name: is_on if option["type"] == "bool" else 7
        for name, option in SPECS[role].items()
        if option["type"] in ("bool", "int")
    }
    texts = {name: str(value) for name, value in values.items()}
    names = template_names(role)
    for name, typed_one, text in zip(
        names,
        render(*names, role=role, **NEEDED[role], **values),
        render(*names, role=role, **NEEDED[role], **texts),
        strict=True,
    ):
        assert text == typed_one, name


@pytest.mark.parametrize("role", SPECS)
def test_tasks_cast_numbers_and_truths_where_they_use_them(role):
    """What is a module's whole argument is cast by the module's own spec."""
    names = "|".join(
        name for name, option in SPECS[role].items() if option["type"] in ("bool", "int")
    )
    # Not a module's name, a sentence, a part of a file's name, or an element of what is cast as a whole.
    uncast = re.compile(
        rf"(?<![\w.'-])(?<!-{{{{ )({names})(?![\w:.])"
        r"(?!\)? [|] (?:bool|int|string)\b| off\b| is (?:not )?(?:true|defined)|\] \+)"
    )
    for kind in ("tasks", "handlers", "vars"):
        for path in sorted((PROJECT / "roles" / role / kind).glob("*.yml")):
            for line in path.read_text().splitlines():
                if not line.lstrip().startswith("#") and not re.fullmatch(
                    r'\s+\w+: "{{ \w+ }}"', line
                ):
                    assert not uncast.search(line), f"{path.name}: {line}"


def test_a_list_in_an_ini_inventory_is_a_list(tmp_path):
    (tmp_path / "hosts.ini").write_text(
        "[api_endpoints]\none api_endpoint_health_status=[200]\n"
        '[api_endpoints:vars]\napi_endpoint_server_names=["a.example"]\n'
    )
    found = templar(
        {"hosts": "all", "gather_facts": False}, tmp_path / "hosts.ini", "one", tmp_path
    ).available_variables
    assert json.loads(
        json.dumps([found["api_endpoint_server_names"], found["api_endpoint_health_status"]])
    ) == [
        ["a.example"],
        [200],
    ]


def test_a_balancer_alone_does_not_take_the_first_letter_of_a_name(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        yaml.safe_dump({"api_endpoints": {"hosts": {"one": {"api_endpoint_server_names": "a.example"}}},
                        "load_balancers": {"hosts": {"lb": {}}}})
    )  # fmt: skip
    (tmp_path / "group_vars").symlink_to(PROJECT / "group_vars")
    templates = templar(
        {"hosts": "all", "gather_facts": False}, tmp_path / "hosts.yml", "lb", folder=tmp_path
    )
    assert templates.template(trust_as_template("{{ load_balancer_server_name }}")) == "a.example"
