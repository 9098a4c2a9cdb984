"""Vars files made of clones of the old template: tests/old_templates has both."""

import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from ansible.module_utils.api_endpoint.controller.inputs import unknown_names
from ansible.module_utils.api_endpoint.controller.validate import problems
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from helpers import PROJECT
from old_clone import described
from test_validate import FACTS, SPECS, good

sys.path.insert(0, str(PROJECT / "tools"))

import import_template
from old_template.code import App
from old_template.notes import Notes
from old_template.settings import Reader, directives
from old_template.shell import Found, Script

FOLDER = PROJECT / "tests" / "old_templates"
SHAPES = sorted(path.stem for path in FOLDER.glob("*.yml"))


def clone_of(shape, tmp_path, **changes):
    """Write the clone that tests/old_templates describes."""
    template = replace(described(FOLDER / f"{shape}.yml"), **changes)
    return template.write(tmp_path / f"{shape}-api", f"https://git.example.org/me/{shape}.git")


def imported(clone, tmp_path, *options):
    output = tmp_path / "imported.yml"
    assert import_template.main([str(clone), "--output", str(output), *options]) == 0
    return output.read_text()


def refused(variables):
    """Return the messages of the role's preflight about types, names and values."""
    spec = {
        name: {key: value for key, value in option.items() if key in ("type", "choices", "elements")}
        for name, option in SPECS.items()
    }
    found = list(ArgumentSpecValidator(spec).validate(variables).error_messages)
    mounts = [f"/etc/{variables.get('api_endpoint_name', 'api-endpoint')}"]
    settings = {**good(), "api_endpoint_release_mounts": mounts, **variables}
    return found + unknown_names(list(variables), list(SPECS)) + problems(settings, FACTS, str(PROJECT / "playbooks"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_clone_becomes_a_vars_file_that_the_role_accepts(shape, tmp_path, capsys):
    clone = clone_of(shape, tmp_path)
    text = imported(clone, tmp_path)
    expected = yaml.safe_load((FOLDER / f"{shape}.yml").read_text())["imported"]
    assert text.replace(str(tmp_path), "/clones") == expected
    assert refused(yaml.safe_load(text)) == []
    # The screen shows the same notes.
    notes = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# -")]
    said = capsys.readouterr().out.splitlines()
    assert notes
    assert [line for line in notes if line not in said] == []


def test_a_flat_repository_becomes_the_same_without_a_subfolder(tmp_path):
    flat = imported(clone_of("plain", tmp_path / "flat", folder="", files={}), tmp_path / "flat")
    in_model = imported(clone_of("plain", tmp_path / "model", files={}), tmp_path / "model")
    assert "api_endpoint_app_subdir: model\n" in in_model
    # With its notes: the routes of the app among them.
    assert flat == in_model.replace("api_endpoint_app_subdir: model\n", "").replace("model/", "")
    assert refused(yaml.safe_load(flat)) == []


@pytest.mark.parametrize(
    ("shape", "app"), [("cinder", ""), ("plain", "DATA = '/extrastorage/a.db'\n")], ids=["script", "app"]
)
def test_a_volume_in_the_script_or_the_app_alone_is_a_mount(shape, app, tmp_path):
    variables = yaml.safe_load(imported(clone_of(shape, tmp_path, app=app), tmp_path))
    assert variables["api_endpoint_release_mounts"][1:] == ["/extrastorage"]


def test_the_preflight_of_these_tests_can_fail():
    assert refused({"api_endpoint_server_names": ["a.example"], "api_endpoint_workers": "many"})
    assert refused({"api_endpoint_server_names": ["a.example"], "api_endpoint_worker": 1})
    assert refused({"api_endpoint_server_names": ["a.example"], "api_endpoint_timeout": 90})


def test_data_that_lies_on_the_host_is_taken_from_there(tmp_path):
    text = imported(clone_of("several", tmp_path), tmp_path, "--data-from-host")
    variables = yaml.safe_load(text)
    assert refused(variables) == []
    paths = {one["dest"]: one.get("path") for one in variables["api_endpoint_artifacts"]}
    assert paths["resources/en.tsv.gz"] == "/etc/api-endpoint/resources/en.tsv.gz"
    # The unpacked one, as it lies there; an archive's folder can only come from the archive.
    assert paths["resources/titles.tsv"] == "/etc/api-endpoint/resources/titles.tsv"
    assert paths["embeddings"] is None


def test_make_runs_it():
    told = subprocess.run(
        ["make", "--dry-run", "import-template", "CLONE=../my-old-api", "OPTIONS=--data-from-host"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert 'tools/import_template.py "../my-old-api" --data-from-host' in told


def test_nothing_is_overwritten(tmp_path, capsys):
    clone = clone_of("plain", tmp_path)
    imported(clone, tmp_path)
    (tmp_path / "imported.yml").write_text("mine\n")
    with pytest.raises(SystemExit):
        import_template.main([str(clone), "--output", str(tmp_path / "imported.yml")])
    assert "is not overwritten" in capsys.readouterr().err
    assert (tmp_path / "imported.yml").read_text() == "mine\n"


def test_nothing_of_a_clone_is_run_or_evaluated(tmp_path):
    clone = clone_of("plain", tmp_path)
    script = clone / "model" / "config" / "cloudvps_setup.sh"
    script.write_text(
        f"touch {tmp_path}/run\n$(touch {tmp_path}/run)\n`touch {tmp_path}/run`\n"
        "apt-get install -y \"{{ lookup('pipe', 'id') }}\"\necho \x1b[31mred; reboot \x1b[0m now\n"
    )
    (clone / ".git" / "config").write_text(
        f'[core]\n\tfsmonitor = "touch {tmp_path}/run"\n[remote "origin"]\n\turl = https://a.example/b\n'
    )
    (clone / "model" / "config" / "gunicorn.conf.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nworkers = 3\n")
    (clone / "outside").symlink_to("/etc/passwd")
    text = imported(clone, tmp_path)
    variables = yaml.safe_load(text)
    assert not (tmp_path / "run").exists()
    assert "api_endpoint_apt_packages" not in variables
    assert variables["api_endpoint_workers"] == 3
    assert "braces that Ansible would evaluate" in text
    assert "reboot" in text
    assert "\x1b" not in text


# --- shell


def followed(text, files=()):
    found, notes = Found(), Notes()
    Script(found, notes, lambda path: [file for file in files if f"{file}/".startswith(f"{path}/")]).follow(text, "setup.sh")
    return found, [(note.line, note.why) for note in notes.found]


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("mkdir -p /etc/a\ncd /tmp\nwget https://x.example/m.bin\nmv m.bin /etc/a", {"/etc/a/m.bin"}),
        ("mkdir /etc/a; cd /etc/a && curl -O https://x.example/m.bin", {"/etc/a/m.bin"}),
        ("curl -sSLo /etc/a/m.bin https://x.example/files/7", {"/etc/a/m.bin"}),
        ("wget -qO/etc/a/m.bin https://x.example/7", {"/etc/a/m.bin"}),
        ("wget --output-document=/etc/a/m.bin https://x.example/7", {"/etc/a/m.bin"}),
        ("X='https://x.example/?a=1&b=2'  # where\nwget -O /etc/a/m \"$X\"", {"/etc/a/m"}),
        ("for f in a b\ndo\n  for g in 1 2; do wget -O /d/$f$g https://x.example/$f; done\ndone", {"/d/a1", "/d/a2", "/d/b1", "/d/b2"}),  # noqa: E501
        ("wget -O /d/a https://x.example/a\nrm /d/a", set()),
        ("wget -O /d/a https://x.example/a \\\n  --no-verbose\ncp /d/a /d/b", {"/d/a", "/d/b"}),
        ("sudo wget -O /d/a https://x.example/a >/dev/null 2>&1", {"/d/a"}),
    ],
)  # fmt: skip
def test_the_place_where_a_file_ends(text, files):
    found, notes = followed(text)
    assert set(found.files) == files
    assert notes == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("\nwget -O /d/a $X", 2, "The variable X"),
        ("wget -O /d/a ...", 1, "no address of a file"),
        ("curl https://x.example/a | tar x", 1, "Pipes"),
        ("make install", 1, "no translation"),
        ("if true; then\n  wget -O /d/a https://x.example/a\nfi", 2, "under a condition"),
        ("while read x; do\n  echo $x\ndone", 1, "not followed"),
        ("fetch() {\n  wget https://x.example/a\n}", 1, "not followed"),
        ("git clone https://x.example/a.git\ngit clone https://x.example/b.git", 2, "second repository"),
        ("mv /d/a /d/b", 1, "comes from is not known"),
        ("pip install -e git+https://x.example/a", 1, "-e"),
        ("pip install ./here", 1, "from a folder"),
        ("echo 'no end\nwget x", 1, "no end"),
    ],
)
def test_a_line_that_cannot_be_followed_is_noted(text, line, words):
    _, notes = followed(text)
    assert any(number == line and words in why for number, why in notes), notes


