"""A client for DynaRust. One file, the standard library alone, Python 3.9 and newer.

    from dynarust import DynaRust

    db = DynaRust(["http://10.0.0.1:6660", "http://10.0.0.2:6660"])
    users = db.table("users")
    users.put("alice", {"name": "Alice"})
    for event in users.watch("alice", snapshot=True):
        print(event)

Every node holds everything, so any of the endpoints will do: the client stays with one while that answers, and moves on when it does
not. `AsyncDynaRust` is the same for asyncio. A client may be used by many threads, or by many tasks of one event loop.

How it is built: what to send, when to try again and how to read an answer is decided in generators, which do no input or output. They
yield commands (`_Connect`, `_Send`, `_Receive`, `_Pause`), which `_SyncIo` carries out with sockets and `_AsyncIo` with asyncio.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import random
import select
import socket
import ssl as tls
import threading
import time
from dataclasses import dataclass
from typing import (Any, AsyncIterator, Awaitable, Callable, Dict, Generator, Generic, Iterable, Iterator, List, Mapping, NamedTuple,
                    Optional, Sequence, Tuple, Type, TypeVar, Union, cast)
from urllib.parse import quote, urlencode, urlsplit

__version__ = "0.1.0"
__all__ = [
    "AsyncDynaRust", "AsyncTable", "AsyncWatch", "BadRequestError", "BatchResult", "ConflictError", "ConnectionError", "DynaRust",
    "DynaRustError", "Entry", "Event", "ForbiddenError", "NotEnoughReplicasError", "NotFoundError", "OutcomeUnknownError",
    "PreconditionFailedError", "ServerError", "Table", "TimeoutError", "TooManyError", "TransactionResult", "UnauthorizedError",
    "UnavailableError", "Watch", "Written",
]

#: Seconds that a call may take in all, with every attempt, unless it says otherwise.
TIMEOUT = 10.0
#: One attempt gets its share of that, but not less than this: a busy node may take a moment.
ATTEMPT_TIMEOUT_MIN = 1.0
#: Pauses between rounds over all endpoints: short, as a node restarts within a second or two; then longer, to spare it.
PAUSE_FIRST = 0.05
PAUSE_MAX = 2.0
#: An idle stream sends a comment every 15 s. After three missed ones it is dead, whatever TCP says.
STREAM_IDLE = 45.0
#: How long a node may take to begin a stream.
STREAM_OPEN = 10.0
#: A stream that lasted so long did not fail, even if nothing changed meanwhile.
STREAM_STEADY = 10.0
#: How long a connection may be unused before it is closed: less than the node's own --idle-timeout (75 s).
CONNECTION_IDLE_MAX = 30.0
#: Unused connections that are kept for an endpoint: about as many as threads or tasks call at one time.
CONNECTIONS_IDLE_MAX = 32
#: The longest line of a head or an event: the largest value that a node can be set to take (64 MiB), escaped in the worst way.
LINE_BYTES_MAX = 512 * 1024 * 1024
#: How much is read from a socket at once.
RECEIVE_BYTES = 65536
#: Keys of one page of a listing, unless it says otherwise.
PAGE_SIZE = 1000
#: How often `update` tries again after somebody else was faster.
UPDATES_MAX = 32
#: How long a node waits for the replicas of `w` unless `w_timeout` says otherwise.
REPLICAS_TIMEOUT = 5.0

Ttl = Union[int, float, str, datetime.timedelta]
Time = Union[int, datetime.datetime]
Replicas = Union[int, str]
Token = Union[str, Callable[[], str]]
Operation = Mapping[str, Any]
T = TypeVar("T")


# Errors


class DynaRustError(Exception):
    """What all errors of this library are. `code` is one of docs/errors.md, or `connection`, `timeout`."""

    def __init__(self, message: str, *, code: str, status: int = 0, endpoint: Optional[str] = None,
                 body: Optional[Mapping[str, Any]] = None) -> None:
        super().__init__(message)
        self.code = code
        #: The HTTP status; 0 where there was no answer.
        self.status = status
        self.endpoint = endpoint
        #: The whole answer.
        self.body: Mapping[str, Any] = body or {}

    @property
    def request_id(self) -> Optional[str]:
        """Names the request in the node's log."""
        return self.body.get("request_id")


class BadRequestError(DynaRustError):
    """The request is wrong: correct it."""


class UnauthorizedError(DynaRustError):
    """The token is missing, wrong, expired or revoked."""


class ForbiddenError(DynaRustError):
    """The token does not give this right."""


class NotFoundError(DynaRustError):
    """A `patch` of an absent key, or an unknown path."""


class ConflictError(DynaRustError):
    """The patch does not apply to the value, or the table has the other mode."""


class PreconditionFailedError(DynaRustError):
    """A condition does not hold."""

    @property
    def version(self) -> Optional[str]:
        """The current version; `None` if the key is absent."""
        return self.body.get("version")


class TooManyError(DynaRustError):
    """A limit of the node is reached."""


class UnavailableError(DynaRustError):
    """No node could take the request in time. A write was not made."""


class ConnectionError(UnavailableError):  # noqa: A001
    """No endpoint answers. A write was not made."""

    was_not_sent = False
    has_bad_certificate = False


class TimeoutError(UnavailableError):  # noqa: A001
    """No answer in time. A write was not made."""


class NotEnoughReplicasError(DynaRustError):
    """The write is kept, but fewer replicas than wanted confirmed it in time."""

    @property
    def held(self) -> int:
        return int(self.body["held"])

    @property
    def wanted(self) -> int:
        return int(self.body["wanted"])

    @property
    def version(self) -> str:
        return str(self.body["version"])


class OutcomeUnknownError(DynaRustError):
    """The write may have been made, or not: read the key before you write again."""


class ServerError(DynaRustError):
    """The node failed, or its disk is full, or a part of it is damaged. A write may have been made."""


_CLASSES: Dict[str, Type[DynaRustError]] = {
    "unauthorized": UnauthorizedError,
    "forbidden": ForbiddenError,
    "not-found": NotFoundError,
    "conflict": ConflictError,
    "wrong-mode": ConflictError,
    "precondition-failed": PreconditionFailedError,
    "too-many": TooManyError,
    "request-timeout": UnavailableError,
    "not-enough-replicas": NotEnoughReplicasError,
    "outcome-unknown": OutcomeUnknownError,
}


def _error(status: int, body: Any, endpoint: Optional[str]) -> DynaRustError:
    """The error of an answer. One without DynaRust's body is from a proxy."""
    body = body if isinstance(body, dict) else {}
    code = body.get("error") or f"http-{status}"
    by_status: Type[DynaRustError] = BadRequestError
    if status >= 500:
        by_status = UnavailableError if status == 503 else ServerError
    elif status in (401, 403):
        by_status = UnauthorizedError if status == 401 else ForbiddenError
    message = body.get("detail") or f"HTTP status {status}"
    return _CLASSES.get(code, by_status)(message, code=code, status=status, endpoint=endpoint, body=body)


# What calls return


@dataclass(frozen=True)
class Written:
    """A write that was made. `created`: whether the key was absent on that node."""

    version: str
    timestamp: int
    created: bool


@dataclass(frozen=True)
class Entry:
    """A value with what the node knows of it. Times are Unix milliseconds; `node` is the one that took the write."""

    key: str
    value: Any
    version: str
    timestamp: int
    node: str
    expires_at: Optional[int]


