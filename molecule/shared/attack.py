"""Calls with marks from outside and inside of a test host, and a search of hosts for the marks."""

import json
import random
import secrets
import socket
import subprocess
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ansible.module_utils
from outcomes import PROJECT, Api, wait_until

UTILS = PROJECT / "roles" / "api_endpoint" / "module_utils"
ansible.module_utils.__path__.append(str(UTILS))

from ansible.module_utils.api_endpoint.privacy.corpus import Marks, send_all  # noqa: E402
from request_corpus import KINDS, requests  # noqa: E402

THERE = "/opt/audit"  # where the audit's code is on the test hosts: a place that is not searched
RATE = 150  # requests a second, at the most
EACH = len(KINDS)  # as many requests as there are kinds: they are sent in turn

# What was sent and searched in this session, for the summary.
DONE: list[str] = []


@dataclass
class Found:
    """What a search found."""

    leaks: list[tuple[str, str, str]]  # kind of mark, place, excerpt: where it should not be
    met: set[tuple[str, str]]  # kind of mark, place: all of them
    files: int
    bytes: int
    entries: int

    def leaks_in(self, place: str) -> set[str]:
        """Return the kinds of marks that were found in a place where they should not be."""
        return {kind for kind, where, _excerpt in self.leaks if where == place}


class Attack:
    """Calls with marks of its own, from outside and from inside of the host, and a search for these."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.marks = Marks.new(random.SystemRandom())
        self.rng = random.Random(1)  # each run sends the same requests, but for the marks
        self.begun = time.time() - 1
        self.callers: list[str] = []
        self.sent = 0
        self.leaks_on_purpose = False

    def outside(
        self, count: int, *kinds: str, paths=("/readyz",), patience: float = 0, rate: float = RATE
    ) -> Counter:
        """Call over IPv4 from this machine, whose address the host sees as that of its gateway; count the outcomes."""
        port = self.api.port
        self.callers.append(self.api.host.check_output("ip route show default").split()[2])
        made = requests(
            self.marks, self.api.name, count, self.rng.getrandbits(32), tuple(paths), kinds
        )
        if patience:
            made = (replace(request, answer_seconds=patience) for request in made)
        counted = send_all(
            made,
            lambda: socket.create_connection(("127.0.0.1", port), 5),
            rate=rate,
            seconds=600,
            workers=8,
        )
        return self._outcomes("IPv4 from outside", counted)

    def inside(
        self, count: int, *kinds: str, paths=("/readyz",), patience: float = 0, family: int = 6
    ) -> Counter:
        """Call from the host itself, from an address of its own; count the outcomes."""
        done = order(
            self.api.container,
            do="attack", marks=asdict(self.marks), host=self.api.name, count=count, seed=self.rng.getrandbits(32),
            paths=paths, kinds=kinds, patience=patience, family=family, rate=RATE,
        )  # fmt: skip
        self.callers.append(done["caller"])
        return self._outcomes(
            f"IPv{family} from inside",
            Counter({(kind, end): n for kind, end, n in done["counted"]}),
        )

    def _outcomes(self, way: str, counted: Counter) -> Counter:
        self.sent += sum(counted.values())
        outcomes: Counter = Counter()
        for (_kind, outcome), count in counted.items():
            outcomes[outcome] += count
        shown = ", ".join(f"{outcome}: {outcomes[outcome]}" for outcome in sorted(outcomes))
        DONE.append(f"{self.api.container}  {sum(counted.values()):,} over {way} ({shown})")
        return outcomes

    def _wait_for_logs(self) -> None:
        """Wait until the logs have what was sent so far: rsyslog writes nginx's errors in their order."""
        last = f"/{self.marks.path}/{secrets.token_hex(8)}"

        def is_written() -> bool:
            # Again each time: the first error after a restart of rsyslog is lost.
            self.api.ask("POST", last, headers={"Content-Length": "9999999"})
            log = "/var/log/nginx/{access,error}.log"
            return (
                self.api.host.run(
                    f"bash -c 'grep -cF {last} {log}' | grep -c ':[1-9]'"
                ).stdout.strip()
                == "2"
            )

        wait_until(is_written, "nginx's logs have the last request")
        self.api.host.run("journalctl --sync")

    def search(self, *others: "Attack") -> Found:
        """Search the host for the marks and callers of this attack, and of others."""
        all_of_them = [self, *others]
        self._wait_for_logs()
        units = [self.api.unit, "nginx.service", "rsyslog.service"]
        begun = time.monotonic()
        found = order(
            self.api.container,
            do="search",
            marks=[asdict(attack.marks) for attack in all_of_them],
            callers=sorted({caller for attack in all_of_them for caller in attack.callers}),
            since=min(attack.begun for attack in all_of_them),
            processes=[pid for pid in map(self.api.main_pid, units) if pid],
        )
        assert found.pop("failed") == []
        result = Found(
            [tuple(leak) for leak in found.pop("leaks")],
            {tuple(place) for place in found.pop("met")},
            **found,
        )
        DONE.append(
            f"{self.api.container}  searched {result.files:,} files ({result.bytes:,} bytes) and {result.entries:,} entries "
            f"of the journal in {time.monotonic() - begun:.1f} s: {len(result.leaks)} leaks"
        )
        return result

    def assert_nobody_is_named(self, *others: "Attack") -> Found:
        """Nothing that was written since the attack began tells who called; return what was found of what may be there."""
        found = self.search(*others)
        assert found.leaks == []
        assert "/var/log/nginx/access.log" in {place for _kind, place in found.met}, (
            "the search does not see what was logged"
        )
        return found


def bring_search(container: str) -> None:
    """Bring the audit's code to a test host."""
    subprocess.run(
        ["docker", "exec", container, "sh", "-c", f"rm -rf {THERE}; mkdir -p {THERE}/ansible"],
        check=True,
    )
    subprocess.run(
        ["docker", "cp", "-q", str(UTILS), f"{container}:{THERE}/ansible/module_utils"], check=True
    )
    for name in ("inside.py", "request_corpus.py"):
        subprocess.run(
            [
                "docker",
                "cp",
                "-q",
                str(Path(__file__).with_name(name)),
                f"{container}:{THERE}/{name}",
            ],
            check=True,
        )


def order(container: str, **given) -> dict:
    """Have that code do something on a test host."""
    done = subprocess.run(
        ["docker", "exec", "-i", container, "env", f"PYTHONPATH={THERE}", "python3", f"{THERE}/inside.py"],
        input=json.dumps(given), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
