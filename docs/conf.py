"""How the documentation becomes a site: `make docs`, then open .cache/site/index.html."""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROLES = Path(__file__).resolve().parents[1] / "roles"
# The pages with the table of variables of a role.
TABLES = {"reference/variables": "api_endpoint", "reference/load_balancer": "load_balancer"}

project = "api_endpoint"
html_title = "api_endpoint"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns: list[str] = []
# Links to headings: [text](#heading), [text](page.md#heading).
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "attrs_inline"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
# A prompt is not copied.
copybutton_prompt_text = "$ "

# Every link that leads nowhere is an error.
nitpicky = True


def add_variables(_app: Sphinx, page: str, source: list[str]) -> None:
    """Take the table of variables from the role's README, which is generated, with links as this site has them."""
    if page not in TABLES:
        return
    role = ROLES / TABLES[page]
    readme = (role / "README.md").read_text(encoding="utf-8")
    table = re.search(r"## Role variables.*?\n(.*)<!-- ANSIBLE DOCSMITH MAIN END -->", readme, re.S)
    if not table:
        raise ValueError(f"{role}/README.md has no table of variables")
    text = re.sub(r"\[[^\]]*\]\(#toc\)\n", "", table[1])
    text = re.sub(r"(?m)^##(#+ .*?)<a id=.*$", r"#\1", text)
    # Names and descriptions have room side by side; the rest is told below for each.
    text = re.sub(
        r"(?m)^\| `(\w+)` \| `\w+` \| (?:Yes|No) \| (?:N/A|`[^`]*`) \|", r"| [`\1`](#\1) |", text
    )
    text = re.sub(r"\| Variable \|.*\n\|[-|]*\n", "| Variable | Description |\n|---|---|\n", text)
    source[0] += re.sub(r"\(#variable-(\w+)\)", r"(#\1)", text)


def setup(app: Sphinx) -> None:
    """Let Sphinx call what is here."""
    app.connect("source-read", add_variables)
