"""Connections whose requests never end: each sends a header a second, and begins anew when it is cut off.

A process of its own: `slow.py ADDRESS HOST CONNECTIONS` prints what became of them, as JSON. It ends when each has been
cut off and opened anew, after five minutes at the latest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import sys
from dataclasses import asdict, dataclass


@dataclass
class Counts:
    """What became of the connections."""

    opened: int = 0
    refused: int = 0
    open: int = 0
    most: int = 0  # that were open at once


async def trickle(address: str, name: str, counts: Counts, number: int, connections: int) -> None:
    """Keep one connection busy with sending next to nothing."""
    await asyncio.sleep(2 * number / connections)
    while True:
        try:
            reader, writer = await asyncio.open_connection(address, 80)
        except OSError:
            counts.refused += 1
            await asyncio.sleep(0.2)
            continue
        counts.opened += 1
        counts.open += 1
        counts.most = max(counts.most, counts.open)
        with contextlib.suppress(OSError):
            writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n".encode())
            while not reader.at_eof():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(1000)
                writer.write(b"X-Slow: 1\r\n")
                await writer.drain()
        counts.open -= 1
        writer.close()
        await asyncio.sleep(0.1)


async def main(address: str, name: str, connections: int) -> None:
    """Trickle over all of them for a while."""
    counts = Counts()
    tasks = [
        asyncio.create_task(trickle(address, name, counts, number, connections))
        for number in range(connections)
    ]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(300):
            while counts.opened < 2 * connections:
                await asyncio.sleep(0.1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    print(json.dumps(asdict(counts)))


if __name__ == "__main__":
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
