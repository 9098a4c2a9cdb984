"""The API of the scenario, its traffic, and the playbooks that tell of it."""

import json
import subprocess
import time
from pathlib import Path

import pytest
from outcomes import Api

SCENARIO = Path(__file__).resolve().parents[1]
LOG = "/var/log/nginx/access.log"
PAGE = "https://page.example/where"  # on which callers are
PLAIN = {"ANSIBLE_FORCE_COLOR": "0"}  # output without colours
PORT = 9113  # of the metrics

# What callers ask, and how often, before and after the log is rotated.
TRAFFIC = [
    ("/environ?text=secret", 15),
    ("/status/404", 3),
    ("/status/500", 2),
    ("/sleep?seconds=0.7", 2),
]
MORE_TRAFFIC = [
    ("/environ?text=secret", 15),
    ("/status/404", 4),
    ("/status/500", 3),
    ("/sleep?seconds=0.7", 2),
]
REQUESTS, NOT_FOUND, FAILED = 46, 7, 5
SLOW = 0.7  # seconds that the slow ones take, and more on a busy machine

HOSTILE = [
    r"GET /\x22><script>document.title=\x22hacked\x22</script> HTTP/1.1",
    "GET /%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E HTTP/1.1",
    "GET /{{ 7*7 }}</iframe></script><script>alert(1)</script> HTTP/1.1",
    "GET /\udcff\udcfe\u202e HTTP/1.1",
    "GET /" + "a" * 8000 + " HTTP/1.1",
    "-",
]
HOSTILE_REFERRERS = [
    "javascript:alert(1)", r"https://evil.example/\x22onmouseover=\x22alert(1)", "<script src=http://evil.example/x.js></script>",
    "https://evil.example/\udcff", "&lt;b&gt;",
]  # fmt: skip


def seconds(shown: str) -> float:
    """Return a duration as the playbooks show it, such as 12 ms or 1.2 s."""
    number, unit = shown.split()
    return float(number) / {"ms": 1000, "s": 1}[unit]


def logged(
    ago: float, request: str, status: int = 200, referrer: str = "-", took: str = "0.010"
) -> str:
    """Return a line as nginx would have written it some seconds ago."""
    when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(time.time() - ago))
    return f'[{when}] "{request}" {status} 12 "{referrer}" {took}\n'


class Operator:
    """Runs the playbooks of this chapter with the scenario's variables."""

    def __init__(self, playbook, api: Api) -> None:
        self.playbook = playbook
        self.api = api

    def __call__(self, name: str, *options: str, **variables):
        """Run a playbook against this host; `variables` are the role's, without their prefix."""
        given = {f"api_endpoint_{variable}": value for variable, value in variables.items()}
        return self.playbook(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", json.dumps(given), *options,
            name=f"playbooks/{name}.yml", environment=PLAIN,
        )  # fmt: skip

    def write(self, path: str, text: str, how: str = "cat >") -> None:
        """Write text to a file of the host."""
        subprocess.run(
            ["docker", "exec", "-i", self.api.container, "sh", "-c", f"{how} {path}"],
            input=text.encode(errors="surrogateescape"), check=True,
        )  # fmt: skip

    def ask(self, traffic: list[tuple[str, int]]) -> None:
        """Send requests, with some for the health path between them."""
        for path, count in traffic:
            for _ in range(count):
                self.api.get(path, headers={"Referer": f"{PAGE}?text=secret"})
            self.api.get("/readyz")


def address(container: str, name: str) -> str:
    """Return an address of a container's network."""
    form = f"{{{{.NetworkSettings.Networks.bridge.{name}}}}}"
    shown = subprocess.run(
        ["docker", "inspect", "--format", form, container],
        capture_output=True,
        text=True,
        check=True,
    )
    return shown.stdout.strip()


def asked(container: str, *through: str) -> str:
    """Return the answer that another host gets: the metrics, or how it was refused."""
    url = f"http://{address(container, 'IPAddress')}:{PORT}/metrics"
    command = [*through, "curl", "--silent", "--show-error", "--max-time", "60", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


@pytest.fixture(scope="module")
def api(host):
    """Return the API by its name."""
    api = Api(host, "operations.wmcloud.org")
    form = ["docker", "inspect", "--format", "{{.Config.Image}}", api.container]
    api.image = subprocess.run(form, capture_output=True, text=True, check=True).stdout.strip()
    api.is_terse = api.container.endswith("debian12")  # see molecule.yml
    return api


@pytest.fixture(scope="module")
def operator(playbook, api) -> Operator:
    """Return what runs the playbooks."""
    return Operator(playbook, api)


@pytest.fixture
def set_to(operator):
    """Return a function that deploys nginx with another place for the metrics."""

    def deploy(listen: str, *options: str, **more: object) -> list[int]:
        run = operator("deploy", "--tags", "nginx", *options, metrics_listen=listen, **more)
        assert run.status == 0, run.output
        return run.changed

    return deploy


@pytest.fixture(scope="module")
def traffic(operator, api) -> None:
    """Ask what is known, across a rotation of the log, after what others asked more than an hour ago."""
    host = api.host
    host.check_output(f"rm -f {LOG}.*; truncate --size=0 {LOG}")
    old = [logged(7200 - number, "GET /old HTTP/1.1") for number in range(100)]
    old += [logged(7000, request) for request in HOSTILE]
    old += [logged(6900, "GET /old HTTP/1.1", referrer=referrer) for referrer in HOSTILE_REFERRERS]
    operator.write(f"{LOG}.2.gz", "".join(old), "gzip >")
    host.check_output(f"touch --date='-2 hours' {LOG}.2.gz")
    operator.write(
        LOG, "".join(logged(5000, "GET /old HTTP/1.1", 500) for _ in range(20)), "cat >>"
    )
    operator.ask(TRAFFIC)
    host.check_output(f"mv {LOG} {LOG}.1")
    host.check_output("systemctl kill --signal=USR1 --kill-whom=main nginx.service")
    operator.ask(MORE_TRAFFIC)
