// What dynarust.js does, on the two nodes whose addresses are its arguments. It asks the test for their ends and starts, a line for each
// on stdout, and waits for a line on stdin. `tests/clients/mod.rs` runs it.

import assert from "node:assert/strict";
import http from "node:http";
import { createInterface } from "node:readline";
import {
  BadRequestError, ConflictError, ConnectionError, DynaRust, NotEnoughReplicasError, NotFoundError, OutcomeUnknownError,
  PreconditionFailedError, TimeoutError, UnauthorizedError, UnavailableError,
} from "../../clients/javascript/dynarust.js";

const [first, second] = process.argv.slice(2).map((address) => `http://${address}`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

async function ask(what) {
  console.log(`ask ${what}`);
  assert.equal((await lines.next()).value, "done");
}

async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}

/** Reads events until one is good. */
async function until(watch, isGood) {
  const seen = [];
  for (;;) {
    const { value, done } = await watch.next();
    assert.ok(!done, `it ended after ${JSON.stringify(seen)}`);
    seen.push(value);
    if (isGood(value)) return seen;
  }
}

/** A server of our own in place of a node: `answer` gets the request and the number of it. */
async function fake(answer, use) {
  const requests = [];
  const server = http.createServer((request, response) => {
    requests.push(request);
    answer(request, response, requests.length);
  });
  await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
  try {
    await use(`http://127.0.0.1:${server.address().port}`, requests);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

async function values() {
  const table = new DynaRust(first).table("values");
  for (const value of [null, 0, "é\u{1F600}\"\n", [1, { a: [] }], { __proto__: null, "__proto__x": 1 }]) {
    assert.equal((await table.put("a/ü?#%", value)).timestamp > 1e12, true);
    assert.deepEqual(JSON.stringify(await table.get("a/ü?#%")), JSON.stringify(value));
  }
  assert.equal(await table.get("absent"), undefined);
  assert.equal((await table.put("new", 1)).created, true);
  assert.equal((await table.put("new", 1)).created, false);
  const written = await table.patch("new", { b: 1 }, { ttl: "1h" });
  const entry = await table.getEntry("new");
  assert.deepEqual([entry.value, entry.version], [{ b: 1 }, written.version]);
  assert.ok(entry.expiresAt > Date.now() + 3_500_000 && entry.expiresAt < Date.now() + 3_700_000, entry);
  await table.patch("new", [{ op: "add", path: "/c", value: 2 }]);
  assert.deepEqual((await table.getEntry("new")).value, { b: 1, c: 2 });
  await table.put("new", 1, { expiresAt: new Date(Date.now() + 60_000) });
  await table.patch("new", undefined, { ttl: 3600 });
  assert.ok((await table.getEntry("new")).expiresAt > Date.now() + 3_500_000);
  assert.deepEqual([await table.delete("new"), await table.delete("new")], [true, false]);
  assert.equal((await table.put("both", 1, { w: "all", wTimeout: 10_000 })).created, true);
  assert.equal(await new DynaRust(second).table("values").get("both"), 1);
}

async function conditionsAndErrors() {
  const table = new DynaRust(first).table("conditions");
  const { version } = await table.put("key", 1, { ifAbsent: true });
  const refused = await table.put("key", 2, { ifAbsent: true }).catch((error) => error);
  assert.ok(refused instanceof PreconditionFailedError);
  assert.deepEqual([refused.version, refused.status, refused.endpoint, refused.code], [version, 412, first, "precondition-failed"]);
  await table.put("key", 3, { ifVersion: version });
  await assert.rejects(table.delete("key", { ifVersion: version }), PreconditionFailedError);
  await assert.rejects(table.put("absent", 3, { ifPresent: true }), PreconditionFailedError);
  await assert.rejects(table.patch("absent", {}), NotFoundError);
  await assert.rejects(table.patch("key", [{ op: "test", path: "", value: 4 }]), ConflictError);
  await assert.rejects(table.put("key", 1, { ttl: "soon" }), BadRequestError);
  await assert.rejects(table.put("key", 1, { tll: 1 }), { name: "TypeError", message: /unknown option "tll"/ });
  await assert.rejects(table.put("key", undefined), TypeError);
  await assert.rejects(table.put("..", 1), /batch/);
  const few = await table.put("key", 5, { w: 9, wTimeout: 50 }).catch((error) => error);
  assert.ok(few instanceof NotEnoughReplicasError && few.wanted === 9 && few.version > version, few);
  assert.throws(() => new DynaRust("ftp://x"), TypeError);
  await assert.rejects(new DynaRust(first, { timeout: 300, token: "line\nbreak" }).table("t").get("a"), TypeError);
}

async function manyKeys() {
  const table = new DynaRust(first).table("many");
  const keys = ["10", "9", "a", "b", "é", "\u{FFFD}", "\u{1F600}"];
  const results = await table.batch([
    ...keys.map((key, value) => ({ op: "put", key, value })), { op: "patch", key: "absent", patch: {} },
    { op: "put", key: "a", value: 0, ifAbsent: true }, { op: "put", key: "..", value: 7, ttl: 60 },
  ]);
  assert.deepEqual(results.map(({ created, error }) => error?.code ?? created),
    [...keys.map(() => true), "not-found", "precondition-failed", true]);
  assert.ok(results[7].error instanceof NotFoundError);
  const all = ["..", ...keys];
  for (const pageSize of [1, 3, 100]) {
    assert.deepEqual(await collect(table.keys({ pageSize })), all);
    assert.deepEqual((await collect(table.entries({ pageSize }))).map(({ key }) => key), all);
    assert.deepEqual((await collect(table.entries({ pageSize, reverse: true, limit: 3 }))).map(({ key }) => key), all.slice(-3).reverse());
  }
  assert.deepEqual(await collect(table.keys({ start: "9", end: "b" })), ["9", "a"]);
  assert.deepEqual([...await table.getMany(new Set(["b", "absent", "10"]).values())], [["b", 3], ["10", 0]]);
  assert.equal((await table.getEntries(["a"])).get("a").value, 2);
  await assert.rejects(table.batch([{ op: "put", key: "x", value: 1 }, { op: "patch", key: "y", patch: {} }], { atomic: true }), NotFoundError);
  assert.equal(await table.count(), all.length);
  assert.equal(await table.deleteMany({ prefix: "1" }), 1);
  assert.equal(await table.deleteMany({ all: true }), all.length - 1);
  await Promise.all(Array.from({ length: 10 }, () => table.update("hits", (hits = 0) => hits + 1)));
  assert.equal(await table.get("hits"), 10);
}

async function transactions() {
  const db = new DynaRust([first, second]);
  assert.deepEqual([await db.createTable("stock"), await db.createTable("stock")], [true, false]);
  await assert.rejects(db.createTable("values"), ConflictError);
  await db.table("stock").put("apples", 1);
  const buy = () => db.transaction({
    compare: [{ table: "stock", key: "apples", value: 1 }],
    success: [{ op: "put", table: "stock", key: "apples", value: 0 }, { op: "put", table: "stock", key: "sold", value: 1, ifAbsent: true }],
    failure: [{ op: "get", table: "stock", key: "apples" }],
  });
  assert.equal((await buy()).succeeded, true);
  const { succeeded, results } = await buy();
  assert.deepEqual([succeeded, results[0].value], [false, 0]);
  assert.ok((await db.tables()).some(({ name, mode }) => name === "stock" && mode === "strong"));
}

/** A write made while the watched node was dead is seen when it is back, by the same iteration. */
async function resumesOverARestart() {
  const table = new DynaRust(first).table("restart");
  const watch = table.watch({ prefix: "a" }, { snapshot: true });
  await watch.opened;
  await table.put("a1", 1);
  await until(watch, ({ key }) => key === "a1");
  await ask("kill 0");
  await new DynaRust(second).table("restart").put("a2", 2);
  // Waits for the node: within its timeout a restart is not noticed.
  const late = table.put("a3", 3);
  await ask("restart 0");
  await late;
  const seen = [];
  const wanted = new Set(["a2", "a3"]);
  await until(watch, (event) => {
    seen.push(event);
    wanted.delete(event.key);
    return wanted.size === 0;
  });
  watch.close();
  assert.equal((await watch.next()).done, true);
}

/** One iteration goes on at another node, from where it was, and writes go there too. */
async function failsOver() {
  const states = [];
  const db = new DynaRust([first, second]);
  const table = db.table("failover");
  let last;
  const live = table.live({ prefix: "a" }, (values) => { last = new Map(values); });
  const watch = table.watch(undefined, { snapshot: true, onState: (state) => states.push(state) });
  // A value that is part of the snapshot has no position.
  await until(watch, ({ type }) => type === "sync");
  await table.put("a1", 1, { w: "all", wTimeout: 20_000 });
  await until(watch, ({ key }) => key === "a1");
  const { cursor } = watch;
  await ask("kill 0");
  await table.put("a2", 2);
  assert.equal(db.endpoint, second);
  await until(watch, ({ key }) => key === "a2");
  assert.deepEqual(states.map(({ state, endpoint }) => `${state} ${endpoint}`),
    [`connected ${first}`, `disconnected ${first}`, `connected ${second}`]);
  assert.ok(states[1].error instanceof ConnectionError);
  // A position of the dead node means something to the other.
  const later = table.watch(undefined, { since: cursor });
  await until(later, ({ key }) => key === "a2");
  while (last?.get("a2") !== 2) await new Promise(setImmediate);
  assert.deepEqual([...last].sort(), [["a1", 1], ["a2", 2]]);
  live.close();
  await live.closed;
  await later.return();
  await watch.return();
  // A majority of the two is gone: the strong table says so, in time.
  const refused = await db.table("stock").put("apples", 5, { timeout: 400 }).catch((error) => error);
  assert.ok(refused instanceof UnavailableError || refused instanceof OutcomeUnknownError, refused);
  await ask("restart 0");
  // The other one stops in good order.
  const moved = table.watch("a3");
  await moved.opened;
  await ask("terminate 1");
  await table.put("a3", 3);
  await until(moved, ({ key }) => key === "a3");
  assert.equal(db.endpoint, first);
  moved.close();
  await ask("restart 1");
}

async function timeoutsAndCancellation() {
  await fake(() => {}, async (silent) => {
    const alone = new DynaRust(silent, { timeout: 150 }).table("t");
    await assert.rejects(alone.get("a"), TimeoutError);
    await assert.rejects(alone.put("a", 1, { ifAbsent: true }), OutcomeUnknownError);
    await assert.rejects(alone.patch("a", {}), OutcomeUnknownError);
    await assert.rejects(alone.put("a", 1), OutcomeUnknownError);
    const controller = new AbortController();
    const reason = new Error("enough");
    setTimeout(() => controller.abort(reason), 20);
    await assert.rejects(alone.get("a", { signal: controller.signal, timeout: 10_000 }), reason);
    await assert.rejects(collect(new DynaRust(silent).table("t").watch("a", { signal: controller.signal })), reason);
    // The other endpoint gets its share of the time.
    const both = new DynaRust([silent, first], { timeout: 3_000 });
    assert.equal(await both.table("absent").get("a"), undefined);
    assert.equal(both.endpoint, first);
  });
  let closed;
  await fake(() => {}, (endpoint) => { closed = endpoint; });
  await assert.rejects(new DynaRust(closed, { timeout: 200 }).table("t").put("a", 1, { ifAbsent: true }), ConnectionError);
}

async function tokensAndProxies() {
  let tokens = 0;
  const answers = [[503, "{}"], [503, "{}"], [200, "[]"], [401, '{"error":"unauthorized","detail":"no"}'], [200, "<html>"]];
  await fake((request, response, number) => {
    const [status, body] = answers[number - 1];
    response.writeHead(status).end(body);
  }, async (endpoint, requests) => {
    const db = new DynaRust(endpoint, { token: async () => `secret${(tokens += 1)}` });
    assert.deepEqual(await collect(db.table("t").keys()), []);
    assert.equal(requests[2].headers.authorization, "Bearer secret3");
    await assert.rejects(db.table("t").watch("a").next(), UnauthorizedError);
    assert.equal(requests[3].headers.authorization, "Bearer secret4");
    await assert.rejects(db.table("t").get("a"), /not JSON/);
  });
}

/** Half a snapshot is no point to go on from: the position of its beginning would skip the rest. */
async function brokenStreams() {
  const streams = [
    'id: e.1\n\ndata: {"event":"Updated","table":"t","key":"a","value":1}\n\n',
    ': hello\n\ndata: {"event":"Updated","table":"t","key":"a","value":1}\n\nid: e.5\nevent: sync\ndata: {"event":"sync"}\n\nid: e.6\n\n',
    'event: shutdown\ndata: {"event":"shutdown"}\n\n',
    'event: failed\ndata: {"event":"failed","detail":"no"}\n\n',
    'id: e.9\ndata: {"event":"Deleted","table":"t","key":"a","reason":"delete"}\n\n',
  ];
  await fake((request, response, number) => {
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.write(streams[number - 1]);
    if (number < streams.length) response.end();
  }, async (endpoint, requests) => {
    const watch = new DynaRust(endpoint).table("t").watch("a", { snapshot: true });
    const seen = await until(watch, ({ type }) => type === "deleted");
    assert.deepEqual(seen.map(({ type }) => type), ["updated", "resync", "updated", "sync", "deleted"]);
    assert.deepEqual(requests.map(({ url }) => url.split("?")[1]),
      ["key=a&snapshot=true", "key=a&snapshot=true", "key=a&since=e.6", "key=a&since=e.6", "key=a&since=e.6"]);
    assert.equal(watch.cursor, "e.9");
    await watch.return();
  });
}

/** Two nodes that ended each stream right after its position were connected in turns without a pause. */
async function streamsThatEndAtOnce() {
  const answer = (request, response) => response.writeHead(200, { "Content-Type": "text/event-stream" }).end("id: e.1\n\n");
  await fake(answer, (one, atOne) => fake(answer, async (other, atOther) => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error("enough")), 500);
    const watch = new DynaRust([one, other]).table("t").watch("a", { signal: controller.signal });
    await assert.rejects(collect(watch), /enough/);
    const count = atOne.length + atOther.length;
    assert.ok(count >= 2 && count < 10, count);
  }));
}

