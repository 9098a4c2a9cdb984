"""Data comes from outside once, and from host to host, whole and right, whoever fails; nobody else can read it meanwhile.

data.yml is the data part of a deployment alone; test_rolling.py has whole deployments.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import testinfra
import yaml
from outcomes import PROJECT, Run, wait_until

SCENARIO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "molecule" / "artifacts"))
import fault_server  # noqa: E402

NAME = "cluster"
FILES = f"{NAME}-files"
DATA = "/srv/api-endpoint/data"
SHARED = "/run/api-endpoint/shared"
SIZE = 20_000_000
IMAGE = "api-endpoint-testhost:debian13"

pytestmark = pytest.mark.full


def docker(*words: str) -> str:
    """Have the engine do something."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


class Outside:
    """A server that is no host of the cluster, and counts what it sends."""

    def file(self, dest: str, seed: str, size: int = SIZE, /, **faults: object) -> dict:
        """Return an artifact that it has."""
        query = "&".join(f"{name}={value}" for name, value in faults.items())
        url = f"http://{FILES}:8080/bytes/{size}/{seed}" + (f"?{query}" if query else "")
        return {"dest": dest, "url": url, "sha256": fault_server.digest(size, seed)}

    def _ask(self, path: str, method: str = "GET") -> str:
        code = (
            "import sys, urllib.request as u; print(u.urlopen(u.Request(sys.argv[1], method=sys.argv[2])).read().decode())"
        )
        return docker("exec", FILES, "python3", "-c", code, f"http://127.0.0.1:8080{path}", method)

    def sent(self, artifact: dict) -> dict[str, int]:
        """Return the requests for a file, and the bytes that were sent of it."""
        path = re.sub(r"^http://[^/]*|[?].*", "", artifact["url"])
        return json.loads(self._ask("/stats")).get(path, {"requests": 0, "bytes": 0})

    def answers(self) -> bool:
        """Tell whether it is there."""
        try:
            return bool(self._ask("/stats"))
        except subprocess.CalledProcessError:
            return False

    def reset(self) -> None:
        """Forget what was counted."""
        self._ask("/reset", "POST")


class Node:
    """An endpoint's host."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.host = testinfra.get_host(f"docker://{name}")

    def run(self, command: str) -> str:
        """Run a command on it."""
        return self.host.check_output(command)

    @property
    def address(self) -> str:
        """Its address in the cluster's network."""
        return docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", self.name).strip()

    def place(self, artifact: dict) -> str:
        """Return where a file from outside lies."""
        return f"{DATA}/{artifact['sha256']}/artifact"

    def has(self, artifact: dict) -> bool:
        """Tell whether it has a file from outside, whole and right."""
        shown = self.host.run(f"sha256sum {self.place(artifact)}")
        return shown.rc == 0 and shown.stdout.split()[0] == artifact["sha256"]

    def lose(self, artifact: dict) -> None:
        """Let it never have had a file."""
        self.run(f"rm -rf {DATA}/{artifact['sha256']}")

    @property
    def is_bringing(self) -> bool:
        """Whether data is on its way to it."""
        return self.host.run("flock --nonblock /run/api-endpoint-data.alive true").rc != 0

    def end_bringing(self) -> None:
        """End what a run that was cut off has begun."""
        state = json.loads(self.run("cat /run/api-endpoint-data.json"))
        self.run(f"kill -- -{state['pid']}")

    @property
    def leftovers(self) -> str:
        """What should not be there after a run."""
        return self.run(
            f"ls -d {SHARED} 2>/dev/null; find {DATA} -maxdepth 1 -name '.building-*'; "
            "systemctl list-units --all --no-legend 'api-endpoint-shared*'"
        )


@pytest.fixture(scope="module")
def nodes() -> list[Node]:
    """The endpoints' hosts, in their order in the inventory."""
    inventory = yaml.safe_load(Path(os.environ["MOLECULE_INVENTORY_FILE"]).read_text())
    return [Node(name) for name in inventory["api_endpoints"]["hosts"]]


