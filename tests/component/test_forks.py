"""What an app makes when it is imported, and the fork: run by gunicorn itself with the role's settings."""

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import api_endpoint_forks as forks
import pytest
from outcomes import wait_until
from rendering import write_gunicorn_settings

WORKERS = 3
APP = """
import json, os, threading
from urllib.parse import parse_qs
HERE = os.path.dirname(os.path.abspath(__file__))
{at_import}
LOADED_BY = os.getpid()

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    n = int(environ["QUERY_STRING"] or 0)
    return [json.dumps(dict(pid=os.getpid(), preloaded=LOADED_BY != os.getpid(), answer=view(n))).encode()]

def view(n):
    return n
{view}
"""


@dataclass
class Gunicorn:
    """A running server."""

    process: subprocess.Popen
    folder: Path

    @property
    def log(self) -> str:
        path = self.folder / "error.log"
        return path.read_text() if path.exists() else ""

    def ask(self, n=0) -> dict:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(self.folder / "socket"))
            client.sendall(f"GET /?{n} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        return json.loads(answer.partition(b"\r\n\r\n")[2])

    def ask_all(self, numbers, at_a_time=16) -> list[dict]:
        with ThreadPoolExecutor(at_a_time) as pool:
            return list(pool.map(self.ask, numbers))

    def answers(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(self.ask())
        return False


@pytest.fixture
def serve(tmp_path):
    """Return a function that lets gunicorn serve an app; it is stopped after the test."""
    started = []

    def start(at_import="", view="", wait=True, **variables) -> Gunicorn:
        write_gunicorn_settings(
            tmp_path, api_endpoint_server_names=["x"], api_endpoint_workers=WORKERS, **variables
        )
        (tmp_path / "its.py").write_text(APP.format(at_import=at_import, view=view))
        command = [
            sys.executable,
            "-m",
            "gunicorn",
            "--config",
            "gunicorn.conf.py",
            "--bind",
            f"unix:{tmp_path}/socket",
        ]
        command += ["--access-logfile", "access.log", "--error-logfile", "error.log", "its:app"]
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=(tmp_path / "stderr").open("w"), start_new_session=True
        )
        started.append(process)
        server = Gunicorn(process, tmp_path)
        if wait:
            wait_until(server.answers, "gunicorn answers")
        return server

    yield start
    for process in started:
        # With its workers, which wait for ever for a thread of the app that is no daemon.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def store():
    """A server of one line a question, as a database is; return its port."""

    def answer(connection):
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                connection.sendall(line)

    def accept():
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]


