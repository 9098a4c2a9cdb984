"""pip's settings mean the same to uv, or pip does the work; uv itself is the known one."""

import hashlib
import io
import os
import tomllib
import zipfile

import pytest
from ansible.module_utils.api_endpoint.release import uv
from ansible.module_utils.api_endpoint.release.requirements import Plan, Requirement


@pytest.fixture(autouse=True)
def no_files(monkeypatch):
    """The settings of this machine are none of the tests'."""
    monkeypatch.setattr(uv, "HOST_FILES", ())


def told(tmp_path, options=(), own=(), environment=None, lines=()):
    plan = Plan(requirements=[Requirement(line) for line in lines])
    return uv.settings(plan, list(own), list(options), environment or {}, tmp_path)


INDEX, MORE = "https://index.example.org/simple", "https://more.example.org/simple"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {"options": ["--find-links=/srv/wheels"], "own": ["--find-links '@LOCAL@/a b'"]},
            {"find-links": ["/srv/wheels", "@LOCAL@/a b"]},
        ),
        ({"options": ["--no-index"]}, {"no-index": True}),
        ({"environment": {"PIP_NO_INDEX": "1"}}, {"no-index": True}),
        ({"environment": {"PIP_NO_INDEX": "off"}}, {"no-index": False}),
        ({"options": ["--pre"]}, {"prerelease": "allow"}),
        ({"own": ["--pre"]}, {"prerelease": "allow"}),
        ({"options": ["--no-binary=a,b", "--no-binary", "c"]}, {"no-binary": ["a", "b", "c"]}),
        ({"options": ["--only-binary=:all:"]}, {"only-binary": [":all:"]}),
        ({"own": ["--only-binary a", "--only-binary :none:"]}, {"only-binary": []}),
        ({"options": ["--no-deps"]}, {"no-deps": True}),
        ({"options": ["--no-build-isolation"]}, {"no-build-isolation": True}),
        ({"options": ["--upgrade", "-q", "--no-input", "--progress-bar=off"]}, {}),
        ({}, {"index-strategy": "unsafe-best-match", "link-mode": "copy", "no-sources": True}),
    ],
)  # fmt: skip
def test_what_stands_in_the_file(tmp_path, given, expected):
    found = told(tmp_path, **given)
    assert {name: found.table.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, [""]),
        ({"options": [f"--index-url={INDEX}"]}, [INDEX]),
        ({"options": ["-i", INDEX]}, [INDEX]),
        ({"environment": {"PIP_INDEX_URL": INDEX}}, [INDEX]),
        ({"environment": {"PIP_EXTRA_INDEX_URL": f"{INDEX} {MORE} {INDEX}"}}, ["", INDEX, MORE]),
        # In a file an index replaces all before it, for pip.
        (
            {
                "environment": {"PIP_EXTRA_INDEX_URL": MORE},
                "own": [f"--index-url {INDEX}", "--extra-index-url https://third.example.org"],
            },
            [INDEX, "https://third.example.org"],
        ),
        ({"options": ["--index-url=http://localhost:8081/simple"]}, ["http://localhost:8081/simple"]),
        (
            {"options": ["-i", "http://a.example.org:81/", "--trusted-host=a.example.org"]},
            ["http://a.example.org:81/"],
        ),
        (
            {"environment": {"PIP_TRUSTED_HOST": "a.example.org:81"}, "own": ["--index-url http://a.example.org:81/"]},
            ["http://a.example.org:81/"],
        ),
    ],
)  # fmt: skip
def test_where_packages_are_looked_for(tmp_path, given, expected):
    assert told(tmp_path, **given).indexes == expected


def test_an_index_gets_its_credentials_at_once_as_it_may_answer_otherwise_without(tmp_path):
    options = [
        "-i",
        INDEX,
        f"--extra-index-url={MORE}",
        "--extra-index-url=https://git.example.org",
    ]
    credentials = {"https://more.example.org/x": "u:p", "git+https://git.example.org/a": "u:p"}
    found = tomllib.loads(told(tmp_path, options).text(credentials))
    assert found["index"] == [
        {"url": INDEX, "default": True},
        {"url": MORE, "authenticate": "always"},
        {"url": "https://git.example.org"},
    ]
    assert found["pip"]["index-strategy"] == "unsafe-best-match"
    assert "index" not in tomllib.loads(told(tmp_path).text({}))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"options": ["--cert=/etc/ssl/own.pem"]}, {"SSL_CERT_FILE": "/etc/ssl/own.pem"}),
        ({"environment": {"PIP_CERT": "/etc/ssl/own.pem"}}, {"SSL_CERT_FILE": "/etc/ssl/own.pem"}),
        (
            {"environment": {"REQUESTS_CA_BUNDLE": "/etc/ssl/own.pem"}},
            {"SSL_CERT_FILE": "/etc/ssl/own.pem"},
        ),
        (
            {"environment": {"PIP_PROXY": "proxy.example.org:3128"}},
            {"https_proxy": "http://proxy.example.org:3128"},
        ),
        ({"environment": {"PIP_DEFAULT_TIMEOUT": "180"}}, {"UV_HTTP_TIMEOUT": "180"}),
        ({"options": ["--timeout=0.5", "--retries=2"]}, {"UV_HTTP_TIMEOUT": "1", "UV_HTTP_RETRIES": "2"}),
        ({}, {"UV_SYSTEM_CERTS": "1", "UV_PYTHON_DOWNLOADS": "never"}),
    ],
)  # fmt: skip
def test_what_stands_in_the_environment(tmp_path, given, expected):
    assert expected.items() <= told(tmp_path, **given).environment.items()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"options": ["-c", "/etc/limits.txt"]}, ["--constraints", "/etc/limits.txt"]),
        ({"options": ["--build-constraint=/b.txt"]}, ["--build-constraints", "/b.txt"]),
        ({"options": ["--require-hashes"]}, ["--require-hashes"]),
        ({"environment": {"PIP_NO_CACHE_DIR": "1"}}, ["--no-cache"]),
    ],
)
def test_what_stands_on_the_command_line(tmp_path, given, expected):
    assert told(tmp_path, **given).options == expected


