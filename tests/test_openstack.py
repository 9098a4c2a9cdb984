"""The example of an inventory from OpenStack: the real plugin and its library ask a cloud that is made here."""

import json
import os
import re
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from helpers import PROJECT

EXAMPLE = PROJECT / "docs" / "guides" / "example.openstack.yml"


def server(name: str, address: str, **metadata: str) -> dict:
    """Return an instance as Nova describes it."""
    return {
        "id": f"id-of-{name}",
        "name": name,
        "status": "ACTIVE",
        "metadata": metadata,
        "flavor": {"original_name": "g4.cores2.ram4.disk20"},
        "image": {"id": "debian-13"},
        "OS-EXT-AZ:availability_zone": "nova",
        "addresses": {
            "lan": [
                {
                    "addr": address,
                    "version": 4,
                    "OS-EXT-IPS:type": "fixed",
                    "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:0:0:1",
                }
            ]
        },
    }


SERVERS = [
    server("language-1", "172.16.0.11", role="api-endpoint"),
    server("language-2", "172.16.0.12", role="api-endpoint"),
    server("language-balancer-1", "172.16.0.21"),
    server("language-1-old", "172.16.0.31"),
    server("other", "172.16.0.41"),
]


class Cloud(BaseHTTPRequestHandler):
    """Keystone and Nova, as far as an inventory asks them."""

    def log_message(self, *_arguments) -> None:
        pass

    def say(self, status: int, body: dict, **headers: str) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def do_GET(self) -> None:
        version = {"status": "CURRENT", "version": "2.95", "min_version": "2.1"}
        if self.path.startswith("/compute/v2.1/servers/detail"):
            broken = self.headers["X-Auth-Token"] != "token of a-secret"
            self.say(
                *(
                    (500, {"computeFault": {"message": "broken"}})
                    if broken
                    else (200, {"servers": SERVERS})
                )
            )
        elif self.path.startswith("/compute"):
            links = [{"rel": "self", "href": f"{self.base}/compute/v2.1/"}]
            self.say(200, {"version": {"id": "v2.1", "links": links, **version}})
        else:
            links = [{"rel": "self", "href": f"{self.base}/v3/"}]
            self.say(200, {"version": {"id": "v3.14", "status": "stable", "links": links}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["auth"]["identity"]
        credential = asked.get("application_credential", {})
        if credential.get("id") != "an-id" or credential.get("secret") == "expired":
            self.say(
                401,
                {
                    "error": {
                        "code": 401,
                        "message": "The request you have made requires authentication.",
                    }
                },
            )
            return
        catalog = [
            {"type": kind, "name": kind, "id": kind, "endpoints": [
                {"interface": "public", "region": "eqiad1-r", "region_id": "eqiad1-r", "id": kind, "url": self.base + path}
            ]}
            for kind, path in (("identity", "/v3"), ("compute", "/compute/v2.1"))
        ]  # fmt: skip
        project = {
            "id": "my-project",
            "name": "my-project",
            "domain": {"id": "default", "name": "Default"},
        }
        user = {"id": "me", "name": "me", "domain": {"id": "default", "name": "Default"}}
        token = {"catalog": catalog, "project": project, "user": user, "methods": ["application_credential"],
                 "expires_at": "2099-01-01T00:00:00.000000Z", "issued_at": "2026-01-01T00:00:00.000000Z"}  # fmt: skip
        self.say(201, {"token": token}, X_Subject_Token=f"token of {credential['secret']}")


@pytest.fixture(scope="module")
def cloud():
    with ThreadingHTTPServer(("127.0.0.1", 0), Cloud) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def inventory(cloud, folder, text: str, secret: str = "a-secret"):
    """Let ansible-inventory read an inventory with this text, with the credentials as the guide has them."""
    guide = (PROJECT / "docs" / "guides" / "openstack.md").read_text()
    clouds = yaml.safe_load(re.search(r"```yaml\n(clouds:.*?)```", guide, re.S)[1])
    auth = clouds["clouds"]["cloudvps"]["auth"]
    assert auth["auth_url"] == "https://openstack.eqiad1.wikimediacloud.org:25000/v3"
    auth |= {
        "auth_url": f"http://127.0.0.1:{cloud.server_port}/v3",
        "application_credential_id": "an-id",
        "application_credential_secret": secret,
    }
    (folder / "clouds.yaml").write_text(yaml.safe_dump(clouds))
    (folder / "inventory").mkdir()
    (folder / "inventory" / "openstack.yml").write_text(text)
    environment = {
        **os.environ,
        "OS_CLIENT_CONFIG_FILE": str(folder / "clouds.yaml"),
        "NO_PROXY": "127.0.0.1",
    }
    return subprocess.run(
        ["ansible-inventory", "-i", folder / "inventory", "--list"],
        cwd=PROJECT, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def groups(shown) -> dict[str, list[str]]:
    """Return the groups with their hosts."""
    assert shown.returncode == 0, shown.stderr
    return {
        name: group["hosts"]
        for name, group in json.loads(shown.stdout).items()
        if group.get("hosts")
    }


def variables(shown, host: str) -> dict:
    """Return the variables of a host, without the marks of texts that are no templates."""
    found = json.loads(shown.stdout)["_meta"]["hostvars"][host]
    return {
        name: value.get("__ansible_unsafe") if isinstance(value, dict) else value
        for name, value in found.items()
    }


def test_instances_are_in_their_groups_and_reached_through_the_jump_host(cloud, tmp_path):
    shown = inventory(cloud, tmp_path, EXAMPLE.read_text())
    assert groups(shown) == {
        "api_endpoints": ["language-1", "language-2"],
        "load_balancers": ["language-balancer-1"],
        "ungrouped": ["language-1-old", "other"],
    }, shown.stderr
    host = variables(shown, "language-2")
    assert host["ansible_host"] == "language-2.my-project.eqiad1.wikimedia.cloud"
    assert host["ansible_user"] == "my-shell-name"
    assert host["ansible_ssh_common_args"] == "-o ProxyJump=my-shell-name@bastion.wmcloud.org"


def test_the_other_way_by_metadata(cloud, tmp_path):
    by_name, by_metadata = re.findall(r"^  (?:# )?(api_endpoints: .*)$", EXAMPLE.read_text(), re.M)
    text = (
        EXAMPLE.read_text()
        .replace(by_metadata, "")
        .replace(by_name, by_metadata)
        .replace("  ansible_host:", "  unused:")
    )
    shown = inventory(cloud, tmp_path, text)
    assert groups(shown)["api_endpoints"] == ["language-1", "language-2"]
    assert variables(shown, "language-2")["ansible_host"] == "172.16.0.12"


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ("expired", "requires authentication"),
        ("for-a-broken-nova", "Fetching servers for cloud cloudvps"),
    ],
)
def test_a_cloud_that_refuses_fails_the_run_and_says_why(cloud, tmp_path, secret, message):
    """Hosts of another source must not be taken for all there are."""
    shown = inventory(cloud, tmp_path, EXAMPLE.read_text(), secret=secret)
    assert shown.returncode != 0, shown.stdout
    assert message in shown.stderr


def test_a_mistake_in_an_expression_is_an_error(cloud, tmp_path):
    shown = inventory(
        cloud, tmp_path, EXAMPLE.read_text().replace("is match('language-[0-9]+$')", "is matching")
    )
    assert shown.returncode != 0, shown.stdout
    assert "api_endpoints" in shown.stderr
