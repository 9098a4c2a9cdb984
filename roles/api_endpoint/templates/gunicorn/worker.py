# Threads that each take a connection, answer it, and take the next.
import contextlib
import os
import select
import socket
import struct
import threading
import time
from collections import deque

from gunicorn.workers.sync import SyncWorker

QUICK = 0.005  # seconds for which an answer may keep the next one waiting
UNNOTICED = 0.05  # seconds for which everybody may wait, always
RUSH = 5  # seconds after which a rush is none, but too many
RUSH_THAT_FILLS = 1  # the same, for one that takes the places of others
WORTH = 5  # times the seconds of reading requests: where answers take less, sending away wins no time for others


class Crowd:
    """Clients that nginx gave the same number: one in fifty of all."""

    def __init__(self) -> None:
        self.takes = 0.0  # seconds, an answer to them
        self.wants = 0.0  # seconds of answering that they asked for lately


class Queue:
    """Tells which requests have waited too long for a thread: none in a rush, all but the newest while there are too many.

    A rush ends, so that waiting is worth it, and so does what holds up a whole host: a disk, a new version that starts. When
    for some seconds not one request found its thread at once, more come than can be answered: all would wait in vain, and
    it is better to answer some in time and to send the others away. The idea is that of CoDel (RFC 8289). Where so many wait
    that nginx soon has no place for others, it is sooner known.

    Who asks for little is not sent away because others ask for much: clients are told apart, roughly, by a number that
    nginx gives them (RFC 8290).

    Where to send somebody away takes about as long as to answer, nobody is: else all would be, and none answered.
    """

    def __init__(self, workers: int = 1, threads: int = 1) -> None:
        self.workers = workers
        self.handled = workers * threads
        self.taken: deque[float] = deque(maxlen=1000)  # when the last requests were
        self.usual = 0.0  # seconds within which most answers are made
        self.standing_since: float | None = None
        self.is_overloaded = False
        self.late_at = 0.0
        self.crowds: dict[str, Crowd] = {}
        self.spent = 0.0  # seconds of answering lately
        self.read = 0.0  # seconds of reading requests lately, also those that were sent away
        self.aged_at = time.monotonic()

    def learn(self, number: str, seconds: float) -> None:
        """Take note of how long an answer to a crowd took: one that took longer weighs more."""
        self.usual += (seconds - self.usual) / (4 if seconds > self.usual else 64)
        self.spent += seconds
        crowd = self.crowds.setdefault(number, Crowd())
        crowd.takes += (seconds - crowd.takes) / 8 if crowd.takes else seconds

    def is_too_long(self, number: str, waited: float, places: int, reading: float) -> bool:
        """Tell whether a request of a crowd that has waited for so many seconds is to be sent away.

        `places` is how many requests nginx lets be under way, 0 when it did not say; `reading` how many seconds it took to
        read this one.
        """
        now = time.monotonic()
        self.taken.append(now)
        if now - self.aged_at > 1:
            self.age(now)
        self.read += reading
        crowd = self.crowds.setdefault(number, Crowd())
        crowd.wants += crowd.takes or self.usual
        is_late = waited > max(UNNOTICED, 1.5 * self.usual)
        if is_late:
            self.late_at = now
        if self.is_overloaded:
            self.is_overloaded = now - self.late_at < 1
        if not self.is_overloaded:
            if not is_late:
                self.standing_since = None
            elif self.standing_since is None:
                self.standing_since = now
            else:
                patience = RUSH_THAT_FILLS if 0 < 0.75 * places < self.under_way(now - waited) else RUSH
                self.is_overloaded = now - self.standing_since > max(patience, 10 * self.usual)
        is_worth_it = self.spent > WORTH * self.read
        return self.is_overloaded and is_late and is_worth_it and crowd.wants > self.fair_share() / 2

    def under_way(self, came: float) -> int:
        """Return how many requests were under way when one came; each worker has taken its share of the waiting since."""
        return self.workers * sum(at >= came for at in list(self.taken)) + self.handled

    def age(self, now: float) -> None:
        """Let what was a second ago count half, and forget who has not come for long."""
        left = 0.5 ** (now - self.aged_at)
        self.aged_at = now
        self.spent *= left
        self.read *= left
        crowds = list(self.crowds.items())  # other threads add to them
        for _, crowd in crowds:
            crowd.wants *= left
        self.crowds = {number: crowd for number, crowd in crowds if crowd.wants > 0.001 * crowd.takes}

    def fair_share(self) -> float:
        """Return the seconds that each crowd could have had at most, if those who want less had all that they want.

        Those who want less than half of it take less than half of all, so that there is room for them.
        """
        left = share = self.spent
        wishes = sorted(crowd.wants for crowd in list(self.crowds.values()))
        for served, wish in enumerate(wishes):
            share = left / (len(wishes) - served)
            if wish > share:
                break
            left -= wish
        return share


class Post:
    """Where connections are taken, by one thread at a time: by the same one for as long as its answers are quick.

    It finds the processor's caches warm, and nobody else wakes up. When an answer takes longer, another gets the post.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.free = threading.Lock()
        self.turn: Turn | None = None

    def take(self) -> "Turn":
        """Wait for a turn."""
        self.free.acquire()
        self.turn = Turn()
        return self.turn

    def leave(self, turn: "Turn") -> None:
        """End a turn, unless it was ended."""
        if self.turn is turn:
            self.turn = None
            with contextlib.suppress(RuntimeError):  # somebody else has done it at the same time
                self.free.release()


class Turn:
    """A thread's time at a post."""

    busy_since: float | None = None


