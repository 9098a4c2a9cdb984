"""Two ways to read the app's data."""

import queue
import sqlite3
import threading


def read() -> list:
    """Return the rows of the data."""
    database = sqlite3.connect(":memory:")
    try:
        return database.execute("SELECT 'two' UNION SELECT 'rows' ORDER BY 1 DESC").fetchall()
    finally:
        database.close()


class Plain:
    """Reads where it is asked."""

    def rows(self) -> list:
        """Return the rows."""
        return read()


class InAThread:
    """Leaves the reading to a thread of its own, started with the app, as libraries around SQLite do.

    gunicorn's preload_app makes its workers by a fork, and the thread is not in the copies: whoever asks waits for ever.
    """

    def __init__(self) -> None:
        self.questions: queue.Queue = queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        """Answer questions."""
        while True:
            self.questions.get().put(read())

    def rows(self) -> list:
        """Return the rows, once the thread has read them."""
        answer: queue.Queue = queue.Queue()
        self.questions.put(answer)
        return answer.get()


KINDS = {"plain": Plain, "in_a_thread": InAThread}
