"""Requirements as people write them: each spelling reaches pip, or is refused with file, line and remedy."""

import json
import sys
import zipfile

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import requirements
from ansible.module_utils.api_endpoint.release.requirements import Plan, choose, decode, read
from ansible.module_utils.api_endpoint.release.source import lay_out

HASH = "--hash=sha256:" + "0" * 64
PIN = "gunicorn==27.0.1"
GIT = "git+https://git.example.org/them/lib.git@v1#egg=lib"


@pytest.fixture
def app(tmp_path):
    """A folder of the laptop with an app, some of its own packages, and one that is beside it."""
    app = tmp_path / "app"
    for folder in ("wheels", "my wheels", "lib", "lib/inner", "plain", "model"):
        (app / folder).mkdir(parents=True)
    (app / "wsgi.py").write_text("app = None\n")
    (app / "model" / "wsgi.py").write_text("app = None\n")
    for folder in ("wheels", "my wheels"):
        with zipfile.ZipFile(app / folder / "mylib-1.0+cpu-py3-none-any.whl", "w"):
            pass
    (app / "local-2.0.tar.gz").write_bytes(b"")
    (app / "lib" / "pyproject.toml").write_text('[project]\nname = "My.Lib"\n')
    (app / "setup.py").write_text("")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "setup.py").write_text("")
    (app / "outside").symlink_to(tmp_path / "beside")
    return app


def plan_of(app, text, file="requirements.txt", **more):
    (app / file).parent.mkdir(exist_ok=True)
    (app / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(app, wanted=file, **more)


def texts(lines):
    return [line.text for line in lines]


TEXT = "Flask==3.0.3\r\n# a comment\r\nnumpy <2 ; python_version > '3'\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.encode("utf-8-sig"),
        TEXT.encode("utf-16"),  # PowerShell's pip freeze > requirements.txt
        b"\xff\xfe" + TEXT.encode("utf-16-le"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("a comment", "schöne Grüße").encode("cp1252"),
        TEXT.replace("a comment", "schöne Grüße \x81").encode("latin-1"),
        TEXT.replace("\r\n", "\n").encode(),
        TEXT.replace("\r\n", "\r").encode(),
        TEXT.strip().encode(),
        (TEXT + "\x1a").encode(),
        TEXT.replace(" <", "\u00a0\u202f<").replace("'", "\u2019").encode(),
        TEXT.replace("Flask", "\u200bFlask").encode(),
        TEXT.replace("Flask", " \tFlask").encode(),
        TEXT.replace("<2 ", "\\\r\n   <2 \\\r\n ").encode(),
        TEXT.replace("3.0.3", "3.0.3  # via -r requirements.in").encode(),
    ],
)
def test_any_encoding_and_line_ending(app, content):
    assert [" ".join(text.split()) for text in texts(plan_of(app, content).requirements)] == [
        "Flask==3.0.3",
        "numpy <2 ; python_version > '3'",
    ]


