"""Vars files made of clones of the old template: tests/old_templates has both."""

import ast
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatch

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
from old_template import identity
from old_template.clone import Clone
from old_template.code import App
from old_template.data import NO_LINE
from old_template.layout import Layout
from old_template.notes import Notes
from old_template.packages import Packages
from old_template.settings import Reader, directives
from old_template.shell import Found, Script, Source
from old_template.values import UNKNOWN, Module

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
        name: {
            key: value for key, value in option.items() if key in ("type", "choices", "elements")
        }
        for name, option in SPECS.items()
    }
    found = list(ArgumentSpecValidator(spec).validate(variables).error_messages)
    mounts = [f"/etc/{variables.get('api_endpoint_name', 'api-endpoint')}"]
    settings = {**good(), "api_endpoint_release_mounts": mounts, **variables}
    return (
        found
        + unknown_names(list(variables), list(SPECS))
        + problems(settings, FACTS, {"playbook_dir": str(PROJECT / "playbooks")})
    )


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
    ("shape", "app"),
    [("cinder", ""), ("plain", "DATA = '/extrastorage/a.db'\n")],
    ids=["script", "app"],
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
    (clone / "model" / "config" / "gunicorn.conf.py").write_text(
        f"open({str(tmp_path / 'run')!r}, 'w')\nworkers = 3\n"
    )
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

    def in_clone(path):
        return [file for file in files if fnmatch(file, path) or f"{file}/".startswith(f"{path}/")]

    Script(found, notes, in_clone).follow(text, "setup.sh")
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
        ("wget -O /d/a https://x.example/a\nln -s /d/a /etc/api-endpoint", {"/d/a", "/etc/api-endpoint/a"}),
        ("git clone https://x.example/r.git /c\ncp -r /c/model/. /etc/api-endpoint", {"/etc/api-endpoint/a.py"}),
        ("git clone https://x.example/r.git /c\ncp -r /c/model /etc/api-endpoint", {"/etc/api-endpoint/model/a.py"}),
        ("git clone https://x.example/r.git /c\ncp -r /c/model /etc/new", {"/etc/new/a.py"}),
        ("git clone https://x.example/r.git /c\nrsync -a /c/model/ /etc/api-endpoint", {"/etc/api-endpoint/a.py"}),
        ("git clone https://x.example/r.git /c\nrsync -a /c/model /etc/api-endpoint/", {"/etc/api-endpoint/model/a.py"}),
        ("gdown --id 7 -O /d/a", {"/d/a"}),
    ],
)  # fmt: skip
def test_the_place_where_a_file_ends(text, files):
    found, notes = followed(text, ["model/a.py"])
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
        (
            "git clone https://x.example/a.git\ngit clone https://x.example/b.git",
            2,
            "second repository",
        ),
        ("mv /d/a /d/b", 1, "comes from is not known"),
        ("pip install -e git+https://x.example/a", 1, "-e"),
        ("pip install ./here", 1, "from a folder"),
        ("echo 'no end\nwget x", 1, "no end"),
    ],
)
def test_a_line_that_cannot_be_followed_is_noted(text, line, words):
    _, notes = followed(text)
    assert any(number == line and words in why for number, why in notes), notes


