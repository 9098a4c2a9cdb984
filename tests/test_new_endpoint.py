"""make new-endpoint: what it writes works at once, and what is there already is left alone."""

import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from ansible.module_utils.api_endpoint.controller.paths import local_path
from helpers import PROJECT  # makes the role's package importable
from rendering import variables_of

PROFILES = ["plain", "sklearn", "fasttext", "pytorch"]
LIBRARIES = {"sklearn": "sklearn", "pytorch": "torch"}


def new_endpoint(*arguments):
    command = [sys.executable, PROJECT / "tools" / "new_endpoint.py", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory):
    """Return the folder with an endpoint for each profile."""
    folder = tmp_path_factory.mktemp("clone") / "endpoints"
    for profile in PROFILES:
        done = new_endpoint(f"of-{profile}", profile, folder)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"-i {folder}/of-{profile}/inventory.yml site.yml") == 2
    return folder


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("profile", PROFILES)
def test_it_writes_an_app_its_settings_and_its_inventory(endpoints, profile):
    written = files(endpoints / f"of-{profile}")
    names = {name for name in written if "__pycache__" not in name}
    assert names >= {
        "inventory.yml", f"host_vars/of-{profile}.yml", "app/wsgi.py", "app/model.py", "app/requirements.txt",
        "app/tests/test_app.py", "app/templates/index.html",
    }  # fmt: skip
    assert not [name for name, content in written.items() if b"my-api" in content]
    assert sorted(path.name for path in endpoints.iterdir()) == sorted(
        f"of-{profile}" for profile in PROFILES
    )
    folder = endpoints / f"of-{profile}"
    subprocess.run(
        ["yamllint", "--strict", "-c", PROJECT / ".yamllint", folder], cwd=PROJECT, check=True
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_its_app_passes_its_own_test(endpoints, profile):
    if importlib.util.find_spec(LIBRARIES.get(profile, "flask")) is None:
        pytest.skip(
            f"{LIBRARIES[profile]} is not installed; molecule/profiles asks such an app on a host"
        )
    app = endpoints / f"of-{profile}" / "app"
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", app],
        cwd=app,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


class Model:
    """Stands for a model of scikit-learn."""

    def __init__(self, **attributes):
        vars(self).update(attributes)
        if "classes_" in attributes and "scores" in attributes:
            self.predict_proba = lambda _row: [attributes["scores"]]

    def predict(self, row):
        self.asked = row
        return [self.value]


class Scores(list):
    def argmax(self):
        return self.index(max(self))


TEXT, NUMBERS = '{"text": "a"}', '{"length": 1.4, "width": 0.2}'


@pytest.mark.parametrize(
    ("example", "model", "answer"),
    [
        (TEXT, Model(classes_=["en", "fr"], scores=Scores([0.25, 0.75])), {"label": "fr", "score": 0.75}),
        (NUMBERS, Model(n_features_in_=2, classes_=[0, 1], scores=Scores([1, 0])), {"label": "0", "score": 1.0}),
        (NUMBERS, Model(n_features_in_=2, classes_=["a"], value="a"), {"label": "a"}),
        (NUMBERS, Model(n_features_in_=2, feature_names_in_=["length", "width"], value=3), {"value": 3.0}),
        (TEXT, Model(n_features_in_=4), "EXAMPLE in model.py has 1 fields; the model was trained with 4."),
        (NUMBERS, Model(), "EXAMPLE in model.py has 2 fields; the model was trained with 1."),
        (
            NUMBERS,
            Model(n_features_in_=2, feature_names_in_=["width", "length"]),
            r"has \['length', 'width'\]; the model was trained with \['width', 'length'\]",
        ),
    ],
)  # fmt: skip
def test_a_model_of_scikit_learn_is_looked_at_when_it_is_loaded(
    endpoints, monkeypatch, example, model, answer
):
    """Texts or numbers, a classifier or a regression: an EXAMPLE that does not fit is refused at the start."""
    monkeypatch.setitem(sys.modules, "joblib", SimpleNamespace(load=lambda _path: model))
    path = endpoints / "of-sklearn" / "app" / "model.py"
    text = path.read_text()
    given = '{"text": "Où est la bibliothèque ?"}'
    assert given in text
    found = {"__file__": str(path)}
    code = compile(text.replace(given, example), str(path), "exec")
    if isinstance(answer, str):
        with pytest.raises(ValueError, match=answer):
            exec(code, found)
        return
    exec(code, found)
    assert found["predict"](**found["EXAMPLE"]) == answer
    asked = getattr(model, "asked", None)
    assert asked in (None, [[1.4, 0.2]])


@pytest.mark.parametrize("profile", PROFILES)
def test_its_paths_are_found_in_its_folder_where_the_example_has_the_same(endpoints, profile):
    name = f"of-{profile}"
    settings = yaml.safe_load((endpoints / name / "host_vars" / f"{name}.yml").read_text())
    variables = {"inventory_dir": str(endpoints / name), "playbook_dir": str(PROJECT)}
    paths = [
        settings["api_endpoint_app_dir"],
        *(one["src"] for one in settings["api_endpoint_artifacts"]),
    ]
    for path in paths:
        assert local_path(path, variables, "x").is_relative_to(endpoints / name)


@pytest.mark.parametrize("profile", PROFILES)
def test_its_settings_win_over_those_for_all_endpoints(endpoints, profile, tmp_path):
    """Ansible lets group variables beside a playbook win over those beside an inventory; here they are the example's."""
    example = yaml.safe_load((PROJECT / "tools" / "group_vars" / "api_endpoints.yml").read_text())
    own = yaml.safe_load(
        (endpoints / f"of-{profile}" / "host_vars" / f"of-{profile}.yml").read_text()
    )
    assert set(own) >= set(example)
    (tmp_path / "group_vars").symlink_to(PROJECT / "tools" / "group_vars")
    inventory = endpoints / f"of-{profile}" / "inventory.yml"
    variables = variables_of(inventory, tmp_path)
    found = variables.get_vars(host=variables._inventory.get_host(f"of-{profile}"))
    assert {name: found[name] for name in own} == own
    assert found["api_endpoint_profile"] == profile


def test_the_pins_are_those_of_the_example(endpoints):
    def pins(path):
        return {line for line in path.read_text().splitlines() if "==" in line}

    example = pins(PROJECT / "app" / "requirements.txt")
    assert {pin for pin in example if "PyYAML" not in pin} == pins(
        endpoints / "of-fasttext" / "app" / "requirements.txt"
    )
    assert pins(endpoints / "of-plain" / "app" / "requirements.txt") <= example


@pytest.mark.parametrize(
    ("name", "profile", "words"),
    [
        ("", "plain", ["NAME is missing"]),
        ("My API", "plain", ["NAME is 'My API'", "lower-case letters"]),
        ("../x", "plain", ["NAME is '../x'"]),
        ("nginx", "plain", ["NAME is 'nginx'", "a name of its own"]),
        ("good", "keras", ["PROFILE is 'keras'", "fasttext, plain, pytorch, sklearn"]),
        ("taken", "plain", ["NAME is 'taken'", "exists already"]),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_touched(tmp_path, name, profile, words):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    done = new_endpoint(name, profile, tmp_path)
    assert done.returncode != 0
    for word in [*words, "Nothing was touched."]:
        assert word in done.stderr
    assert files(tmp_path) == {"taken/mine.txt": b"mine"}
    assert len(list(tmp_path.iterdir())) == 1
