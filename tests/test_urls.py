"""Users, passwords and tokens in URLs."""

import netrc
import os
import subprocess

import pytest
from ansible.module_utils.api_endpoint import urls
from ansible.module_utils.api_endpoint.controller.inputs import refusal
from ansible.module_utils.api_endpoint.errors import DeployError, describe_error

TEXTS = [
    (
        "https://me:hunter22@example.org/a",
        "https://example.org/a",
        {"https://example.org/a": "me:hunter22"},
    ),
    (
        "http://hunter22@example.org:8080/",
        "http://example.org:8080/",
        {"http://example.org:8080/": "hunter22"},
    ),
    (
        "b @ git+https://hunter22@example.org/a/b.git@v1#egg=b ; python_version > '3'",
        "b @ git+https://example.org/a/b.git@v1#egg=b ; python_version > '3'",
        {"git+https://example.org/a/b.git": "hunter22"},
    ),
    (
        "--index-url=https://me:p@ss@example.org/s",
        "--index-url=https://example.org/s",
        {"https://example.org/s": "me:p@ss"},
    ),
    ("-fhttps://a:hunter22@b.org/x", "-fhttps://b.org/x", {"https://b.org/x": "a:hunter22"}),
    ("HTTPS://a:hunter22@B.org", "HTTPS://B.org", {"https://B.org": "a:hunter22"}),
    ("git+ssh://git@example.org/a.git", "git+ssh://git@example.org/a.git", {}),
    ("https://example.org/a@1", "https://example.org/a@1", {}),
    ("numpy<2 # me@example.org", "numpy<2 # me@example.org", {}),
]


@pytest.mark.parametrize(("text", "clean", "credentials"), TEXTS)
def test_what_is_secret_is_taken_out(text, clean, credentials):
    assert urls.take(text) == (clean, credentials)
    assert urls.hide(text) == clean


@pytest.mark.parametrize(
    ("text", "is_broken"),
    [
        ("https://me:hunt/er22@example.org/a", True),
        ("https://me:hunt#er22@example.org/a", True),
        ("https://me:hunt?er22@example.org/a", True),
        ("https://me:hunt er22@example.org/a", True),
        ("https://me:h@nt er22@example.org/a", True),
        ("x @ git+https://me:hunt/er22@example.org/a.git@v1#egg=x", True),
        ("https://me:hunt/er22@[::1]:8080/a", True),
        *((text, False) for text, _clean, _credentials in TEXTS),
        ("https://me:hunt%2Fer@example.org:8080/a@1?x=a@b#c@d", False),
        ("x @ https://example.org:8080/a@1/b.zip ; python_version > '3' # me@example.org", False),
        ("https://[::1]:8080/a@1", False),
        ("https://example.org:8080?by=a@b", False),
    ],
)
def test_a_password_that_ends_too_early(text, is_broken):
    assert urls.has_broken_password(text) is is_broken


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ssh://me:hunter22@example.org/a", "ssh://me:…@example.org/a"),
        (
            "https://example.org/m?id=1&private_token=hunter22",
            "https://example.org/m?id=1&private_token=…",
        ),
        (
            "https://example.org/m?X-Amz-Signature=hunter22 404",
            "https://example.org/m?X-Amz-Signature=… 404",
        ),
    ],
)
def test_what_cannot_be_taken_out_is_hidden(text, shown):
    assert urls.hide(text) == shown


def test_every_message_hides_it():
    text = "no https://me:hunter22@example.org/a"
    for message in (
        str(DeployError(text)),
        describe_error(OSError(text)),
        describe_error(KeyError(text)),
        refusal([text]),
    ):
        assert "hunter22" not in message
        assert "https://example.org/a" in message


def test_a_program_that_says_it_otherwise():
    credentials = {"https://example.org": "me:hunter%4022"}
    assert (
        urls.hide("could not log in as me with hunter@22 (hunter%4022)", credentials).count("…")
        == 2
    )


def test_python_reads_the_netrc_file(tmp_path):
    credentials = {
        "https://a.org/x": "me:p%20w%22%5C#x",
        "https://b.org:8080/y": "token",
        "git+https://a.org/z": "x",
    }
    (tmp_path / "netrc").write_text(urls.netrc(credentials))
    found = netrc.netrc(str(tmp_path / "netrc"))
    assert found.authenticators("a.org") == ("me", "", 'p w"\\#x')
    assert found.authenticators("b.org") == ("token", "", "")


@pytest.mark.parametrize(
    ("protocol", "host", "path", "answer"),
    [
        ("https", "a.org", "x.git", ("me", "p@1")),
        ("https", "a.org", "y.git", ("me", "2")),
        ("https", "b.org:8080", "another.git", ("$t'o\"k\\", "")),
        ("https", "a.org", "z.git", None),
        ("http", "b.org:8080", "z", None),
        ("https", "b.org", "z", None),
    ],
)
def test_git_logs_in_to_each_place_with_its_own(protocol, host, path, answer):
    credentials = {
        "https://a.org/x.git": "me:p%401",
        "https://a.org/y.git": "me:2",
        "git+https://b.org:8080/z": "$t'o%22k%5C",
    }
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "HOME": "/nowhere",
    }
    environment |= urls.git_environment(credentials)
    asked = f"protocol={protocol}\nhost={host}\npath={path}\n\n"
    said = subprocess.run(
        ["git", "credential", "fill"],
        env=environment,
        input=asked,
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = dict(line.split("=", 1) for line in said.splitlines())
    assert (found.get("username"), found.get("password")) == (answer or (None, None))
    assert not [value for name, value in environment.items() if "CONFIG" in name and "p@1" in value]


def test_git_without_credentials():
    assert urls.git_environment({}) == {}
