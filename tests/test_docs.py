"""The documentation: a site without a broken link, and commands that exist."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml
from ansible.module_utils.api_endpoint.controller.commands import TARGETS
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from helpers import PROJECT, ROLE, role_tags

PAGES = [
    PROJECT / "README.md",
    *(page for page in sorted((PROJECT / "docs").rglob("*.md")) if "adr" not in page.parts),
]
OPTIONS = {"NAME", "TAGS", "LIMIT", "RELEASE", "CONFIRM", "ARGS"}  # of tools/run.py


def shell_lines() -> list[tuple[str, str]]:
    """Return every line of every block of commands, with its page."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
            found += [
                (str(page.relative_to(PROJECT)), line)
                for line in block.replace("\\\n", " ").splitlines()
                if line.strip()
            ]
    return found


def test_the_site_is_built_without_a_warning(tmp_path):
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "docs", tmp_path / "site"],
        cwd=PROJECT, capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    site = tmp_path / "site"
    for page, role in (("variables", "api_endpoint"), ("load_balancer", "load_balancer")):
        html = (site / "reference" / f"{page}.html").read_text()
        rows = re.findall(r"<tr class=.*?</tr>", html[: html.index("</table>")], re.S)
        described = {re.findall(r"\w+", text(row))[0]: text(row) for row in rows[1:]}
        assert {name for name in described if name in options(role)} == set(options(role))
        for name, row in described.items():
            assert len(row.split()) > 5, f"{name} has no description: {row}"
            assert "Default: " in row or "Required." in row, f"{name}: {row}"
            assert ("secret" in row.split()[1:2]) == options(role)[name].get("no_log", False), row
    for moved in site.rglob("*.html"):
        for target in re.findall(
            r'http-equiv="refresh" content="0; url=([^"]+)"', moved.read_text()
        ):
            assert (moved.parent / target).exists(), f"{moved.name} leads to {target}"


def text(html: str) -> str:
    """Return the words of a piece of a page."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def options(role: str) -> dict[str, dict]:
    """Return the options of a role's argument spec."""
    spec = yaml.safe_load((ROLE.parent / role / "meta" / "argument_specs.yml").read_text())
    return spec["argument_specs"]["main"]["options"]


VARIABLES = {*options("api_endpoint"), *options("load_balancer")}


WRAPPED = [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_to_files_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [PROJECT / "README.md"], ids=["README.md"])
def test_links_to_headings_lead_somewhere(page):
    """Sphinx knows those of the site's own pages."""
    for link, heading in re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", page.read_text()):
        other = page.parent / link if link else page
        text = other.read_text()
        anchors = set(re.findall(r'<a id="([^"]+)"', text))
        for title in re.findall(r"^#+ (.+)$", text, re.M):
            anchors.add(
                re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]*>", "", title))
                .strip()
                .lower()
                .replace(" ", "-")
            )
        assert heading in anchors, f"{link}#{heading}"


def commands(word: str) -> list[tuple[str, str]]:
    """Return the commands that begin with a word, with their pages; at least one, or the test looks at nothing."""
    found = [(page, line) for page, line in shell_lines() if line.split()[0] == word]
    # In tables and sentences too.
    for page in PAGES:
        found += [
            (str(page.relative_to(PROJECT)), code)
            for code in re.findall(rf"`({word} [^`]+)`", page.read_text())
        ]
    assert found
    return found


def test_playbooks_tags_and_variables_that_are_named_exist():
    known = role_tags()
    for page in PAGES:
        for playbook in re.findall(r"playbooks/\w+\.yml", page.read_text()):
            assert (PROJECT / playbook).exists(), f"{page.name}: {playbook}"
    for page, line in commands("ansible-playbook"):
        words = re.sub(r" -i \S+", "", line.split("#")[0]).split()
        for playbook in (word for word in words if word.endswith(".yml")):
            assert (PROJECT / playbook).exists(), f"{page}: {line}"
        for tag in re.findall(r"--tags (\S+)", line):
            assert tag in known, f"{page}: {line}"
        for name in re.findall(r"-e (\w+)=", line):
            assert name in VARIABLES, f"{page}: {line}"


def test_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z.][\w./-]*):", (PROJECT / "Makefile").read_text(), re.M))
    for page, line in commands("make"):
        words = shlex.split(line.partition(" #")[0].split("&&")[0])[1:]
        given = dict(word.split("=", 1) for word in words if "=" in word)
        for target in (word for word in words if "=" not in word):
            assert target in targets, f"{page}: {line}"
            if target in TARGETS:
                assert set(given) <= OPTIONS, f"{page}: {line}"
        for tag in given.get("TAGS", "").split(",") if given.get("TAGS") else ():
            assert tag in role_tags(), f"{page}: {line}"
        for name in re.findall(r"-e (\w+)=", given.get("ARGS", "")):
            assert name in VARIABLES, f"{page}: {line}"


def test_variables_that_are_named_exist():
    for page in PAGES:
        for name in re.findall(
            r"\b(?:api_endpoint|load_balancer)_[a-z_]+[a-z]\b", page.read_text()
        ):
            assert name in VARIABLES, f"{page.name}: {name}"


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: str(page.relative_to(PROJECT)))
def test_prose_is_wrapped_at_100_columns(page):
    prose = re.sub(r"^(`{3,}|:{3,}).*?^\1$", "", page.read_text(), flags=re.S | re.M)
    # A table's row and a word that is longer cannot be wrapped.
    long = [
        line
        for line in prose.splitlines()
        if len(line) > 100 and not line.startswith("|") and " " in line.strip()[:90]
    ]
    assert long == []


def test_the_settings_in_the_readme_are_accepted():
    block = re.search(r"<!-- settings -->\n```yaml\n(.*?)```", PAGES[0].read_text(), re.S)[1]
    assert len(block.splitlines()) == 10
    # A default may be an expression; Ansible fills it in before it checks.
    spec = {name: one | {"default": None} for name, one in options("api_endpoint").items()}
    checked = ArgumentSpecValidator(spec).validate(yaml.safe_load(block))
    assert checked.error_messages == []
    assert checked.unsupported_parameters == set()
