"""The hosts of a run agree on who fetches from outside and who reads from whom, whoever is lost meanwhile."""

import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from ansible.module_utils.api_endpoint_store import StoreError
from ansible.module_utils.api_endpoint_together import SEATS, Together, url_of
from helpers import ROLE

HOSTS = ["one", "two", "three"]
fork = multiprocessing.get_context("fork")


@pytest.fixture
def together(tmp_path):
    """Return a function that gives a host's view of the run."""

    def view(host, hosts=HOSTS):
        return Together(tmp_path / "run", host, hosts, {name: url_of(name, 80) for name in hosts if name != host})

    return view


def test_urls():
    assert url_of("10.0.0.1", 80) == "http://10.0.0.1:80"
    assert url_of("fd00::1", 8080) == "http://[fd00::1]:8080"


def test_all_hosts_have_one_token_and_nobody_else_can_read_it(together, tmp_path):
    tokens = {together(host).token for host in HOSTS}
    assert [len(token) for token in tokens] == [64]
    assert (tmp_path / "run" / "token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


def test_who_lacks_what_and_who_can_give_it(together):
    together("one").tell(there={"a": "a", "b": "b"}, lacks=[])
    together("two").tell(there={"b": "b"}, lacks=["a"])
    assert together("two").lacking("two") == {"a"}
    assert together("one").asked_for() == {"a": "a"}
    assert together("two").asked_for() == {}
    assert together("three").asked_for() == {}
    assert together("one").is_waited_for()
    assert not together("two").is_waited_for()
    together("two").has_all()
    assert together("one").asked_for() == {}


def test_what_differs_between_hosts_is_what_the_first_one_has(together):
    together("three").tell(there={"url": "old"}, lacks=[])
    together("two").tell(there={"url": "new"}, lacks=[])
    together("one").tell(there={}, lacks=["url"])
    assert together("one").chosen() == {"url": "new"}
    assert [host for host in HOSTS if together(host).lacking(host)] == ["one", "three"]
    assert together("two").asked_for() == {"url": "new"}
    assert together("three").asked_for() == {}
    together("three").has_all()
    assert together("three").lacking("three") == set()


def test_offers_name_all_that_give_it_but_oneself(together):
    for host in HOSTS:
        together(host).tell(offers={"a": {"key": "a"}})
    assert together("two").offers() == {"a": {"key": "a", "from": [["one", "http://one:80"], ["three", "http://three:80"]]}}


def test_one_is_first_until_it_ends_or_is_killed(together):
    def be_first():
        with together("one").first() as is_first:
            os.write(written, b"1" if is_first else b"0")
            time.sleep(600)

    reading, written = os.pipe()
    process = fork.Process(target=be_first)
    process.start()
    try:
        assert os.read(reading, 1) == b"1"
        with together("two").first() as is_first:
            assert not is_first
        assert together("two").who_is_first() == "one"
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    with together("two").first() as is_first:
        assert is_first


def test_a_host_has_so_many_seats_and_the_next_ones_sit_elsewhere(together):
    def offer(*hosts):
        return {"a": {"from": [[host, url_of(host, 80)] for host in hosts]}}

    many = [f"host{number}" for number in range(2 * SEATS + 1)]
    with contextlib.ExitStack() as stack:
        seated = [stack.enter_context(together(host, many).seat(offer("one", "two"))) for host in many]
    assert seated[-1] is None
    firsts = [offers["a"]["from"][0][0] for offers in seated[:-1]]
    assert Counter(firsts) == {"one": SEATS, "two": SEATS}
    assert all(len(offers["a"]["from"]) == 2 for offers in seated[:-1])


def test_hosts_that_tried_in_vain_are_counted_and_quoted(together):
    for host in ("one", "two"):
        together(host).tried_in_vain(f"{host} got a 404")
    together("three").check_hope()
    together("three").tried_in_vain("three got a 404")
    with pytest.raises(StoreError, match=r"3 hosts could not bring the data, so this one did not try\.\none: one got a 404"):
        together("four", [*HOSTS, "four"]).check_hope()


# The action itself, with hosts that are folders, each in a process of its own as under Ansible.

spec = importlib.util.spec_from_file_location("action", ROLE / "action_plugins" / "api_endpoint_artifacts.py")
action = importlib.util.module_from_spec(spec)
spec.loader.exec_module(action)
action.time = SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: time.sleep(0.02))