def test_the_number_of_a_line_is_that_of_its_beginning(app):
    plan = plan_of(
        app, f"# one\n\nflask==3 \\\n    {HASH} \\\n    {HASH}\n    # via\n    #   x\nnumpy\n"
    )
    assert [(line.name, line.where) for line in plan.requirements] == [
        ("flask", "requirements.txt, line 3"),
        ("numpy", "requirements.txt, line 8"),
    ]
    assert plan.requirements[0].text.count("--hash") == 2


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("-r more/base.txt", ["pyyaml", "torch"]),
        ("-rmore/base.txt", ["pyyaml", "torch"]),
        ("-r=more/base.txt", ["pyyaml", "torch"]),
        ("-r  more/base.txt  # all of it", ["pyyaml", "torch"]),
        ('-r "more/base.txt"', ["pyyaml", "torch"]),
        ("-r more\\base.txt", ["pyyaml", "torch"]),
        ("--requirement more/base.txt", ["pyyaml", "torch"]),
        ("--requirement=more/base.txt", ["pyyaml", "torch"]),
        ("--requirement='./more/../more/base.txt'", ["pyyaml", "torch"]),
        ("--requirem more/base.txt", ["pyyaml", "torch"]),
        ("-r more/base.txt -r more/base.txt", ["pyyaml", "torch"]),
        ("-e " + GIT, [GIT]),
        ("-e" + GIT, [GIT]),
        ("--editable " + GIT, [GIT]),
        ("--editable=" + GIT, [GIT]),
        (f'-e "{GIT}"', [GIT]),
        (f"-e {GIT} ; python_version > '3'", [f"{GIT} ; python_version > '3'"]),
        ("lib @ " + GIT, ["lib @ " + GIT]),
        (
            "https://example.org/x-1.0-py3-none-any.whl",
            ["https://example.org/x-1.0-py3-none-any.whl"],
        ),
        ("git+ssh://git@example.org/a/b.git", ["git+ssh://git@example.org/a/b.git"]),
        ("uvicorn[standard]>=0.20", ["uvicorn[standard]>=0.20"]),
        ("fasttext --config-settings=--build=x", ["fasttext --config-settings=--build=x"]),
        ("pkg-resources==0.0.0", []),  # Ubuntu's pip freeze
        # They hold on no host.
        ("x @ file:///C:/x-1.0-py3-none-any.whl ; sys_platform == 'win32'", []),
        ("./nothing ; platform_system == 'Darwin'", []),
        ("-e C:\\lib ; os_name == 'nt'", []),
        ("pywin32==306 ; sys_platform == 'win32'", ["pywin32==306 ; sys_platform == 'win32'"]),
        ("\u2014requirement more/base.txt", ["pyyaml", "torch"]),  # as word processors have it
        ("lib", ["lib"]),  # a name, though a folder has it too
    ],
)
def test_lines_of_every_spelling(app, line, wanted):
    (app / "more").mkdir()
    (app / "more" / "base.txt").write_text("pyyaml\n-r deeper/torch.txt\n")
    (app / "more" / "deeper").mkdir()
    (app / "more" / "deeper" / "torch.txt").write_text("torch\n-r ../../requirements.txt\n")
    plan = plan_of(app, f"{line}\n")
    assert texts(plan.requirements) == wanted
    assert choose(plan, [], [], PIN).problems == []


@pytest.mark.parametrize(
    "line", ["-c limits.txt", "-climits.txt", "--constraint=limits.txt", "--constraint limits.txt"]
)
def test_constraints(app, line):
    (app / "limits.txt").write_text("numpy<2\n-r more.txt\ngunicorn==20.1.0\n")
    (app / "more.txt").write_text("scipy<2\n")
    choice = choose(plan_of(app, f"{line}\nflask\n"), [], [], PIN)
    assert texts(choice.requirements) == ["flask"]
    assert texts(choice.constraints) == ["numpy<2", "scipy<2"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("--index-url https://example.org/simple", ["--index-url https://example.org/simple"]),
        ("-i https://example.org/simple", ["--index-url https://example.org/simple"]),
        ("--extra-index-url=https://example.org/s", ["--extra-index-url https://example.org/s"]),
        (
            "-i https://a.org/s --extra-index-url https://b.org/s",
            ["--index-url https://a.org/s", "--extra-index-url https://b.org/s"],
        ),
        ("--pre", ["--pre"]),
        ("--prefer-binary --no-binary :all:", ["--prefer-binary", "--no-binary :all:"]),
        ("--only-binary=numpy,scipy", ["--only-binary numpy,scipy"]),
        ("--trusted-host example.org", ["--trusted-host example.org"]),
        ("--use-feature=fast-deps", ["--use-feature fast-deps"]),
        ("-f https://example.org/wheels.html", ["--find-links https://example.org/wheels.html"]),
        ("-r https://example.org/r.txt", ["--requirement https://example.org/r.txt"]),
        ("--of-a-newer-pip x", ["--of-a-newer-pip x"]),
        ("--find-links wheels", ["--find-links @LOCAL@/app/wheels"]),
        ("--find-links=./wheels/", ["--find-links @LOCAL@/app/wheels"]),
        ("-fwheels", ["--find-links @LOCAL@/app/wheels"]),
        ("-f 'my wheels'", ["--find-links '@LOCAL@/app/my wheels'"]),
        ("-f .\\wheels", ["--find-links @LOCAL@/app/wheels"]),
        ("--no-index --find-links wheels", ["--find-links @LOCAL@/app/wheels", "--no-index"]),
        ("--no-index", ["--no-index"]),
        ("--find-links {app}/wheels", ["--find-links @LOCAL@/app/wheels"]),
        ("--find-links file://{app}/wheels", ["--find-links @LOCAL@/app/wheels"]),
    ],
)
def test_options_in_the_file(app, line, wanted):
    plan = plan_of(app, f"{line.format(app=app)}\nflask\n")
    assert texts(plan.options) == wanted
    assert choose(plan, [], [], PIN).problems == []