CONNECTION = """
import socket
STORE = socket.create_connection(("127.0.0.1", {port}))
LINES = STORE.makefile("rb")
LOCK = threading.Lock()
"""
ASKED = """
def view(n):
    with LOCK:
        STORE.sendall(b"%d\\n" % n)
        return int(LINES.readline())
"""
THREAD = 'threading.Thread(target=threading.Event().wait, name="refresher", daemon=True).start()'
LISTENS = "LISTENS = socket.create_server(('127.0.0.1', 0))"
PAIR = "import socket; PAIR = socket.socketpair()"
UNCLEAN = {
    "a thread": (THREAD, "the thread 'refresher'"),
    "a thread of a pool": (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "POOL = ThreadPoolExecutor(thread_name_prefix='pool'); POOL.submit(int).result()",
        "the thread 'pool_0'",
    ),
    "a thread that ends only with the process": (
        "threading.Thread(target=threading.Event().wait, name='endless').start()", "the thread 'endless'",
    ),
    "a thread that Python does not know": (
        "import _thread, time; _thread.start_new_thread(time.sleep, (600,))", "1 threads of native code (",
    ),
    "a timer in a thread": ("threading.Timer(600, int).start()", "the thread 'Thread-1'"),
    "a connection": ("import socket; C = socket.create_connection(('127.0.0.1', {port}))", "a connection to 127.0.0.1:"),
    "a datagram socket that is connected": (
        "import socket; S = socket.socket(type=socket.SOCK_DGRAM); S.connect(('127.0.0.1', 9))", "a connection to 127.0.0.1",
    ),
    "a datagram socket that has sent": (  # the kernel gave it an address, so answers come back on it
        "import socket; S = socket.socket(type=socket.SOCK_DGRAM); S.sendto(b'', ('127.0.0.1', 9))",
        "a socket that is not connected at 0.0.0.0:",
    ),
    "a socket that listens": (f"import socket; {LISTENS}", "a socket that listens at 127.0.0.1:"),
    "a pair of sockets": (PAIR, "a connection within the app (a pair of sockets)"),
    "an SQLite database": (
        "import sqlite3; DB = sqlite3.connect(HERE + '/its.bin', check_same_thread=False); DB.execute('select * from t')",
        "the database {folder}/its.bin",
    ),
    "an SQLite database that is only read": (
        "import sqlite3; DB = sqlite3.connect('file:' + HERE + '/its.bin?mode=ro', uri=True, check_same_thread=False)",
        "the database {folder}/its.bin",
    ),
    "a file that is read and written": ("F = open(HERE + '/its.txt', 'r+')", "the file {folder}/its.txt, open for reading"),
    "a temporary file": ("import tempfile; F = tempfile.TemporaryFile()", "open for reading and writing"),
    "an event loop": ("import asyncio; LOOP = asyncio.new_event_loop()", "an event loop (epoll)"),
    "a process": ("import subprocess; P = subprocess.Popen(['sleep', '60'])", "the process 'sleep' that the app"),
    "a pipe": ("PIPE = os.pipe()", "a pipe"),
    "an exit handler": (
        "import atexit; atexit.register(lambda: os.unlink(HERE + '/its.txt'))", "an exit handler (<lambda> at {folder}/",
    ),
    "a folder that a library removes in the end": (
        "import atexit, shutil; exec(compile('atexit.register(shutil.rmtree, HERE + \"/x\", True)', '/lib.py', 'exec'))",
        "at /lib.py:1), which each worker would run at its end",
    ),
    "a temporary folder": (
        "import tempfile; FOLDER = tempfile.TemporaryDirectory()", "the temporary folder /tmp/tmp",
    ),
    "an alarm": ("import signal; signal.alarm(600)", "a timer (signal.alarm or signal.setitimer)"),
}  # fmt: skip
CLEAN = {
    "nothing": "",
    "a log": "import logging; logging.getLogger().addHandler(logging.FileHandler(HERE + '/its.log'))",
    "a file that is written": "F = open(HERE + '/out.txt', 'w')",
    "a file that is read": "F = open(HERE + '/its.txt')",
    "a file that is mapped": "import mmap; F = open(HERE + '/its.txt', 'r+b'); M = mmap.mmap(F.fileno(), 0)",
    "a folder": "F = os.open(HERE, os.O_RDONLY)",
    "a database in memory": "import sqlite3; DB = sqlite3.connect(':memory:', check_same_thread=False)",
    "a thread that has ended": "T = threading.Thread(target=int); T.start(); T.join()",
    "a process that has ended": (
        "import subprocess; P = subprocess.Popen(['true']); os.waitid(os.P_PID, P.pid, os.WEXITED | os.WNOWAIT)"
    ),
    "a counter that processes share": "import multiprocessing; COUNT = multiprocessing.Value('i')",
    "a datagram socket that has not sent": "import socket; S = socket.socket(type=socket.SOCK_DGRAM)",
    "a temporary folder that is gone": "import tempfile; F = tempfile.TemporaryDirectory(); F.cleanup()",
    "an exit handler of a library": (
        "import atexit; exec(compile('atexit.register(int)', '/lib.py', 'exec'))"
    ),
    "a device without a state": "F = open('/dev/urandom', 'rb')",
}  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """Put a database and a text beside the app."""
    with contextlib.closing(sqlite3.connect(tmp_path / "its.bin")) as database, database:
        database.execute("create table t (n)")
    (tmp_path / "its.txt").write_text("".join(f"{n:07d}\n" for n in range(2000)))


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("kind", UNCLEAN)
def test_what_does_not_survive_a_fork_is_named_and_made_in_each_worker(
    serve, store, tmp_path, kind
):
    at_import, said = UNCLEAN[kind]
    server = serve(at_import.replace("{port}", str(store)))
    line = next(line for line in server.log.splitlines() if "Loaded in each worker" in line)
    assert said.replace("{folder}", str(tmp_path)) in line
    assert re.search(
        r"Loading the app in each of the 3 workers takes about [\d,]+ MB of memory more\.$", line
    )
    assert [answer["preloaded"] for answer in server.ask_all(range(20))] == 20 * [False]
    assert server.log.count("Starting gunicorn") == 2


def test_the_app_finds_its_environment_and_its_folder_as_they_were(serve, monkeypatch):
    """It is imported once more, and may have taken a secret out of the environment the first time."""
    monkeypatch.setenv("TOKEN", "marked")
    at_import = "TOKEN = os.environ.pop('TOKEN'); FOUND = dict(os.environ); FOLDER = os.getcwd(); os.chdir('/')"
    server = serve(
        f"{at_import}\n{THREAD}",
        "def view(n):\n    return [TOKEN, FOLDER, [n for n in FOUND if 'LOADS_IN' in n]]",
    )
    assert server.ask()["answer"] == ["marked", str(server.folder), []]


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("kind", CLEAN)
def test_what_survives_a_fork_is_loaded_once(serve, kind):
    server = serve(CLEAN[kind])
    assert [answer["preloaded"] for answer in server.ask_all(range(20))] == 20 * [True]
    assert "Loaded in each worker" not in server.log