class Acting(action.ActionModule):
    """The action, on a host that notes where it gets things from. It takes some time to get them."""

    def __init__(self, folder, host, hosts, broken=()):
        self._host, self.folder, self.broken = host, folder, broken
        self.together = Together(folder / "run", host, hosts, {name: url_of(name, 80) for name in hosts if name != host})
        self._task = type("Task", (), {"check_mode": False})
        self.said = []

    def _say(self, text):
        self.said.append(text)

    @property
    def stored(self):
        path = self.folder / f"{self._host}.stored"
        return json.loads(path.read_text()) if path.exists() else {}

    def note(self, what):
        with open(self.folder / "transfers", "a") as file:
            file.write(f"{self._host} {what}\n")

    def _module(self, arguments, step, variables):
        there = {name: name for name in self.stored}
        if step == "plan":
            lacks = [name for name in ("a", "b") if name not in there]
            return {"there": there, "lacks": lacks, "missing": lacks, "uploads": {}}
        if step == "share":
            return {"offers": {name: {"key": name, "sha256": name} for name in arguments["keys"]}}
        if step == "begin":
            return {}
        for name in ("a", "b"):
            if name in there:
                continue
            giver = "outside"
            if offer := arguments["offers"].get(name):
                giver = offer["from"][0][0]
                self.note(f"{name} {giver}")
            elif self._host in self.broken:
                self.note(f"{name} failed")
                return self.broken[self._host](name)
            else:
                self.note(f"{name} outside")
            mark = self.folder / f"reads-{giver}-{self._host}"
            mark.touch()
            time.sleep(0.15)
            if giver != "outside" and len(list(self.folder.glob(f"reads-{giver}-*"))) > 2:
                (self.folder / "more than two read from one host").touch()
            mark.unlink()
            (self.folder / f"{self._host}.stored").write_text(json.dumps({**self.stored, name: 1}))
        return {"done": True, "came": [], "changed": True}

    def _look(self, arguments):
        return None

    def act(self):
        self._tell({}, self.together, {})

    def bring(self):
        return self._bring_together({"artifacts": [], "offers": {}}, {}, self.together, {})


def act(folder, hosts, broken=(), at_once=5):
    """Run the steps as Ansible's linear strategy does, so many hosts at once; return what failed."""
    failed = {}
    acting = {host: Acting(folder, host, hosts, broken) for host in hosts}
    for one in acting.values():
        one.act()
    for one in acting.values():
        one._share({}, one.together, {})

    def bring(host):
        answer = acting[host].bring()
        if answer.get("failed"):
            os._exit(1)
        os._exit(0)

    waiting, running = list(hosts), {}
    until = time.monotonic() + 300
    while waiting or running:
        assert time.monotonic() < until, "they wait for each other"
        while waiting and len(running) < at_once:
            host = waiting.pop(0)
            running[host] = fork.Process(target=bring, args=(host,))
            running[host].start()
            while broken and not (folder / "run" / "first.json").exists():
                time.sleep(0.01)
        for host, process in list(running.items()):
            process.join(0.02)
            if not process.is_alive():
                failed |= {host: process.exitcode} if process.exitcode else {}
                del running[host]
    transfers = [line.split() for line in (folder / "transfers").read_text().splitlines()]
    return failed, transfers


def test_ten_hosts_fetch_once_from_outside_and_spread_it(tmp_path):
    hosts = [f"host{number}" for number in range(10)]
    failed, transfers = act(tmp_path, hosts)
    assert not failed
    assert Counter(what for _, what, source in transfers if source == "outside") == {"a": 1, "b": 1}
    assert len(transfers) == 20
    # How many a host gives to depends on which is done when; they are never more than it has seats.
    assert not (tmp_path / "more than two read from one host").exists()


def killed(_name):
    os.kill(os.getpid(), signal.SIGKILL)


def full(_name):
    return {"failed": True, "msg": "The disk is full."}


@pytest.mark.parametrize("ending", [killed, full])
def test_the_next_one_fetches_when_the_first_one_cannot(tmp_path, ending):
    broken = {"one": ending}
    failed, transfers = act(tmp_path, HOSTS, broken)
    assert failed.keys() == {"one"}
    assert transfers[0] == ["one", "a", "failed"]
    assert Counter(what for host, what, source in transfers if source == "outside") == {"a": 1, "b": 1}
    for host in ("two", "three"):
        assert json.loads((tmp_path / f"{host}.stored").read_text()).keys() == {"a", "b"}


def test_a_source_that_fails_everybody_is_not_asked_by_everybody(tmp_path):
    hosts = [f"host{number}" for number in range(8)]
    failed, transfers = act(tmp_path, hosts, dict.fromkeys(hosts, full))
    assert failed.keys() == set(hosts)
    assert len(transfers) == 3


def test_a_new_host_gets_all_from_those_that_have_it(tmp_path):
    for host in ("one", "two"):
        (tmp_path / f"{host}.stored").write_text(json.dumps({"a": 1, "b": 1}))
    failed, transfers = act(tmp_path, ["new", "one", "two"], at_once=1)
    assert not failed
    assert sorted((host, what) for host, what, _ in transfers) == [("new", "a"), ("new", "b")]
    assert {source for _, _, source in transfers} <= {"one", "two"}