@pytest.mark.parametrize(
    ("steps", "files", "artifacts", "words"),
    [
        (
            "cp -r ${TMP_PATH}/${REPO_LBL}/tools ${ETC_PATH}",
            {"tools/a.py": "", "tools/__init__.py": ""},
            [{"dest": "tools", "src": "tools"}],
            "New code in git",
        ),
        ("cp -r ${TMP_PATH}/${REPO_LBL}/model/tools ${ETC_PATH}", {"model/tools/a.py": ""}, [], ""),
        ("cp -r ${TMP_PATH}/${REPO_LBL}/lists/. ${ETC_PATH}", {"lists/a": ""}, [{"dest": "a", "src": "lists/a"}], ""),
        ("cp ${TMP_PATH}/${REPO_LBL}/conf/a.yaml ${ETC_PATH}", {"conf/a.yaml": ""},
         [{"dest": "a.yaml", "src": "conf/a.yaml"}], ""),
        ("cd /tmp\nwget https://x.example/n.tar.gz\ntar xf n.tar.gz -C /opt", {}, [], "Unpacked in /opt"),
        ("cd /tmp\nwget https://x.example/n.tar.gz\ntar xf n.tar.gz -C ${ETC_PATH}", {}, [], "Unpacked in /etc/api"),
        ("scp me@x.example:n.tar.gz /tmp\ntar xf /tmp/n.tar.gz -C ${ETC_PATH}/net", {},
         [{"dest": "net", "path": "/tmp/n.tar.gz", "unpack": True}], ""),
    ],
)  # fmt: skip
def test_what_a_script_copies_and_unpacks(steps, files, artifacts, words, tmp_path):
    clone = clone_of("plain", tmp_path, steps=f"{steps}\n", files=files)
    text = imported(clone, tmp_path)
    made = yaml.safe_load(text)["api_endpoint_artifacts"]
    assert made == [
        {**one, "src": str(clone / one["src"])} if "src" in one else one for one in artifacts
    ]
    assert words in text


def test_packages():
    found, notes = followed(
        "apt install -y a b\npip3 install x==1 --extra-index-url https://i.example/ -U\npython3 -m pip install y"
    )
    assert (found.apt, found.pip, found.extra_indexes) == (
        ["a", "b"],
        ["x==1", "y"],
        ["https://i.example/"],
    )
    assert notes == []


# --- settings and code


def test_the_unit_overrides_the_settings_file():
    reader = Reader(Notes())
    reader.gunicorn_conf("workers = 2\ntimeout = 5\n", "gunicorn.conf.py")
    reader.service(
        "[Service]\nExecStart=/x/gunicorn -w 7 --preload \\\n  web:application\nMemoryMax=2G\n",
        "model.service",
    )
    assert reader.gunicorn == {
        "workers": 7,
        "timeout": 5,
        "preload_app": True,
        "wsgi_app": "web:application",
    }
    assert reader.variables == {"api_endpoint_memory_limit": "2G"}


@pytest.mark.parametrize(
    "setting", ["pythonpath = '/etc/api-endpoint/lib,/usr/lib'", "raw_env = ['PYTHONPATH=/x']"]
)
def test_where_gunicorn_imports_from(setting, tmp_path):
    variables = yaml.safe_load(
        imported(clone_of("plain", tmp_path, gunicorn=f"{setting}\n"), tmp_path)
    )
    expected = {"pythonpath": "lib"} if "lib" in setting else {}
    assert variables.get("api_endpoint_gunicorn_settings", {}) == expected


def test_the_sites_of_nginx_are_read_word_by_word():
    text = 'server { # one; two\n listen 8080; server_name a.example\n   b.example;\n add_header X "a; b"; }'
    assert [words for _, words in directives(text)] == [
        ["server"], ["listen", "8080"], ["server_name", "a.example", "b.example"], ["add_header", "X", "a; b"],
    ]  # fmt: skip
    reader = Reader(Notes())
    reader.nginx(
        text
        + "\nserver { add_header Access-Control-Allow-Origin https://t.example; proxy_read_timeout 2m; }",
        "model.nginx",
    )
    assert reader.variables == {
        "api_endpoint_port": 8080,
        "api_endpoint_server_names": ["a.example", "b.example"],
        "api_endpoint_cors_origins": ["https://t.example"],
        "api_endpoint_proxy_timeout": 120,
    }
    assert [note.text for note in reader.notes.found] == ["add_header X a; b"]


# --- what the code does with files

