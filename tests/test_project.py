"""The project's own promises: what is documented exists, and the demo's host is nobody else's."""

import re

import pytest
import yaml
from helpers import PROJECT, ROLE, role_tags
from rendering import variables_of

MODULES = sorted((ROLE / "library").glob("*.py"))


def test_the_inventory_of_real_hosts_does_not_have_the_demos():
    def hosts(inventory):
        found = variables_of(PROJECT / inventory)._inventory.get_hosts("api_endpoints")
        return [host.name for host in found]

    assert hosts("tools/demo.yml") == ["api-endpoint-demo"]
    assert hosts("inventory")
    # Without ansible.cfg, which is left aside in another folder, all that is in there would be hosts to deploy to.
    assert [path.name for path in (PROJECT / "inventory").iterdir()] == ["hosts.yml"]


def test_the_examples_settings_are_the_demos_alone(tmp_path):
    (tmp_path / "hosts.yml").write_text("api_endpoints: {hosts: {one: }}\n")
    names = set(
        yaml.safe_load((PROJECT / "tools" / "group_vars" / "api_endpoints.yml").read_text())
    )
    assert "api_endpoint_app_dir" in names

    def settings(inventory, host, folder):
        variables = variables_of(inventory, folder)
        return set(variables.get_vars(host=variables._inventory.get_host(host)))

    for folder in (PROJECT, PROJECT / "playbooks"):
        assert not settings(tmp_path / "hosts.yml", "one", folder) & names
        for inventory, host in (
            ("demo.yml", "api-endpoint-demo"),
            ("demo-cluster.yml", "api-endpoint-demo-2"),
        ):
            assert settings(PROJECT / "tools" / inventory, host, folder) >= names
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    assert not defaults["api_endpoint_app_dir"], "the example's folder would be everybody's"


def test_what_is_commented_in_the_groups_settings_is_right():
    text = (PROJECT / "group_vars" / "api_endpoints.yml").read_text()
    assert yaml.safe_load(text) is None
    lines = [
        line.removeprefix("# ") for line in text.splitlines() if re.match(r"# (api_|  )", line)
    ]
    found = yaml.safe_load("\n".join(lines))
    options = yaml.safe_load((ROLE / "meta" / "argument_specs.yml").read_text())
    assert len(found) > 5
    assert set(found) <= set(options["argument_specs"]["main"]["options"])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_modules_documentation_has_the_options_that_it_takes(path):
    text = path.read_text()
    documentation = yaml.safe_load(re.search(r'DOCUMENTATION = r"""(.*?)"""', text, re.S)[1])
    assert documentation["module"] == path.stem
    spec = text[text.index("argument_spec={") :]
    taken = re.findall(r'^            "(\w+)": (?:\{|texts)', spec, re.M)
    assert set(taken) == set(documentation["options"])
    for name, option in documentation["options"].items():
        assert option["type"], name
        assert option["description"], name
    assert yaml.safe_load(re.search(r'EXAMPLES = r"""(.*?)"""', text, re.S)[1])
    assert yaml.safe_load(re.search(r'RETURN = r"""(.*?)"""', text, re.S)[1])


def test_every_template_and_every_default_is_used():
    files = [
        path
        for kind in ("tasks", "templates", "vars", "handlers")
        for path in (ROLE / kind).rglob("*.*")
    ]
    used = "".join(path.read_text() for path in [*files, *(PROJECT / "playbooks").glob("*.yml")])
    for template in (ROLE / "templates").rglob("*.*"):
        assert f"{template.name}" in used, template.name
    for name in yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()):
        assert name in used, name


def test_the_tags_are_the_documented_ones():
    tags = role_tags()
    assert len(tags) >= 4
    readme = (PROJECT / "README.md").read_text()
    assert {tag for tag in tags if f"`--tags {tag}`" in readme} == tags


def test_what_tasks_want_to_be_found_is_looked_for():
    """A name that the preflight does not look for is never there, and what was turned off would stay."""
    tasks = "".join(path.read_text() for path in (ROLE / "tasks").glob("*.yml"))
    wanted = set(re.findall(r"(\w+) in __api_endpoint_preflight\.there", tasks))
    looked_for = set(
        re.findall(r'- "\{\{ (\w+) \}\}"', (ROLE / "tasks" / "preflight.yml").read_text())
    )
    assert wanted
    assert wanted == looked_for