@dataclass(frozen=True)
class BatchResult:
    """The result of one operation of a batch: a version, or an `error`."""

    version: Optional[str]
    timestamp: Optional[int]
    created: bool
    deleted: bool
    error: Optional[DynaRustError]

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True)
class TransactionResult:
    """Whether everything compared equal, and a dictionary for each operation that ran. It is true if `succeeded`."""

    succeeded: bool
    results: List[Dict[str, Any]]

    def __bool__(self) -> bool:
        return self.succeeded


@dataclass(frozen=True, repr=False)
class Event:
    """What a watch sees.

    `type` is `updated` (the key has this value now), `deleted` (`reason` is `delete` or `expired`), `sync` (the current values are
    complete, changes follow), `resync` (something was missed: forget what you have, the current values and `sync` follow) or
    `incomplete` (values are missing in this snapshot: `detail`). `cursor` is where another watch goes on with `since`.
    """

    type: str
    cursor: Optional[str] = None
    table: Optional[str] = None
    key: Optional[str] = None
    value: Any = None
    version: Optional[str] = None
    timestamp: Optional[int] = None
    node: Optional[str] = None
    expires_at: Optional[int] = None
    reason: Optional[str] = None
    detail: Optional[str] = None

    def __repr__(self) -> str:
        told = {name: value for name, value in vars(self).items() if value is not None or name == "value" and self.type == "updated"}
        return f"Event({', '.join(f'{name}={value!r}' for name, value in told.items())})"


# Commands: what the generators ask of whoever does input and output


class _Endpoint(NamedTuple):
    url: str
    is_tls: bool
    host: str
    port: int
    authority: str
    path: str


class _Connect(NamedTuple):
    endpoint: _Endpoint
    deadline: float


class _Send(NamedTuple):
    connection: Any
    data: bytes
    deadline: float


class _Receive(NamedTuple):
    """Bytes; none at the end of the connection."""

    connection: Any
    deadline: float


class _Pause(NamedTuple):
    seconds: float


class _Emit(NamedTuple):
    """An event for the reader of a watch; `None` once the node has accepted the subscription."""

    event: Optional[Event]


_Plan = Generator[Any, Any, T]


def _endpoint(text: str) -> _Endpoint:
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment or url.username:
        raise ValueError(f"{text!r} is not the address of a node: write http://HOST:PORT or https://HOST:PORT")
    port = url.port or (443 if url.scheme == "https" else 80)
    path = url.path.rstrip("/")
    return _Endpoint(f"{url.scheme}://{url.netloc}{path}", url.scheme == "https", url.hostname, port, url.netloc, path)


class _Answer(NamedTuple):
    status: int
    headers: Dict[str, str]
    body: Any
    endpoint: _Endpoint


class _Request(Generic[T]):
    """A request, and how to read its answer.

    `kind` says what may be sent again when nobody knows what became of it: a `read`, a write that is `repeatable`, but not one to be
    made `once`. `patience` is time on top of the timeout. Where `is_optional`, an absent key is `absent`, and no error.
    """

    def __init__(self, method: str, path: str, parse: Callable[[_Answer], T], *, kind: str, query: Optional[Mapping[str, Any]] = None,
                 headers: Optional[Mapping[str, str]] = None, body: Any = ..., timeout: Optional[float] = None, patience: float = 0.0,
                 is_optional: bool = False, absent: Optional[T] = None) -> None:
        self.method = method
        self.target = path + _query(query or {})
        self.parse = parse
        self.kind = kind
        self.headers = dict(headers or {})
        self.body = b"" if body is ... else _encode(body)
        if body is not ...:
            self.headers.setdefault("Content-Type", "application/json")
        self.timeout = timeout
        self.patience = patience
        self.is_optional = is_optional
        self.absent = absent


def _encode(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _query(parameters: Mapping[str, Any]) -> str:
    pairs: List[Tuple[str, str]] = []
    for name, value in parameters.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and one is not False:
                pairs.append((name, "true" if one is True else str(one)))
    return "?" + urlencode(pairs) if pairs else ""


def _head(endpoint: _Endpoint, method: str, target: str, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {endpoint.path}{target} HTTP/1.1", f"Host: {endpoint.authority}"]
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line break in {name}")
        lines.append(f"{name}: {value}")
    if length or method not in ("GET", "DELETE", "HEAD"):
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


# Reading an answer


class _Closed(OSError):
    """The connection ended in the middle of an answer."""


class _Reader:
    """An answer on a connection, piece by piece."""

    def __init__(self, connection: Any, deadline: float) -> None:
        self.connection = connection
        self.deadline = deadline
        self.status = 0
        self.headers: Dict[str, str] = {}
        self._buffer = bytearray()
        self._is_chunked = False
        #: Bytes of the body, or of the chunk, that are still to come; `None`: up to the end of the connection.
        self._left: Optional[int] = 0
        self._is_done = False

    def _fill(self) -> _Plan[None]:
        data = yield _Receive(self.connection, self.deadline)
        if not data:
            raise _Closed("the connection was closed")
        self._buffer += data

    def _line(self) -> _Plan[bytes]:
        searched = 0
        while True:
            end = self._buffer.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._buffer[:end]).rstrip(b"\r")
                del self._buffer[:end + 1]
                return line
            searched = len(self._buffer)
            if searched > LINE_BYTES_MAX:
                raise _Closed("a line without an end")
            yield from self._fill()

    def head(self) -> _Plan[None]:
        while True:
            parts = (yield from self._line()).split(b" ", 2)
            if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
                raise _Closed("what answers does not speak HTTP/1.1")
            self.status = int(parts[1])
            self.headers = {}
            while True:
                line = (yield from self._line()).decode("latin-1")
                if not line:
                    break
                name, _, value = line.partition(":")
                self.headers[name.strip().lower()] = value.strip()
            if self.status >= 200:
                break
        self._is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        self._left = 0 if self._is_chunked or self.status in (204, 304) else int(length) if length is not None else None
        self._is_done = self._left == 0 and not self._is_chunked

    def piece(self) -> _Plan[bytes]:
        """The next bytes of the body; none at its end."""
        if self._is_chunked and self._left == 0 and not self._is_done:
            yield from self._chunk()
        if self._is_done:
            return b""
        if not self._buffer:
            try:
                yield from self._fill()
            except _Closed:
                if self._left is not None:
                    raise
                self._is_done = True
                return b""
        data = bytes(self._buffer[:self._left])
        del self._buffer[:len(data)]
        if self._left is not None:
            self._left -= len(data)
            if self._left == 0 and self._is_chunked:
                yield from self._line()
            self._is_done = self._left == 0 and not self._is_chunked
        return data

    def _chunk(self) -> _Plan[None]:
        size = (yield from self._line()).split(b";")[0]
        try:
            self._left = int(size, 16)
        except ValueError:
            raise _Closed("a broken chunk") from None
        if self._left == 0:
            while (yield from self._line()):
                pass
            self._is_done = True

    def body(self) -> _Plan[bytes]:
        pieces: List[bytes] = []
        while True:
            piece = yield from self.piece()
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)

    @property
    def is_reusable(self) -> bool:
        """Whether the connection can take another request."""
        is_kept = "close" not in self.headers.get("connection", "").lower()
        return is_kept and self._is_done and self._left is not None and not self._buffer


# Failover