HERE = "import os\nfrom pathlib import Path\nHERE = os.path.dirname(__file__)\n"
# Each brings a.bin, as people write it.
DOWNLOADS = """\
urlretrieve('https://x.example/a.bin', '/etc/api-endpoint/a.bin')
---
urllib.request.urlretrieve(url='https://x.example/a.bin', filename=os.path.join(HERE, '.', 'a.bin'))
---
URL = 'https://x.example/a.bin'
TO = HERE + '/a.bin'
def load():
    urlretrieve(URL, TO)
---
BASE = 'https://x.example'
urlretrieve(f'{BASE}/a.bin', Path(__file__).resolve().parent / 'a.bin')
---
urlretrieve('https://x.example/%s' % 'a.bin', Path(HERE).joinpath('a.bin'))
---
urlretrieve('https://x.example/{}'.format('a.bin'), 'a.bin')
---
def bring(url, name='a.bin'):
    urlretrieve(url, os.path.join(HERE, name))
bring('https://x.example/a.bin')
---
for url, to in [('https://x.example/a.bin', 'a.bin')]:
    urlretrieve(url, to)
---
ALL = {'a.bin': 'https://x.example/a.bin'}
for to, url in ALL.items():
    urlretrieve(url, to)
---
[urlretrieve(f'https://x.example/{to}', os.path.join(HERE, to)) for to in ('a.bin',)]
---
SET = {'url': 'https://x.example/a.bin'}
urlretrieve(SET['url'], 'a.bin')
---
class Model:
    def __init__(self):
        self.to = 'a.bin'
    def load(self):
        urlretrieve('https://x.example/a.bin', self.to)
---
def place(name):
    return os.path.join(HERE, name)
urlretrieve('https://x.example/a.bin', place('a.bin'))
---
urlretrieve('https://x.example/a.bin', os.environ.get('TO', 'a.bin'))
---
answer = requests.get('https://x.example/a.bin')
with open('a.bin', 'wb') as file:
    file.write(answer.content)
---
with requests.get('https://x.example/a.bin', stream=True) as answer, open('a.bin', 'wb') as file:
    for part in answer.iter_content(9):
        file.write(part)
---
open('a.bin', 'wb').write(requests.get('https://x.example/a.bin').content)
---
Path(HERE, 'a.bin').write_bytes(requests.get('https://x.example/a.bin').content)
---
answer = requests.get('https://x.example/a.bin', stream=True)
with open('a.bin', 'wb') as file:
    shutil.copyfileobj(answer.raw, file)
---
with urlopen('https://x.example/a.bin') as answer:
    data = answer.read()
with open('a.bin', 'wb') as file:
    file.write(data)
---
wget.download('https://x.example/a.bin', out='a.bin')
---
torch.hub.download_url_to_file('https://x.example/a.bin', 'a.bin')
---
os.system('wget -q -O a.bin https://x.example/a.bin')
---
subprocess.run(['curl', '-o', os.path.join(HERE, 'a.bin'), 'https://x.example/a.bin'], check=True)
"""


def files_of(texts, tmp_path):
    """Return what modules do with files, with paths as they are in a release where they are the app's."""
    for name, text in ({"wsgi.py": texts} if isinstance(texts, str) else texts).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    clone = Clone(tmp_path)
    layout = Layout(clone, Found(), "", "")
    work = import_template.Import(clone, data_from_host=False)
    app = App(layout, work.notes, lambda line: work.brought_by(line, layout.cwd))
    app.read({name: clone.text(name) for name in layout.modules()})
    assert not [note for note in work.notes.found if "no Python" in note.why]
    return app.files


def inside(paths):
    return {path.removeprefix("/etc/api-endpoint/") for path in paths}


@pytest.mark.parametrize("text", DOWNLOADS.split("---\n"))
def test_what_the_code_downloads(text, tmp_path):
    files = files_of(HERE + text, tmp_path)
    urls = {path: download.url for path, download in files.downloads.items()}
    assert urls == {"/etc/api-endpoint/a.bin": "https://x.example/a.bin"}


@pytest.mark.parametrize(
    "text",
    [
        "import gdown\ngdown.download(id='7', output='a.bin')",
        "import gdown\ngdown.download('https://drive.google.com/uc?id=7', 'a.bin')",
        "import os\nos.system(\"gdown 'https://drive.google.com/uc?id=7' -O a.bin\")",
    ],
)
def test_what_the_code_downloads_by_a_program_of_its_own(text, tmp_path):
    (download,) = files_of(text, tmp_path).downloads.values()
    assert download.command == "gdown 'https://drive.google.com/uc?id=7' -O"