def test_hosts_that_are_trusted_and_an_index_that_the_apps_files_forbid(tmp_path):
    found = told(tmp_path, ["--trusted-host=a.example.org"], ["--no-index"])
    assert found.insecure == ["a.example.org"]
    assert found.is_closed
    assert not found.table["no-index"]
    assert found.network == ["--trusted-host=a.example.org"]


@pytest.mark.parametrize(
    "given",
    [
        {"options": ["--prefer-binary"]},
        {"own": ["--prefer-binary"]},
        {"options": ["--use-deprecated=legacy-resolver"]},
        {"own": ["--use-feature fast-deps"]},
        {"options": ["--client-cert=/x"]},
        {"options": ["--index-url=http://index.example.org/simple"]},
        {
            "own": [
                "--extra-index-url http://index.example.org/simple",
                "--trusted-host other.example.org",
            ]
        },
        {"options": ["--find-links=http://index.example.org/wheels"]},
        {"options": ["--timeout=soon"]},
        {"options": ["--index-url=https://[index/simple"]},
        {"options": ["numpy"]},
        {"environment": {"PIP_KEYRING_PROVIDER": "subprocess"}},
        {"environment": {"PIP_TARGET": "/x"}},
        {"own": ["--requirement https://example.org/more.txt"]},
        {"lines": ["hg+https://example.org/a#egg=a"]},
        {"lines": ["a==1 --global-option=x"]},
        {"lines": ["a==1 --config-settings=x=y"]},
    ],
    ids=str,
)
def test_pip_does_what_means_nothing_to_uv(tmp_path, given):
    with pytest.raises(uv.PipNeededError):
        told(tmp_path, **given)


@pytest.mark.parametrize(
    "line",
    [
        "a==1 --hash=sha256:00 --hash=sha256:11",
        "a ; sys_platform == 'linux'",
        "a @ git+https://example.org/a-b.git@v1",
        "git+https://example.org/a.git#egg=a",
        "@LOCAL@/app/wheels/a-1-py3-none-any.whl",
        "a[b] >= 1, < 2",
    ],
)
def test_requirements_that_uv_reads_as_pip_does(tmp_path, line):
    told(tmp_path, lines=[line])


def test_files_of_the_host(tmp_path, monkeypatch):
    weak, strong, last = (tmp_path / name for name in ("weak", "strong", "last"))
    weak.write_text("[global]\nindex-url = https://weak.example.org\nextra_index_url =\n  a\n  b\n")
    strong.write_text("[global]\nindex-url = https://strong.example.org\n[list]\nformat = json\n")
    last.write_text("[install]\npre = yes\n")
    monkeypatch.setattr(uv, "HOST_FILES", (str(weak), str(strong)))
    found = told(tmp_path, environment={"PIP_CONFIG_FILE": str(last)})
    assert found.indexes == ["https://strong.example.org", "a", "b"]
    assert found.table["prerelease"] == "allow"
    assert told(tmp_path, environment={"PIP_CONFIG_FILE": os.devnull}).indexes == [""]
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip" / "pip.conf").write_text("")
    with pytest.raises(uv.PipNeededError, match=r"pip\.conf"):
        told(tmp_path)


def wheel(path, content=b"uv"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as opened:
        opened.writestr(f"uv-{uv.VERSION}.data/scripts/uv", content)
    path.write_bytes(stream.getvalue())
    return hashlib.sha256(stream.getvalue()).hexdigest()


def test_only_the_known_uv_is_unpacked(tmp_path, monkeypatch):
    target = uv.program(tmp_path)
    monkeypatch.setattr(uv, "WHEELS", {wheel(tmp_path / "a.whl")})
    wheel(tmp_path / "b.whl", b"another")
    assert not uv.unpack(tmp_path / "b.whl", target)
    assert not target.exists()
    target.parent.mkdir()
    (target.parent / "uv-0.1").write_text("")
    assert uv.unpack(tmp_path / "a.whl", target)
    assert target.read_bytes() == b"uv"
    assert target.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in target.parent.glob("uv-*")] == [target.name]