@pytest.fixture(scope="module")
def server():
    """The server outside."""
    subprocess.run(["docker", "rm", "--force", FILES], capture_output=True, check=False)
    docker(
        "run", "--detach", "--init", "--name", FILES, "--network", NAME,
        "--volume", f"{fault_server.__file__}:/fault_server.py:ro", IMAGE, "python3", "/fault_server.py",
    )  # fmt: skip
    server = Outside()
    wait_until(server.answers, "the server answers")
    yield server
    docker("rm", "--force", FILES)


@pytest.fixture
def bring(nodes, server, everywhere, tmp_path):
    """Return what brings artifacts to the hosts, or starts to; afterwards nothing is on its way, and no door is open."""
    server.reset()

    def start(*artifacts: dict, options: tuple[str, ...] = (), **variables):
        given = {f"api_endpoint_{name}": value for name, value in variables.items()}
        file = tmp_path / f"{len(everywhere.started)}.json"
        file.write_text(json.dumps({**given, "api_endpoint_artifacts": artifacts}))
        return everywhere.start(
            "-e", f"@{SCENARIO / 'vars.yml'}", "-e", f"@{file}", *options, name=str(SCENARIO / "data.yml")
        )  # fmt: skip

    def run(*artifacts: dict, **more) -> Run:
        return start(*artifacts, **more).wait()

    run.start = start
    return run


def came(run: Run) -> dict[str, Counter]:
    """Return, for each dest, how many got it from which host or URL; look at the lines that the run shows."""
    found: dict[str, Counter] = {}
    for dest, source in re.findall(r"(?m)[\d:]{8} \S+: ([^ :]+): [\d.]+ \w+ from (\S+) in \d+ s", run.output):
        found.setdefault(dest, Counter())[source.partition("?")[0]] += 1
    return found


def from_outside(run: Run, dest: str) -> int:
    """Return how many hosts had something from outside."""
    return sum(count for source, count in came(run)[dest].items() if source.startswith("http"))