@pytest.mark.parametrize(
    "text",
    [
        "urlretrieve(config['url'], 'a.bin')",
        "def bring(url):\n    urlretrieve(url, 'a.bin')",
        "urlretrieve(f'https://x.example/{version()}.bin', 'a.bin')",
    ],
)
def test_a_download_whose_address_is_not_known_is_something_that_the_app_writes(text, tmp_path):
    files = files_of(text, tmp_path)
    assert (files.downloads, inside(files.written)) == ({}, {"a.bin"})


@pytest.mark.parametrize(
    ("text", "read", "written", "databases"),
    [
        ("open('/extrastorage/a.bin', 'rb')", {"/extrastorage/a.bin"}, set(), set()),
        ("import gzip\ngzip.open(os.path.join(HERE, 'a.gz'), 'rt')", {"a.gz"}, set(), set()),
        ("import fasttext\nfasttext.load_model(os.path.join(HERE, 'a.bin'))", {"a.bin"}, set(), set()),
        ("import pandas as pd\npd.read_csv(Path(HERE) / 'a.csv', sep='x')", {"a.csv"}, set(), set()),
        ("INDEX.load(os.path.join('/', 'extrastorage', 'a.ann'))", {"/extrastorage/a.ann"}, set(), set()),
        ("(Path(HERE) / 'a.txt').read_text()", set(), set(), set()),
        ("json.load(open('a.json'))\nspacy.load('en_core')\nhub.load('https://x.example/a.bin')", {"a.json"}, set(), set()),
        ("open(os.path.join(HERE, 'a.txt'), 'w')\nopen('b.txt', mode='ab')", set(), {"a.txt", "b.txt"}, set()),
        ("os.makedirs('queue', exist_ok=True)\nPath('logs').mkdir()", set(), {"queue/"}, set()),
        ("open(os.path.join(HERE, 'jobs', f'{name}.json'), 'w')", set(), {"jobs/"}, set()),
        ("from logging.handlers import RotatingFileHandler\nRotatingFileHandler('logs/a.log')", set(), {"logs/"}, set()),
        ("import joblib\njoblib.dump(model, os.path.join(HERE, 'm.joblib'))", set(), {"m.joblib"}, set()),
        ("from sqlitedict import SqliteDict\nSqliteDict('a.db')\nSqliteDict('b.db', flag='r')", {"b.db"}, set(), {"a.db"}),
        ("import sqlite3\nsqlite3.connect('a.db').execute('SELECT 1')", {"a.db"}, set(), set()),
        ("import sqlite3\nsqlite3.connect('a.db').execute('INSERT INTO t VALUES (1)')", set(), set(), {"a.db"}),
        ("app.config['X'] = 'sqlite:////etc/api-endpoint/a.db'", set(), set(), {"a.db"}),
        ("import persistqueue\npersistqueue.SQLiteQueue('jobs')", set(), {"jobs/"}, set()),
    ],
)  # fmt: skip
def test_what_the_code_reads_and_writes(text, read, written, databases, tmp_path):
    files = files_of(HERE + text, tmp_path)
    assert (inside(files.read), inside(files.written), inside(files.databases)) == (
        read,
        written,
        databases,
    )


ZIP = "https://x.example/net.zip"


