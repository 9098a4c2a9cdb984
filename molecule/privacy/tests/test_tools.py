"""What tools that others wrote find: in the configuration of nginx, in the answers, on the host, and under slow attacks."""

import http.client
import json
import re
import statistics
import subprocess
import threading
import time
from functools import partial

import pytest

# docs/guides/security.md says why each of these stands.
GIXY_EXPLAINED: set[str] = set()
HTTPLINT_EXPLAINED = {
    "CORS headers are only allowed in preflight responses.",  # it is not told that this answers a preflight
    "The server won't accept a URI this long .",  # what the status means
    "The request HTTP version isn't supported.",  # what the status means
    "The server's clock is",  # the answer is as old as the app is slow
}
LYNIS_EXPLAINED = {"HTTP-6710", "HTTP-6714"}

SLOW = {
    "headers": ["-r", "500", "-H", "-i", "1"],
    "body": ["-r", "500", "-B", "-i", "5", "-s", "100000", "-t", "POST"],
    "body, never quite too slow": ["-r", "500", "-B", "-i", "1", "-s", "100000", "-t", "POST"],
    # These requests are whole, and the app answers them: not more a second than it can, or it is a test of floods.
    "reading": ["-r", "200", "-X", "-n", "5", "-w", "1", "-y", "32", "-z", "1", "-k", "3"],
}
CONNECTIONS = 1000
SECONDS = 10

# Without the test of all certificates of the system's authorities, which takes longest and is not about the role.
AUDIT = """
systemctl is-system-running --wait >/dev/null
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -yqq --no-install-recommends lynis >/dev/null 2>&1
echo skip-test=CRYP-7902 >/etc/lynis/custom.prf
rm -f /var/log/lynis-report.dat
lynis audit system --quick --no-colors --quiet >/dev/null 2>&1
cat /var/log/lynis-report.dat
rm -f /var/log/lynis*
"""


@pytest.fixture(scope="module", autouse=True)
def on_the_newest_debian(host):
    if not host.backend.get_hostname().endswith("debian13"):
        pytest.skip("asked on Debian 13 only")