@pytest.mark.parametrize(
    ("line", "text", "name"),
    [
        (
            "wheels/mylib-1.0+cpu-py3-none-any.whl",
            "@LOCAL@/app/wheels/mylib-1.0+cpu-py3-none-any.whl",
            "mylib",
        ),
        (
            "./wheels/mylib-1.0+cpu-py3-none-any.whl[x]",
            "@LOCAL@/app/wheels/mylib-1.0+cpu-py3-none-any.whl[x]",
            "mylib",
        ),
        (
            "wheels\\mylib-1.0+cpu-py3-none-any.whl",
            "@LOCAL@/app/wheels/mylib-1.0+cpu-py3-none-any.whl",
            "mylib",
        ),
        ("local-2.0.tar.gz", "@LOCAL@/app/local-2.0.tar.gz", "local"),
        (
            "local-2.0.tar.gz ; python_version > '3'",
            "@LOCAL@/app/local-2.0.tar.gz ; python_version > '3'",
            "local",
        ),
        ("local-2.0.tar.gz " + HASH, "@LOCAL@/app/local-2.0.tar.gz " + HASH, "local"),
        ("file:local-2.0.tar.gz", "@LOCAL@/app/local-2.0.tar.gz", "local"),
        ("local @ file:./local-2.0.tar.gz", "local @ file://@LOCAL@/app/local-2.0.tar.gz", "local"),
        (
            "local @ file://{app}/local-2.0.tar.gz",
            "local @ file://@LOCAL@/app/local-2.0.tar.gz",
            "local",
        ),
        (
            "local @ file://${{PROJECT_ROOT}}/local-2.0.tar.gz",
            "local @ file://@LOCAL@/app/local-2.0.tar.gz",
            "local",
        ),
        (
            "mylib[x] @ file://{app}/my%20wheels/mylib-1.0+cpu-py3-none-any.whl#sha256=00",
            "mylib[x] @ file://@LOCAL@/app/my%20wheels/mylib-1.0%2Bcpu-py3-none-any.whl#sha256=00",
            "mylib",
        ),
        ("{app}/local-2.0.tar.gz", "@LOCAL@/app/local-2.0.tar.gz", "local"),
        ("-e .", "@LOCAL@/app", "app"),
        ("-e .[dev]", "@LOCAL@/app[dev]", "app"),
        (".", "@LOCAL@/app", "app"),
        ("-e ./lib", "@LOCAL@/app/lib", "my-lib"),
        ("-e lib", "@LOCAL@/app/lib", "my-lib"),
        ("--editable=lib/", "@LOCAL@/app/lib", "my-lib"),
        ("-e file://{app}/lib", "@LOCAL@/app/lib", "my-lib"),
        ("./lib", "@LOCAL@/app/lib", "my-lib"),
        ("my.lib @ ./lib", "my.lib @ file://@LOCAL@/app/lib", "my-lib"),
    ],
)
def test_what_lies_in_the_app_is_carried_along(app, line, text, name):
    plan = plan_of(app, line.format(app=app) + "\n")
    assert [(found.text, found.name) for found in plan.requirements] == [(text, name)]
    assert choose(plan, [], [], PIN).problems == []


