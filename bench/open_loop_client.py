"""A client that asks at a constant rate, whether earlier requests have been answered or not, as the internet does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """One request: when it was sent, in seconds since the first, its status (0 without an answer), seconds to the answer."""

    sent: float
    status: int
    seconds: float


def ask_at_rate(
    address: str, path: str, rate: float, seconds: float, patience: float = 30
) -> list[Asked]:
    """Ask, each time on a new connection; return what became of it, in the order in which the requests were sent."""
    asked: list[Asked] = []
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()

    async def ask(begun: float) -> None:
        sent, status = time.monotonic(), 0
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection(address, 80)
                try:
                    writer.write(head)
                    answer = await reader.read()
                    status = int(answer[9:12] or 0)
                finally:
                    writer.close()
        asked.append(Asked(sent - begun, status, time.monotonic() - sent))

    async def all_of_them() -> None:
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                await asyncio.sleep(max(0, begun + number / rate - time.monotonic()))
                group.create_task(ask(begun))

    asyncio.run(all_of_them())
    return sorted(asked, key=lambda one: one.sent)
