"""A failure begins with one line: place, exception, remedy; and its traceback is folded to the app's own frames."""

import pytest
from ansible.module_utils.api_endpoint.release.failures import explain, folded

RELEASE = "/var/lib/api-endpoint/releases/0123456789ab"
PACKAGES = "/var/lib/api-endpoint/venvs/76b1a58adec9b6a4/lib/python3.13/site-packages"
GUNICORN = "".join(
    f'  File "{PACKAGES}/gunicorn/{name}.py", line {number}, in load\n    step()\n    ~~~~^^\n'
    for number, name in enumerate(("app/base", "arbiter", "util"), 1)
)
PYTHON = '  File "<frozen importlib._bootstrap>", line 1387, in _gcd_import\n'
MODEL = f'  File "{RELEASE}/model.py", line 2, in <module>\n    '


def log(error, code="load()", frames=""):
    """Return a journal with a traceback through gunicorn and the app's model.py."""
    wsgi = f'  File "{RELEASE}/wsgi.py", line 1, in <module>\n    import model\n'
    return (
        "Starting api-endpoint@green.service ...\nTraceback (most recent call last):\n"
        f"{GUNICORN}{PYTHON}{wsgi}{PYTHON}{MODEL}{code}\n    ^^^^\n{frames}{error}\nMain process exited, status=1/FAILURE\n"
    )


# What Python says, the line of code, and what the first line of a message ends with.
KINDS = [
    ("ModuleNotFoundError: No module named 'pandas'", "import pandas as pd",
     "model.py line 2: No module named 'pandas'. Add it to app/requirements.txt."),
    ("ModuleNotFoundError: No module named 'sklearn'", "", "Add scikit-learn to app/requirements.txt."),
    ("ModuleNotFoundError: No module named 'cv2'", "", "Add opencv-python-headless to app/requirements.txt."),
    ("ModuleNotFoundError: No module named 'google.protobuf'", "", "Add protobuf to app/requirements.txt."),
    ("ModuleNotFoundError: No module named 'helper.words'", "",
     "See that the file is there, and not in api_endpoint_app_exclude."),
    ("ModuleNotFoundError: No module named 'imp'", "", "This Python no longer has that module. Update the package that "
     "imports it, or set api_endpoint_python."),
    ("ModuleNotFoundError: No module named 'numpy._core'", "", "Pin numpy in app/requirements.txt."),
    ("ImportError: cannot import name 'Flaskk' from 'flask' (/x/flask/__init__.py). Did you mean: 'Flask'?", "",
     "flask 3.1.2 has no such name. Pin a version that fits in app/requirements.txt."),
    ("ImportError: cannot import name 'words' from 'helper' (/x/helper/__init__.py)", "",
     "The app's own helper has no such name."),
    ("AttributeError: module 'flask' has no attribute 'Flak'", "",
     "flask 3.1.2 has no such name. Pin a version that fits in app/requirements.txt."),
    (f"FileNotFoundError: [Errno 2] No such file or directory: '{RELEASE}/data/model.bin'", "open(PATH)",
     "model.py line 2: FileNotFoundError: [Errno 2] No such file or directory: 'data/model.bin'. "
     "List it in api_endpoint_artifacts with `dest: data/model.bin`."),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/mnt/model.bin'", "open(PATH)",
     "Let the app look beside its own file, and list the data in api_endpoint_artifacts."),
    ("FileNotFoundError: [Errno 2] No such file or directory: '/home/ada/model.bin'", "open(PATH)",
     "The app looks into a home folder, which the sandbox hides. List the file in api_endpoint_artifacts."),
    ("KeyError: 'HF_TOKEN'", 'TOKEN = os.environ["HF_TOKEN"]',
     "Set HF_TOKEN in api_endpoint_environment; a secret, in api_endpoint_secrets."),
    ("KeyError: 'word'", 'VECTORS["word"]', "model.py line 2: KeyError: 'word'."),
    (f"OSError: [Errno 30] Read-only file system: '{RELEASE}/cache.txt'", "open(PATH, 'w')",
     "A single file cannot be replaced or rotated: that needs the folder."),
    ("PermissionError: [Errno 1] Operation not permitted", "os.sched_setaffinity(0, {0})",
     'Set api_endpoint_service_settings: {SystemCallFilter: "@resources"}.'),
    ("ImportError: libGL.so.1: cannot open shared object file: No such file or directory", "",
     "Name libgl1 in api_endpoint_apt_packages; or use opencv-python-headless."),
    ("AttributeError: Can't get attribute 'Tokenizer' on <module '__main__' from '/x/bin/gunicorn'>", "",
     "Move Tokenizer into a module of the app, and save the model again."),
    ("_pickle.UnpicklingError: invalid load key, 'v'.", "", "On this computer: `git lfs pull`. Then deploy again."),
    ("sqlite3.OperationalError: no such table: words", "", "List it in api_endpoint_artifacts."),
    ("ValueError", "", "model.py line 2: ValueError."),
    ("json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)", "",
     "model.py line 2: JSONDecodeError: Expecting value: line 1 column 1 (char 0)."),
]  # fmt: skip


@pytest.fixture
def release(tmp_path):
    """A release's folder: an app with a package of its own, a virtualenv with Flask."""
    (tmp_path / "helper").mkdir()
    (tmp_path / "p3env/lib/python3.13/site-packages/flask-3.1.2.dist-info").mkdir(parents=True)
    (tmp_path / "wsgi.py").write_text("from flask import Flask\napp = Flask(__name__)\n")
    return tmp_path