def test_a_path_is_looked_for_beside_its_file_and_then_from_the_top(app):
    (app / "requirements").mkdir()
    (app / "requirements" / "near-1.0.zip").write_text("")
    plan = plan_of(app, "./near-1.0.zip\n./local-2.0.tar.gz\n../lib\n", "requirements/prod.txt")
    assert [line.local for line in plan.requirements] == [
        "app/requirements/near-1.0.zip",
        "app/local-2.0.tar.gz",
        "app/lib",
    ]


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        (
            "numpy @ file:///croot/numpy_1707/dist/numpy-1.26.4-cp311-cp311-linux_x86_64.whl",
            "pip list --format=freeze",
        ),
        ("certifi @ file:///croot/certifi_1707/work/certifi", "Write certifi==VERSION instead"),
        (
            "x @ file:///home/conda/feedstock_root/build_artifacts/x_1/work",
            "pip list --format=freeze",
        ),
        ("numpy=1.26.4=py311h64a7726_0", "conda's notation"),
        ("numpy=1.26.4", "conda's notation"),
        ("wheels/other-1.0-py3-none-any.whl", "Write other==1.0 instead"),
        ("other-1.0-py3-none-any.whl", "Write other==1.0 instead"),
        ("C:\\Users\\me\\other-1.0-py3-none-any.whl", "Write other==1.0 instead"),
        ("C:/Users/me/lib", "path of the laptop"),
        ("\\\\server\\share\\other-1.0.zip", "Write other==1.0 instead"),
        ("file:///C:/Users/me/other-1.0-py3-none-any.whl", "Write other==1.0 instead"),
        ("other @ file:///C:/Users/me/lib", "Write other==VERSION instead"),
        ("/home/me/lib", "path of the laptop"),
        ("~/lib", "path of the laptop"),
        ("../beside", "path of the laptop"),
        ("-e ../beside", "path of the laptop"),
        ("-e ~/beside", "path of the laptop"),
        ("-e outside", "path of the laptop"),  # a link that leads out
        ("-e git+file:///home/me/lib#egg=lib", "path of the laptop"),
        ("git+file://{app}/lib#egg=lib", "path of the laptop"),
        ("-e ./plain", "neither pyproject.toml nor setup.py"),
        ("http://localhost:8000/x-1.0.zip", "server on the laptop"),
        ("x @ https://127.0.0.1/x-1.0.zip", "server on the laptop"),
        ("-e git@example.org:a/b.git", "Write git+ssh://"),
        ("-e git+git@example.org:a/b.git#egg=b", "Write git+ssh://"),
        ("b @ git+ssh://git@example.org:a/b.git", "Write git+ssh://"),
        ("-f plain", "no folder with packages"),  # such as one that git ignores the packages of
        ("-f nowhere", "no folder with packages"),
        ("--find-links=/home/me/wheels", "no folder with packages"),
        ("--find-links ~/wheels", "no folder with packages"),
        ("-f ../beside", "no folder with packages"),
        ("-f file:///home/me/wheels", "no folder with packages"),
        ("-f local-2.0.tar.gz", "no folder with packages"),
        ("--no-index -f C:\\wheels", "no folder with packages"),
        ("-i file:///home/me/simple", "place of the laptop"),
        ("--extra-index-url http://localhost:3141/root/pypi", "place of the laptop"),
        ("--index-url=simple", "place of the laptop"),
        ("-r http://localhost/r.txt", "place of the laptop"),
        ("-c elsewhere.txt", "path of the laptop"),  # what is in it
        ("git+https://${{TOKEN}}@example.org/a/b.git", "api_endpoint_pip_packages"),
        (
            "--extra-index-url https://me:${{TOKEN}}@example.org/simple",
            "api_endpoint_pip_extra_index_urls",
        ),
        ("hg+https://me:hunter22@example.org/a", "Use git+https"),
        ("-e git+https://me:x/hunter22@example.org/a", "percent-encoded"),
        ("--extra-index-url https://me:x/hunter22@example.org/a", "percent-encoded"),
    ],
)
def test_a_name_of_the_laptop_is_refused_with_file_line_and_remedy(app, line, remedy):
    (app / "elsewhere.txt").write_text("x @ file:///home/me/x\n")
    plan = plan_of(app, f"flask\n{line.format(app=app)}\n")
    (problem,) = choose(plan, [], [], PIN).problems
    assert problem.startswith(("requirements.txt, line 2: ", "elsewhere.txt, line 1: "))
    assert remedy in problem
    assert "hunter22" not in problem


def test_a_file_that_is_not_there_is_refused_by_the_line_that_names_it(app):
    with pytest.raises(
        DeployError,
        match=r"file more\.txt does not exist in the code \(requirements\.txt, line 2\)",
    ):
        plan_of(app, "flask\n-r more.txt\n")


@pytest.mark.parametrize("given", [{"exclude": ["Numpy"]}, {"packages": ["numpy==1.26.4"]}])
def test_a_line_that_the_user_takes_out_or_replaces_is_no_problem(app, given):
    plan = plan_of(app, "flask\nnumpy @ file:///croot/numpy\n")
    choice = choose(plan, given.get("exclude", []), given.get("packages", []), PIN)
    assert choice.problems == []
    assert texts(choice.requirements) == ["flask"]