@pytest.mark.parametrize(
    "kind", ["a thread", "a thread that ends only with the process", "a process"]
)
def test_with_preload_true_such_an_app_does_not_start(serve, kind):
    at_import, said = UNCLEAN[kind]
    server = serve(at_import, wait=False, api_endpoint_preload=True)
    assert server.process.wait(60) == 1
    assert (
        f"Refused to fork with api_endpoint_preload: true, since a fork would share or lose: {said}"
        in server.log
    )
    assert "Set api_endpoint_preload: auto" in server.log
    assert not (server.folder / "socket").exists()


def test_callers_get_their_own_answers_over_a_connection_made_at_import(serve, store):
    server = serve(CONNECTION.replace("{port}", str(store)), ASKED)
    assert [answer["answer"] for answer in server.ask_all(range(400))] == list(range(400))


@pytest.mark.usefixtures("files")
def test_workers_read_a_file_at_places_of_their_own(serve):
    read = (
        "def view(n):\n    with LOCK:\n        FILE.seek(8 * n)\n        return int(FILE.read(8))"
    )
    server = serve(
        "FILE = open(HERE + '/its.txt', 'rb', buffering=0); LOCK = threading.Lock()", read
    )
    answers = server.ask_all(list(range(2000)))
    assert [answer["answer"] for answer in answers] == list(range(2000))
    assert {answer["preloaded"] for answer in answers} == {True}
    assert len({answer["pid"] for answer in answers}) == WORKERS


RANDOM = """
import random
import numpy
random.seed(7); numpy.random.seed(7)
OWN, GENERATOR, STATE = random.Random(7), numpy.random.default_rng(7), numpy.random.RandomState(7)
DRAWS = [random.random, numpy.random.random, OWN.random, GENERATOR.random, STATE.random]
"""


def test_each_worker_has_random_numbers_of_its_own(serve):
    pytest.importorskip("numpy")
    server = serve(RANDOM, "def view(n):\n    return [draw() for draw in DRAWS]")
    first = {}
    wait_until(
        lambda: (
            first.setdefault((one := server.ask())["pid"], one["answer"]) and len(first) == WORKERS
        ),
        "all answer",
    )
    for drawn in zip(*first.values(), strict=True):
        assert len(set(drawn)) == WORKERS
    assert "Cannot seed" not in server.log


def test_an_app_that_loads_slowly_in_each_worker_gets_its_time(serve):
    server = serve(f"import time; time.sleep(3)\n{THREAD}", api_endpoint_timeout=2)
    assert server.ask()["preloaded"] is False
    assert "WORKER TIMEOUT" not in server.log


OPENMP = """
import os, numpy, tqdm
list(tqdm.tqdm(range(3)))
os.environ.update(OMP_NUM_THREADS="4", OPENBLAS_NUM_THREADS="4")
from sklearn.ensemble import HistGradientBoostingClassifier
X = numpy.random.rand(20_000, 10)
MODEL = HistGradientBoostingClassifier(max_iter=5).fit(X, X[:, 0] > 0.5)
SQUARE = numpy.random.rand(500, 500)
"""


@pytest.mark.parametrize("worker_class", ["threads", "sync"])
def test_threads_that_libraries_make_anew_do_not_count(serve, worker_class):
    """The pools of OpenMP and OpenBLAS, which have computed before the fork and compute in each worker; tqdm's monitor."""
    pytest.importorskip("sklearn")
    pytest.importorskip("tqdm")
    view = (
        "def view(n):\n    return [int(MODEL.predict(X).sum() > 0), bool((SQUARE @ SQUARE).all())]"
    )
    server = serve(OPENMP, view, api_endpoint_preload=True, api_endpoint_worker_class=worker_class)
    assert {(answer["preloaded"], *answer["answer"]) for answer in server.ask_all(range(12))} == {
        (True, 1, True)
    }


def test_a_runtime_error_at_import_keeps_its_traceback(serve):
    """PyTorch raises many; gunicorn prints no more of one than its message when it loads the app before the fork."""
    server = serve("raise RuntimeError('no CUDA here')", wait=False)
    assert server.process.wait(60) != 0
    said = (server.folder / "stderr").read_text()
    assert re.search(r'/its.py", line \d+, in <module>\n.*\nRuntimeError: no CUDA here\n', said)


def test_a_connection_that_has_the_number_of_something_closed_is_found(monkeypatch):
    """Of the first things that an app opens: their numbers were in use when the process was looked at before."""
    monkeypatch.setattr(forks.preload, "descriptors", forks.open_descriptors())
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        found = list(forks.descriptors(set()))
    assert len(found) == 2, found
    assert found[1] == f"a connection to 127.0.0.1:{server_port(found[0])}"


def server_port(line: str) -> str:
    return line.rpartition(":")[2]
