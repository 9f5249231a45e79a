// JSON as text. A value goes from the node to the page and back without becoming numbers of JavaScript, which has no 12345678901234567890
// and writes 1.10 as 1.1.

function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** Where the string that begins here ends. */
function endOfString(text, begin) {
  for (let at = text.indexOf('"', begin + 1); ; at = text.indexOf('"', at + 1)) {
    let slashes = 0;
    while (text[at - 1 - slashes] === "\\") slashes += 1;
    if (slashes % 2 === 0) return at;
  }
}

/** JSON with other spaces between its tokens, which stay as they are. What is no JSON stays altogether. Quick, as a value may be long. */
function layout(text, indent) {
  if (!isJson(text)) return text;
  const lines = [];
  const line = depth => (lines[depth] ??= indent > 0 ? "\n" + " ".repeat(indent * depth) : "");
  const written = [];
  let depth = 0;
  let from = 0;
  // Writes up to here, and `then`, and goes on at `next`.
  const write = (to, then, next) => {
    written.push(text.slice(from, to), then);
    from = next;
  };
  for (let at = 0; at < text.length; at += 1) {
    const character = text[at];
    if (character === '"') at = endOfString(text, at);
    else if (character <= " ") write(at, "", at + 1);
    else if (character === ",") write(at + 1, line(depth), at + 1);
    else if (character === ":") write(at + 1, indent > 0 ? " " : "", at + 1);
    else if (character === "{" || character === "[") {
      depth += 1;
      write(at + 1, line(depth), at + 1);
    } else if (character === "}" || character === "]") {
      depth -= 1;
      write(at, "", at);
      // Nothing stands in an empty list or object, not even a line.
      let last = written.length - 1;
      while (written[last] === "") last -= 1;
      if (indent > 0 && written[last] === line(depth + 1)) written[last] = "";
      else written.push(line(depth));
    }
  }
  write(text.length, "", text.length);
  return written.join("");
}

/** JSON on many lines. */
export const pretty = text => layout(text, 2);

/** JSON on one line. */
export const compact = text => layout(text, 0);

const SPACE = /[\t\n\r ]*/y;
const STRING = /"[^"\\\u0000-\u001f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\u0000-\u001f]*)*"/y;
const NUMBER = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const WORD = /true|false|null/y;

/** Reads JSON as far as it is JSON. Browsers say where it ends in different words, or not at all. */
class Reader {
  at = 0;

  constructor(text) {
    this.text = text;
  }

  /** Throws `{ at, why }` at the first mistake. */
  read() {
    this.value();
    this.take(SPACE);
    if (this.at < this.text.length) this.fail("the value has ended here: nothing may follow");
  }

  take(pattern) {
    pattern.lastIndex = this.at;
    const isThere = pattern.test(this.text);
    if (isThere) this.at = pattern.lastIndex;
    return isThere;
  }

  /** Whether this character comes next, after spaces; then it is taken. */
  next(character) {
    this.take(SPACE);
    if (this.text[this.at] !== character) return false;
    this.at += 1;
    return true;
  }

  fail(why) {
    throw { at: this.at, why: this.at >= this.text.length ? `the text ends here: ${why}` : why };
  }

  value() {
    if (this.next("{")) return this.items("}", () => this.member());
    if (this.next("[")) return this.items("]", () => this.value());
    if (!this.take(STRING) && !this.take(NUMBER) && !this.take(WORD)) {
      this.fail(this.text[this.at] === '"' ? "this string does not end, or has a character that must be escaped" : "expected a value");
    }
    return undefined;
  }

  member() {
    this.take(SPACE);
    if (!this.take(STRING)) this.fail("expected a name in double quotes");
    if (!this.next(":")) this.fail("expected a colon");
    this.value();
  }

  items(end, item) {
    if (this.next(end)) return;
    do item();
    while (this.next(","));
    if (!this.next(end)) this.fail(`expected a comma or ${end}`);
  }
}

/** What is wrong with a text, with its line and column; `null` for JSON. */
export function jsonError(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    let found = { at: text.length, why: error.message };
    try {
      new Reader(text).read();
    } catch (mistake) {
      if (mistake.why) found = mistake;
    }
    const before = text.slice(0, found.at).split("\n");
    return { line: before.length, column: before[before.length - 1].length + 1, why: found.why };
  }
}
