"""Orders to a Corndogs server that is a process: a line of JSON each, answered by a line with its calls.

An order is a map of fields of `Faults` to change, and of these:

- ``wipe``: true loses every task;
- ``cut``: true cuts every connection;
- ``down``: true makes it refuse connections, its tasks kept, and false listen again.

The answer is the number of calls so far by operation, or ``{"error": …}``, and then nothing was done.
Standard input and a control port take the same lines.
"""

import asyncio
import json
import os
import socket
import sys
import threading
from dataclasses import asdict, fields
from typing import Any

import msgspec

from fakes.corndogs_faults import Faults
from fakes.corndogs_server import CorndogsServer

_SWITCHES = ("wipe", "cut", "down")
_FAULTS = frozenset(field.name for field in fields(Faults))


async def obey(server: CorndogsServer, line: bytes) -> bytes:
    """Do what a line says, and return the line to answer."""
    try:
        order = msgspec.json.decode(line, type=dict[str, Any])
        switches = {name: msgspec.convert(order.pop(name, None), bool | None) for name in _SWITCHES}
        if strange := order.keys() - _FAULTS:
            raise ValueError(f"unknown: {', '.join(sorted(strange))}")
        server.faults = msgspec.convert(asdict(server.faults) | order, Faults)
    except (ValueError, msgspec.MsgspecError) as error:
        return json.dumps({"error": str(error)}).encode() + b"\n"
    if switches["wipe"]:
        server.wipe()
    if switches["cut"]:
        server.cut()
    if switches["down"] is not None:
        await (server.stop() if switches["down"] else server.start())
    return json.dumps(server.calls).encode() + b"\n"


async def open_control(server: CorndogsServer, port: int) -> asyncio.Server:
    """Take orders at a port of loopback; each connection may give many."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(await obey(server, line))
                await writer.drain()
        except (ConnectionError, ValueError):
            return
        finally:
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", port)


def obey_standard_input(server: CorndogsServer) -> None:
    """Take orders from standard input until it ends; the server serves on then."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        # Without a buffer, whose lock a thread that still waits would hold when the process ends.
        with os.fdopen(0, "rb", buffering=0, closefd=False) as lines:
            while line := lines.readline():
                answer = asyncio.run_coroutine_threadsafe(obey(server, line), loop).result()
                sys.stdout.buffer.write(answer)
                sys.stdout.buffer.flush()

    threading.Thread(target=read, daemon=True).start()


def give_order(port: int, /, **order: Any) -> dict[str, int]:
    """Give an order at a control port, and return the calls so far by operation.

    Raises:
        ValueError: it is no order.
        OSError: nobody listens there, or nothing is answered within 10 s.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as line, line.makefile("rwb") as lines:
        lines.write(json.dumps(order).encode() + b"\n")
        lines.flush()
        answer: dict[str, Any] = json.loads(lines.readline())
    if "error" in answer:
        raise ValueError(answer["error"])
    return answer