class _Core:
    """What the sync and the async client have in common: where to send what, and when again."""

    def __init__(self, endpoints: Union[str, Sequence[str]], token: Optional[Token], timeout: float, retry_writes: bool,
                 ssl: Optional[tls.SSLContext]) -> None:
        texts = [endpoints] if isinstance(endpoints, str) else list(endpoints)
        if not texts:
            raise ValueError("name at least one endpoint")
        self.endpoints = [_endpoint(text) for text in texts]
        self.current = 0
        self.timeout = timeout
        #: The kind of a write without conditions.
        self.write_kind = "repeatable" if retry_writes else "once"
        self.ssl = ssl if ssl is not None or not any(one.is_tls for one in self.endpoints) else tls.create_default_context()
        self._token = token
        self._idle: Dict[_Endpoint, List[Tuple[float, Any]]] = {}
        self._lock = threading.Lock()

    def headers(self) -> Dict[str, str]:
        token = self._token() if callable(self._token) else self._token
        return {"Authorization": f"Bearer {token}"} if token else {}

    def move_on_from(self, at: int) -> None:
        """Takes the next endpoint, unless another call has done so."""
        with self._lock:
            if self.current == at:
                self.current = (at + 1) % len(self.endpoints)

    def take_idle(self, endpoint: _Endpoint) -> Any:
        """A connection from before; `None` if there is none that is any good."""
        while True:
            with self._lock:
                kept = self._idle.get(endpoint)
                if not kept:
                    return None
                since, connection = kept.pop()
            if time.monotonic() - since < CONNECTION_IDLE_MAX and not connection.is_stale():
                return connection
            connection.close()

    def keep(self, endpoint: _Endpoint, connection: Any) -> None:
        with self._lock:
            kept = self._idle.setdefault(endpoint, [])
            if len(kept) < CONNECTIONS_IDLE_MAX:
                kept.append((time.monotonic(), connection))
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            kept = [connection for pairs in self._idle.values() for _, connection in pairs]
            self._idle.clear()
        for connection in kept:
            connection.close()

    def run(self, request: _Request[T]) -> _Plan[T]:
        """A request with all its attempts."""
        timeout = (self.timeout if request.timeout is None else request.timeout) + request.patience
        share = max(timeout / len(self.endpoints), ATTEMPT_TIMEOUT_MIN + request.patience)
        end = time.monotonic() + timeout
        is_uncertain = False
        attempt = 0
        while True:
            attempt += 1
            at = self.current
            deadline = min(end, time.monotonic() + share)
            try:
                return request.parse((yield from self._attempt(self.endpoints[at], request, deadline)))
            except NotFoundError as error:
                if request.is_optional and error.code == "not-found":
                    return cast(T, request.absent)
                raise
            except DynaRustError as error:
                is_uncertain = is_uncertain or request.kind != "read" and _is_broken(error)
                rounds, rest = divmod(attempt, len(self.endpoints))
                pause = _pause_after(rounds - 1) if rest == 0 else 0.0
                may_repeat = _may_repeat(error, request.kind, attempt < len(self.endpoints))
                if may_repeat or _is_broken(error) or _is_of_this_node(error):
                    # Also where this call ends: the next one need not wait for the same node in vain.
                    self.move_on_from(at)
                if not may_repeat or time.monotonic() + pause >= end:
                    if is_uncertain and isinstance(error, UnavailableError):
                        raise OutcomeUnknownError(f"the write may have been made: {error}", code="outcome-unknown",
                                                  endpoint=error.endpoint) from error
                    raise
                if pause:
                    yield _Pause(pause)

    def _attempt(self, endpoint: _Endpoint, request: _Request[Any], deadline: float) -> _Plan[_Answer]:
        head = _head(endpoint, request.method, request.target, {**self.headers(), **request.headers}, len(request.body))
        connection = self.take_idle(endpoint) or (yield from _connect(endpoint, deadline))
        is_kept = False
        try:
            yield _Send(connection, head + request.body, deadline)
            reader = _Reader(connection, deadline)
            yield from reader.head()
            text = yield from reader.body()
            is_kept = reader.is_reusable
        except OSError as error:
            raise _broken(endpoint, error, deadline) from error
        finally:
            # Also where the caller gives up in between.
            if is_kept:
                self.keep(endpoint, connection)
            else:
                connection.close()
        body = _decode(text, reader.status, endpoint)
        if reader.status >= 400:
            raise _error(reader.status, body, endpoint.url)
        return _Answer(reader.status, reader.headers, body, endpoint)


def _connect(endpoint: _Endpoint, deadline: float) -> _Plan[Any]:
    try:
        return (yield _Connect(endpoint, deadline))
    except OSError as error:
        failure = ConnectionError(f"no connection to {endpoint.url}: {error}", code="connection", endpoint=endpoint.url)
        failure.was_not_sent = True
        failure.has_bad_certificate = isinstance(error, tls.SSLCertVerificationError)
        raise failure from error


def _broken(endpoint: _Endpoint, error: OSError, deadline: float) -> DynaRustError:
    if time.monotonic() >= deadline:
        return TimeoutError(f"no answer from {endpoint.url} in time", code="timeout", endpoint=endpoint.url)
    return ConnectionError(f"no connection to {endpoint.url}: {error}", code="connection", endpoint=endpoint.url)


def _is_broken(error: DynaRustError) -> bool:
    """Whether the request was on its way, and nobody knows what became of it."""
    return isinstance(error, TimeoutError) or isinstance(error, ConnectionError) and not error.was_not_sent


def _may_repeat(error: DynaRustError, kind: str, is_first_round: bool) -> bool:
    """Whether to try again at another endpoint, or after a pause."""
    if _is_broken(error):
        return kind != "once"
    # It never left, or the node says that it did nothing: another may do it, or this one later.
    if isinstance(error, ConnectionError):
        return is_first_round or not error.has_bad_certificate
    if error.status in (503, 408):
        return True
    # The same from all of them is the answer. Only a damaged disk is sure to have taken nothing.
    return _is_of_this_node(error) and is_first_round and (kind != "once" or error.code == "corrupt")


def _is_of_this_node(error: DynaRustError) -> bool:
    """A damaged or full disk is that node's alone, and so is a proxy's trouble."""
    return error.code == "corrupt" or error.status == 507 or error.code.startswith("http-50")


def _pause_after(rounds: int) -> float:
    """Random by half, so that clients of one node do not come back all at once."""
    return min(PAUSE_MAX, PAUSE_FIRST * 2.0 ** min(rounds, 10)) * random.uniform(0.5, 1.0)


def _decode(text: bytes, status: int, endpoint: _Endpoint) -> Any:
    if not text:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        if status >= 400:
            return None
        message = f"the answer of {endpoint.url} is not JSON: is that a DynaRust node?"
        raise ServerError(message, code="bad-answer", status=status, endpoint=endpoint.url) from error


# Requests


def _segment(text: str) -> str:
    return quote(text, safe="")


