"""A small server that speaks S3, does what it is told wrong, and counts what it is asked.

In a test: ``with S3Stub() as stub: … stub.faults.add(Fault(Effect.SLOW_DOWN))``. As a process of its own:
``python tests/fakes/s3_stub.py --port N --control-port M --dir D``, told over the control port:

    POST   /faults   {"effect": "slow_down", "operations": ["put"], "keys": "*/logs/*", "times": 3}
    DELETE /faults   heal
    GET    /state    {"calls": {operation: count}, "keys": {key: size}, "uploads": {key: bytes}}
"""

import argparse
import hashlib
import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes import s3_wire as wire
from fakes.s3_faults import Effect, Fault, Faults, Operation
from fakes.s3_http import REFUSALS, StubServer
from fakes.s3_shelf import InvalidPart, NoSuchUpload, PreconditionFailed, Shelf
from fakes.s3_wire import Answer, Call

BUCKET = "reactorcide-objects"
_CORRUPTIONS = (Effect.CORRUPT, Effect.CORRUPT_AS_SENT)


class S3Stub:
    """One bucket, served on loopback in threads of this process while it is entered.

    Args:
        port: 0: any free one, the same for this object's life.
        folder: where objects are kept; None: in memory, for as long as this object lives.
        page_size: so many keys a list gives at once.
    """

    def __init__(
        self, *, port: int = 0, folder: Path | None = None, bucket: str = BUCKET, page_size: int = 1_000
    ) -> None:
        self.port = port
        self.bucket = bucket
        self.faults = Faults()
        self.calls: Counter[Operation] = Counter()
        """How often each operation was asked for, whatever became of it."""
        self._shelf = Shelf(folder)
        self._page_size = page_size
        self._server: StubServer | None = None
        self._lock = threading.Lock()
        self._doings: dict[Operation, Callable[[Call, bytes], Answer]] = {
            Operation.PUT: self._put,
            Operation.GET: self._get,
            Operation.HEAD: self._get,
            Operation.DELETE: self._delete,
            Operation.LIST: self._list,
            Operation.DELETE_MANY: self._delete_many,
            Operation.CREATE_UPLOAD: self._create_upload,
            Operation.PUT_PART: self._put_part,
            Operation.COMPLETE_UPLOAD: self._complete_upload,
            Operation.ABORT_UPLOAD: self._abort_upload,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens, without the bucket."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen; after `stop` again, at the same port with what there was."""
        self._server = StubServer(self.port, self)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Listen no more, and reset every connection."""
        server, self._server = self._server, None
        if server is not None:
            self.faults.heal()
            server.shutdown()
            server.server_close()
            server.reset_all()

    def keys(self, prefix: str = "") -> dict[str, int]:
        """Return the keys there are, each with its object's size in bytes."""
        return {key: entry.size_bytes for key, entry in self._shelf.list(prefix)}

    def content(self, key: str) -> bytes:
        """Return the bytes of an object that is there."""
        found = self._shelf.get(key)
        assert found is not None, key
        return found[1]

    def open_uploads(self) -> dict[str, int]:
        """Return the keys of uploads in parts that were neither completed nor aborted, with their bytes."""
        return self._shelf.open_uploads()

    def state(self) -> dict[str, object]:
        """Return calls, keys and uploads as plain values."""
        with self._lock:
            calls = dict(self.calls)
        return {"calls": calls, "keys": self.keys(), "uploads": self.open_uploads()}

    def note(self, call: Call) -> None:
        """Count a call."""
        with self._lock:
            self.calls[call.operation] += 1

    def answer(self, call: Call, body: bytes) -> Answer:
        """Do what a call asks for."""
        if call.bucket != self.bucket:
            return wire.error(404, "NoSuchBucket", "The specified bucket does not exist")
        refusal = wire.check_signature(call) or wire.check_digests(call.headers, body)
        if refusal is not None:
            return refusal
        try:
            return self._doings[call.operation](call, body)
        except PreconditionFailed:
            return wire.error(412, "PreconditionFailed", "The object is there already")
        except NoSuchUpload:
            return wire.error(404, "NoSuchUpload", "The specified upload does not exist")
        except InvalidPart:
            return wire.error(400, "InvalidPart", "A part that was named was not found")
        except ValueError as error:
            return wire.error(400, "MalformedXML", str(error))

    def _put(self, call: Call, body: bytes) -> Answer:
        body, etag = self._kept(call, body)
        self._shelf.put(call.key, body, etag=etag, metadata=call.metadata, is_new=_is_new(call))
        return Answer(headers={"ETag": f'"{etag}"'})

    def _get(self, call: Call, _: bytes) -> Answer:
        if call.operation == Operation.HEAD:
            entry = self._shelf.find(call.key)
            return Answer(404) if entry is None else wire.give_object(call, entry, None)
        found = self._shelf.get(call.key)
        if found is None:
            return wire.error(404, "NoSuchKey", "The specified key does not exist.")
        return wire.give_object(call, *found)

    def _delete(self, call: Call, _: bytes) -> Answer:
        self._shelf.delete(call.key)
        return Answer(204)

    def _list(self, call: Call, _: bytes) -> Answer:
        return wire.give_list(call, self._shelf.list(call.key, wire.list_after(call)), self._page_size)

    def _delete_many(self, call: Call, body: bytes) -> Answer:
        deleted, failed = [], []
        for key in wire.read_keys(body):
            if self.faults.take(Operation.DELETE_MANY, key, *REFUSALS):
                failed.append(key)
            else:
                self._shelf.delete(key)
                deleted.append(key)
        return wire.give_deleted(deleted, failed)

    def _create_upload(self, call: Call, _: bytes) -> Answer:
        return wire.give_upload(call, self._shelf.begin_upload(call.key, call.metadata))

    def _put_part(self, call: Call, body: bytes) -> Answer:
        body, etag = self._kept(call, body)
        number = int(call.query["partNumber"])
        self._shelf.put_part(call.query["uploadId"], call.key, number, body, etag=etag)
        return Answer(headers={"ETag": f'"{etag}"'})

    def _complete_upload(self, call: Call, body: bytes) -> Answer:
        named = wire.read_parts(body)
        etag = self._shelf.complete_upload(call.query["uploadId"], call.key, named, is_new=_is_new(call))
        return wire.give_completed(call, etag)

    def _abort_upload(self, call: Call, _: bytes) -> Answer:
        self._shelf.abort_upload(call.query["uploadId"], call.key)
        return Answer(204)

    def _kept(self, call: Call, body: bytes) -> tuple[bytes, str]:
        """Return the bytes that are kept of those that came, and the ETag that is told."""
        fault = self.faults.take(call.operation, call.key, *_CORRUPTIONS) if body else None
        etag = hashlib.md5(body).hexdigest()
        if fault is None:
            return body, etag
        other = bytes([body[0] ^ 1]) + body[1:]
        return other, etag if fault.effect == Effect.CORRUPT_AS_SENT else hashlib.md5(other).hexdigest()


def _is_new(call: Call) -> bool:
    return call.headers.get("if-none-match") == "*"


class _Control(BaseHTTPRequestHandler):
    """Takes orders for a stub that is a process of its own."""

    stub: S3Stub

    def do_POST(self) -> None:
        told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        operations = told.pop("operations", None)
        chosen = frozenset(map(Operation, operations)) if operations else frozenset(Operation)
        self.stub.faults.add(Fault(Effect(told.pop("effect")), chosen, **told))
        self._tell({})

    def do_DELETE(self) -> None:
        self.stub.faults.heal()
        self._tell({})

    def do_GET(self) -> None:
        self._tell(self.stub.state())

    def _tell(self, told: object) -> None:
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--control-port", type=int, required=True)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--bucket", default=BUCKET)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with S3Stub(port=given.port, folder=given.dir, bucket=given.bucket) as stub:
        control = type("_OwnControl", (_Control,), {"stub": stub})
        with ThreadingHTTPServer(("127.0.0.1", given.control_port), control) as server:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                return


if __name__ == "__main__":
    main()
