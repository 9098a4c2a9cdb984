"""Bad input is refused for the stated reason, before the host is touched."""

import json

import pytest

# The laptop refuses it; the host's Debian does not matter.
pytestmark = pytest.mark.usefixtures("on_one_host")

REFUSED = [
    ({"api_endpoint_server_names": []}, ["api_endpoint_server_names is []", "public names"]),
    ({"api_endpoint_server_names": [""]}, ["api_endpoint_server_names has ''", "not a host name"]),
    ({"api_endpoint_port": 99999, "api_endpoint_workers": 0}, ["api_endpoint_port is 99999", "1 to 65,535",
                                                                "api_endpoint_workers is 0", "1 to 256"]),
    ({"api_endpoint_data_dir": "data"}, ["api_endpoint_data_dir is 'data'", "absolute path"]),
    ({"api_endpoint_artifacts": [{"dest": "../x", "src": "app/lid.176.ftz"}]}, ["'../x'", "leaves the release"]),
    ({"api_endpoint_artifacts": [{"dest": "m", "url": "http://a.example/m"}]}, ["http://a.example/m", "sha256sum"]),
    ({"api_endpoint_artifacts": [{"dest": "m"}]}, ["has no source", "exactly one source"]),
    ({"api_endpoint_app_dir": "docs"}, ["api_endpoint_app_dir is 'docs'", "wsgi.py"]),
    ({"api_endpoint_worker": 3}, ["api_endpoint_worker is set", "Did you mean api_endpoint_workers?"]),
    ({"api_endpoint_workers": "many"}, ["api_endpoint_workers", "many"]),
    ({"api_endpoint_profile": "keras"}, ["value of api_endpoint_profile must be one of", "keras"]),
    ({"api_endpoint_profile": "pytorch", "api_endpoint_environment": {"OMP_NUM_THREADS": 4}, "api_endpoint_preload": True,
      "api_endpoint_worker_class": "sync"}, ["OMP_NUM_THREADS 4", "PyTorch", "api_endpoint_preload off"]),
    ({"ansible_facts": {"distribution": "Ubuntu", "distribution_major_version": "24"}}, ["Ubuntu 24", "Debian 12 or 13"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[" ".join(given) for given, _ in REFUSED])
def test_is_refused(playbook, given, said):
    run = playbook("-e", json.dumps(given))
    assert run.status != 0
    for words in said:
        assert words in run.output, run.output
    assert run.changed == [0]
    assert "setup |" not in run.output, "something ran on the host"


@pytest.mark.parametrize("tag", ["app", "model", "nginx"])
def test_a_part_is_refused_on_a_host_that_was_never_set_up(playbook, tag):
    run = playbook("--tags", tag, "-e", "api_endpoint_name=never")
    assert run.status != 0
    assert f"This host was never set up for never, so {tag} alone has" in run.output, run.output
    assert run.changed == [0]
