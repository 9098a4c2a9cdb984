"""Secrets are named without being told, and systemd reads them as they were given."""

import subprocess

import pytest
from ansible.module_utils.api_endpoint.release import secrets


def test_the_name_is_the_same_everywhere_and_tells_each_secret_apart():
    name = secrets.seal({"A": "one-secret", "B": "x"}, "api-endpoint")
    assert name == secrets.seal({"B": "x", "A": "one-secret"}, "api-endpoint")
    assert len(name) == 16
    assert name != secrets.seal({"A": "one-secret", "B": "y"}, "api-endpoint")
    assert name != secrets.seal({"A": "one-secret", "B": "x"}, "other")
    assert secrets.seal({}, "api-endpoint") == ""


@pytest.mark.parametrize(
    "value", ["plain", 'a "quoted" $HOME `id` \\ \\n ü', "two\nlines", " spaces ", "#no=comment"]
)
def test_a_value_is_quoted_as_a_shell_would_read_it(value):
    done = subprocess.run(
        ["sh", "-c", f"printf %s {secrets.quote(value)}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == value


def test_a_unit_without_secrets_gets_no_setting(tmp_path):
    assert secrets.setting(tmp_path, "") == ""
    assert (
        secrets.setting(tmp_path, "0" * 16)
        == f"[Service]\nEnvironmentFile={tmp_path}/secrets/{'0' * 16}\n"
    )