@pytest.mark.parametrize(("error", "code", "told"), KINDS, ids=[kind[0][:50] for kind in KINDS])
def test_the_first_line(release, error, code, told):
    line = explain(log(error, code or "load()"), release, "app/requirements.txt").line
    assert line.startswith("model.py line 2: ")
    assert line.endswith(told)
    assert "\n" not in line
    assert RELEASE not in line


def test_a_syntax_error_has_its_file_and_line(release):
    frames = f'  File "{RELEASE}/lib/model.py", line 9\n    def f(:\n          ^\n'
    assert explain(log("SyntaxError: invalid syntax", frames=frames), release).line == (
        "lib/model.py line 9: SyntaxError: invalid syntax. Correct it. "
        "On this computer `python3 -m py_compile lib/model.py` finds it too."
    )


def test_a_module_without_the_app(release):
    said = "gunicorn.errors.AppImportError: Failed to find attribute 'application' in 'wsgi'."
    text = f"Traceback (most recent call last):\n{GUNICORN}{said}\n"
    assert explain(text, release).line == (
        "wsgi.py has no 'application'. Set api_endpoint_wsgi: wsgi:app."
    )
    (release / "wsgi.py").write_text("import model\n")
    assert "Give the app that name there" in explain(text, release).line


def test_a_log_without_a_traceback_explains_nothing(release):
    assert explain("Starting ...\nkilled\n", release) is None
    # Cut off: its exception is not there.
    assert explain(f"Traceback (most recent call last):\n{GUNICORN}", release) is None


def test_an_app_that_ends_by_itself_has_the_last_word(release):
    systemds = "api-endpoint@green.service: Main process exited, code=exited, status=1/FAILURE\n"
    begin = "Starting api-endpoint@green.service - api-endpoint, slot green...\n"
    text = f"{begin}loading\nNo GPU, no service\n{systemds}Failed to start api-endpoint@green.service.\n"
    assert explain(text, release).line == "It ended by itself, and said last: No GPU, no service."
    assert explain(begin + systemds, release) is None


def test_frames_that_are_not_the_apps_are_folded(release):
    json = '  File "/usr/lib/python3.13/json/decoder.py", line 345, in decode\n    end()\n'
    pandas = f'  File "{PACKAGES}/pandas/io.py", line 7, in read\n    raise ValueError\n'
    trace = explain(log("ValueError: x", frames=json + pandas), release).trace
    assert trace == [
        "Traceback (most recent call last):",
        "  … 4 frames of gunicorn and Python",
        '  File "wsgi.py", line 1, in <module>',
        "    import model",
        "  … 1 frame of Python",
        '  File "model.py", line 2, in <module>',
        "    load()",
        "  … 1 frame of Python",
        '  File "pandas/io.py", line 7, in read',
        "    raise ValueError",
        "ValueError: x",
    ]


@pytest.mark.parametrize("blank", ["\n", ""], ids=["as written", "as the journal has it"])
def test_what_was_caught_first_gives_the_remedy(release, blank):
    first = (
        "Traceback (most recent call last):\n"
        + MODEL
        + "import six\nModuleNotFoundError: No module named 'six'\n"
    )
    between = f"{blank}During handling of the above exception, another exception occurred:\n{blank}"
    found = explain(first + between + log("RuntimeError: no six").partition("\n")[2], release)
    assert found.line == (
        "model.py line 2: RuntimeError: no six. It began with model.py line 2: No module named 'six'. "
        "Add it to requirements.txt."
    )
    assert [line for line in found.trace if not line.startswith(" ")] == [
        "Traceback (most recent call last):", "ModuleNotFoundError: No module named 'six'",
        "Traceback (most recent call last):", "RuntimeError: no six",
    ]  # fmt: skip


def test_the_last_traceback_with_the_apps_frames_counts(release):
    gunicorns = f"Traceback (most recent call last):\n{GUNICORN}SystemExit: 1\n"
    text = log("KeyError: 'a'") + log("KeyError: 'b'") + gunicorns
    assert explain(text, release).line == "model.py line 2: KeyError: 'b'."


def test_a_log_shows_each_traceback_once(release):
    one, other = log("KeyError: 'a'"), log("KeyError: 'b'")
    text = folded(one + one + other)
    assert text.count("KeyError: 'a'") == text.count("KeyError: 'b'") == 1
    assert text.count("Main process exited") == 3
    assert "KeyError: 'b'" not in folded(one + other, explain(other, release))


def test_lines_that_differ_in_their_times_alone_are_counted():
    said = "ERROR in app: Exception on / [GET]"
    lines = [f"[2026-12-01 12:56:{second},555] {said}" for second in range(10, 40)]
    text = "".join(
        f"{line}\n{log('KeyError: 1').partition(chr(10))[2].rpartition('Main')[0]}"
        for line in lines
    )
    counted = folded(text).splitlines()
    assert sum(said in line for line in counted) == 2
    assert counted[-1] == f"{lines[-1]} (29 times)"


@pytest.mark.parametrize(
    ("error", "code", "is_lasting"),
    [
        ("ModuleNotFoundError: No module named 'six'", "", True),
        ("KeyError: 'TOKEN'", 'os.environ["TOKEN"]', True),
        (f"OSError: [Errno 30] Read-only file system: '{RELEASE}/a'", "", True),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "", False),
        ("AttributeError: 'NoneType' object has no attribute 'predict'", "", False),  # a thread loads the model
        ("NameError: name 'MODEL' is not defined", "", False),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'model.bin'", "", False),  # is being downloaded
    ],
)  # fmt: skip
def test_what_waiting_cannot_change(release, error, code, is_lasting):
    assert explain(log(error, code or "load()"), release).is_lasting == is_lasting