/** A put whose connection broke was sent again, and undid what somebody else had written in between. */
async function uncertainWrites() {
  const writes = [(table) => table.put("a", 1), (table) => table.delete("a"), (table) => table.deleteMany({ all: true })];
  for (const make of writes) {
    await fake((request, response) => response.destroy(), async (endpoint, requests) => {
      const db = new DynaRust([endpoint, first]);
      await assert.rejects(make(db.table("uncertain")), OutcomeUnknownError);
      assert.deepEqual([requests.length, db.endpoint], [1, first]);
      await make(new DynaRust([endpoint, first], { retryWrites: true }).table("uncertain"));
      assert.equal(requests.length, 2);
      assert.equal(await new DynaRust([endpoint, first]).table("uncertain").get("b"), undefined);
    });
  }
  assert.equal(await new DynaRust(first).table("uncertain").count(), 0);
}

setTimeout(() => {
  console.error("not done in 90 s");
  process.exit(3);
}, 90_000).unref();
const tests = [values, conditionsAndErrors, manyKeys, transactions, timeoutsAndCancellation, tokensAndProxies, brokenStreams,
  streamsThatEndAtOnce, uncertainWrites, resumesOverARestart, failsOver];
for (const test of tests) {
  const begun = Date.now();
  await test();
  console.log(`ok ${test.name} ${Date.now() - begun} ms`);
}
console.log("all ok");
process.exit(0);
