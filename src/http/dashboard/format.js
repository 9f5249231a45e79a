// Numbers, spans and texts as people read them.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

/** 12345 as "12,345"; what is not known as a dash. */
export const count = number => (number == null ? "–" : plain.format(number));

/** One of a thing, or several. */
export const plural = (number, one, many = one + "s") => `${count(number)} ${number === 1 ? one : many}`;

/** A number in few digits: 0.25, 3.4, 120, 12.3k. */
export function short(number) {
  if (number == null || Number.isNaN(number)) return "–";
  const size = Math.abs(number);
  if (size >= 1e6) return (number / 1e6).toFixed(size >= 1e7 ? 0 : 1) + "M";
  if (size >= 1e4) return (number / 1e3).toFixed(size >= 1e5 ? 0 : 1) + "k";
  if (size >= 100 || Number.isInteger(number)) return plain.format(number);
  return number.toFixed(size >= 10 ? 1 : 2).replace(/\.?0+$/, "");
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes with their unit. */
export function bytes(number) {
  if (number == null) return "–";
  let unit = 0;
  while (number >= 1024 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)} ${UNITS[unit]}`;
}

/** A span of milliseconds: 0.4 ms, 12 ms, 3.2 s, 5 min, 2 h, 3 d. */
export function span(ms) {
  if (ms == null) return "–";
  const size = Math.abs(ms);
  if (size < 10) return `${+ms.toFixed(1)} ms`;
  if (size < 1000) return `${Math.round(ms)} ms`;
  if (size < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (size < 120_000) return `${Math.round(ms / 1000)} s`;
  if (size < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (size < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

/** What is left until an instant, to the second. */
export function countdown(ms) {
  if (ms <= 0) return "expired";
  const seconds = Math.ceil(ms / 1000);
  if (seconds >= 172_800) return `${Math.floor(seconds / 86_400)} d ${Math.floor((seconds % 86_400) / 3600)} h`;
  const two = number => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const rest = `${two(Math.floor((seconds % 3600) / 60))}:${two(seconds % 60)}`;
  return hours > 0 ? `${hours}:${rest}` : rest;
}

const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const calendar = new Intl.DateTimeFormat("en-CA", { year: "numeric", month: "2-digit", day: "2-digit" });

/** The time of day. */
export const time = ms => clock.format(ms);

/** Date and time. */
export const date = ms => `${calendar.format(ms)} ${clock.format(ms)}`;

/** The start of a text, on one line. */
export function preview(text, length = 160) {
  const start = text.length > length ? text.slice(0, length) + "…" : text;
  return start.replace(/\s+/g, " ");
}

/** The path of a key. Slashes stay as they are; a quote would end the text of a shell. */
export const keyPath = (table, key) => `/${encoded(table)}/key/${encoded(key).replaceAll("%2F", "/")}`;

/** The path of a key with its slashes escaped: whoever normalises it cannot take `a/../b` for `b`. */
export const escapedKeyPath = (table, key) => `/${encoded(table)}/key/${encoded(key)}`;

const encoded = text => encodeURIComponent(text).replaceAll("'", "%27");

/** A text as one word of a shell. */
export const shellWord = text => (/^[\w.:\/@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
