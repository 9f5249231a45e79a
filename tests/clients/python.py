"""What dynarust.py does, on the two nodes whose addresses are its arguments. It asks the test for their ends and starts, a line for each on
stdout, and waits for a line on stdin. `tests/clients/mod.rs` runs it."""

import asyncio
import datetime
import faulthandler
import http.server
import inspect
import json
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "clients" / "python"))

from dynarust import (AsyncDynaRust, AsyncTable, BadRequestError, ConflictError, ConnectionError, DynaRust, NotEnoughReplicasError,  # noqa: E402
                      NotFoundError, OutcomeUnknownError, PreconditionFailedError, ServerError, Table, TimeoutError, UnauthorizedError,
                      UnavailableError)

FIRST, SECOND = (f"http://{address}" for address in sys.argv[1:3])


def ask(what):
    print(f"ask {what}", flush=True)
    assert sys.stdin.readline() == "done\n"


def raised(kind, call, *arguments, **options):
    try:
        result = call(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} expected, not {result!r}")


def until(watch, is_good):
    """Reads events until one is good."""
    seen = []
    for event in watch:
        seen.append(event)
        if is_good(event):
            return seen
    raise AssertionError(f"it ended after {seen}")


@contextmanager
def fake(answer):
    """A server of our own in place of a node: `answer` gets the handler and the number of the request."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            requests.append(self)
            answer(self, len(requests))

        do_PUT = do_PATCH = do_POST = do_DELETE = do_GET

        def log_message(self, *_):
            pass

        def say(self, status, body, kind="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def values():
    table = DynaRust(FIRST).table("py-values")
    for value in [None, 0, 2**70, 'é\U0001F600"\n', [1, {"a": []}], {"": 1.5}]:
        assert table.put("a/ü?#%", value).timestamp > 1e12
        assert table.get("a/ü?#%", "absent") == value
    table.put("..", 1)
    assert table.get("..") == 1 and table.delete("..")
    assert table.get("absent") is None and table.get("absent", 3) == 3 and table.get_entry("absent") is None
    assert table.put("new", 1).created and not table.put("new", 1).created
    written = table.patch("new", {"b": 1}, ttl=datetime.timedelta(hours=1))
    entry = table.get_entry("new")
    assert (entry.value, entry.version) == ({"b": 1}, written.version)
    assert 3500 < entry.expires_at / 1000 - time.time() < 3700, entry
    table.patch("new", [{"op": "add", "path": "/c", "value": 2}])
    assert table.get("new") == {"b": 1, "c": 2}
    table.put("new", 1, expires_at=datetime.datetime.now() + datetime.timedelta(minutes=1))
    table.patch("new", ttl="1h")
    assert 3500 < table.get_entry("new").expires_at / 1000 - time.time() < 3700
    assert table.delete("new") and not table.delete("new")
    table.put("big", "x" * 200_000)
    assert len(table.get("big")) == 200_000
    table.put("both", 1, w="all", w_timeout=10)
    assert DynaRust(SECOND).table("py-values").get("both") == 1


def conditions_and_errors():
    table = DynaRust(FIRST).table("py-conditions")
    version = table.put("key", 1, if_absent=True).version
    error = raised(PreconditionFailedError, table.put, "key", 2, if_absent=True)
    assert (error.version, error.status, error.endpoint, error.code) == (version, 412, FIRST, "precondition-failed")
    table.put("key", 3, if_version=version)
    raised(PreconditionFailedError, table.delete, "key", if_version=version)
    raised(PreconditionFailedError, table.put, "absent", 3, if_present=True)
    raised(NotFoundError, table.patch, "absent", {})
    raised(ConflictError, table.patch, "key", [{"op": "test", "path": "", "value": 4}])
    raised(BadRequestError, table.put, "key", 1, ttl="soon")
    raised(TypeError, table.put, "key", 1, tll=1)
    raised(ValueError, table.put, "key", float("nan"))
    error = raised(NotEnoughReplicasError, table.put, "key", 5, w=9, w_timeout=0.05)
    assert error.wanted == 9 and error.version > version
    raised(ValueError, DynaRust, "ftp://x")
    raised(ValueError, DynaRust(FIRST, token="line\nbreak").table("t").get, "a")


def the_async_client_is_the_same():
    for one, other in [(DynaRust, AsyncDynaRust), (Table, AsyncTable)]:
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(other) if not name.startswith("_")}
        for name in names - {"endpoint"}:
            parameters = [list(inspect.signature(getattr(each, name)).parameters.values()) for each in (one, other)]
            assert parameters[0] == parameters[1], (name, parameters)


def many_keys():
    table = DynaRust(FIRST).table("py-many")
    keys = ["10", "9", "a", "b", "é", "\uFFFD", "\U0001F600"]
    results = table.batch([*({"op": "put", "key": key, "value": value} for value, key in enumerate(keys)),
                           {"op": "patch", "key": "absent", "patch": {}}, {"op": "put", "key": "a", "value": 0, "if_absent": True}])
    assert [result.error.code if result.error else result.created for result in results] == [
        *(True for _ in keys), "not-found", "precondition-failed"]
    for page_size in (1, 3, 100):
        assert list(table.keys(page_size=page_size)) == keys
        assert [entry.key for entry in table.entries(page_size=page_size)] == keys
        assert [entry.key for entry in table.entries(page_size=page_size, reverse=True, limit=3)] == keys[:-4:-1]
    assert list(table.keys(start="9", end="b")) == ["9", "a"]
    assert table.get_many(["b", "absent", "10"]) == {"b": 3, "10": 0}
    assert table.get_entries(["a"])["a"].value == 2
    raised(NotFoundError, table.batch, [{"op": "put", "key": "x", "value": 1}, {"op": "patch", "key": "y", "patch": {}}], atomic=True)
    raised(TypeError, table.batch, [{"op": "put", "key": "x", "valeu": 1}])
    assert table.count() == len(keys) and table.delete_many("1") == 1 and table.delete_many(everything=True) == len(keys) - 1
    threads = [threading.Thread(target=table.update, args=("hits", lambda hits: (hits or 0) + 1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table.get("hits") == 8


def transactions():
    db = DynaRust([FIRST, SECOND])
    assert db.create_table("py-stock") and not db.create_table("py-stock")
    raised(ConflictError, db.create_table, "py-values")
    db.table("py-stock").put("apples", 1)

    def buy():
        return db.transaction(
            compare=[{"table": "py-stock", "key": "apples", "value": 1}],
            success=[{"op": "put", "table": "py-stock", "key": "apples", "value": 0},
                     {"op": "put", "table": "py-stock", "key": "sold", "value": 1, "if_absent": True}],
            failure=[{"op": "get", "table": "py-stock", "key": "apples"}])

    assert buy()
    second = buy()
    assert not second and second.results[0]["value"] == 0
    assert any(table["name"] == "py-stock" and table["mode"] == "strong" for table in db.tables())


def timeouts_and_closing():
    release = threading.Event()
    with fake(lambda handler, number: release.wait(30)) as (silent, _):
        alone = DynaRust(silent, timeout=0.15).table("t")
        begun = time.monotonic()
        raised(TimeoutError, alone.get, "a")
        assert time.monotonic() - begun < 1
        raised(OutcomeUnknownError, alone.put, "a", 1, if_absent=True)
        raised(OutcomeUnknownError, alone.patch, "a", {})
        raised(OutcomeUnknownError, alone.put, "a", 1)
        raised(TimeoutError, alone.watch, "a")
        # The other endpoint gets its share of the time.
        both = DynaRust([silent, FIRST], timeout=3)
        assert both.table("absent").get("a") is None and both.endpoint == FIRST
        asyncio.run(cancelled(silent))
        release.set()
    raised(ConnectionError, DynaRust("http://127.0.0.1:1", timeout=0.2).table("t").put, "a", 1)
    watch = DynaRust(FIRST).table("py-closing").watch()
    assert watch.next(timeout=0.05) is None
    threading.Timer(0.05, watch.close).start()
    assert list(watch) == []


async def cancelled(silent):
    task = asyncio.create_task(AsyncDynaRust(silent).table("t").get("a"))
    await asyncio.sleep(0)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)


def tokens_and_proxies():
    answers = [(503, b"{}"), (503, b"{}"), (200, b"[]"), (401, b'{"error":"unauthorized","detail":"no"}'), (200, b"<html>")]
    tokens = iter(range(1, 10))
    with fake(lambda handler, number: handler.say(*answers[number - 1])) as (endpoint, requests):
        db = DynaRust(endpoint, token=lambda: f"secret{next(tokens)}")
        assert list(db.table("t").keys()) == []
        assert requests[2].headers["Authorization"] == "Bearer secret3"
        raised(UnauthorizedError, db.table("t").watch, "a")
        assert requests[3].headers["Authorization"] == "Bearer secret4"
        raised(ServerError, db.table("t").get, "a")


STREAMS = [
    b'id: e.1\n\ndata: {"event":"Updated","table":"t","key":"a","value":1}\n\n',
    b': hello\n\ndata: {"event":"Updated","table":"t","key":"a","value":1}\n\nid: e.5\nevent: sync\ndata: {"event":"sync"}\n\nid: e.6\n\n',
    b'event: shutdown\ndata: {"event":"shutdown"}\n\n',
    b'event: failed\ndata: {"event":"failed","detail":"no"}\n\n',
    b'id: e.9\ndata: {"event":"Deleted","table":"t","key":"a","reason":"delete"}\n\n',
]


def broken_streams():
    """Half a snapshot is no point to go on from: the position of its beginning would skip the rest."""
    def check(seen, paths):
        assert [event.type for event in seen] == ["updated", "resync", "updated", "sync", "deleted"], seen
        assert paths == ["key=a&snapshot=true", "key=a&snapshot=true", "key=a&since=e.6", "key=a&since=e.6", "key=a&since=e.6"], paths

    def answer(handler, number):
        handler.say(200, STREAMS[number - 1], "text/event-stream")

    with fake(answer) as (endpoint, requests):
        watch = DynaRust(endpoint).table("t").watch("a", snapshot=True)
        seen = until(watch, lambda event: event.type == "deleted")
        assert watch.cursor == "e.9"
        watch.close()
        check(seen, [request.path.split("?")[1] for request in requests])

    async def read(endpoint):
        seen = []
        async with AsyncDynaRust(endpoint).table("t").watch("a", snapshot=True) as watch:
            async for event in watch:
                seen.append(event)
                if event.type == "deleted":
                    return seen

    with fake(answer) as (endpoint, requests):
        check(asyncio.run(read(endpoint)), [request.path.split("?")[1] for request in requests])


def streams_that_end_at_once():
    """Two nodes that ended each stream right after its position were connected in turns without a pause."""
    def answer(handler, number):
        handler.say(200, b"id: e.1\n\n", "text/event-stream")

    with fake(answer) as (one, at_one), fake(answer) as (other, at_other):
        watch = DynaRust([one, other]).table("t").watch("a")
        assert watch.next(timeout=0.5) is None
        watch.close()
        assert 2 <= len(at_one) + len(at_other) < 10, (len(at_one), len(at_other))


def uncertain_writes():
    """A put whose connection broke was sent again, and undid what somebody else had written in between."""
    def broken(handler, number):
        handler.close_connection = True

    for kind, make in [("put", lambda table: table.put("a", 1)), ("delete", lambda table: table.delete("a")),
                       ("delete_many", lambda table: table.delete_many(everything=True))]:
        with fake(broken) as (endpoint, requests):
            db = DynaRust([endpoint, FIRST])
            raised(OutcomeUnknownError, make, db.table("py-uncertain"))
            assert len(requests) == 1 and db.endpoint == FIRST, kind
            make(DynaRust([endpoint, FIRST], retry_writes=True).table("py-uncertain"))
            assert len(requests) == 2
            assert DynaRust([endpoint, FIRST]).table("py-uncertain").get("b") is None
    assert DynaRust(FIRST).table("py-uncertain").count() == 0


def resumes_over_a_restart():
    """A write made while the watched node was dead is seen when it is back, by the same iteration."""
    table = DynaRust(FIRST).table("py-restart")
    watch = table.watch(prefix="a", snapshot=True)
    table.put("a1", 1)
    until(watch, lambda event: event.key == "a1")
    ask("kill 0")
    DynaRust(SECOND).table("py-restart").put("a2", 2)
    # Waits for the node: within its timeout a restart is not noticed.
    late = threading.Thread(target=table.put, args=("a3", 3))
    late.start()
    ask("restart 0")
    late.join()
    wanted = {"a2", "a3"}
    until(watch, lambda event: wanted.discard(event.key) or not wanted)
    watch.close()


def fails_over():
    """One iteration goes on at another node, from where it was, and writes go there too."""
    db = DynaRust([FIRST, SECOND])
    table = db.table("py-failover")
    watch = table.watch(snapshot=True)
    # A value that is part of the snapshot has no position.
    until(watch, lambda event: event.type == "sync")
    table.put("a1", 1, w="all", w_timeout=20)
    cursor = until(watch, lambda event: event.key == "a1")[-1].cursor
    ask("kill 0")
    table.put("a2", 2)
    assert db.endpoint == SECOND
    until(watch, lambda event: event.key == "a2")
    # A position of the dead node means something to the other.
    later = table.watch(since=cursor)
    until(later, lambda event: event.key == "a2")
    later.close()
    # A majority of the two is gone: the strong table says so, in time.
    error = raised((UnavailableError, OutcomeUnknownError), db.table("py-stock").put, "apples", 5, timeout=0.4)
    assert error.status in (0, 503, 504), error
    ask("restart 0")
    asyncio.run(async_fails_over())
    watch.close()
    ask("restart 1")


async def async_fails_over():
    db = AsyncDynaRust([SECOND, FIRST])
    table = db.table("py-async")
    async with table.watch("a", snapshot=True) as watch:
        assert (await watch.__anext__()).type == "sync"
        try:
            await asyncio.wait_for(watch.__anext__(), 0.02)
        except asyncio.TimeoutError:
            pass
        await table.put("a", 1)
        assert (await watch.__anext__()).value == 1
        # It stops in good order.
        await asyncio.to_thread(ask, "terminate 1")
        await table.put("a", 2)
        assert db.endpoint == FIRST
        async for event in watch:
            if event.value == 2:
                break
    assert await table.get("a") == 2 and await table.update("a", lambda value: value + 1) == 3
    assert [entry.value async for entry in table.entries(page_size=1)] == [3]
    results = await table.batch([{"op": "delete", "key": "a"}])
    assert results[0].deleted and not await table.delete("a") and await table.count() == 0
    db.close()


faulthandler.dump_traceback_later(90, exit=True)
for test in [values, conditions_and_errors, the_async_client_is_the_same, many_keys, transactions, timeouts_and_closing, tokens_and_proxies, broken_streams,
             streams_that_end_at_once, uncertain_writes, resumes_over_a_restart, fails_over]:
    begun = time.monotonic()
    test()
    print(f"ok {test.__name__} {round((time.monotonic() - begun) * 1000)} ms", flush=True)
print("all ok", flush=True)