@pytest.mark.parametrize(
    ("line", "server", "note"),
    [
        ("gunicorn==20.1.0", PIN, "'gunicorn==20.1.0'"),
        ("Gunicorn == 19.9.0  # old", PIN, "'Gunicorn == 19.9.0'"),
        ("gunicorn>=20,<22", PIN, "'gunicorn>=20,<22'"),
        ("gunicorn~=21.2", PIN, "'gunicorn~=21.2'"),
        ("gunicorn<23 ; python_version > '3'", PIN, "gunicorn<23"),
        (f"gunicorn==21.2.0 {HASH}", PIN, "'gunicorn==21.2.0'"),
        ("gunicorn[gevent]==20.1.0", "gunicorn[gevent]==27.0.1", "'gunicorn[gevent]==20.1.0'"),
        ("gunicorn[gevent, tornado]", "gunicorn[gevent,tornado]==27.0.1", None),
        ("gunicorn @ https://example.org/gunicorn-20.1.0.tar.gz", PIN, "gunicorn @"),
        ("https://example.org/gunicorn-20.1.0-py3-none-any.whl", PIN, "gunicorn-20.1.0"),
        ("-e git+https://example.org/benoitc/gunicorn.git#egg=gunicorn", PIN, "#egg=gunicorn"),
        (
            "-e git+https://example.org/benoitc/gunicorn.git@20.x#egg=gunicorn[gevent]",
            "gunicorn[gevent]==27.0.1",
            "@20.x",
        ),
        ("git+https://example.org/benoitc/gunicorn.git@20.x", PIN, "@20.x"),
        ("./wheels/gunicorn-20.1.0-py3-none-any.whl", PIN, "gunicorn-20.1.0"),
        ("gunicorn @ file:///croot/gunicorn_165", PIN, "gunicorn @"),
        ("gunicorn", PIN, None),
        ("gunicorn==27.0.1", PIN, None),
        ("flask", PIN, None),
    ],
)
def test_the_role_owns_the_server(app, line, server, note):
    choice = choose(
        plan_of(app, f"{line}\nnumpy {HASH}\n" if "--hash" in line else f"{line}\nnumpy\n"),
        [],
        [],
        PIN,
    )
    assert "gunicorn" not in {found.name for found in choice.requirements}
    assert choice.server == server
    assert choice.problems == []
    assert note in choice.note if note else choice.note == ""
    assert choice.note.count("\n") == 0


def test_the_users_own_server_wins(app):
    choice = choose(plan_of(app, "gunicorn[gevent]==20.1.0\n"), [], ["Gunicorn==26.1", "x"], PIN)
    assert choice.server == "Gunicorn[gevent]==26.1"
    assert choice.added == ["x"]


@pytest.mark.parametrize(
    "line",
    [
        "pip install numpy", "!pip install numpy", "conda install numpy", "import numpy", "numpy 1.26", "numpy, scipy",
        "numpy scipy", "- numpy", "* numpy", "numpy => 1.26", "numpy \u2265 1.26", "numpy^1.26", "numpy: 1.26", "numpy==",
        "numpy@1.26", "numpy @ latest",
        "numpy==1.26 (the last)", "[packages]", "{", "<<<<<<< HEAD", "=======", "<!DOCTYPE html>",
        "version https://git-lfs.github.com/spec/v1",
    ],
)  # fmt: skip
@pytest.mark.parametrize("file", ["requirements.txt", "more.txt"])
def test_what_is_no_requirement_is_refused_with_its_own_line(app, line, file):
    (app / "more.txt").write_text("# ours\n\n" + line)
    text = f"# ours\n\n{line}\n" if file == "requirements.txt" else "-r more.txt\n"
    (problem,) = choose(plan_of(app, text), [], [], PIN).problems
    assert problem.startswith(f"{file}, line 3: ")
    assert "NAME==VERSION" in problem


@pytest.mark.parametrize(
    "line",
    [
        "numpy", "numpy==1.26.4", "numpy>=1,<2", "numpy >= 1.0 , != 1.5.* , < 2", "numpy (>=1,<2)", "numpy[a, b] ~= 1.26",
        "numpy===1.26.dev+local", "numpy<2;python_version<'3.99'", "numpy==1.26,", "numpy==2!1.0", "zope.interface>5",
        "pytz==2004d", "numpy == 1.26 ; python_version > '3'",
    ],
)  # fmt: skip
def test_versions_as_pip_reads_them(app, line):
    assert choose(plan_of(app, line), [], [], PIN).problems == []


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        ([f"flask==3 {HASH}", f"numpy==2 {HASH}"], []),
        ([f"flask==3 {HASH}", "numpy==2"], ["requirements.txt, line 2"]),
        ([f"flask==3 {HASH}", GIT, "./local-2.0.tar.gz"], ["requirements.txt, line 2"]),
        (
            [f"flask==3 {HASH}", "-e ./lib", "numpy==2"],
            ["requirements.txt, line 3"],
        ),  # of a workspace of uv's
        ([f"flask==3 {HASH}", "x @ https://example.org/x.zip#sha256=00"], []),
        ([f"flask==3 {HASH}", "numpy==2 ; sys_platform == 'win32'"], []),
        ([f"flask==3 {HASH}", "gunicorn==20.1.0"], []),
        (["--require-hashes", "flask==3"], ["requirements.txt, line 2"]),
        (["flask==3", "numpy==2"], []),
    ],
)
def test_all_lines_have_hashes_or_none(app, lines, refused):
    choice = choose(plan_of(app, "\n".join(lines)), [], [], PIN)
    assert [problem.partition(":")[0] for problem in choice.problems] == refused


