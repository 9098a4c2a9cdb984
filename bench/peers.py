"""Other servers with the same model and the same question, in turn with ours, on one host.

None of them has nginx in front. Each is started as its own documentation says, with as many workers as processors.
Run by `make bench`; BENCH_REPEATS and BENCH_SECONDS as for answers.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import answers
import figures
import host
from figures import Figure

FOLDER = "/opt/peers"
LIVE = f"{host.ROOT}/current"
MODEL = ["fasttext-predict==0.9.2.4", "setuptools"]
BODY = json.dumps({"text": "bonjour"})


@dataclass(frozen=True)
class Peer:
    """A server that is compared to ours."""

    name: str
    port: int
    packages: list[str]
    command: (
        str  # {port} and {workers} are filled in; run in FOLDER, with its own virtualenv's programs
    )
    body: str = ""  # of a POST, where it takes no other; else the question is a GET

    @property
    def path(self) -> str:
        """Where it is asked."""
        return "/api/v1/language" if self.body else host.QUESTION

    def load(self) -> host.Answers:
        """Ask it, with eight clients as fast as they can."""
        return host.load(self.port, self.path, answers.CLIENTS, answers.SECONDS, body=self.body)


PEERS = [
    Peer(
        "granian (WSGI), the same Flask app", 8001, ["granian==2.8.9", f"--requirement={LIVE}/requirements.txt"],
        "granian --interface wsgi --host 0.0.0.0 --port {port} --workers {workers} "
        f"--working-dir {LIVE} bench_wsgi:app",
    ),
    Peer(
        "uvicorn with FastAPI", 8002, ["fastapi[standard]==0.165.0", "uvicorn==0.54.0", *MODEL],
        "fastapi run --port {port} --workers {workers} fastapi_app.py",
    ),
    Peer("LitServe", 8003, ["litserve==0.2.19", *MODEL], "python litserve_app.py {port} {workers}", BODY),
    Peer(
        "BentoML", 8004, ["bentoml==1.4.40", *MODEL],
        "bentoml serve --host 0.0.0.0 --port {port} bentoml_app:Language", BODY,
    ),
]  # fmt: skip


def start(peer: Peer) -> None:
    """Install a server in a virtualenv of its own, start it, and wait until it answers as ours does."""
    venv, unit = f"{FOLDER}/venv-{peer.port}", f"peer-{peer.port}"
    print(f"  installing {peer.name}", flush=True)
    packages = " ".join(f"'{package}'" for package in peer.packages)
    host.inside(
        f"test -e {venv}/complete && exit 0; rm -rf {venv}; python3 -m venv {venv};"
        f"{venv}/bin/pip install --quiet {packages}; touch {venv}/complete"
    )
    command = peer.command.format(port=peer.port, workers="$(nproc)")
    program, _, arguments = command.partition(" ")
    host.inside(
        f"systemctl stop {unit} 2>/dev/null || true;"
        f"systemd-run --quiet --collect --unit={unit} --working-directory={FOLDER}"
        f" --setenv=PATH={venv}/bin:/usr/bin:/bin {venv}/bin/{program} {arguments}"
    )
    question = f"-H 'Content-Type: application/json' -d '{peer.body}'" if peer.body else ""
    curl = f"curl --silent --fail --max-time 5 {question} 'http://127.0.0.1:{peer.port}{peer.path}'"
    said = host.inside(
        f"for i in $(seq 120); do {curl} && exit 0; sleep 1; done; journalctl --unit {unit} --lines 40 >&2; exit 1"
    )
    language = json.loads(said)["languages"][0]["language"]
    if language != "fr":
        raise SystemExit(f"{peer.name} answers {said}")


def throughput() -> list[Figure]:
    """Ask each in turn with ours."""
    found = [
        Figure("Other servers, without nginx", f"ours, with nginx, against {peer.name}")
        for peer in PEERS
    ]
    found[0].goal = 0.7
    for _ in answers.rounds():
        ours = host.load(answers.OURS, host.QUESTION, answers.CLIENTS, answers.SECONDS)
        for peer, figure in zip(PEERS, found, strict=True):
            figure.values.append(ours.rate / peer.load().rate)
    return found


def main() -> None:
    """Measure."""
    host.start()
    host.playbook("site.yml", **host.settings())
    host.inside(f"mkdir -p {FOLDER}")
    for path in sorted((host.PROJECT / "bench" / "peers").glob("*.py")):
        host.inside(f"cat >{FOLDER}/{path.name}", path.read_text())
    for peer in PEERS:
        start(peer)
    figures.keep(throughput())


if __name__ == "__main__":
    main()