def test_packages():
    found, notes = followed(
        "apt install -y a b\npip3 install x==1 --extra-index-url https://i.example/ -U\npython3 -m pip install y"
    )
    assert (found.apt, found.pip, found.extra_indexes) == (["a", "b"], ["x==1", "y"], ["https://i.example/"])
    assert notes == []


# --- settings and code


def test_the_unit_overrides_the_settings_file():
    reader = Reader(Notes())
    reader.gunicorn_conf("workers = 2\ntimeout = 5\n", "gunicorn.conf.py")
    reader.service("[Service]\nExecStart=/x/gunicorn -w 7 --preload \\\n  web:application\nMemoryMax=2G\n", "model.service")
    assert reader.gunicorn == {"workers": 7, "timeout": 5, "preload_app": True, "wsgi_app": "web:application"}
    assert reader.variables == {"api_endpoint_memory_limit": "2G"}


def test_the_sites_of_nginx_are_read_word_by_word():
    text = 'server { # one; two\n listen 8080; server_name a.example\n   b.example;\n add_header X "a; b"; }'
    assert [words for _, words in directives(text)] == [
        ["server"], ["listen", "8080"], ["server_name", "a.example", "b.example"], ["add_header", "X", "a; b"],
    ]  # fmt: skip
    reader = Reader(Notes())
    reader.nginx(
        text + "\nserver { add_header Access-Control-Allow-Origin https://t.example; proxy_read_timeout 2m; }", "model.nginx"
    )
    assert reader.variables == {
        "api_endpoint_port": 8080,
        "api_endpoint_server_names": ["a.example", "b.example"],
        "api_endpoint_cors_origins": ["https://t.example"],
        "api_endpoint_proxy_timeout": 120,
    }
    assert [note.text for note in reader.notes.found] == ["add_header X a; b"]


def test_files_that_the_app_writes_beside_its_code():
    app = App("api-endpoint", Notes())
    app.read(
        "import os, sqlite3\n"
        "open(os.path.join(folder, 'a.txt'), 'w')\nopen('/etc/api-endpoint/b.txt', mode='ab')\nopen(folder / 'c', 'r')\n"
        "os.makedirs('queue', exist_ok=True)\nopen(name, 'w')\nopen(f'{name}.txt', 'w')\n"
        "sqlite3.connect(os.path.join(folder, 'd.sqlite')).execute('INSERT INTO t VALUES (1)')\n",
        "wsgi.py",
        is_wsgi=True,
    )
    assert app.written == {"a.txt", "b.txt", "queue/"}
    assert app.opened_for_writing == {"d.sqlite"}
    assert [note.line for note in app.notes.found] == [6, 7]