@pytest.fixture(scope="module")
def clean_host(api):
    """A host of the same image without the role, whose audit has begun; return what waits for its report."""
    name = f"{api.container}-clean"
    docker = partial(subprocess.run, capture_output=True, text=True, check=True)
    docker(["docker", "rm", "--force", name])
    image = docker(["docker", "inspect", "--format", "{{.Config.Image}}", api.container]).stdout.strip()
    # As in .config/molecule/config.yml.
    docker([
        "docker", "run", "--detach", "--name", name, "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw",
        "--tmpfs", "/run", "--tmpfs", "/tmp:exec", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN",
        "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined", image, "/lib/systemd/systemd",
    ])  # fmt: skip
    audit = subprocess.Popen(
        ["docker", "exec", name, "sh", "-c", AUDIT], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    yield lambda: audit.communicate(timeout=300)[0]
    docker(["docker", "rm", "--force", name])
    audit.wait()


class Lynis:
    """A report of lynis."""

    def __init__(self, report: str) -> None:
        self.report = report
        index = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
        assert index, report
        self.index = int(index[1])

    def of(self, kind: str) -> set[str]:
        """Return its warnings or suggestions: the number of the test, and what is said."""
        found = re.findall(rf"^{kind}\[\]=([^|]+)\|([^|]+)\|([^|]*)", self.report, re.MULTILINE)
        return {" ".join(parts).strip(" -") for parts in found}


class Poll:
    """A client that asks again and again, while the block runs, and notes how it was answered."""

    def __init__(self, api) -> None:
        self.api = api
        self.seconds: list[float] = []
        self.failed: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        port = self.api.port
        while not self._stopped.wait(0.05):
            begun = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request("GET", "/readyz", headers={"Host": self.api.name})
                status = connection.getresponse().status
                if status != 200:
                    self.failed.append(f"status {status}")
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(str(error))
            finally:
                connection.close()
            self.seconds.append(time.monotonic() - begun)

    def __enter__(self) -> "Poll":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __str__(self) -> str:
        """Say it in one line."""
        median, slowest = statistics.median(self.seconds) * 1000, max(self.seconds) * 1000
        return f"{len(self.seconds)} requests, {len(self.failed)} failed, median {median:.0f} ms, slowest {slowest:.0f} ms"


def test_gixy_finds_nothing_in_the_configuration(api, tmp_path, clean_host):
    effective = tmp_path / "nginx.conf"
    effective.write_text(api.host.check_output("nginx -T 2>/dev/null"))
    # Not told nginx's version: it knows which versions have which holes, and not what Debian has mended in them.
    run = subprocess.run(["gixy", "--format", "json", str(effective)], capture_output=True, text=True, check=False)
    findings = json.loads(run.stdout)
    assert {finding["plugin"] for finding in findings} <= GIXY_EXPLAINED, json.dumps(findings, indent=1)


def test_gixy_finds_a_planted_fault(api, tmp_path):
    effective = tmp_path / "nginx.conf"
    text = api.host.check_output("nginx -T 2>/dev/null")
    effective.write_text(text.replace("return 404;", "return 302 http://$host$uri;"))
    run = subprocess.run(["gixy", "--format", "json", str(effective)], capture_output=True, text=True, check=False)
    assert "http_splitting" in {finding["plugin"] for finding in json.loads(run.stdout)}


@pytest.mark.parametrize(
    ("method", "path", "more"),
    [
        ("GET", "/readyz", []),
        ("POST", "/echo", ["--data", "x"]),
        ("OPTIONS", "/echo", []),
        ("GET", "/status/400", []),
        ("GET", "/status/404", []),
        ("GET", "/%00", []),
        ("GET", "/traceback", []),
        ("TRACE", "/", []),
        ("BREW", "/", []),
        ("POST", "/echo", ["--header", "Content-Length: 99999999"]),
        ("GET", f"/{'a' * 10_000}", []),
        ("GET", "/", ["--header", f"X-Long: {'a' * 10_000}"]),
        ("GET", "/", ["--header", "Host: unknown.example"]),
        ("GET", "/sleep?seconds=6", []),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else " ".join(value)[:40],
)
def test_answers_keep_to_the_rules_of_http(api, method, path, more):
    asked = subprocess.run(
        ["curl", "--silent", "--include", "--path-as-is", "--request", method,
         "--max-time", "15", "--header", f"Host: {api.name}", *more, f"http://127.0.0.1:{api.port}{path}"],
        capture_output=True, check=False,
    )  # fmt: skip
    said = subprocess.run(["httplint", "--now"], input=asked.stdout, capture_output=True, check=False).stdout.decode()
    assert "###" in said, f"It read no answer: {asked.stdout!r}"
    bad = re.findall(r"^\s*\* \[BAD\] (.*)$", said, re.MULTILINE)
    assert [line for line in bad if not line.startswith(tuple(HTTPLINT_EXPLAINED))] == [], f"{asked.stdout!r}\n{said}"


@pytest.mark.parametrize("mode", SLOW)
def test_slow_clients_do_not_keep_others_out(api, mode, tmp_path):
    # It asks by the name that it connects to.
    assert api.get("/readyz", headers={"Host": "localhost"}).status == 200, "localhost is one of api_endpoint_server_names"
    url = f"http://localhost:{api.port}/{'echo' if 'body' in mode else 'readyz'}"
    # nginx gives the head of a request 10 seconds.
    seconds = 14 if mode == "headers" else SECONDS
    command = ["slowhttptest", *SLOW[mode], "-c", str(CONNECTIONS), "-l", str(seconds), "-p", "3"]
    with Poll(api) as poll:
        run = subprocess.run(
            [*command, "-u", url, "-g", "-o", str(tmp_path / "slow")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    print(f"slow {mode}: {poll}")
    # Seconds, and at the end of each: closed, pending, connected, whether others are answered.
    rows = [line.split(",") for line in (tmp_path / "slow.csv").read_text().split()[1:]]
    figures = [[int(cell) for cell in row if cell.isdigit()] for row in rows if row[0].isdigit()]
    assert figures, run.stdout
    assert poll.failed == [], str(poll)
    assert len(poll.seconds) > seconds, "others asked meanwhile"
    assert max(poll.seconds) < 2
    closed, connected = figures[-1][1], figures[-1][3]
    assert closed + connected > CONNECTIONS * 0.9, f"the attack took place: {rows}"
    if mode in ("headers", "body"):
        assert "No open connections left" in run.stdout, f"those who are too slow are cut off: {rows}"


def test_lynis_has_no_more_to_say_than_before(api, clean_host):
    after = Lynis(api.host.check_output(AUDIT))
    before = Lynis(clean_host())
    print(f"lynis: hardening index {before.index} before, {after.index} after")
    assert after.of("warning") <= before.of("warning")
    news = {line for line in after.of("suggestion") - before.of("suggestion") if line.split()[0] not in LYNIS_EXPLAINED}
    assert news == set()
    assert after.index >= before.index
