"""Rounds of seeded faults: a change, a fault at some moment of it, and what must hold afterwards.

A round is decided by its seed and its number alone, so that both replay its choices: the change, the fault, the moment.
They do not replay the schedule. Whether a process is hit one system call earlier or later is the machine's to say, and what
earlier rounds left on the host (the releases, the live slot) comes back only when they are replayed too.
"""

import contextlib
import http.client
import os
import random
import shlex
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import kills
import pytest
from load import Result, load
from outcomes import ROOT, Api, Run, wait_until
from playbook import Playbook, Started
from versions import App, Deploy

SCENARIO = Path(__file__).resolve().parents[1]
LEFT_OVER = (Path(__file__).parent / "left_over.py").read_text()
FLAGS = "/var/lib/interruptions"  # where the files lie that let a version load; they outlive a restart of the host
RATE = 20.0  # requests a second
# Ends of waits that only a broken product reaches.
RUN_SECONDS = 1500
SERVING_SECONDS = 300
SESSION = f"{os.getpid():x}"  # makes versions of this session new on a host that knows the same seed already

# --- what is chosen

CHANGES = {
    "code": 4,
    "settings": 3,
    "requirements": 4,
    "bad": 3,
    "rollback": 3,
    "nothing": 2,
}  # with their weights
SHARE, CODE, PIP, LOADS, WAITS, SWITCH = (
    "a share of the usual time", "the code arrives", "pip runs", "the new version loads", "requests wait", "the switch",
)  # fmt: skip
NO_FAULT = "no fault"
FAULTS = {
    NO_FAULT: 2,
    "the run is killed": 3,
    "the run and what it started on the host are killed": 3,
    "what it started on the host is killed": 3,
    "the process that waits for the rollout is killed": 2,
    "the process that works on the rollout is killed": 3,
    "pip is killed": 2,
    "the unit of pip is killed": 2,
    "systemd-run is killed": 2,
    "the live version is killed": 2,
    "daemon-reload": 2,
    "the link live is removed": 2,
    "the link current is removed": 1,
    "the host is killed": 1,
    "a second run": 2,
}
OF_PIP = ("pip is killed", "the unit of pip is killed", "systemd-run is killed")
OF_THE_ROLL_OUT = (
    "the process that waits for the rollout is killed",
    "the process that works on the rollout is killed",
)
# After these a good change has succeeded.
HARMLESS = (NO_FAULT, "daemon-reload", "the link current is removed", "a second run")


@dataclass(frozen=True)
class Choices:
    """What a round consists of."""

    seed: str
    number: int
    strategy: str
    change: str
    fault: str
    moment: str
    share: float  # of the usual time, for the moment that is one
    delay: float  # seconds from the moment to the fault
    bad: str  # in which way a bad version is bad
    is_patient: bool  # whether the host is left alone, until it serves, before the next run
    is_given_up: bool  # whether the next run goes for what was live before

    def __str__(self) -> str:
        """Say it in one line."""
        when = (
            f"{self.share:.0%} of the usual time"
            if self.moment == SHARE
            else f"{self.moment} + {self.delay:.1f} s"
        )
        change = f"{self.change} ({self.bad})" if self.change == "bad" else self.change
        then = "as soon as the host serves" if self.is_patient else "at once"
        goal = "what was live before" if self.is_given_up else "the same"
        return f"strategy {self.strategy}, change: {change}, fault: {self.fault}, at: {when}, then {then}: {goal}"

    @property
    def is_held(self) -> bool:
        """Whether the new version loads until the fault has happened."""
        return self.moment in (LOADS, WAITS) and self.change in ("code", "requirements")

    @property
    def command(self) -> str:
        """The command that replays it."""
        return f"make interruptions SEED={self.seed} ROUND={self.number}"


