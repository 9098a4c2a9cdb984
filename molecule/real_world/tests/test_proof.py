"""A version is proven as the public will reach it, and checked by the same request everywhere."""

import json

import pytest
from outcomes import PROJECT

VARIABLES = f"@{PROJECT / 'molecule/real_world/vars.yml'}"
PROOF = "curl --silent --unix-socket /run/nginx-proof/api-endpoint.sock -H 'X-Forwarded-Proto: https' http://x/"
HTTPS = {"X-Forwarded-Proto": "https"}


@pytest.fixture(scope="module")
def run(playbook):
    """Return what runs a playbook with the scenario's variables and these, without the role's prefix."""

    def run(*options, name="site.yml", app="", **variables):
        usual = {"health_path": "/", "health_status": [], "smoke_requests": []}
        given = {f"api_endpoint_{key}": value for key, value in {**usual, **variables}.items()}
        if app:
            given["api_endpoint_app_dir"] = f"molecule/real_world/apps/{app}"
        return playbook(
            *options, "--extra-vars", VARIABLES, "--extra-vars", json.dumps(given), name=name
        )

    return run


def test_an_app_that_insists_on_https(api, host, run):
    app = {"app": "https_only", "health_status": [200]}
    deployed = run(**app)
    assert deployed.status == 0, deployed.output
    assert api.get("/", headers=HTTPS).json == {"app": "https_only"}
    assert api.get("/").status == 302
    for name in ("status", "diagnose"):
        checked = run(name=f"playbooks/{name}.yml", **app)
        assert checked.status == 0, checked.output
    assert host.check_output("sudo -u www-data ls /run/nginx-proof || echo closed") == "closed"


def test_what_nginx_refuses_never_goes_live_and_can_be_looked_at(api, host, run):
    before = api.get("/", headers=HTTPS).json
    logged = host.check_output("grep -c /large /var/log/nginx/access.log || true")
    refused = run("--tags", "app", app="large_headers", smoke_requests=[{"path": "/large"}])
    assert refused.status != 0, refused.output
    assert "nginx's reason: upstream sent too big header" in refused.said, refused.output
    assert api.get("/", headers=HTTPS).json == before
    deployed = run(
        "--tags",
        "app",
        app="large_headers",
        smoke_requests=[{"path": "/", "text": "large_headers"}],
    )
    assert deployed.status == 0, deployed.output
    assert api.get("/").json == json.loads(host.check_output(PROOF)) == {"app": "large_headers"}
    assert host.check_output("grep -c /large /var/log/nginx/access.log || true") == logged


@pytest.mark.full
def test_a_port_that_is_taken_is_no_success_and_an_earlier_one_goes(host, run):
    host.check_output("systemd-run --unit=stranger python3 -m http.server 8180")
    try:
        for _ in range(2):
            refused = run("--tags", "nginx", port=8180)
            assert refused.status != 0, refused.output
            assert "8180" in refused.said, refused.output
            assert "python3" in refused.said, refused.output
    finally:
        host.check_output("systemctl stop stranger")
    try:
        moved = run("--tags", "nginx", port=8180)
        assert moved.status == 0, moved.output
        listening = host.check_output("ss --no-header --listening --tcp --numeric")
        assert (":8180 " in listening, ":80 " in listening) == (True, False), listening
        assert run("--tags", "nginx", port=8180).changed == [0]
    finally:
        back = run("--tags", "nginx")
    assert back.status == 0, back.output
    listening = host.check_output("ss --no-header --listening --tcp --numeric")
    assert (":8180 " in listening, ":80 " in listening) == (False, True), listening
