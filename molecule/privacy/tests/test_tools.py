"""Tools of others on a whole host: slow attacks (slowhttptest) and an audit of the system (lynis)."""

import http.client
import re
import subprocess
import threading
from functools import partial

import pytest
from outcomes import PROJECT

pytestmark = pytest.mark.full

# docs/guides/security.md says why each of these stands.
LYNIS_EXPLAINED = {"HTTP-6710", "HTTP-6714"}

SLOW = {
    "headers": ["-r", "500", "-H", "-i", "1"],
    "body": ["-r", "500", "-B", "-i", "5", "-s", "100000", "-t", "POST"],
    "body, never quite too slow": ["-r", "500", "-B", "-i", "1", "-s", "100000", "-t", "POST"],
    # These requests are whole, and the app answers them: not more a second than it can, or it is a test of floods.
    "reading": ["-r", "50", "-X", "-n", "5", "-w", "1", "-y", "32", "-z", "1", "-k", "3"],
}
CONNECTIONS = 1000

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
def _on_one_host(on_one_host):
    """These take their time."""


@pytest.fixture
def clean_host(api):
    """Return what returns the audit's report on a host of the same image without the role."""
    name = f"{api.container}-clean"
    docker = partial(subprocess.run, capture_output=True, text=True, check=True)
    image = docker(
        ["docker", "inspect", "--format", "{{.Config.Image}}", api.container]
    ).stdout.strip()
    docker([PROJECT / "tools" / "testhost" / "start.sh", name, image.partition(":debian")[2]])
    yield lambda: docker(["docker", "exec", name, "sh", "-c", AUDIT]).stdout
    docker(["docker", "rm", "--force", "--volumes", name])


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
    """A client that asks again and again while the block runs, and notes what it was answered."""

    def __init__(self, api) -> None:
        self.api = api
        self.outcomes: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        port = self.api.port
        while not self._stopped.wait(0.05):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("GET", "/readyz", headers={"Host": self.api.name})
                self.outcomes.append(str(connection.getresponse().status))
            except (OSError, http.client.HTTPException) as error:
                self.outcomes.append(str(error))
            finally:
                connection.close()

    def __enter__(self) -> "Poll":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()


@pytest.mark.parametrize("mode", SLOW)
def test_slow_clients_do_not_keep_others_out(api, mode, tmp_path):
    # slowhttptest asks by the name that it connects to.
    assert api.get("/readyz", headers={"Host": "localhost"}).status == 200, (
        "localhost is one of api_endpoint_server_names"
    )
    url = f"http://localhost:{api.port}/{'echo' if 'body' in mode else 'readyz'}"
    # Clients that nginx cuts off end the attack sooner.
    seconds = {"headers": 120, "body": 120, "reading": 30}.get(mode, 10)
    command = ["slowhttptest", *SLOW[mode], "-c", str(CONNECTIONS), "-l", str(seconds), "-p", "3"]
    with Poll(api) as poll:
        run = subprocess.run(
            [*command, "-u", url, "-g", "-o", str(tmp_path / "slow")],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    # Seconds, and at the end of each: closed, pending, connected, whether others are answered.
    rows = [line.split(",") for line in (tmp_path / "slow.csv").read_text().split()[1:]]
    figures = [[int(cell) for cell in row if cell.isdigit()] for row in rows if row[0].isdigit()]
    assert figures, run.stdout
    assert set(poll.outcomes) == {"200"}, poll.outcomes
    closed, connected = figures[-1][1], figures[-1][3]
    assert closed + connected > CONNECTIONS * 0.9, f"the attack took place: {rows}"
    if mode in ("headers", "body"):
        assert "No open connections left" in run.stdout, (
            f"those that are too slow are cut off: {rows}"
        )


def test_lynis_has_no_more_to_say_than_before(api, clean_host):
    after = Lynis(api.host.check_output(AUDIT))
    before = Lynis(clean_host())
    print(f"lynis: hardening index {before.index} before, {after.index} after")
    assert after.of("warning") <= before.of("warning")
    news = {
        line
        for line in after.of("suggestion") - before.of("suggestion")
        if line.split()[0] not in LYNIS_EXPLAINED
    }
    assert news == set()
    assert after.index >= before.index