def choose(seed: str, number: int) -> Choices:
    """Decide on a round."""
    rng = random.Random(f"{seed}:{number}")
    strategy = rng.choice(("blue_green", "restart"))
    change = rng.choices(list(CHANGES), list(CHANGES.values()))[0]
    senseless = [
        *(OF_PIP if change != "requirements" else ()),
        *(OF_THE_ROLL_OUT if change == "nothing" else ()),
    ]
    faults = {fault: weight for fault, weight in FAULTS.items() if fault not in senseless}
    fault = rng.choices(list(faults), list(faults.values()))[0]
    moments = [SHARE]
    if change != "nothing":
        moments += [LOADS, LOADS, *([WAITS, WAITS] if strategy == "restart" else [])]
    if change not in ("nothing", "bad"):
        moments += [SWITCH]
    if change not in ("nothing", "rollback"):
        moments += [CODE]
    if change == "requirements":
        moments += [PIP, PIP]
    if fault in OF_PIP:
        moments = [PIP]
    if fault in OF_THE_ROLL_OUT:
        moments = [moment for moment in moments if moment in (LOADS, WAITS, SWITCH)]
    return Choices(
        seed=seed,
        number=number,
        strategy=strategy,
        change=change,
        fault=fault,
        moment=rng.choice(moments),
        share=rng.uniform(0.02, 1),
        delay=rng.choice((0.0, rng.uniform(0, 1.5))),
        bad=rng.choice(("import", "health")),
        is_patient=rng.random() < 0.4,
        is_given_up=change == "bad" or rng.random() < 0.25,
    )


# --- what is deployed

# What an answer names: its release, and of what it is made, each read where the app uses it.
MADE_OF = (
    'FOLDER.name, VERSION, os.environ["SETTINGS"], os.path.basename(os.path.realpath(sys.prefix))'
)


@dataclass(frozen=True)
class Version:
    """What a run is to bring live. Equal versions are one release."""

    code: str
    settings: str
    requirements: str
    strategy: str
    is_held: bool = False
    bad: str = ""


class Clients:
    """The load of a round, in one piece or in several: a host that restarts is at another port afterwards."""

    def __init__(self, api: Api, step: str) -> None:
        self.api = api
        self.step = step
        self.results: list[Result] = []
        self.stack = contextlib.ExitStack()

    def start(self) -> None:
        """Begin to send."""
        self.results.append(
            self.stack.enter_context(load(self.api, self.step, rate=RATE, timeout=180))
        )

    def stop(self) -> None:
        """Send no more, and wait for the outstanding answers."""
        self.stack.close()


@dataclass
class Outcome:
    """What became of a round."""

    choices: Choices
    host: str
    results: list[Result] = field(default_factory=list)
    windows: list[tuple[float, float, str]] = field(
        default_factory=list
    )  # in which requests may fail, and why
    amiss: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what happened, in order
    seconds: float = 0.0

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return sum(result.requests for result in self.results)

    @property
    def failed(self) -> int:
        """How many of them failed."""
        return sum(result.failed for result in self.results)

    def judge_failures(self) -> None:
        """A request fails only while the live process or its host was hit."""
        for result in self.results:
            outside = [
                (sent, done)
                for sent, done in result.failed_between
                if not any(
                    sent <= closed and done >= opened for opened, closed, _why in self.windows
                )
            ]
            if outside:
                kinds = "; ".join(
                    f"{it['count']} x {it['kind']}: {it['example']}" for it in result.failures
                )
                self.amiss.append(f"{len(outside)} requests failed outside of any window ({kinds})")

    def judge_answers(self, allowed: dict[str, str]) -> None:
        """Each answer is wholly of the version before or of the one that was wanted, and nothing goes to and fro."""
        seen: list[str] = []
        for result in self.results:
            seen += [answer for answer in result.releases if answer not in seen[-1:]]
        for answer in dict.fromkeys(seen):
            if answer not in allowed.values():
                self.amiss.append(f"an answer of {answer}, which is neither of {allowed}")
        switches_back = self.choices.is_given_up and len(seen) == 3 and seen[0] == seen[2]
        if len(seen) != len(set(seen)) and not switches_back:
            self.amiss.append(f"the answers went back and forth: {' -> '.join(seen)}")

    def report(self) -> str:
        """Say all that helps to understand a round."""
        lines = [
            f"Round {self.choices.number} of seed {self.choices.seed} on {self.host}: {self.choices}"
        ]
        lines += [f"  amiss: {line}" for line in self.amiss]
        lines += [f"  {line}" for line in self.notes]
        lines += [f"  {result}" for result in self.results]
        return "\n".join([*lines, f"Replay it: {self.choices.command}"])


