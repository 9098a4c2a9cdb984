"""How the documentation becomes a site: `make docs`, then open .cache/site/index.html."""

import re
from pathlib import Path

from sphinx.application import Sphinx

ROLES = Path(__file__).resolve().parents[1] / "roles"
# The pages with the table of variables of a role.
TABLES = {"reference/variables": "api_endpoint", "reference/load_balancer": "load_balancer"}
# A row of that table: a secret has a lock behind its name.
ROW = re.compile(
    r"(?m)^\| `(?P<name>\w+)`(?P<secret> 🔒)? \| `\w+` \| (?P<required>Yes|No) \| (?P<default>N/A|`[^`]*`) "
    r"\| (?P<text>.*) \|$"
)
# Pages that had another name; old links still lead there.
MOVED = {
    "guides/adapt": "guides/your-app",
    "guides/debug": "guides/troubleshooting",
    "guides/operate": "guides/status-and-logs",
    "guides/performance": "guides/speed",
}

project = "api_endpoint"
html_title = "api_endpoint"
extensions = ["myst_parser", "sphinx_copybutton"]
exclude_patterns: list[str] = []
# Links to headings: [text](#heading), [text](page.md#heading).
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "attrs_inline"]

html_theme = "furo"
templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
# A prompt is not copied.
copybutton_prompt_text = "$ "

# Every link that leads nowhere is an error.
nitpicky = True


def shorten(row: re.Match[str]) -> str:
    """Return a row of the table of variables in two columns."""
    default = f"Default: {row['default']}."
    if "__api_endpoint_profile" in row["default"]:
        default = "Default: set by the profile."
    if row["required"] == "Yes":
        default = "**Required.**"
    secret = "<br>*secret*" if row["secret"] else ""
    return f"| [`{row['name']}`](#{row['name']}){secret} | {row['text']} {default} |"


def redirect(_app: Sphinx) -> list[tuple[str, dict[str, str], str]]:
    """Leave a page where one has been, which leads to where it is."""
    return [
        (old, {"target": f"{new.rpartition('/')[2]}.html"}, "redirect.html")
        for old, new in MOVED.items()
    ]


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
    # A row has the name, and the description with the default; the rest is told below for each.
    text, rows = ROW.subn(shorten, text)
    if rows != text.count("\n| ") - text.count("\n| Variable |"):
        raise ValueError(f"{role}/README.md: a row of the table of variables has another form")
    text = re.sub(r"\| Variable \|.*\n\|[-|]*\n", "| Variable | Description |\n|---|---|\n", text)
    source[0] += re.sub(r"\(#variable-(\w+)\)", r"(#\1)", text)


def setup(app: Sphinx) -> None:
    """Let Sphinx call what is here."""
    app.connect("source-read", add_variables)
    app.connect("html-collect-pages", redirect)
