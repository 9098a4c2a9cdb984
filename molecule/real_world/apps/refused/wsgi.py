"""An app that does, route by route, what the sandbox refuses."""

import ctypes
import logging
import mmap
import os
import resource
import socket
import sqlite3
from logging.handlers import RotatingFileHandler
from pathlib import Path

from flask import Flask

app = Flask(__name__)
HERE = Path(__file__).parent
LOG = logging.getLogger("rotated")
LOG.setLevel(logging.INFO)
LOG.addHandler(RotatingFileHandler(HERE / "app.log", maxBytes=2000, backupCount=2))


@app.get("/rotate")
def rotate():
    for number in range(100):
        LOG.info("line %d %s", number, "x" * 80)
    return {
        "lines": sum(
            len(path.read_text().splitlines())
            for path in (HERE / "app.log").resolve().parent.iterdir()
        )
    }


@app.get("/replace")
def replace():
    new = HERE / "state.tmp"
    new.write_text("{}")
    os.replace(new, HERE / "state.json")
    return {}


@app.get("/etc")
def etc():
    Path("/etc/refused").write_text("")
    return {}


@app.get("/home")
def home():
    return {"there": Path("/home/researcher/.config").read_text()}


@app.get("/temporary")
def temporary():
    with open("/tmp/large", "wb") as file:
        for _ in range(100_000):
            file.write(bytes(1 << 20))
    return {}


@app.get("/network")
def network():
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    return {}


@app.get("/memory")
def memory():
    return {"lines": len(Path("/proc/meminfo").read_text().splitlines())}


@app.get("/process")
def process():
    return {"command": Path("/proc/1/cmdline").read_text()}


@app.get("/gpu")
def gpu():
    return {"there": os.open("/dev/nvidia0", os.O_RDWR)}


@app.get("/affinity")
def affinity():
    os.sched_setaffinity(0, {0})
    return {}


@app.get("/priority")
def priority():
    os.setpriority(os.PRIO_PROCESS, 0, 5)
    return {}


@app.get("/code")
def code():
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return {}


@app.get("/callback")
def callback():
    return {"made": bool(ctypes.CFUNCTYPE(None)(lambda: None))}


@app.get("/large")
def large():
    with open(Path.home() / "large", "wb") as file:
        file.truncate(1 << 50)
    return {}


@app.get("/files")
def files():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {"open": len([open("/dev/null") for _ in range(limit + 1)])}


@app.get("/database")
def database():
    sqlite3.connect(HERE / "its.db").execute("create table t (n)")
    return {}