@pytest.mark.parametrize(
    ("code", "artifacts", "writable"),
    [
        (
            f"if not os.path.exists('data'):\n    os.mkdir('data')\n    urlretrieve('{ZIP}', 'data/net.zip')",
            [{"dest": "data/net.zip", "url": ZIP, "allow_unverified": True}],
            [],
        ),
        (f"urlretrieve('{ZIP}', 'net.zip')", [], ["net.zip"]),
        (
            f"if not os.path.exists('net'):\n    urlretrieve('{ZIP}', 'n.zip')\n    ZipFile('n.zip').extractall('net')",
            [{"dest": "net", "url": ZIP, "allow_unverified": True, "unpack": True}],
            [],
        ),
        (
            f"if not os.path.exists('net'):\n    urlretrieve('{ZIP}', 'n.zip')\n    unpack_archive('n.zip')\nopen('net/a')",
            [
                {"dest": "archives/n.zip", "url": ZIP, "allow_unverified": True},
                {
                    "dest": "net",
                    "command": "mkdir -p unpacked && python -m zipfile -e archives/n.zip unpacked && mv unpacked/net net",
                    "inputs": ["archives/n.zip"],
                },
            ],
            [],
        ),
        (
            f"urlretrieve('{ZIP}', 'net/n.zip')\nZipFile('net/n.zip').extractall('net')",
            [],
            ["net/"],
        ),
        (
            "SqliteDict('a.db')",
            [{"dest": "a.db", "path": "/etc/api-endpoint/a.db", "writable": True}],
            [],
        ),
        ("if os.path.exists('extra.tsv'):\n    open('extra.tsv')", [], []),
        (
            "if not os.path.exists('a.ann'):\n    index.on_disk_build('a.ann')\nindex.load('a.ann')",
            [],
            ["a.ann"],
        ),
        ("open('a.json', 'w')\nopen('a.json')", [], ["a.json"]),
        (
            "os.environ['HF_HOME'] = '/etc/api-endpoint'\nAutoModel.from_pretrained('o/m')",
            [],
            ["hub/", "xet/"],
        ),
        ("open('/proc/cpuinfo')\nopen('/etc/hosts')\nopen('/tmp/x', 'w')", [], []),
        ("open('/srv/models/m.bin')", [{"dest": "m.bin", "path": "/srv/models/m.bin"}], []),
    ],
)
def test_what_becomes_of_the_files_of_the_code(code, artifacts, writable, tmp_path):
    clone = clone_of("plain", tmp_path, app=f"\n\n{code}\n", steps="", variables="", files={})
    variables = yaml.safe_load(imported(clone, tmp_path))
    assert variables["api_endpoint_artifacts"] == artifacts
    assert variables.get("api_endpoint_writable_paths", []) == writable
    assert refused(variables) == []


def test_paths_that_another_module_of_the_app_gives(tmp_path):
    settings = "import os\nDATA = os.path.join(os.path.dirname(__file__), 'data')\n"
    for text in ("from settings import DATA", "import settings\nDATA = settings.DATA"):
        files = files_of(
            {"wsgi.py": f"{text}\nopen(DATA + '/a.tsv')\n", "settings.py": settings}, tmp_path
        )
        assert inside(files.read) == {"data/a.tsv"}


def test_models_and_where_they_are_kept(tmp_path):
    files = files_of(
        "import os\nos.environ['HF_HOME'] = '/etc/api-endpoint'\nfrom transformers import AutoModel, pipeline\n"
        "AutoModel.from_pretrained('org/one', cache_dir='models')\npipeline('qa', model='org/two')\n"
        "from sentence_transformers import SentenceTransformer\nSentenceTransformer('three')\n"
        "AutoModel.from_pretrained(os.path.join(os.path.dirname(__file__), 'own'))\n"
        "AutoModel.from_pretrained('./own')\n",
        tmp_path,
    )
    assert set(files.models) == {"org/one", "org/two", "sentence-transformers/three"}
    assert files.caches == {"/etc/api-endpoint": {"HF_HOME"}, "/etc/api-endpoint/models": set()}
    assert inside(files.read) == {"own"}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("Path(__file__).parents[1] / 'a'", "/a"),
        ("Path(__file__).with_name('a')", "/b/a"),
        ("os.path.join(os.getcwd(), 'a')", "/cwd/a"),
        ("x or 'a'", "a"),
        ("'a' if x else 'b'", "a"),
        ("f'a-{x}'", f"a-{UNKNOWN}"),
        ("'a' + x", f"a{UNKNOWN}"),
        ("['a', 'b'][1]", "b"),
        ("{'a': 1}['b']", None),
        ("call(x)", None),
        ("LOOP", None),
    ],
)
def test_what_an_expression_stands_for(expression, value):
    module = Module(ast.parse(f"LOOP = LOOP\nvalue = {expression}"), "/b/wsgi.py", "/cwd")
    assert module.value(module.tree.body[1].value) == value