def test_three_hosts_fetch_each_file_once_from_outside(bring, nodes, server, tmp_path):
    pinned = server.file("pinned", f"pinned-{os.getpid()}")
    # Whoever asks again gets another file under the same URL.
    changing = server.file("changing", f"first-{os.getpid()}", 1_000_000, after=1, seed="second", key=os.getpid())
    changing = {"dest": "changing", "url": changing["url"], "allow_unverified": True}
    (tmp_path / "words.txt").write_text(f"{os.getpid()}\n")
    with tarfile.open(tmp_path / "words.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "words.txt", "deep/words.txt")
    packed = {"dest": "packed", "src": str(tmp_path / "words.tar.gz"), "unpack": True}
    first = bring(pinned, changing, packed)
    assert first.status == 0, first.output
    assert server.sent(pinned) == {"requests": 1, "bytes": SIZE}
    assert server.sent(changing) == {"requests": 1, "bytes": 1_000_000}
    assert first.output.count("sending ") == 1
    assert {dest: (from_outside(first, dest), counts.total()) for dest, counts in came(first).items()} == {
        "pinned": (1, 3), "changing": (1, 3), "packed": (0, 2),
    }  # fmt: skip
    assert all(node.has(pinned) for node in nodes)
    # All have what the first one got.
    got = {"sha256": fault_server.digest(1_000_000, f"first-{os.getpid()}")}
    assert all(node.has(got) for node in nodes)
    found = {
        node.run(f"grep --recursive --files-with-matches --include=words.txt -x {os.getpid()} {DATA}") for node in nodes
    }
    assert [path.count("\n") for path in found] == [0], found
    assert [node.leftovers for node in nodes] == [""] * 3
    again = bring(pinned, changing, packed)
    assert (again.status, again.changed) == (0, [0, 0, 0]), again.output
    assert server.sent(pinned)["requests"] == server.sent(changing)["requests"] == 1


@pytest.fixture
def model(bring, nodes, server) -> dict:
    """Return a file that all hosts have."""
    model = server.file("model", f"model-{os.getpid()}")
    if not all(node.has(model) for node in nodes):
        run = bring(model)
        assert run.status == 0, run.output
    server.reset()
    return model


def test_a_new_host_gets_all_from_the_others_and_does_not_believe_a_wrong_byte(bring, nodes, server, model):
    one, new, two = nodes
    new.lose(model)
    # The bytes of the one that it asks first were damaged, and size and time do not tell.
    place = two.place(model)
    two.run(f"cp -p {place} /root/whole; printf X | dd of={place} bs=1 seek=12345678 conv=notrunc status=none")
    two.run(f"touch --reference=/root/whole {place}")
    assert not two.has(model)
    try:
        run = bring(model)
    finally:
        two.run(f"cp -p /root/whole {place} && rm /root/whole")
    assert run.status == 0, run.output
    assert new.has(model)
    assert server.sent(model)["bytes"] == 0
    assert f"model: {two.name}: it is not the expected file" in run.said, run.output
    assert came(run) == {"model": {one.name: 1}}


def test_a_host_whose_disk_is_full_leaves_it_to_the_next(bring, nodes, server):
    first, *others = nodes
    folder = "/srv/other"
    # Its length is not known beforehand, or it would be refused at once.
    artifact = server.file("model", f"full-{os.getpid()}", 100_000_000, chunked=1)
    for node in nodes:
        node.run(f"install -d -g www-data -m 0750 {folder}")
    first.run(f"mount -t tmpfs -o size=80m,mode=0750 tmpfs {folder}")
    try:
        # One host after the other: the first one is it.
        run = bring(artifact, options=("--forks", "1"), data_dir=folder)
    finally:
        first.run(f"umount --lazy {folder}")
        for node in nodes:
            node.run(f"rm -rf {folder}")
    assert run.status != 0
    assert f"The disk that holds {folder}/.part-" in run.said, run.output
    assert [counts.total() for counts in came(run).values()] == [2], run.output
    assert from_outside(run, "model") == 1
    assert server.sent(artifact)["requests"] == 2
    assert f"from {others[0].name} in" in run.said


def test_when_the_host_that_fetches_dies_another_one_does_it(bring, nodes, server):
    artifact = server.file("model", f"dies-{os.getpid()}", SIZE, throttle=2_000_000)
    run = bring.start(artifact)
    wait_until(lambda: any(node.is_bringing for node in nodes), "a host fetches it", 60)
    (dead,) = [node for node in nodes if node.is_bringing]
    docker("kill", dead.name)
    try:
        done = run.wait()
    finally:
        docker("start", dead.name)
        wait_until(lambda: dead.host.run("systemctl is-system-running").stdout.strip() == "running", "it is back", 60)
    assert done.status != 0
    assert [node.has(artifact) for node in nodes if node is not dead] == [True, True], done.output
    assert from_outside(done, "model") == 1
    assert came(done)["model"].total() == 2
    again = bring(artifact)
    assert again.status == 0, again.output
    assert from_outside(again, "model") == 0


def test_a_host_that_stops_in_the_middle_is_left_and_the_half_gone_on_with(bring, nodes, server, model):
    one, new, two = nodes
    new.lose(model)
    half = f"{DATA}/.part-{model['sha256']}"
    # 20 MB in 8 s: long enough to be met in the middle.
    two.run("tc qdisc add dev eth0 root tbf rate 20mbit burst 64kb latency 400ms")
    try:
        run = bring.start(model)
        wait_until(lambda: int(new.host.run(f"stat --format=%s {half}").stdout or 0) > 1_000_000, "some of it is there", 60)
        two.run("systemctl stop nginx")
        done = run.wait()
    finally:
        two.run("systemctl start nginx; tc qdisc del dev eth0 root")
    assert done.status == 0, done.output
    assert new.has(model)
    assert came(done) == {"model": {one.name: 1}}, done.output
    assert server.sent(model)["requests"] == 0
    assert new.leftovers == ""


ASK = """
import http.client, sys, urllib.parse
url, token = urllib.parse.urlsplit(sys.argv[1]), sys.argv[2]
connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
connection.request("GET", url.path, headers={"Host": "cluster.wmcloud.org", "X-API-Endpoint-Peer": token})
answer = connection.getresponse()
print(answer.status, len(answer.read()) if answer.status == 200 else 0)
"""


def ask(node: Node, url: str, token: str) -> tuple[str, str]:
    """Ask from a host as its own would ask; return the status, and the size of what came."""
    status, size = docker("exec", node.name, "python3", "-c", ASK, url, token).split()
    return status, size


def test_nobody_else_can_read_what_the_hosts_give_each_other(bring, nodes, server, model):
    """As long as a run is under way; when it is killed, a timer ends it, and the next run does."""
    one, new, two = nodes
    new.lose(model)
    slow = server.file("slow", f"slow-{os.getpid()}", SIZE, throttle=500_000)
    run = bring.start(model, slow)
    wait_until(lambda: one.host.run(f"ls {SHARED}").rc == 0, "a host lets others read", 60)
    wait_until(lambda: any(node.is_bringing for node in nodes), "another one fetches", 60)
    (token,) = one.run(f"ls {SHARED}").split()
    path = f"/.api-endpoint-data/{model['sha256']}"
    url = f"http://{one.address}{path}"
    balancer = Node(f"{NAME}-balancer")
    try:
        assert ask(new, url, token) == ("200", str(SIZE))
        assert ask(two, url, token) == ("200", str(SIZE))
        for wrong in ("", "0" * 64, token[:-1], f"{token}/../{token}", "files"):
            assert ask(new, url, wrong)[0] == "404", wrong
        for other in (f"{url}/", f"{url}0", f"{url[:-1]}", f"http://{one.address}/.api-endpoint-data/../shared/files"):
            assert ask(new, other, token)[0] == "404", other
        # Who knows the token and is none of them: the balancer's host, who asks through it, another container, this machine.
        assert ask(balancer, url, token)[0] == "404"
        assert ask(new, f"http://{balancer.address}{path}", token)[0] == "404"
        assert ask(Node(FILES), url, token)[0] == "404"
        headers = ["-H", "Host: cluster.wmcloud.org", "-H", f"X-API-Endpoint-Peer: {token}"]
        forged = [*headers, "-H", f"X-Forwarded-For: {two.address}", "-H", f"X-Real-IP: {two.address}"]
        for words in (headers, forged):
            shown = subprocess.run(
                ["curl", "-s", "-w", "%{http_code}", *words, url], capture_output=True, text=True, check=True
            )
            assert shown.stdout.endswith("404"), shown.stdout
        # The folder is the hosts' own too.
        assert one.run(f"stat --format='%a %U %G' {SHARED} {SHARED}/{token}").split("\n") == ["750 root www-data"] * 2
        assert one.host.run(f"runuser -u nobody -- ls {SHARED}").rc != 0
        assert token not in one.run("cat /var/log/nginx/*.log")
    finally:
        run.kill()
    assert one.run(f"ls {SHARED}").split() == [token]
    timer = one.run("systemctl show --property=ActiveState,NextElapseUSecMonotonic api-endpoint-shared.timer")
    assert "ActiveState=active" in timer
    # As the timer does when it is time.
    one.run("systemctl start --wait api-endpoint-shared.service")
    assert one.leftovers == ""
    assert ask(two, url, token)[0] == "404"
    assert two.run(f"ls {SHARED}").split() == [token]
    for node in nodes:
        if node.is_bringing:
            node.end_bringing()
    after = bring(model)
    assert after.status == 0, after.output
    assert [node.run(f"ls -d {SHARED} 2>/dev/null || true") for node in nodes] == [""] * 3
