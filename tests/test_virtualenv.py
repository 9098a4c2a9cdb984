"""What is installed, and when it is installed again."""

import sys

import pytest
from ansible.module_utils.api_endpoint.errors import DeployError
from ansible.module_utils.api_endpoint.release import virtualenv as venv
from helpers import Stub


@pytest.fixture
def code(tmp_path):
    folder = tmp_path / "code" / "digest"
    (folder / "requirements" / "more").mkdir(parents=True)
    (folder / "first_requirements_file").write_text("requirements.txt")
    (folder / "requirements" / "requirements.txt").write_text(
        "# a comment\n-r more/base.txt\n-c limits.txt\nuWSGI == 2.0.18  # old\nFlask>=3 ; python_version > '3'\n"
        "torch @ https://example.org/torch.whl\n"
    )
    (folder / "requirements" / "more" / "base.txt").write_text("-r ../requirements.txt\npyyaml \\\n  >=5\n")
    (folder / "requirements" / "limits.txt").write_text("numpy<2\n")
    return folder


def virtualenv(tmp_path, code, **more):
    given = {
        "root": str(tmp_path), "code": "digest", "python": sys.executable, "packages": [], "gunicorn": "gunicorn==27.0.1",
        "constraints": [], "exclude": [], "index_url": "", "extra_index_urls": [], "options": [], "user": "any",
    }  # fmt: skip
    module = Stub(**{**given, **more})
    found = venv.Virtualenv(module)
    found.read(code)
    return found


def test_files_that_are_included_count_and_comments_do_not(tmp_path, code):
    found = virtualenv(tmp_path, code)
    assert found.requirements == [
        "pyyaml    >=5",
        "uWSGI == 2.0.18",
        "Flask>=3 ; python_version > '3'",
        "torch @ https://example.org/torch.whl",
        "gunicorn==27.0.1",
    ]
    assert found.constraints == ["numpy<2"]


def test_leave_out_add_and_replace(tmp_path, code):
    found = virtualenv(
        tmp_path, code, exclude=["UWSGI", "not_there"], packages=["PyYAML==6.0.3", "Gunicorn[gevent]==27.0.1"]
    )
    assert found.excluded == ["uWSGI == 2.0.18"]
    assert found.requirements == [
        "Flask>=3 ; python_version > '3'",
        "torch @ https://example.org/torch.whl",
        "PyYAML==6.0.3",
        "Gunicorn[gevent]==27.0.1",
    ]
    assert found.module.warnings == ["api_endpoint_pip_exclude names 'not-there', which the app does not require."]


@pytest.mark.parametrize("line", ["-e .", "--editable ./lib", ".", "./lib", "../lib", "file:///srv/lib", "/srv/lib"])
def test_local_packages_are_refused(tmp_path, code, line):
    (code / "requirements" / "requirements.txt").write_text(f"{line}\n")
    with pytest.raises(DeployError, match="installs from a local path"):
        virtualenv(tmp_path, code)


def test_an_app_without_requirements_gets_gunicorn(tmp_path, code):
    (code / "first_requirements_file").write_text("")
    assert virtualenv(tmp_path, code).requirements == ["gunicorn==27.0.1"]


@pytest.mark.parametrize(
    "change",
    [
        {"packages": ["x"]},
        {"constraints": ["x<1"]},
        {"index_url": "https://example.org/simple"},
        {"extra_index_urls": ["https://example.org/simple"]},
        {"options": ["--no-binary=x"]},
        {"exclude": ["flask"]},
        {"gunicorn": "gunicorn==26.1"},
    ],
)
def test_the_key_changes_with_every_input(tmp_path, code, change):
    assert virtualenv(tmp_path, code, **change).key() != virtualenv(tmp_path, code).key()


def test_the_key_stays_with_equal_inputs(tmp_path, code):
    before = virtualenv(tmp_path, code).key()
    (code / "requirements" / "limits.txt").write_text("# the same\nnumpy<2\n")
    assert virtualenv(tmp_path, code).key() == before


@pytest.mark.parametrize(("version", "is_same"), [((3, 11, 9), True), ((3, 13, 2), False)])
def test_a_correction_of_python_is_the_same_python_on_every_host_and_another_one_is_not(tmp_path, code, version, is_same):
    python = tmp_path / "python"

    def key(version):
        python.write_text(
            f"#!{sys.executable}\nimport sys\nsys.version = 'built {version}'\nsys.version_info = {version}\n"
            "exec(sys.argv[2])\n"
        )
        python.chmod(0o755)
        return virtualenv(tmp_path, code, python=str(python)).key()

    assert (key(version) == key((3, 11, 2))) == is_same


def test_a_python_that_does_not_run(tmp_path, code):
    with pytest.raises(DeployError, match="api_endpoint_python is '/nowhere/python'"):
        virtualenv(tmp_path, code, python="/nowhere/python").key()


def test_check_mode_on_a_clean_host(tmp_path):
    assert venv.ensure(Stub(check_mode=True, root=str(tmp_path), code="")) == {"changed": True}
