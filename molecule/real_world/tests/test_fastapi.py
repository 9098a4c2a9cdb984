"""An ASGI app, and a stream of it that a release crosses."""

import http.client
import json

import pytest
from load import assert_nothing_failed, load
from outcomes import PROJECT

VARIABLES = f"@{PROJECT / 'molecule/real_world/vars.yml'}"
APP = {
    "api_endpoint_app_dir": "molecule/real_world/apps/fastapi",
    "api_endpoint_wsgi": "main:app",
    "api_endpoint_health_status": [200],
    "api_endpoint_smoke_requests": [
        {"path": "/predict", "method": "POST", "body": {"text": "a"}, "text": '"length":1'}
    ],
}
EVENTS = 90  # one a second, which is longer than api_endpoint_timeout


@pytest.mark.full
def test_a_fastapi_app_and_a_stream_that_a_release_crosses(api, playbook):
    def run(**variables):
        return playbook("--extra-vars", VARIABLES, "--extra-vars", json.dumps(APP | variables))

    refused = run()
    assert refused.status != 0, refused.output
    assert "The app is an ASGI app" in refused.said, refused.output
    assert "Set api_endpoint_worker_class: asgi." in refused.said
    assert api.get("/").json == {"app": "plain"}

    deployed = run(api_endpoint_worker_class="asgi")
    assert deployed.status == 0, deployed.output
    page = api.get("/docs").body.decode()
    assert "/static-offline-docs/swagger-ui-bundle.js" in page
    assert "https://" not in page, "it would tell a stranger who reads it"

    stream = http.client.HTTPConnection("127.0.0.1", api.port, timeout=60)
    stream.request("GET", f"/events?n={EVENTS}", headers={"Host": api.name})
    answer = stream.getresponse()
    with load(api) as result:
        new = run(api_endpoint_worker_class="asgi", api_endpoint_environment={"NEW": "yes"})
    assert new.status == 0, new.output
    assert "1 stream of release" in new.said, new.output
    assert_nothing_failed(result)
    assert answer.read().count(b"data: ") == EVENTS
    again = run(api_endpoint_worker_class="asgi", api_endpoint_environment={"NEW": "yes"})
    assert (again.status, again.changed) == (0, [0]), again.output
