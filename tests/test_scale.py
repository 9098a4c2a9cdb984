"""What docs/scale/ shows for Kubernetes and KServe agrees with the example app, and the demo of a cluster with itself."""

import re
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address, ip_network

import pytest
import yaml
from helpers import PROJECT, ROLE
from outcomes import wait_until

SCALE = PROJECT / "docs" / "scale"
OBJECTS = {one["kind"]: one for one in yaml.safe_load_all((SCALE / "kubernetes.yml").read_text())}
KSERVE = yaml.safe_load((SCALE / "kserve.yml").read_text())
SETTINGS = yaml.safe_load((PROJECT / "tools" / "group_vars" / "api_endpoints.yml").read_text())
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
POD = OBJECTS["Deployment"]["spec"]["template"]


def test_what_selects_pods_finds_those_of_the_deployment():
    labels = POD["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert POD["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (
        "Deployment",
        OBJECTS["Deployment"]["metadata"]["name"],
    )
    ports = {port["name"] for port in POD["spec"]["containers"][0]["ports"]}
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] in ports
    # A budget that lets no pod go would block the maintenance of a node for ever.
    assert (
        OBJECTS["PodDisruptionBudget"]["spec"]["minAvailable"]
        < OBJECTS["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
    )


def gunicorn_settings() -> dict:
    found: dict = {}
    exec((SCALE / "gunicorn.conf.py").read_text(), found)
    return found


def test_both_ways_run_the_same_image_asked_in_the_same_way():
    here, there = POD["spec"]["containers"][0], KSERVE["spec"]["predictor"]["containers"][0]
    assert here["image"] == there["image"]
    assert here["startupProbe"] == there["startupProbe"]
    assert (
        here["ports"][0]["containerPort"]
        == there["ports"][0]["containerPort"]
        == there["readinessProbe"]["httpGet"]["port"]
    )
    assert gunicorn_settings()["bind"].endswith(f":{here['ports'][0]['containerPort']}")
    for container in (here, there):
        assert (
            container["readinessProbe"]["httpGet"]["path"] == SETTINGS["api_endpoint_health_path"]
        )
    # A request that has begun is answered before the pod is killed.
    waits = here["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert (
        waits + gunicorn_settings()["graceful_timeout"]
        < POD["spec"]["terminationGracePeriodSeconds"]
    )


def test_the_image_has_what_the_role_would_install():
    recipe = (SCALE / "Containerfile").read_text()
    assert DEFAULTS["api_endpoint_gunicorn"] in recipe
    for sources in re.findall(r"^COPY (.+) \S+$", recipe, re.M):
        for source in sources.split():
            assert (PROJECT / source).exists(), source
    for artifact in SETTINGS["api_endpoint_artifacts"]:
        assert artifact["src"] in recipe


@pytest.fixture
def served():
    """The example app with the image's settings, on a port of its own."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "-c", SCALE / "gunicorn.conf.py", "--bind", f"127.0.0.1:{port}", "wsgi:app"],
        cwd=PROJECT / "app", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield port, process
    process.kill()
    process.communicate()


def is_listening(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def smoke(port: int) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, SCALE / "smoke.py", str(port)], capture_output=True, text=True
    )


def test_the_smoke_request_is_answered_and_the_log_names_nobody(served):
    port, process = served
    refused = smoke(port)
    if refused.returncode:
        assert "No answer" in refused.stderr, refused.stderr
    wait_until(lambda: process.poll() is not None or is_listening(port), "gunicorn listens")
    asked = smoke(port)
    assert asked.returncode == 0, asked.stderr
    path = f"http://127.0.0.1:{port}/api/v1/language?text=secret"
    urllib.request.urlopen(
        urllib.request.Request(path, headers={"User-Agent": "marked-agent"})
    ).close()
    process.terminate()
    log, errors = process.communicate(timeout=300)
    assert '"GET /api/v1/language HTTP/1.1" 200' in log, errors
    for mark in ("127.0.0.1", "marked-agent", "secret"):
        assert mark not in log


def test_the_smoke_request_is_that_of_the_deployments():
    wanted = SETTINGS["api_endpoint_smoke_requests"][0]
    text = (SCALE / "smoke.py").read_text()
    assert wanted["path"] in text
    assert wanted["body"]["text"] in text
    assert wanted["text"] in text


class Sometimes(BaseHTTPRequestHandler):
    """Answers each third request with 503."""

    asked = 0

    def log_message(self, *_arguments) -> None:
        pass

    def do_GET(self) -> None:
        Sometimes.asked += 1
        self.send_response(503 if Sometimes.asked % 3 == 0 else 200)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_the_demos_load_tells_how_many_failed_and_how():
    with ThreadingHTTPServer(("127.0.0.1", 0), Sometimes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        load = subprocess.Popen(
            [sys.executable, PROJECT / "tools" / "demo_load.py", f"http://127.0.0.1:{server.server_port}/"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: Sometimes.asked >= 30, "30 requests")
        load.terminate()
        said, _ = load.communicate()
        server.shutdown()
    assert f"  {Sometimes.asked} requests in " in said
    assert f", {Sometimes.asked // 3} failed: {Sometimes.asked // 3} times 503" in said


def test_the_balancer_of_the_demo_reaches_its_endpoints():
    script = (PROJECT / "tools" / "demo_cluster.sh").read_text()
    subnet = ip_network(re.search(r"^subnet=(\S+)", script, re.M)[1] + ".0/24")
    inventory = yaml.safe_load((PROJECT / "tools" / "demo-cluster.yml").read_text())
    for name, host in inventory["api_endpoints"]["hosts"].items():
        assert name in script
        assert ip_address(host["balancer_address"]) in subnet
    # Clients behind the balancer are identified as behind any proxy.
    assert any(
        subnet.subnet_of(ip_network(proxy))
        for proxy in DEFAULTS["api_endpoint_trusted_proxies"]
        if ":" not in proxy
    )