OUTCOMES: list[Outcome] = []


class Host:
    """A host, and what is known of the versions that it has."""

    def __init__(self, host, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.api = Api(host, "interruptions.wmcloud.org")
        self.playbook = Playbook(host)
        self.deploy = Deploy(self.playbook, self.api, SCENARIO)
        self.known: dict[
            str, Version
        ] = {}  # by release, in the order in which they went live first
        self.usual_seconds = 0.0
        self.sound = False  # whether the last round left all as it should be
        self.count = 0

    def app(self, version: Version) -> App:
        """Return the app of a version: its answers say what they are made of."""
        folder = self.folder / f"{version.code}{version.bad}"
        if folder.exists():
            shown = App.__new__(App)
            shown.folder, shown.version = folder, version.code
            return shown
        app = App(folder, version.code, version.is_held, FLAGS)
        app.replace("wsgi.py", "release=FOLDER.name, ", f'release=" ".join([{MADE_OF}]), ')
        app.replace("wsgi.py", "import os\n", "import os\nimport sys\n")
        if version.bad == "import":
            app.replace("wsgi.py", "import KINDS", "import KINDS, gone")
        if version.bad == "health":
            app.replace("flask_config.yaml", "HEALTH_STATUS: 200", "HEALTH_STATUS: 500")
        return app

    def start(self, version: Version, user: str = "ada") -> Started:
        """Start a run that brings a version live."""
        more = {"start_timeout": 8} if version.bad else {}
        return self.deploy.start(
            self.app(version), user=user, strategy=version.strategy, environment={"SETTINGS": version.settings},
            pip_constraints=[f"not-required-{version.requirements}==1"], **more,
        )  # fmt: skip

    def end(self, run: Started) -> Run:
        """Wait for the end of a run."""
        wait_until(
            lambda: run.has_ended, f"the run ends; it said:\n{run.output[-3000:]}", RUN_SECONDS
        )
        return run.wait()

    def prepare(self) -> None:
        """Bring two versions live, so that there is one to go back to, and measure how long that takes."""
        self.count += 1
        self.host.check_output(f"mkdir --parents {FLAGS}")
        for name in ("base", "second"):
            label = f"{name}-{SESSION}-{self.count}"
            version = Version(label, label, label, "blue_green")
            begun = time.monotonic()
            run = self.end(self.start(version))
            self.usual_seconds = time.monotonic() - begun
            assert run.status == 0, run.output
            self.known[self.api.release] = version
        self.sound = True

    def answer_of(self, release: str, version: Version) -> str:
        """Return what a release answers: its id, and what it is made of."""
        packages = self.host.check_output(f"basename $(readlink {ROOT}/releases/{release}/p3env)")
        return f"{release} {version.code} {version.settings} {packages}"

    def serves(self) -> bool:
        """Tell whether the API answers, several times in a row."""
        try:
            return all(self.api.get("/").status == 200 for _ in range(5))
        except (OSError, http.client.HTTPException):
            return False

    def left_over(self) -> list[str]:
        """Return what is amiss on the host."""
        return kills.python_on(self.host, LEFT_OVER).splitlines()


class Round:
    """One round on a host."""

    def __init__(self, host: Host, choices: Choices) -> None:
        self.host = host
        self.api = host.api
        self.choices = choices
        self.outcome = Outcome(choices, host.api.container)
        self.clients = Clients(host.api, f"round {choices.number}")
        self.outcome.results = self.clients.results
        self.begun = time.monotonic()
        self.open_window: tuple[float, str] | None = None
        self.runs: list[Started] = []
        self.before = host.api.release
        self.live = host.known[self.before]
        self.slot = host.api.slot
        self.wanted, self.target = self.decide()

    def decide(self) -> tuple[Version, str]:
        """Return what the round's run is to bring live, and for a rollback the release too."""
        label = f"{self.choices.seed}-{self.choices.number}-{SESSION}"
        new = replace(
            self.live, strategy=self.choices.strategy, is_held=self.choices.is_held, bad=""
        )
        match self.choices.change:
            case "nothing":
                return self.live, ""
            case "settings":
                return replace(self.live, settings=label, strategy=self.choices.strategy), ""
            case "requirements":
                return replace(new, code=label, requirements=label), ""
            case "bad":
                return replace(new, code=label, bad=self.choices.bad, is_held=False), ""
            case "rollback":
                there = [
                    release
                    for release in self.host.known
                    if release in self.api.releases and release != self.before
                ]
                if there:
                    return self.host.known[there[-1]], there[-1]
        return replace(new, code=label), ""

    def note(self, text: str) -> None:
        """Remember what happened, and when."""
        self.outcome.notes.append(f"{time.monotonic() - self.begun:6.1f} s  {text}")

    # --- the moment

    def start(self) -> Started:
        """Start the run that the fault is for."""
        if self.target:
            run = self.host.deploy.start(None, name="playbooks/rollback.yml", release=self.target)
        else:
            run = self.host.start(self.wanted)
        self.runs.append(run)
        return run

    def is_reached(self, run: Started, begun: float) -> bool:
        """Tell whether the moment for the fault has come."""
        run_on = self.api.host.run
        match self.choices.moment:
            case moment if moment == CODE:
                return "app | Bring the code into the store" in run.output
            case moment if moment == PIP:
                return run_on("pgrep --full '[p]ip install'").rc == 0
            case moment if moment == LOADS:
                idle = "green" if self.slot == "blue" else "blue"
                return (
                    run_on(f"systemctl is-active api-endpoint@{idle}.service").stdout.strip()
                    == "activating"
                )
            case moment if moment == WAITS:
                return run_on("systemctl is-active --quiet api-endpoint-waiting.socket").rc == 0
            case moment if moment == SWITCH:
                return run_on(f"readlink {ROOT}/live").stdout.strip() != f"slots/{self.slot}"
        return time.monotonic() - begun >= self.choices.share * self.host.usual_seconds

    def wait_for_the_moment(self, run: Started) -> None:
        """Wait for the moment, or for the end of a run that does not reach it."""
        begun = time.monotonic()
        wait_until(
            lambda: run.has_ended or self.is_reached(run, begun), self.choices.moment, RUN_SECONDS
        )
        if self.choices.moment != SHARE and not run.has_ended:
            time.sleep(self.choices.delay)
        self.note(
            "the run has ended before the fault"
            if run.has_ended
            else f"the moment: {self.last_task(run)}"
        )

    @staticmethod
    def last_task(run: Started) -> str:
        """Return the task that a run is at."""
        return run.output.rpartition("TASK [")[2].partition("]")[0] or "no task yet"

    # --- the fault

    def strike(self, run: Started) -> None:
        """Let the fault happen."""
        on_host = self.api.host.run
        strikes: dict[str, Callable[[], object]] = {
            NO_FAULT: lambda: None,
            "the run is killed": run.kill,
            "the run and what it started on the host are killed": lambda: (
                run.kill(),
                self.kill(kills.KILL_MODULES),
            ),
            "what it started on the host is killed": lambda: self.kill(kills.KILL_MODULES),
            "the process that waits for the rollout is killed": lambda: self.kill(
                kills.KILL_WHO_WAITS
            ),
            "the process that works on the rollout is killed": lambda: self.kill(
                kills.KILL_WHO_WORKS
            ),
            "pip is killed": lambda: self.hit("pkill -9 --count --full '[p]ip install'"),
            "the unit of pip is killed": lambda: self.hit(
                "systemctl kill --signal=KILL api-endpoint-virtualenv.service && echo 1"
            ),
            "systemd-run is killed": lambda: self.hit("pkill -9 --count --exact systemd-run"),
            "the live version is killed": self.kill_the_live_version,
            "daemon-reload": lambda: on_host("systemctl daemon-reload"),
            "the link live is removed": self.remove_the_link_live,
            "the link current is removed": lambda: on_host(f"rm --force {ROOT}/current"),
            "the host is killed": self.kill_the_host,
            "a second run": lambda: self.runs.append(self.second()),
        }
        self.note(self.choices.fault)
        strikes[self.choices.fault]()

    def kill(self, program: str) -> None:
        """Kill processes on the host with a program of `kills`."""
        self.hit(f"python3 -c {shlex.quote(program)}")

    def hit(self, command: str) -> None:
        """Repeat a command until it has hit something (it prints how much), or nothing is left that it could hit."""
        killed: list[int] = []

        def has_hit() -> bool:
            said = self.api.host.run(command).stdout.strip()
            killed.append(int(said or 0))
            return killed[-1] > 0 or all(run.has_ended for run in self.runs)

        wait_until(has_hit, f"something to hit with {self.choices.fault}", RUN_SECONDS)
        self.note(f"processes hit: {killed[-1]}, at the attempt number {len(killed)}")

    def second(self) -> Started:
        """Start a second run of the same, by somebody else."""
        return self.host.start(self.wanted, user="bob")

    def kill_the_live_version(self) -> None:
        """Kill the live version's main process; systemd starts it again."""
        main = self.api.main_pid()
        if not main:
            self.note("no live version runs: requests wait")
            return
        opened = time.monotonic()
        self.api.kill(main)
        self.let_load()
        wait_until(
            lambda: self.api.main_pid() not in (0, main) and self.host.serves(),
            "it serves again",
            SERVING_SECONDS,
        )
        self.close_window(opened, "the live version was killed")

    def remove_the_link_live(self) -> None:
        """Remove the link that nginx follows. Requests fail until a run has made it again."""
        self.open_window = (time.monotonic(), "the link live was removed")
        self.api.host.check_output(f"rm --force {ROOT}/live")

    def kill_the_host(self) -> None:
        """Cut the host's power, and give it back: it serves again by itself."""
        opened = time.monotonic()
        subprocess.run(["docker", "kill", self.api.container], check=True, capture_output=True)
        self.clients.stop()
        subprocess.run(["docker", "start", self.api.container], check=True, capture_output=True)
        self.let_load()
        self.api.wait_until_it_answers("/", SERVING_SECONDS)
        wait_until(self.host.serves, "the host serves again", SERVING_SECONDS)
        self.close_window(opened, "the host was killed")
        self.clients.start()

    def close_window(self, opened: float, why: str) -> None:
        """Remember that requests could fail until now."""
        self.outcome.windows.append((opened, time.monotonic(), why))
        self.note(f"{why}, and serves again after {time.monotonic() - opened:.1f} s")

    def let_load(self) -> None:
        """Let a version that is held go on."""
        self.api.host.check_output(f"mkdir --parents {FLAGS}")
        self.api.host.check_output(f"touch {FLAGS}/load-{self.wanted.code}")

    # --- the whole

    def run(self) -> Outcome:
        """Do it all, and judge it."""
        self.clients.start()
        try:
            self.interrupt()
            self.recover()
        except (Exception, pytest.fail.Exception) as error:
            self.outcome.amiss.append(f"{type(error).__name__}: {error}")
        finally:
            for run in self.runs:
                run.kill()
            self.clients.stop()
        if self.open_window:
            self.outcome.windows.append(
                (self.open_window[0], time.monotonic(), self.open_window[1])
            )
        self.outcome.judge_failures()
        allowed = self.allowed()
        self.outcome.judge_answers(
            {release: self.host.answer_of(release, allowed[release]) for release in allowed}
        )
        if not self.outcome.amiss:
            self.host.known.update(allowed)
        self.outcome.seconds = time.monotonic() - self.begun
        self.host.sound = not self.outcome.amiss
        return self.outcome

    def allowed(self) -> dict[str, Version]:
        """Return the versions that clients may get, by release: what was live, and what was wanted unless it is bad."""
        versions = {self.before: self.live}
        known = {version: release for release, version in self.host.known.items()}
        if self.wanted in known:
            versions[known[self.wanted]] = self.wanted
        elif not self.wanted.bad:
            pattern = f"VERSION = .{self.wanted.code}.$"
            found = self.api.host.run(
                f"grep --files-with-matches '{pattern}' {ROOT}/releases/*/wsgi.py"
            ).stdout
            new = {path.split("/")[-2] for path in found.split()} - set(self.host.known)
            versions.update(dict.fromkeys(new, self.wanted))
        there = self.api.releases
        return {release: version for release, version in versions.items() if release in there}

    @property
    def final(self) -> Version:
        """What is live in the end."""
        return self.live if self.choices.is_given_up else self.wanted

    def interrupt(self) -> None:
        """Run the change into the fault."""
        run = self.start()
        self.wait_for_the_moment(run)
        self.strike(run)
        self.let_load()
        ended = [self.host.end(each) for each in self.runs]
        self.note(f"the runs ended with {[each.status for each in ended]}")
        statuses = [each.status for each in ended]
        if self.choices.fault in HARMLESS and not self.wanted.bad and 0 not in statuses:
            self.outcome.amiss.append(f"no run succeeded:\n{ended[0].output[-4000:]}")
        if self.wanted.bad and 0 in statuses:
            self.outcome.amiss.append(f"a bad version was brought live:\n{ended[0].output[-4000:]}")
        is_serving = self.host.serves()
        if self.open_window and is_serving:
            self.close_window(*self.open_window)
            self.open_window = None
        if not is_serving and any("is still live." in each.said for each in ended):
            self.outcome.amiss.append(
                f"a run says that a release is still live, which it does not:\n{ended[0].output[-4000:]}"
            )
        if self.choices.is_patient and not self.open_window:
            wait_until(self.host.serves, "the host serves by itself", SERVING_SECONDS)
            self.note("the host serves by itself")

    def recover(self) -> None:
        """One clean run succeeds, the next one changes nothing, and nothing is left over."""
        for wanted in ("the clean run", "one more"):
            run = self.host.start(self.final)
            self.runs.append(run)
            ended = self.host.end(run)
            self.note(f"{wanted} ended with {ended.status}, changed={ended.changed}")
            if ended.status != 0 or (wanted == "one more" and ended.changed != [0]):
                changes = "\n".join(
                    part
                    for part in ended.output.split("TASK [")
                    if "changed: [" in part or "fatal: " in part
                )
                self.outcome.amiss.append(
                    f"{wanted} ended with {ended.status}, changed={ended.changed}:\n{changes[-6000:]}"
                )
                if ended.status != 0:
                    return
            if wanted == "the clean run" and self.open_window:
                self.close_window(*self.open_window)
                self.open_window = None
        self.outcome.amiss += self.host.left_over()
        for path in ("/healthz", "/data"):
            if (answer := self.api.get(path)).status != 200:
                self.outcome.amiss.append(f"GET {path}: {answer.status}")
        expected, found = (
            self.host.answer_of(self.api.release, self.final),
            self.api.get("/").json["release"],
        )
        if found != expected:
            self.outcome.amiss.append(f"live is {found}, wanted was {expected}")


def summary() -> list[str]:
    """Return the lines of a table: by fault the rounds, the requests, and those that failed inside of windows."""
    rounds, requests, failed, bad = Counter(), Counter(), Counter(), Counter()
    for outcome in OUTCOMES:
        fault = outcome.choices.fault
        rounds[fault] += 1
        requests[fault] += outcome.requests
        failed[fault] += outcome.failed
        bad[fault] += bool(outcome.amiss)
    line = "{:52} {:>7} {:>9} {:>7} {:>6}".format
    table = [line("fault", "rounds", "requests", "failed", "amiss")]
    table += [
        line(it, rounds[it], f"{requests[it]:,}", failed[it], bad[it])
        for it in FAULTS
        if rounds[it]
    ]
    return [
        *table,
        line("all", rounds.total(), f"{requests.total():,}", failed.total(), bad.total()),
    ]