class ThreadedWorker(SyncWorker):
    """gunicorn's plainest worker, several times over in one process.

    Its thread sleeps until the kernel gives it a connection. With gunicorn's own worker of threads (`gthread`) all idle
    workers wake up for each connection, and one thread hands it to another and gets it back: that costs a third more.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.queue = Queue(self.cfg.workers, self.cfg.threads)
        self.under_way: dict[int, tuple[float, str]] = {}  # by thread: when its request began, and the path
        self.this_thread = threading.local()  # `.took`: when it took the connection that it is at

    def load_wsgi(self) -> None:
        """Load the app, and put before it who sends away what has waited too long."""
        super().load_wsgi()
        app = self.wsgi

        def answer(environ, start_response):
            environ["wsgi.multithread"] = self.cfg.threads > 1
            # nginx says when it asked, and for whom, roughly
            sent, _, told = environ.pop("HTTP_X_REQUEST_START", "").removeprefix("t=").partition(" crowd=")
            number, _, places = told.partition(" places=")
            waited = time.time() - float(sent or "inf")
            begun = time.monotonic()
            reading = begun - self.this_thread.took
            # Beyond an hour it is a clock that was set.
            if 0 < waited < 3600 and self.queue.is_too_long(number, waited, int(places or 0), reading):
                headers = [("Content-Type", "application/json"), ("Content-Length", str(len(BUSY))), ("X-Sent-Away", "yes")]
                start_response("503 Service Unavailable", headers)
                return [BUSY]
            try:
                return app(environ, start_response)
            finally:
                self.queue.learn(number, time.monotonic() - begun)

        self.wsgi = answer

    def run(self) -> None:
        """Let threads answer until it is time to end."""
        posts = [Post(listener) for listener in self.sockets]
        threads = [
            threading.Thread(target=self.serve, args=[post], daemon=True) for post in posts for _ in range(self.cfg.threads)
        ]
        for post in posts:
            post.listener.setblocking(True)
            wait_at_most(1, post.listener)  # then a thread looks whether the worker is to end
        for thread in threads:
            thread.start()
        while self.alive and self.is_parent_alive() and not self.late():
            self.notify()
            self.look_after(posts, seconds=min(1, self.cfg.timeout / 4 or 1))
        if late := self.late():
            self.log.critical("%s took longer than %s s. This worker is replaced.", late[0], self.cfg.timeout)
        # No more requests are taken, and those that are not late are given their time.
        self.alive = False
        end = time.monotonic() + self.cfg.graceful_timeout
        while sum(thread.is_alive() for thread in threads) > len(self.late()) and time.monotonic() < end:
            self.notify()
            self.look_after(posts, seconds=0.05)
        if self.late():
            os._exit(1)  # whatever its threads are at

    def look_after(self, posts: list[Post], seconds: float) -> None:
        """For a while, give posts whose thread is not quick to another."""
        end = time.monotonic() + seconds
        answered = -1
        while (now := time.monotonic()) < end:
            for post in posts:
                turn = post.turn
                if turn and turn.busy_since and now - turn.busy_since > QUICK:
                    post.leave(turn)
            is_idle = answered == self.nr and not self.under_way
            answered = self.nr
            if self.sleep(min(seconds, 10 * QUICK if is_idle else QUICK)):
                return

    def sleep(self, seconds: float) -> bool:
        """Sleep until a signal comes, at the most; tell whether one came."""
        came = bool(select.select([self.PIPE[0]], [], [], seconds)[0])
        if came:
            os.read(self.PIPE[0], 512)
        return came

    def late(self) -> list[str]:
        """Return the paths of the requests that take longer than they may.

        gunicorn's time-out finds workers that do not react. A worker of threads reacts, whatever has become of its requests.
        """
        now = time.monotonic()
        return [path for begun, path in list(self.under_way.values()) if 0 < self.cfg.timeout < now - begun]

    def serve(self, post: Post) -> None:
        """Answer one request after the other, in a thread."""
        while self.alive:
            turn = post.take()
            while self.alive and post.turn is turn:
                self.answer_one(post.listener, turn)
            post.leave(turn)

    def answer_one(self, listener: socket.socket, turn: Turn) -> None:
        """Take a connection, if one comes, and answer what it asks."""
        try:
            client, address = listener.accept()
        except BlockingIOError:
            return  # nobody came
        except OSError as error:
            self.log.warning("A connection could not be taken: %s", error)
            time.sleep(0.1)
            return
        turn.busy_since = self.this_thread.took = time.monotonic()
        client.setblocking(True)
        wait_at_most(30, client)  # nginx sends a request when it has all of it
        self.handle(listener, client, address)
        turn.busy_since = None

    def handle_request(self, listener, req, client, addr) -> None:
        """Answer a request, whose time counts from now."""
        self.under_way[threading.get_ident()] = time.monotonic(), req.path
        try:
            super().handle_request(listener, req, client, addr)
        finally:
            self.under_way.pop(threading.get_ident(), None)


def wait_at_most(seconds: int, its: socket.socket) -> None:
    """Let what waits for a socket end with BlockingIOError. With Python's own time-outs each call would be two."""
    its.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, 0))


worker_class = ThreadedWorker