POETRY = '[tool.poetry]\nname = "x"\n[tool.poetry.dependencies]\npython = "^3.11"\nflask = "^3"\n'
PROJECT = '[project]\nname = "x"\ndependencies = ["flask>=3", "gunicorn==20.1.0"]\n'
DYNAMIC = '[project]\nname = "x"\ndynamic = ["version", "dependencies"]\n'


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {},
            "`pip freeze > requirements.txt` writes one. An empty file says that the app needs nothing.",
        ),
        ({"pyproject.toml": "[tool.black]\n"}, "`pip freeze > requirements.txt`"),
        ({"pyproject.toml": POETRY}, "`poetry export --format requirements.txt"),
        ({"pyproject.toml": POETRY, "poetry.lock": ""}, "It has poetry.lock: `poetry export"),
        ({"pyproject.toml": PROJECT, "uv.lock": ""}, "`uv export "),
        ({"pyproject.toml": PROJECT + '[tool.uv.sources]\nx = { path = "../x" }\n'}, "`uv export "),
        (
            {"pyproject.toml": PROJECT + '[[tool.uv.index]]\nurl = "https://x.example.org"\n'},
            "`uv export ",
        ),
        ({"pyproject.toml": PROJECT + '[tool.uv]\nfind-links = ["wheels"]\n'}, "`uv export "),
        (
            {"pyproject.toml": PROJECT + '[tool.poetry.dependencies]\nflask = { path = "../x" }\n'},
            "`poetry export ",
        ),
        (
            {
                "pyproject.toml": PROJECT
                + '[tool.poetry.dependencies]\nflask = [{ git = "https://x" }]\n'
            },
            "`poetry export ",
        ),
        (
            {"pyproject.toml": PROJECT + '[[tool.poetry.source]]\nname = "ours"\n'},
            "`poetry export ",
        ),
        ({"pyproject.toml": PROJECT + '[[tool.pdm.source]]\nname = "ours"\n'}, "`pdm export "),
        (
            {"pyproject.toml": PROJECT + '[tool.pixi.dependencies]\npython = "*"\nnumpy = "*"\n'},
            "`pixi run ",
        ),
        (
            {
                "pyproject.toml": PROJECT
                + '[tool.pixi.pypi-dependencies]\nlib = { path = "./lib" }\n'
            },
            "`pixi run ",
        ),
        ({"pyproject.toml": PROJECT, "pdm.lock": ""}, "`pdm export "),
        ({"pyproject.toml": DYNAMIC}, "`echo . > requirements.txt`"),
        (
            {"pyproject.toml": '[project]\nname = "x"\n'},
            "dependencies = [] says that there are none",
        ),
        ({"Pipfile": ""}, "`pipenv lock && pipenv requirements"),
        (
            {"Pipfile": "", "Pipfile.lock": "{}"},
            "It has Pipfile.lock: `pipenv requirements > requirements.txt`",
        ),
        (
            {"environment.yml": ""},
            "`conda run --name NAME pip list --format=freeze > requirements.txt`",
        ),
        ({"environment.yaml": ""}, "`conda run "),
        ({"conda-lock.yml": ""}, "`conda run "),
        ({"pixi.lock": ""}, "`pixi run "),
        ({"setup.py": ""}, "`echo . > requirements.txt`"),
        ({"setup.cfg": ""}, "`echo . > requirements.txt`"),
        ({"requirements.in": "flask\n"}, "`pip-compile requirements.in`"),
        (
            {"requirements/dev.txt": "", "requirements/prod.txt": ""},
            "such as requirements/prod.txt",
        ),
        (
            {"requirements-gpu.txt": "", "requirements_prod.txt": ""},
            "such as requirements_prod.txt",
        ),
        ({"Requirements.txt": ""}, "such as Requirements.txt"),
        ({"reqs.txt": ""}, "Set api_endpoint_requirements_file to one of them"),
    ],
)
def test_without_a_requirements_file_the_command_that_makes_one_is_named(tmp_path, files, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    plan = read(tmp_path)
    (problem,) = choose(plan, [], [], PIN).problems
    assert problem.startswith("The code has no requirements.txt, which says what the app needs.")
    assert words in problem
    assert choose(plan, [], ["flask"], PIN).problems == []  # the variable is a choice by name


@pytest.mark.parametrize(
    ("files", "wanted", "lines"),
    [
        ({"requirements.txt": ""}, "", []),
        ({"requirements.txt": "# nothing\n", "poetry.lock": ""}, "", []),
        ({"pyproject.toml": '[project]\nname = "x"\ndependencies = []\n'}, "", []),
        ({"pyproject.toml": PROJECT}, "", ["flask>=3", "gunicorn==20.1.0"]),
        *(
            ({"pyproject.toml": PROJECT + more}, "", ["flask>=3", "gunicorn==20.1.0"])
            for more in (
                "[tool.uv]\npackage = false\n",
                '[tool.poetry]\npackage-mode = false\n[tool.poetry.dependencies]\nflask = { extras = ["async"] }\n',
                '[tool.pixi.dependencies]\npython = "*"\n[tool.pixi.pypi-dependencies]\nx = { path = "." }\n',
            )
        ),
        (
            {"pyproject.toml": PROJECT, "uv.lock": ""},
            "pyproject.toml",
            ["flask>=3", "gunicorn==20.1.0"],
        ),
        ({"requirements.in": "flask\n"}, "requirements.in", ["flask"]),
        (
            {"requirements/prod.txt": "-r base.txt\n", "requirements/base.txt": "x\n"},
            "requirements/prod.txt",
            ["x"],
        ),
    ],
)
def test_what_says_it_is_read(tmp_path, files, wanted, lines):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    plan = read(tmp_path, wanted=wanted)
    assert texts(plan.requirements) == lines
    assert choose(plan, [], [], PIN).problems == []


def test_a_file_of_another_tool_by_name_is_refused_with_its_command(tmp_path):
    (tmp_path / "environment.yml").write_text("name: x\n")
    (problem,) = choose(read(tmp_path, wanted="environment.yml"), [], [], PIN).problems
    assert "`conda run" in problem


def test_a_local_package_in_pyproject_is_the_one_that_is_installed(app):
    (app / "pyproject.toml").write_text(
        '[project]\nname = "x"\ndependencies = ["my-lib @ {root:uri}/lib"]\n'
    )
    assert texts(read(app).requirements) == ["my-lib @ file://@LOCAL@/app/lib"]


@pytest.mark.parametrize(
    ("files", "line", "remedy"),
    [
        (
            {"pyproject.toml": '[project]\nname = "Our.Api"\n'},
            "our_api==0.1.0",
            "write . to install it",
        ),  # pip list
        (
            {"pyproject.toml": '[tool.poetry]\nname = "our-api"\n'},
            "our-api",
            "write . to install it",
        ),
        (
            {"setup.cfg": "[metadata]\nname = our-api\n"},
            "our-api==0.1 ; python_version > '3'",
            "write . to install it",
        ),
        (
            {"setup.py": "from setuptools import setup\nsetup(name='our-api', version='1')\n"},
            "our-api",
            "write . to",
        ),
        (
            {"model/setup.py": 'setup(\n    name="our-api",\n)\n'},
            "our-api>=0",
            "write ./model to install it",
        ),
        (
            {"setup.py": "import setuptools as s; s.setup(name='our-api')\n"},
            "our-api",
            "write . to",
        ),
        (
            {"setup.py": "setup(name='our-api')\n"},
            "our-api @ git+https://git.example.org/us/api",
            "",
        ),
        ({"setup.py": "setup(name='our-api')\n"}, "./model/..", ""),
        ({"setup.py": "setup(name='our-api')\n"}, "our-api-client", ""),
    ],
)
def test_the_apps_own_name_is_not_looked_for_on_an_index(tmp_path, files, line, remedy):
    (tmp_path / "model").mkdir()
    for name, text in {**files, "requirements.txt": f"flask\n{line}\n"}.items():
        (tmp_path / name).write_text(text)
    plan = read(tmp_path, "model")
    problems = choose(plan, [], [], PIN).problems
    assert len(problems) == bool(remedy)
    assert all("requirements.txt, line 2" in problem and remedy in problem for problem in problems)
    assert choose(plan, [], [plan.requirements[1].name], PIN).problems == []


UV = '[project]\nname = "x"\ndependencies = ["{}"]\n[tool.uv.sources]\nour-lib = {}\ndev-only = {{ path = "../dev" }}\n'


@pytest.mark.parametrize(
    ("dependency", "source", "text", "missing"),
    [
        ("our_lib>=1", '{ path = "../our" }', "-e .", "our-lib"),
        ("our-lib", "{ workspace = true }", "flask\n./lib", "our-lib"),
        ("our-lib", '[{ git = "https://example.org/x" }]', ".", "our-lib"),
        ("our-lib", "{ workspace = true }", ".\nour-lib @ git+https://example.org/x.git", ""),
        ("our-lib", "{ workspace = true }", ".\n-e ./our", ""),
        ("our-lib", "{ workspace = true }", ".\nour-lib", "our-lib"),
        ("our-lib", '{ index = "pytorch" }', ".", ""),
        ("our-lib @ https://example.org/x.zip", '{ path = "../our" }', ".", ""),
        ("flask", '{ path = "../our" }', ".", ""),
    ],
)
def test_what_a_package_of_the_app_has_from_no_index(tmp_path, dependency, source, text, missing):
    for name, project in {".": "x", "lib": "x", "our": "our-lib"}.items():
        (tmp_path / name).mkdir(exist_ok=True)
        content = (
            UV.format(dependency, source) if project == "x" else '[project]\nname = "our-lib"\n'
        )
        (tmp_path / name / "pyproject.toml").write_text(content)
    (tmp_path / "requirements.txt").write_text(text)
    problems = choose(read(tmp_path), [], [], PIN).problems
    assert [f"takes {missing} from" in problem for problem in problems] == [True] * bool(missing)


class TestStore:
    """The store has all that pip gets."""

    def lay_out(self, tmp_path, app, subdir="", exclude=()):
        target = tmp_path / "target"
        target.mkdir()
        lay_out(app, target, subdir, "", "wsgi:app", list(exclude))
        return target

    @pytest.mark.parametrize(
        ("options", "place"),
        [
            ({}, "app/wheels"),
            ({"exclude": ["/wheels"]}, "local/wheels"),
            ({"subdir": "model"}, "local/wheels"),
        ],
    )
    def test_it_is_there_whether_it_is_code_or_not(self, tmp_path, app, options, place):
        (app / "requirements.txt").write_text("--find-links wheels\nmylib\n")
        (app / "outside").unlink()
        target = self.lay_out(tmp_path, app, **options)
        assert Plan.load(target).options[0].local == place
        assert (target / place / "mylib-1.0+cpu-py3-none-any.whl").is_file()

    @pytest.mark.parametrize("subdir", ["", "model"])
    def test_the_app_has_no_credentials(self, tmp_path, app, subdir):
        line = "-e git+https://hunter22@example.org/a/b.git#egg=b\n"
        (app / "model" / "requirements.txt").write_bytes(line.encode("utf-16"))
        (app / "requirements.txt").write_text("-r model/requirements.txt\n")
        (app / "outside").unlink()
        target = self.lay_out(tmp_path, app, subdir)
        assert "hunter22" in Plan.load(target).requirements[0].text
        assert (target / "requirements.json").stat().st_mode & 0o777 == 0o600
        copies = [path.read_bytes() for path in target.rglob("requirements.txt")]
        assert copies
        assert not [content for content in copies if "hunter22" in decode(content)]

    def test_the_app_has_no_credentials_of_submodules(self, tmp_path, app):
        (app / "outside").unlink()
        (app / "requirements.txt").write_text("flask\n")
        (app / ".gitmodules").write_text(
            '[submodule "a"]\n\turl = https://me:hunter22@example.org/a.git\n'
        )
        target = self.lay_out(tmp_path, app)
        assert (
            target / "app" / ".gitmodules"
        ).read_text() == '[submodule "a"]\n\turl = https://example.org/a.git\n'

    def test_the_whole_of_it_as_a_package(self, tmp_path, app):
        (app / "requirements.txt").write_text("-e .\n")
        (app / "outside").unlink()
        target = self.lay_out(tmp_path, app, "model")
        assert (target / "local" / "setup.py").is_file()
        assert Plan.load(target).requirements[0].text == "@LOCAL@/local"

    def test_it_is_read_as_it_was_written(self, tmp_path, app):
        (app / "requirements.txt").write_bytes("-e ./lib\nnumpy ≠\n".encode("utf-16"))
        (app / "outside").unlink()
        target = self.lay_out(tmp_path, app)
        assert Plan.load(target) == read(app)
        assert json.loads((target / "requirements.json").read_text())["missing"] == ""


def test_without_the_library_a_marker_may_hold(monkeypatch):
    for name in ("packaging", "packaging.markers", "pip", "pip._vendor", "pip._vendor.packaging"):
        monkeypatch.setitem(sys.modules, name, None)
    assert requirements.applies("sys_platform == 'win32'")


def test_broken_bytes_are_no_reason_to_stop():
    assert decode(b"\xff\xfeA\0B") == "A\ufffd"