# --- packages

FLASK_1 = ["Werkzeug<2.1", "Jinja2<3.1", "itsdangerous<2.1"]
FASTTEXT = [
    'fasttext>=0.9.2; python_version < "3.13"',
    'fasttext-community; python_version >= "3.13"',
]


@pytest.mark.parametrize(
    ("requirements", "constraints", "packages", "exclude"),
    [
        ("flask==1.1.2", FLASK_1, [], []),
        ("Flask ~= 1.0  # old", FLASK_1, [], []),
        ("Flask<2", FLASK_1, [], []),
        (
            "Flask==1.1.2\nWerkzeug==1.0.1\nJinja2==2.11.3",
            ["itsdangerous<2.1", "MarkupSafe<2.1"],
            [],
            [],
        ),
        ("Flask==2.1.2", ["Werkzeug<3"], [], []),
        ("Flask==2.1.2\nwerkzeug==2.1.2", [], [], []),
        ("Flask\nFlask-Cors==3.0.8\nflask>=1", [], [], []),
        ("PyYAML==5.4", [], ["PyYAML>=6.0.1"], []),
        ("PyYAML==6.0", [], ["PyYAML>=6.0.1"], []),
        ("PyYAML==5.1.2\nPyYAML>=5", [], [], []),
        ("requests==2.24.0", [], ["requests>=2.26"], []),
        ("uWSGI==2.0.19.1", [], [], ["uwsgi"]),
        ("hydra-core==1.1.1", [], ["hydra-core>=1.3"], []),
        ("fasttext==0.9.2", ['numpy<2; python_version < "3.13"'], FASTTEXT, []),
        ("fasttext\nnumpy<2.0", [], FASTTEXT, []),
        ("-r more/base.txt", [], ["PyYAML>=6.0.1"], []),
        ("--index-url https://x.example\n-e .\nnot a requirement\n", [], [], []),
    ],
)
def test_pins_that_no_longer_install(requirements, constraints, packages, exclude, tmp_path):
    (tmp_path / "requirements.txt").write_text(requirements)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "base.txt").write_text("-r ../requirements.txt\nPyYAML==5.4\n")
    found = Found()
    variables = Packages(found, Layout(Clone(tmp_path), found, "", ""), Notes()).variables("")
    assert variables.get("api_endpoint_pip_constraints", []) == constraints
    assert variables.get("api_endpoint_pip_packages", []) == packages
    assert variables.get("api_endpoint_pip_exclude", []) == exclude


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tensorflow==2.9.1", "Debian 12 or 13"),
        ("pandas<2.0.0", "Debian 13"),
        ("tensorflow>=2", ""),
        ("numpy", ""),
    ],
)
def test_a_pin_without_a_build_is_noted(line, words, tmp_path):
    (tmp_path / "requirements.txt").write_text(line)
    notes = Notes()
    Packages(Found(), Layout(Clone(tmp_path), Found(), "", ""), notes).variables("")
    assert [words in note.why for note in notes.found] == [True] * bool(words)


# --- layout and identity


