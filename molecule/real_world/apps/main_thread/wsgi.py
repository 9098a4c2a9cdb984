"""An app whose views need the main thread, as apps have them that were written for one process and one thread."""

import asyncio
import signal
import sqlite3

from flask import Flask

app = Flask(__name__)
DATABASE = sqlite3.connect(":memory:")


@app.get("/alarm")
def alarm():
    signal.signal(signal.SIGALRM, lambda *_given: None)
    return {"app": "main_thread"}


@app.get("/loop")
def loop():
    return {"sum": asyncio.get_event_loop().run_until_complete(asyncio.sleep(0, 7))}


@app.get("/database")
def database():
    return {"one": DATABASE.execute("select 1").fetchone()[0]}
