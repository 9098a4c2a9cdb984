"""Wrong input is refused before the host is touched. tests/test_validate.py has every single value."""

import json

import pytest

# The laptop refuses it; the host's Debian does not matter.
pytestmark = pytest.mark.usefixtures("on_one_host")

WRONG = {
    "api_endpoint_server_names": [""],
    "api_endpoint_port": 99999,
    "api_endpoint_data_dir": "data",
    "api_endpoint_artifacts": [{"dest": "../x", "src": "app/lid.176.ftz"}, {"dest": "m"}],
    "api_endpoint_app_dir": "docs",
    "api_endpoint_worker": 3,
    "ansible_facts": {"distribution": "Ubuntu", "distribution_major_version": "24"},
}
SAID = [
    ["api_endpoint_server_names has ''", "not a host name"],
    ["api_endpoint_port is 99999", "1 to 65,535"],
    ["api_endpoint_data_dir is 'data'", "absolute path"],
    ["'../x'", "leaves the release"],
    ["has no source", "exactly one source"],
    ["api_endpoint_app_dir is 'docs'", "wsgi.py"],
    ["api_endpoint_worker is set", "Did you mean api_endpoint_workers?"],
    ["Ubuntu 24", "Debian 12 or 13"],
]


def test_all_wrong_values_are_named_at_once_with_their_remedies(playbook):
    run = playbook("-e", json.dumps(WRONG))
    assert run.status != 0
    for words in SAID:
        for word in words:
            assert word in run.output, run.output
    assert run.changed == [0]
    assert "setup |" not in run.output, "something ran on the host"


def test_a_part_is_refused_on_a_host_that_was_never_set_up(playbook):
    run = playbook(
        "--tags",
        "nginx",
        "-e",
        "api_endpoint_name=never",
        "-e",
        '{"api_endpoint_server_names": ["never.example"]}',
    )
    assert run.status != 0
    message = "This host was never set up for never, so nginx alone has nothing to start from"
    assert message in run.output, run.output
    assert run.changed == [0]
    assert "setup |" not in run.output, "something ran on the host"