@pytest.mark.parametrize(
    ("copied", "chdir", "given", "expected"),
    [
        ({"/etc/a/wsgi.py": "model/wsgi.py"}, "", "wsgi:app", ("model", "wsgi", "")),
        ({"/etc/a/wsgi.py": "wsgi.py"}, "/etc/a/", "wsgi:app", ("", "wsgi", "")),
        ({"/etc/a/wsgi.py": "model/wsgi.py"}, "", "/etc/a/wsgi:app", ("model", "wsgi", "")),
        ({"/etc/a/pkg/wsgi.py": "pkg/wsgi.py"}, "/etc/a/pkg", "wsgi:app", ("", "pkg.wsgi", "pkg")),
        (
            {"/etc/a/pkg/wsgi.py": "src/pkg/wsgi.py"},
            "/etc/a/pkg",
            "wsgi:app",
            ("src", "pkg.wsgi", "pkg"),
        ),
        ({"/etc/a/pkg/wsgi.py": "pkg/wsgi.py"}, "", "pkg.wsgi:app", ("", "pkg.wsgi", "")),
        (
            {"/etc/a/wsgi.py": "pkg/wsgi.py", "/etc/a/pkg/wsgi.py": "pkg/wsgi.py"},
            "/etc/a/pkg",
            "",
            ("", "pkg.wsgi", "pkg"),
        ),
        ({"/etc/a/run.py": "pkg/run.py"}, "", "run:app", ("pkg", "run", "")),
        ({}, "", "", ("model", "wsgi", "")),
        ("/etc/a", "", "", ("", "model.wsgi", "")),
        ("/etc/a", "/etc/a/model", "wsgi:app", ("", "model.wsgi", "model")),
    ],
)
def test_where_the_code_lies(copied, chdir, given, expected, tmp_path):
    copied, clone = ({}, copied) if isinstance(copied, str) else (copied, "/tmp/a")
    for name in copied.values() or ["model/wsgi.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    found = Found(variables={"APP_LBL": "a"}, clone=clone)
    found.files = {path: Source(NO_LINE, inside=name) for path, name in copied.items()}
    layout = Layout(Clone(tmp_path), found, chdir, given)
    assert (layout.subdir, layout.module, layout.start) == expected


@pytest.mark.parametrize(
    ("name", "words", "asked"),
    [
        ("section-ranker.wmcloud.org", ["rank-sections"], False),
        ("titles.wmcloud.org", ["main", "https://git.example.org/me/titles-api.git"], False),
        ("mwparserfromhtml.wmcloud.org", ["html-parsing"], False),
        ("wordparser.wmcloud.org", ["main", "wordparser"], False),
        ("misalignment.wmcloud.org", ["quality-article", "/api/v1/quality"], True),
        ("search-api.wmcloud.org", ["ref-check"], True),
    ],
)
def test_the_name_of_another_app_is_asked_about(name, words, asked):
    notes = Notes()
    identity.ask_for_names([name], words, notes)
    assert [note.text for note in notes.found] == [name] * asked


@pytest.mark.parametrize(
    ("head", "scripted", "known", "taken"),
    [
        ("topics", "topics", [], "topics"),
        ("topics", "words", [], "topics"),
        ("main", "words", [], "words"),
        ("main", "words", ["main", "words"], "words"),
        ("main", "words", ["main", "topics"], "main"),
        ("main", "", [], "main"),
        ("", "", [], "HEAD"),
    ],
)
def test_the_branch_is_the_one_that_was_read(head, scripted, known, taken, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text(f"ref: refs/heads/{head}\n" if head else "0123\n")
    (tmp_path / ".git" / "packed-refs").write_text(
        "".join(f"0123 refs/remotes/origin/{name}\n" for name in known)
    )
    notes = Notes()
    _, branch = identity.source(Clone(tmp_path), Found(branch=scripted), notes)
    assert branch == taken
    assert len(notes.found) == (scripted not in ("", head))


# --- the endpoint's folder


SETUP = """\
APP_LBL=topic-api
git clone -b prod https://bot:hunter22@git.example.org/us/topic.git /tmp/topic
cp -a /tmp/topic/src/. /etc/${APP_LBL}/
%s
"""
UNIT = """\
[Service]
WorkingDirectory=/etc/${APP_LBL}
Environment="TOPIC_LANG=en" OMP_NUM_THREADS=1
ExecStart=/opt/venv/bin/gunicorn -w 3 --threads=2 -t 120 -b unix:/srv/sock topics.web:application
MemoryMax=6G
"""
SITE = """
server { server_name topic.example.org; client_max_body_size 20m;
         location / { proxy_pass http://unix:/srv/sock; } }
"""


@pytest.mark.parametrize(
    ("files", "steps"),
    [
        (
            {
                "conf/topic.service": UNIT.replace("${APP_LBL}", "topic-api"),
                "conf/topic.nginx": SITE,
            },
            "",
        ),
        (
            {
                "topic.service": UNIT.replace("${APP_LBL}", "topic-api"),
                "nginx.conf": SITE,
                "other.conf": "x = 1\n",
            },
            "",
        ),
        (
            {},
            f"cat > /etc/systemd/system/topic.service <<UNIT\n{UNIT}UNIT\n"
            f"sudo tee /etc/nginx/sites-available/topic <<-'EOF' >/dev/null\n{SITE}\tEOF\n",
        ),
        (
            {"model.nginx": SITE, "topic.service": UNIT.replace("${APP_LBL}", "topic-api")},
            "cat > /etc/logrotate.d/rotate.conf <<EOF\nweekly\nEOF",
        ),
        ({"model.nginx": SITE}, f"cat <<EOF >/etc/systemd/system/topic.service\n{UNIT}EOF"),
    ],
)
def test_settings_of_any_name_and_in_the_script_itself(files, steps, tmp_path):
    code = {
        "src/topics/__init__.py": "",
        "src/topics/web.py": "application = None\n",
        "requirements.txt": "flask\n",
    }
    for name, text in {**files, **code, "setup.sh": SETUP % steps}.items():
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clone" / name).write_text(text)
    text = imported(tmp_path / "clone", tmp_path)
    found = yaml.safe_load(text)
    assert {
        "api_endpoint_server_names": ["topic.example.org"],
        "api_endpoint_max_body_size": "20m",
        "api_endpoint_memory_limit": "6G",
        "api_endpoint_app_subdir": "src",
        "api_endpoint_wsgi": "topics.web:application",
        "api_endpoint_workers": 3,
        "api_endpoint_threads": 2,
        "api_endpoint_timeout": 120,
        "api_endpoint_environment": {"TOPIC_LANG": "en", "OMP_NUM_THREADS": "1"},
    }.items() <= found.items()
    assert found["api_endpoint_artifacts"] == []
    assert "There is no translation" not in text
    assert text.count("This writes a file") == steps.count("rotate.conf")
    assert (
        "# - api_endpoint_git_url\n#     It has a password or token in plain text. Move it to Ansible Vault"
        in text
    )


@pytest.mark.parametrize(
    ("line", "is_noted"),
    [
        ("echo '0 3 * * * root /etc/x/refresh.sh' > /etc/cron.d/refresh", True),
        ("printf 'a' >> /etc/x/settings.ini", True),
        ("cat > /etc/x/settings.yaml <<EOF\nrm: -rf\nEOF", True),
        ("echo done", False),
        ("echo 'a > b' >&2", False),
        ("echo done > /dev/null", False),
    ],
)
def test_a_file_that_the_script_writes_is_noted(line, is_noted):
    notes = Notes()
    Script(Found(), notes, lambda _path: []).follow(line, "setup.sh")
    assert ["This writes a file" in note.why for note in notes.found] == [True] * is_noted


def test_it_makes_an_endpoint_like_a_new_one(tmp_path, capsys):
    clone = clone_of("several", tmp_path)
    assert import_template.main([str(clone), "--endpoints", str(tmp_path / "endpoints")]) == 0
    endpoint = tmp_path / "endpoints" / "several-api"
    inventory = yaml.safe_load((endpoint / "inventory.yml").read_text())
    assert list(inventory["api_endpoints"]["hosts"]) == ["several-api"]
    variables = yaml.safe_load((endpoint / "host_vars" / "several-api.yml").read_text())
    assert refused(variables | {"api_endpoint_artifacts": []}) == []
    (own,) = [one for one in variables["api_endpoint_artifacts"] if "src" in one]
    assert own == {
        "dest": "resources/stopwords.txt",
        "src": "{{ inventory_dir }}/files/resources/stopwords.txt",
    }
    assert (endpoint / "files" / "resources" / "stopwords.txt").read_text() == "the\n"
    assert f"-i {endpoint}/inventory.yml" in capsys.readouterr().out
    assert list((tmp_path / "endpoints").iterdir()) == [endpoint]
    subprocess.run(
        ["yamllint", "--strict", "-c", PROJECT / ".yamllint", endpoint], cwd=PROJECT, check=True
    )
    with pytest.raises(SystemExit):
        import_template.main([str(clone), "--endpoints", str(tmp_path / "endpoints")])
    assert "is not overwritten" in capsys.readouterr().err
