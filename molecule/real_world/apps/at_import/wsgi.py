"""An app that makes at import what a fork would share or lose: a connection, a thread, a database."""

import queue
import socket
import sqlite3
import threading
from pathlib import Path

from flask import Flask, request

app = Flask(__name__)
STORE = socket.create_connection(("127.0.0.1", 7070))
LINES = STORE.makefile("rb")
LOCK = threading.Lock()
DATABASE = sqlite3.connect(
    f"file:{Path(__file__).with_name('its.db')}?mode=ro", uri=True, check_same_thread=False
)
QUESTIONS: queue.Queue = queue.Queue()


def square():
    while True:
        number, answer = QUESTIONS.get()
        answer.put(number * number)


threading.Thread(target=square, name="squares", daemon=True).start()


@app.get("/value")
def value():
    number = int(request.args["n"])
    with LOCK:
        STORE.sendall(b"%d\n" % number)
        got = int(LINES.readline())
        rows = DATABASE.execute("select count(*) from sqlite_master").fetchone()[0]
    answer: queue.Queue = queue.Queue()
    QUESTIONS.put((number, answer))
    return {"got": got, "rows": rows, "square": answer.get()}