def _key_path(table: str, key: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key is a string, not {type(key).__name__}")
    return f"/{_segment(table)}/key/{_segment(key)}"


def _conditions(if_version: Optional[str], if_absent: bool, if_present: bool) -> Dict[str, str]:
    if (if_version is not None) + bool(if_absent) + bool(if_present) > 1:
        raise TypeError("give one of if_version, if_absent and if_present")
    if if_version is not None:
        return {"If-Match": f'"{if_version}"'}
    if if_absent:
        return {"If-None-Match": "*"}
    return {"If-Match": "*"} if if_present else {}


def _expiry(ttl: Optional[Ttl], expires_at: Optional[Time]) -> Dict[str, Any]:
    fields: Dict[str, Any] = {}
    if ttl is not None:
        fields["ttl"] = ttl.total_seconds() if isinstance(ttl, datetime.timedelta) else ttl
    if expires_at is not None:
        fields["expires_at"] = round(expires_at.timestamp() * 1000) if isinstance(expires_at, datetime.datetime) else expires_at
    return fields


def _replicas(w: Optional[Replicas], w_timeout: Optional[float]) -> Dict[str, Any]:
    return {"w": w, "w_timeout": None if w_timeout is None else f"{round(w_timeout * 1000)}ms"}


def _patience(w: Optional[Replicas], w_timeout: Optional[float]) -> float:
    return 0.0 if w is None else REPLICAS_TIMEOUT if w_timeout is None else w_timeout


_OPERATION_FIELDS = ("op", "table", "key", "value", "patch", "force", "ttl", "expires_at", "if_version", "if_absent", "if_present")


def _check_names(given: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise TypeError(f"{where}: unknown field {name!r}; known are {', '.join(known)}")


def _operation(given: Operation, at: int) -> Dict[str, Any]:
    """An operation of a batch or a transaction, as the node takes it."""
    _check_names(given, _OPERATION_FIELDS, f"operation {at}")
    fields = {name: given[name] for name in ("op", "table", "key", "value", "patch", "force") if name in given}
    fields.update(_expiry(given.get("ttl"), given.get("expires_at")))
    header = _conditions(given.get("if_version"), given.get("if_absent", False), given.get("if_present", False))
    for name, field in (("If-Match", "if_match"), ("If-None-Match", "if_none_match")):
        if name in header:
            fields[field] = header[name].strip('"')
    return fields


def _entry(key: str, fields: Mapping[str, Any]) -> Entry:
    return Entry(key, fields["value"], fields["version"], fields["timestamp"], fields["node"], fields.get("expires_at"))


def _batch_result(result: Mapping[str, Any], endpoint: str) -> BatchResult:
    error = _error(result["status"], result, endpoint) if "error" in result else None
    return BatchResult(result.get("version"), result.get("timestamp"), result.get("created", False), result.get("deleted", False), error)


def _written(answer: _Answer) -> Written:
    return Written(answer.body["version"], answer.body["timestamp"], answer.headers.get("dynarust-created") == "true")


def _get(table: str, key: str, read: Optional[str], timeout: Optional[float]) -> _Request[Optional[Entry]]:
    return _Request("GET", _key_path(table, key), lambda answer: _entry(key, answer.body), kind="read", query={"meta": True, "read": read},
                    timeout=timeout, is_optional=True)


def _get_many(table: str, keys: Iterable[str], read: Optional[str], timeout: Optional[float]) -> _Request[Dict[str, Entry]]:
    def parse(answer: _Answer) -> Dict[str, Entry]:
        return {key: _entry(key, fields) for key, fields in answer.body.items()}
    return _Request("POST", f"/{_segment(table)}/keys", parse, kind="read", query={"meta": True, "read": read}, body={"keys": list(keys)},
                    timeout=timeout)


def _put(core: _Core, table: str, key: str, value: Any, ttl: Optional[Ttl], expires_at: Optional[Time], if_version: Optional[str],
         if_absent: bool, if_present: bool, w: Optional[Replicas], w_timeout: Optional[float],
         timeout: Optional[float]) -> _Request[Written]:
    headers = _conditions(if_version, if_absent, if_present)
    return _Request("PUT", _key_path(table, key), _written, kind="once" if headers else core.write_kind, query=_replicas(w, w_timeout),
                    headers=headers, body={"value": value, **_expiry(ttl, expires_at)}, timeout=timeout, patience=_patience(w, w_timeout))


def _patch(table: str, key: str, patch: Any, ttl: Optional[Ttl], expires_at: Optional[Time], if_version: Optional[str], if_present: bool,
           w: Optional[Replicas], w_timeout: Optional[float], timeout: Optional[float]) -> _Request[Written]:
    headers = _conditions(if_version, False, if_present)
    if patch is not ...:
        headers["Content-Type"] = f"application/{'json-patch' if isinstance(patch, (list, tuple)) else 'merge-patch'}+json"
    return _Request("PATCH", _key_path(table, key), _written, kind="once", query={**_expiry(ttl, expires_at), **_replicas(w, w_timeout)},
                    headers=headers, body=patch, timeout=timeout, patience=_patience(w, w_timeout))


def _delete(core: _Core, table: str, key: str, force: bool, if_version: Optional[str], if_present: bool, w: Optional[Replicas],
            w_timeout: Optional[float], timeout: Optional[float]) -> _Request[bool]:
    headers = _conditions(if_version, False, if_present)
    return _Request("DELETE", _key_path(table, key), lambda answer: True, kind="once" if headers else core.write_kind, headers=headers,
                    query={"force": force, **_replicas(w, w_timeout)}, timeout=timeout, patience=_patience(w, w_timeout),
                    is_optional=True, absent=False)


def _batch(table: str, operations: Iterable[Operation], atomic: bool, ttl: Optional[Ttl], w: Optional[Replicas],
           w_timeout: Optional[float], timeout: Optional[float]) -> _Request[List[BatchResult]]:
    def parse(answer: _Answer) -> List[BatchResult]:
        return [_batch_result(result, answer.endpoint.url) for result in answer.body["results"]]
    body = [_operation(operation, at) for at, operation in enumerate(operations)]
    return _Request("POST", f"/{_segment(table)}/batch", parse, kind="once", body=body, timeout=timeout, patience=_patience(w, w_timeout),
                    query={"atomic": atomic, **_expiry(ttl, None), **_replicas(w, w_timeout)})


def _count(table: str, prefix: Optional[str], start: Optional[str], end: Optional[str], read: Optional[str],
           timeout: Optional[float]) -> _Request[int]:
    return _Request("GET", f"/{_segment(table)}/count", lambda answer: answer.body["count"], kind="read", timeout=timeout,
                    query={"prefix": prefix, "start": start, "end": end, "read": read})


def _delete_many(core: _Core, table: str, prefix: Optional[str], everything: bool, w: Optional[Replicas], w_timeout: Optional[float],
                 timeout: Optional[float]) -> _Request[int]:
    if bool(prefix) == bool(everything):
        raise TypeError("delete_many: give a prefix, or everything=True")
    query = {"prefix": prefix, "confirm": table if everything else None, **_replicas(w, w_timeout)}
    return _Request("DELETE", f"/{_segment(table)}", lambda answer: answer.body["deleted"], kind=core.write_kind, query=query,
                    timeout=timeout, patience=_patience(w, w_timeout))


class _Listing(NamedTuple):
    """A listing, from which `page` makes one request after the other."""

    table: str
    route: str
    query: Mapping[str, Any]
    limit: Optional[int]
    page_size: int
    timeout: Optional[float]

    def page(self, cursor: Optional[str], seen: int) -> _Request[Tuple[List[Any], Optional[str]]]:
        size = self.page_size if self.limit is None else min(self.page_size, self.limit - seen)

        def parse(answer: _Answer) -> Tuple[List[Any], Optional[str]]:
            rows = answer.body if isinstance(answer.body, list) else [_entry(key, fields) for key, fields in answer.body.items()]
            return rows, answer.headers.get("dynarust-next-cursor")
        return _Request("GET", f"/{_segment(self.table)}/{self.route}", parse, kind="read", timeout=self.timeout,
                        query={**self.query, "cursor": cursor, "limit": size})


def _listing(table: str, route: str, prefix: Optional[str], start: Optional[str], end: Optional[str], reverse: bool, limit: Optional[int],
             page_size: int, read: Optional[str], timeout: Optional[float]) -> _Listing:
    query = {"prefix": prefix, "start": start, "end": end, "reverse": reverse, "read": read, "meta": route == "store"}
    return _Listing(table, route, query, limit, page_size, timeout)


def _transaction(compare: Iterable[Mapping[str, Any]], success: Iterable[Operation], failure: Iterable[Operation],
                 timeout: Optional[float]) -> _Request[TransactionResult]:
    compare, success, failure = list(compare), list(success), list(failure)
    for at, one in enumerate(compare):
        _check_names(one, ("table", "key", "value", "version", "absent"), f"compare {at}")
    body = {"compare": compare, "success": [_operation(one, at) for at, one in enumerate(success)],
            "failure": [_operation(one, at) for at, one in enumerate(failure)]}
    kind = "read" if all(one.get("op") == "get" for one in [*success, *failure]) else "once"

    def parse(answer: _Answer) -> TransactionResult:
        return TransactionResult(answer.body["succeeded"], answer.body["results"])
    return _Request("POST", "/_/txn", parse, kind=kind, body=body, timeout=timeout)


def _create_table(name: str, mode: str, timeout: Optional[float]) -> _Request[bool]:
    return _Request("PUT", f"/_/tables/{_segment(name)}", lambda answer: answer.status == 201, kind="repeatable", body={"mode": mode},
                    timeout=timeout)


def _tables(timeout: Optional[float]) -> _Request[List[Dict[str, Any]]]:
    return _Request("GET", "/_/tables", lambda answer: answer.body, kind="read", timeout=timeout)


# Watching

_TYPES = {"Updated": "updated", "Deleted": "deleted", "sync": "sync", "resync": "resync", "incomplete": "incomplete"}


class _Subscription:
    """What a watch follows, and where it is."""

    def __init__(self, core: _Core, path: str, chosen: Mapping[str, Any], snapshot: bool, since: Optional[str]) -> None:
        self.core = core
        self.path = path
        self.chosen = chosen
        self.wants_snapshot = snapshot
        self.cursor = since
        #: Whether a node has accepted it before: something may have been missed since.
        self.has_begun = False
        #: Whether the values of a snapshot arrive. Until all have, no position is a point to go on from.
        self._is_in_snapshot = False
        #: Whether the reader has been given values that a new snapshot makes void.
        self._has_values = False
        self._failures = 0

    def run(self) -> _Plan[None]:
        """All connections, one after the other, without an end. The first must come within the client's timeout."""
        core = self.core
        give_up = time.monotonic() + core.timeout
        while True:
            at = core.current
            begun = time.monotonic()
            try:
                yield from self._connection(core.endpoints[at])
            except DynaRustError as error:
                if not self._may_reconnect(error) or not self.has_begun and time.monotonic() >= give_up:
                    raise
            if time.monotonic() - begun >= STREAM_STEADY:
                self._failures = 0
            self._failures += 1
            core.move_on_from(at)
            # From one to the next without a pause: that one is there when this one stops.
            rounds, rest = divmod(self._failures, len(core.endpoints))
            if rest == 0:
                yield _Pause(_pause_after(rounds))

    def _may_reconnect(self, error: DynaRustError) -> bool:
        """What is wrong with the request is wrong everywhere."""
        # Where many move to another node at once, its limits may be reached for a moment.
        return error.status == 0 or error.status >= 500 or error.status == 408 or error.status == 429 and self.has_begun

    def _connection(self, endpoint: _Endpoint) -> _Plan[None]:
        core = self.core
        deadline = time.monotonic() + (STREAM_OPEN if self.has_begun else min(STREAM_OPEN, core.timeout))
        query, is_resync = self._beginning()
        target = self.path + _query({**self.chosen, **query})
        head = _head(endpoint, "GET", target, {**core.headers(), "Accept": "text/event-stream"}, 0)
        connection = yield from _connect(endpoint, deadline)
        reader = _Reader(connection, deadline)
        try:
            yield _Send(connection, head, deadline)
            yield from reader.head()
            if reader.status != 200:
                body = _decode((yield from reader.body()), reader.status, endpoint)
                raise _error(reader.status, body, endpoint.url)
            self.has_begun = True
            self._is_in_snapshot = bool(query.get("snapshot"))
            yield _Emit(None)
            if is_resync:
                self._has_values = False
                yield _Emit(Event("resync"))
            yield from self._events(reader, endpoint)
        except OSError as error:
            raise _broken(endpoint, error, reader.deadline) from error
        finally:
            connection.close()

    def _beginning(self) -> Tuple[Dict[str, Any], bool]:
        """Where the next connection begins. Without a position nobody knows what was missed: then with all values."""
        if self.cursor is not None:
            return {"since": self.cursor}, False
        is_resync = self.has_begun and (self._has_values or not self.wants_snapshot)
        return {"snapshot": self.wants_snapshot or self.has_begun}, is_resync

    def _events(self, reader: _Reader, endpoint: _Endpoint) -> _Plan[None]:
        rest = bytearray()
        searched = 0
        identity: Optional[str] = None
        data: Optional[bytes] = None
        while True:
            reader.deadline = time.monotonic() + STREAM_IDLE
            piece = yield from reader.piece()
            if not piece:
                return
            rest += piece
            begin = 0
            while True:
                end = rest.find(b"\n", max(begin, searched))
                if end < 0:
                    break
                line = bytes(rest[begin:end])
                begin = end + 1
                if line.startswith(b"id: "):
                    identity = line[4:].decode()
                elif line.startswith(b"data: "):
                    data = line[6:]
                elif not line and (identity is not None or data is not None):
                    fields = {} if data is None else json.loads(data)
                    if fields.get("event") == "shutdown":
                        return
                    event = self._take(identity, fields, endpoint)
                    identity = data = None
                    if event is not None:
                        yield _Emit(event)
            del rest[:begin]
            searched = len(rest)
            if searched > LINE_BYTES_MAX:
                raise _Closed("an event without an end")

    def _take(self, identity: Optional[str], fields: Dict[str, Any], endpoint: _Endpoint) -> Optional[Event]:
        """The event of a block; `None` if it has none for the reader."""
        name = fields.pop("event", None)
        if name == "failed":
            raise UnavailableError(fields.get("detail", "the snapshot failed"), code="failed", endpoint=endpoint.url, body=fields)
        if name == "resync":
            self._is_in_snapshot = True
            self._has_values = False
            self.cursor = None
        elif name == "sync":
            self._is_in_snapshot = False
        elif name == "Updated":
            self._has_values = True
        if not self._is_in_snapshot:
            self.cursor = identity or self.cursor
            # A position alone proves nothing: a stream that breaks off right after it would be begun again without a pause.
            if name is not None:
                self._failures = 0
        if name not in _TYPES:
            return None
        # A newer node may tell more than this library knows.
        known = {field: fields[field] for field in _EVENT_FIELDS if field in fields}
        return Event(_TYPES[name], self.cursor, **known)


_EVENT_FIELDS = ("table", "key", "value", "version", "timestamp", "node", "expires_at", "reason", "detail")
What = Union[None, str, Sequence[str]]


def _subscription(core: _Core, table: str, what: What, prefix: What, snapshot: bool, since: Optional[str]) -> _Subscription:
    keys = [what] if isinstance(what, str) else list(what or ())
    prefixes = [prefix] if isinstance(prefix, str) else list(prefix or ())
    return _Subscription(core, f"/{_segment(table)}/subscribe", {"key": keys, "prefix": prefixes}, snapshot, since)


def _topics(core: _Core, topics: Union[str, Sequence[str]], snapshot: bool, since: Optional[str]) -> _Subscription:
    chosen = {"topic": [topics] if isinstance(topics, str) else list(topics)}
    return _Subscription(core, "/_/subscribe", chosen, snapshot, since)


# Sync


class _Socket:
    """A connection."""

    def __init__(self, endpoint: _Endpoint, context: Optional[tls.SSLContext], deadline: float) -> None:
        self._socket = socket.create_connection((endpoint.host, endpoint.port), _left(deadline))
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.is_tls:
                assert context is not None, "a client with an https endpoint has a context"
                self._socket = context.wrap_socket(self._socket, server_hostname=endpoint.host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        self._socket.sendall(data)

    def receive(self, deadline: float) -> bytes:
        self._socket.settimeout(_left(deadline))
        return self._socket.recv(RECEIVE_BYTES)

    def is_stale(self) -> bool:
        """A connection that is not in use has nothing to read but its end."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        except (AttributeError, OSError, ValueError):
            return True

    def interrupt(self) -> None:
        """Wakes whoever waits for it in another thread."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        self._socket.close()


def _left(deadline: float) -> float:
    """Never 0, which means without waiting."""
    return max(deadline - time.monotonic(), 0.001)


class _SyncIo:
    """Carries out commands with sockets."""

    def __init__(self, core: _Core) -> None:
        self.core = core

    def do(self, command: Any) -> Any:
        if isinstance(command, _Connect):
            return _Socket(command.endpoint, self.core.ssl, command.deadline)
        if isinstance(command, _Send):
            return command.connection.send(command.data, command.deadline)
        if isinstance(command, _Receive):
            return command.connection.receive(command.deadline)
        return time.sleep(command.seconds)

    def run(self, plan: _Plan[T]) -> T:
        try:
            command = next(plan)
            while True:
                try:
                    result = self.do(command)
                except OSError as error:
                    command = plan.throw(error)
                else:
                    command = plan.send(result)
        except StopIteration as end:
            return cast(T, end.value)
        finally:
            plan.close()


class DynaRust:
    """A cluster: any of its nodes.

    `token` is sent as `Authorization: Bearer`; a function is asked before each request. `timeout` is in seconds, for a call with all its
    attempts. `retry_writes`: whether a `put` or `delete` without a condition is sent again when the connection broke and nobody knows
    whether it was made. Without it such a call raises `OutcomeUnknownError`, as every other write does; with it, it may undo what others
    wrote in between. `ssl` is for endpoints with https.
    """

    def __init__(self, endpoints: Union[str, Sequence[str]] = "http://127.0.0.1:6660", *, token: Optional[Token] = None,
                 timeout: float = TIMEOUT, retry_writes: bool = False, ssl: Optional[tls.SSLContext] = None) -> None:
        self._core = _Core(endpoints, token, timeout, retry_writes, ssl)
        self._io = _SyncIo(self._core)

    def __enter__(self) -> "DynaRust":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are not in use. A later call opens new ones."""
        self._core.close()

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last, or is tried next."""
        return self._core.endpoints[self._core.current].url

    def _run(self, request: _Request[T]) -> T:
        return self._io.run(self._core.run(request))

    def table(self, name: str) -> "Table":
        return Table(self, name)

    def create_table(self, name: str, mode: str = "strong", *, timeout: Optional[float] = None) -> bool:
        """Makes a table `strong` or `eventual`; true if it was not there before."""
        return self._run(_create_table(name, mode, timeout))

    def tables(self, *, timeout: Optional[float] = None) -> List[Dict[str, Any]]:
        return self._run(_tables(timeout))

    def transaction(self, *, compare: Iterable[Mapping[str, Any]] = (), success: Iterable[Operation] = (),
                    failure: Iterable[Operation] = (), timeout: Optional[float] = None) -> TransactionResult:
        """Tests keys of strong tables, and runs one of two lists of operations, all of it or nothing."""
        return self._run(_transaction(compare, success, failure, timeout))

    def watch(self, topics: Union[str, Sequence[str]], *, snapshot: bool = False, since: Optional[str] = None) -> "Watch":
        """Follows topics of many tables: `table/key`, `table/*`, `table/prefix*`."""
        return Watch(self._io, _topics(self._core, topics, snapshot, since))


class Table:
    """A table: exists as soon as it is written to."""

    def __init__(self, db: DynaRust, name: str) -> None:
        self._db = db
        self._core = db._core
        self._run = db._run
        self.name = name

    def get(self, key: str, default: Any = None, *, read: Optional[str] = None, timeout: Optional[float] = None) -> Any:
        """The value of a key; `default` if it is absent."""
        entry = self.get_entry(key, read=read, timeout=timeout)
        return default if entry is None else entry.value

    def get_entry(self, key: str, *, read: Optional[str] = None, timeout: Optional[float] = None) -> Optional[Entry]:
        """The value of a key with its version, time, node and expiry; `None` if it is absent."""
        return self._run(_get(self.name, key, read, timeout))

    def get_many(self, keys: Iterable[str], *, read: Optional[str] = None, timeout: Optional[float] = None) -> Dict[str, Any]:
        """The values of these keys, without those that are absent."""
        return {key: entry.value for key, entry in self.get_entries(keys, read=read, timeout=timeout).items()}

    def get_entries(self, keys: Iterable[str], *, read: Optional[str] = None, timeout: Optional[float] = None) -> Dict[str, Entry]:
        return self._run(_get_many(self.name, keys, read, timeout))

    def put(self, key: str, value: Any, *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None, if_version: Optional[str] = None,
            if_absent: bool = False, if_present: bool = False, w: Optional[Replicas] = None, w_timeout: Optional[float] = None,
            timeout: Optional[float] = None) -> Written:
        """Writes a value.

        `ttl` is in seconds, a `timedelta`, or text such as "1h30m"; `expires_at` a date or Unix milliseconds. `w`: how many replicas must
        hold the write (a number, "majority", "all") within `w_timeout` seconds.
        """
        return self._run(_put(self._core, self.name, key, value, ttl, expires_at, if_version, if_absent, if_present, w, w_timeout, timeout))

    def patch(self, key: str, patch: Any = ..., *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None,
              if_version: Optional[str] = None, if_present: bool = False, w: Optional[Replicas] = None, w_timeout: Optional[float] = None,
              timeout: Optional[float] = None) -> Written:
        """Changes a part of a value: a list is a JSON Patch, anything else a merge patch. Without a patch only the expiry."""
        return self._run(_patch(self.name, key, patch, ttl, expires_at, if_version, if_present, w, w_timeout, timeout))

    def delete(self, key: str, *, force: bool = False, if_version: Optional[str] = None, if_present: bool = False,
               w: Optional[Replicas] = None, w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> bool:
        """Deletes a key; whether it was there."""
        return self._run(_delete(self._core, self.name, key, force, if_version, if_present, w, w_timeout, timeout))

    def update(self, key: str, change: Callable[[Any], Any], *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None,
               timeout: Optional[float] = None) -> Any:
        """Reads a value, lets `change` make a new one of it, and writes that if nobody wrote meanwhile; otherwise again.

        `change` gets `None` for an absent key; if it returns `...` nothing is written. Returns the value that is there then.
        """
        for attempt in range(1, UPDATES_MAX + 1):
            entry = self.get_entry(key, timeout=timeout)
            old = None if entry is None else entry.value
            value = change(old)
            if value is ...:
                return old
            try:
                self.put(key, value, ttl=ttl, expires_at=expires_at, if_version=None if entry is None else entry.version,
                         if_absent=entry is None, timeout=timeout)
                return value
            except PreconditionFailedError:
                if attempt == UPDATES_MAX:
                    raise
                time.sleep(random.uniform(0, 0.002 * attempt))
        raise AssertionError("the last attempt returns or raises")

    def batch(self, operations: Iterable[Operation], *, atomic: bool = False, ttl: Optional[Ttl] = None, w: Optional[Replicas] = None,
              w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> List[BatchResult]:
        """Writes many keys in one commit; one result for each operation. With `atomic` all or none: the first that fails is raised.

        An operation is a dictionary: `op` (put, patch, delete), `key`, `value` or `patch`, `ttl`, `expires_at`, `if_version`,
        `if_absent`, `if_present`, `force`.
        """
        return self._run(_batch(self.name, operations, atomic, ttl, w, w_timeout, timeout))

    def keys(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None, reverse: bool = False,
             limit: Optional[int] = None, page_size: int = PAGE_SIZE, read: Optional[str] = None,
             timeout: Optional[float] = None) -> Iterator[str]:
        """All keys in order, page by page."""
        return self._list(_listing(self.name, "keys", prefix, start, end, reverse, limit, page_size, read, timeout))

    def entries(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None, reverse: bool = False,
                limit: Optional[int] = None, page_size: int = PAGE_SIZE, read: Optional[str] = None,
                timeout: Optional[float] = None) -> Iterator[Entry]:
        """All entries in order, page by page."""
        return self._list(_listing(self.name, "store", prefix, start, end, reverse, limit, page_size, read, timeout))

    def _list(self, listing: _Listing) -> Iterator[Any]:
        cursor: Optional[str] = None
        seen = 0
        while listing.limit is None or seen < listing.limit:
            rows, cursor = self._run(listing.page(cursor, seen))
            yield from rows
            seen += len(rows)
            if cursor is None:
                return

    def count(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None, read: Optional[str] = None,
              timeout: Optional[float] = None) -> int:
        return self._run(_count(self.name, prefix, start, end, read, timeout))

    def delete_many(self, prefix: Optional[str] = None, *, everything: bool = False, w: Optional[Replicas] = None,
                    w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> int:
        """Deletes all keys that begin so, or every key; how many."""
        return self._run(_delete_many(self._core, self.name, prefix, everything, w, w_timeout, timeout))

    def watch(self, key: What = None, *, prefix: What = None, snapshot: bool = False, since: Optional[str] = None) -> "Watch":
        """Follows a key or a list of keys, or those that begin so; with nothing the whole table.

        It returns once a node has accepted it: every change from then on is an event.
        """
        return Watch(self._db._io, _subscription(self._core, self.name, key, prefix, snapshot, since))


class Watch:
    """The events of a subscription: iterate over it.

    If the connection breaks, or the node stops, it goes on at the next endpoint from where it was: that node sends what was missed, or a
    `resync` and all current values.
    """

    def __init__(self, io: _SyncIo, subscription: _Subscription) -> None:
        self._io = io
        self._subscription = subscription
        self._plan = subscription.run()
        self._is_closed = False
        self._command: Any = next(self._plan)
        self._next(None)

    @property
    def cursor(self) -> Optional[str]:
        """The position of the last event: `since` of another watch goes on from here.

        `None` while the values of a snapshot arrive, up to the `sync`.
        """
        return self._subscription.cursor

    def __iter__(self) -> "Watch":
        return self

    def __next__(self) -> Event:
        while not self._is_closed:
            event = self._next(None)
            if event is not None:
                return event
        raise StopIteration

    def next(self, timeout: float) -> Optional[Event]:
        """The next event; `None` if there is none for so many seconds, or the watch is closed."""
        until = time.monotonic() + timeout
        while not self._is_closed:
            event = self._next(until)
            if event is not None or time.monotonic() >= until:
                return event
        return None

    def _next(self, until: Optional[float]) -> Optional[Event]:
        """Goes on to the next event, or to the acceptance of a connection, to `until`, or to the end."""
        while not self._is_closed:
            command = self._command
            if isinstance(command, _Emit):
                self._command = next(self._plan)
                return command.event
            is_shortened = until is not None and isinstance(command, _Receive) and until < command.deadline
            try:
                result = self._io.do(command._replace(deadline=until) if is_shortened else command)
            except OSError as error:
                if is_shortened and until is not None and time.monotonic() >= until:
                    return None
                self._advance(lambda: self._plan.throw(error))
            else:
                self._advance(lambda: self._plan.send(result))
        return None

    def _advance(self, step: Callable[[], Any]) -> None:
        if self._is_closed:
            return
        try:
            self._command = step()
        except BaseException:
            self._is_closed = True
            raise

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it: whoever reads it, in this thread or another, comes to the end."""
        self._is_closed = True
        connection = getattr(self._command, "connection", None)
        if connection is not None:
            connection.interrupt()
        try:
            self._plan.close()
        except ValueError:
            # Another thread is just in it, and ends by itself.
            pass

    def __del__(self) -> None:
        if getattr(self, "_command", None) is not None:
            self.close()


# Async


class _Stream:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent: Optional[bytes] = None

    async def send(self, data: bytes) -> None:
        # Called again with the same bytes where an `await` was cancelled: they are on their way already.
        if self._sent is not data:
            self._sent = data
            self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> bytes:
        return await self._reader.read(RECEIVE_BYTES)

    def is_stale(self) -> bool:
        return self._reader.at_eof() or self._writer.is_closing() or self._reader.exception() is not None

    def close(self) -> None:
        try:
            self._writer.close()
        except RuntimeError:
            # The event loop is gone, and the connection with it.
            pass


class _AsyncIo:
    """Carries out commands with asyncio."""

    def __init__(self, core: _Core) -> None:
        self.core = core

    async def do(self, command: Any) -> Any:
        if isinstance(command, _Pause):
            return await asyncio.sleep(command.seconds)
        try:
            return await asyncio.wait_for(self._with(command), _left(command.deadline))
        except asyncio.TimeoutError:
            raise socket.timeout("timed out") from None

    async def _with(self, command: Any) -> Any:
        if isinstance(command, _Connect):
            endpoint = command.endpoint
            context = self.core.ssl if endpoint.is_tls else None
            return _Stream(*await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context, limit=RECEIVE_BYTES))
        if isinstance(command, _Send):
            return await command.connection.send(command.data)
        return await command.connection.receive()

    async def run(self, plan: _Plan[T]) -> T:
        try:
            command = next(plan)
            while True:
                try:
                    result = await self.do(command)
                except OSError as error:
                    command = plan.throw(error)
                else:
                    command = plan.send(result)
        except StopIteration as end:
            return cast(T, end.value)
        finally:
            # Also where the task is cancelled.
            plan.close()


class AsyncDynaRust:
    """`DynaRust` for asyncio, with the same arguments. Use one in one event loop."""

    def __init__(self, endpoints: Union[str, Sequence[str]] = "http://127.0.0.1:6660", *, token: Optional[Token] = None,
                 timeout: float = TIMEOUT, retry_writes: bool = False, ssl: Optional[tls.SSLContext] = None) -> None:
        self._core = _Core(endpoints, token, timeout, retry_writes, ssl)
        self._io = _AsyncIo(self._core)

    async def __aenter__(self) -> "AsyncDynaRust":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections that are not in use. A later call opens new ones."""
        self._core.close()

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last, or is tried next."""
        return self._core.endpoints[self._core.current].url

    async def _run(self, request: _Request[T]) -> T:
        return await self._io.run(self._core.run(request))

    def table(self, name: str) -> "AsyncTable":
        return AsyncTable(self, name)

    async def create_table(self, name: str, mode: str = "strong", *, timeout: Optional[float] = None) -> bool:
        return await self._run(_create_table(name, mode, timeout))

    async def tables(self, *, timeout: Optional[float] = None) -> List[Dict[str, Any]]:
        return await self._run(_tables(timeout))

    async def transaction(self, *, compare: Iterable[Mapping[str, Any]] = (), success: Iterable[Operation] = (),
                          failure: Iterable[Operation] = (), timeout: Optional[float] = None) -> TransactionResult:
        return await self._run(_transaction(compare, success, failure, timeout))

    def watch(self, topics: Union[str, Sequence[str]], *, snapshot: bool = False, since: Optional[str] = None) -> "AsyncWatch":
        return AsyncWatch(self._io, _topics(self._core, topics, snapshot, since))


class AsyncTable:
    """`Table` for asyncio: the same methods, to be awaited."""

    def __init__(self, db: AsyncDynaRust, name: str) -> None:
        self._db = db
        self._core = db._core
        self._run = db._run
        self.name = name

    async def get(self, key: str, default: Any = None, *, read: Optional[str] = None, timeout: Optional[float] = None) -> Any:
        entry = await self.get_entry(key, read=read, timeout=timeout)
        return default if entry is None else entry.value

    async def get_entry(self, key: str, *, read: Optional[str] = None, timeout: Optional[float] = None) -> Optional[Entry]:
        return await self._run(_get(self.name, key, read, timeout))

    async def get_many(self, keys: Iterable[str], *, read: Optional[str] = None, timeout: Optional[float] = None) -> Dict[str, Any]:
        return {key: entry.value for key, entry in (await self.get_entries(keys, read=read, timeout=timeout)).items()}

    async def get_entries(self, keys: Iterable[str], *, read: Optional[str] = None, timeout: Optional[float] = None) -> Dict[str, Entry]:
        return await self._run(_get_many(self.name, keys, read, timeout))

    async def put(self, key: str, value: Any, *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None,
                  if_version: Optional[str] = None, if_absent: bool = False, if_present: bool = False, w: Optional[Replicas] = None,
                  w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> Written:
        return await self._run(
            _put(self._core, self.name, key, value, ttl, expires_at, if_version, if_absent, if_present, w, w_timeout, timeout))

    async def patch(self, key: str, patch: Any = ..., *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None,
                    if_version: Optional[str] = None, if_present: bool = False, w: Optional[Replicas] = None,
                    w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> Written:
        return await self._run(_patch(self.name, key, patch, ttl, expires_at, if_version, if_present, w, w_timeout, timeout))

    async def delete(self, key: str, *, force: bool = False, if_version: Optional[str] = None, if_present: bool = False,
                     w: Optional[Replicas] = None, w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> bool:
        return await self._run(_delete(self._core, self.name, key, force, if_version, if_present, w, w_timeout, timeout))

    async def update(self, key: str, change: Callable[[Any], Any], *, ttl: Optional[Ttl] = None, expires_at: Optional[Time] = None,
                     timeout: Optional[float] = None) -> Any:
        """As `Table.update`. `change` may be a coroutine function."""
        for attempt in range(1, UPDATES_MAX + 1):
            entry = await self.get_entry(key, timeout=timeout)
            old = None if entry is None else entry.value
            value = change(old)
            if isinstance(value, Awaitable):
                value = await value
            if value is ...:
                return old
            try:
                await self.put(key, value, ttl=ttl, expires_at=expires_at, if_version=None if entry is None else entry.version,
                               if_absent=entry is None, timeout=timeout)
                return value
            except PreconditionFailedError:
                if attempt == UPDATES_MAX:
                    raise
                await asyncio.sleep(random.uniform(0, 0.002 * attempt))
        raise AssertionError("the last attempt returns or raises")

    async def batch(self, operations: Iterable[Operation], *, atomic: bool = False, ttl: Optional[Ttl] = None,
                    w: Optional[Replicas] = None, w_timeout: Optional[float] = None,
                    timeout: Optional[float] = None) -> List[BatchResult]:
        return await self._run(_batch(self.name, operations, atomic, ttl, w, w_timeout, timeout))

    def keys(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None, reverse: bool = False,
             limit: Optional[int] = None, page_size: int = PAGE_SIZE, read: Optional[str] = None,
             timeout: Optional[float] = None) -> AsyncIterator[str]:
        return self._list(_listing(self.name, "keys", prefix, start, end, reverse, limit, page_size, read, timeout))

    def entries(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None, reverse: bool = False,
                limit: Optional[int] = None, page_size: int = PAGE_SIZE, read: Optional[str] = None,
                timeout: Optional[float] = None) -> AsyncIterator[Entry]:
        return self._list(_listing(self.name, "store", prefix, start, end, reverse, limit, page_size, read, timeout))

    async def _list(self, listing: _Listing) -> AsyncIterator[Any]:
        cursor: Optional[str] = None
        seen = 0
        while listing.limit is None or seen < listing.limit:
            rows, cursor = await self._run(listing.page(cursor, seen))
            for row in rows:
                yield row
            seen += len(rows)
            if cursor is None:
                return

    async def count(self, *, prefix: Optional[str] = None, start: Optional[str] = None, end: Optional[str] = None,
                    read: Optional[str] = None, timeout: Optional[float] = None) -> int:
        return await self._run(_count(self.name, prefix, start, end, read, timeout))

    async def delete_many(self, prefix: Optional[str] = None, *, everything: bool = False, w: Optional[Replicas] = None,
                          w_timeout: Optional[float] = None, timeout: Optional[float] = None) -> int:
        return await self._run(_delete_many(self._core, self.name, prefix, everything, w, w_timeout, timeout))

    def watch(self, key: What = None, *, prefix: What = None, snapshot: bool = False, since: Optional[str] = None) -> "AsyncWatch":
        """As `Table.watch`. It begins with `async with` or `await watch.open()`; without them when the first event is asked for."""
        return AsyncWatch(self._db._io, _subscription(self._core, self.name, key, prefix, snapshot, since))


class AsyncWatch:
    """`Watch` for asyncio. An `await` for an event may be cancelled, as by `asyncio.wait_for`: nothing is lost."""

    def __init__(self, io: _AsyncIo, subscription: _Subscription) -> None:
        self._io = io
        self._subscription = subscription
        self._plan = subscription.run()
        self._is_closed = False
        self._command: Any = None

    @property
    def cursor(self) -> Optional[str]:
        """The position of the last event: `since` of another watch goes on from here.

        `None` while the values of a snapshot arrive, up to the `sync`.
        """
        return self._subscription.cursor

    async def open(self) -> None:
        """Returns once a node has accepted it: every change from then on is an event."""
        if not self._subscription.has_begun:
            await self._next()

    def __aiter__(self) -> "AsyncWatch":
        return self

    async def __anext__(self) -> Event:
        while True:
            event = await self._next()
            if event is not None:
                return event

    async def _next(self) -> Optional[Event]:
        """Goes on to the next event, or to the acceptance of a connection."""
        while not self._is_closed:
            if self._command is None:
                self._advance(lambda: next(self._plan))
                continue
            command = self._command
            if isinstance(command, _Emit):
                self._command = None
                return command.event
            try:
                # Where this is cancelled, the next call does the same command again.
                result = await self._io.do(command)
            except OSError as error:
                self._advance(lambda: self._plan.throw(error))
            else:
                self._advance(lambda: self._plan.send(result))
        raise StopAsyncIteration

    def _advance(self, step: Callable[[], Any]) -> None:
        if self._is_closed:
            return
        try:
            self._command = step()
        except BaseException:
            self._is_closed = True
            raise

    async def __aenter__(self) -> "AsyncWatch":
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it: whoever reads it comes to the end."""
        self._is_closed = True
        self._plan.close()

    def __del__(self) -> None:
        self.close()
