// Rates and latencies of the last 15 minutes. The nodes keep them, so that a fresh page shows what came before it.

import { html, useEffect, useRef, useState } from "./preact.js";
import uPlot from "./uplot.js";
import { bytes, short, time } from "./format.js";
import { useAppState } from "./state.js";

const HEIGHT = 130;
const STEP_S = 2;
const perSecond = number => `${short(number)}/s`;
const CHARTS = [
  { title: "Requests", fields: ["requests"], show: perSecond },
  { title: "Latency, 99 of 100", fields: ["p99_ms"], show: number => `${short(number)} ms`, together: "max" },
  { title: "Keys changed", fields: ["writes"], show: perSecond },
  { title: "Rows from other nodes", fields: ["rows_received"], show: perSecond },
  { title: "Errors (4xx and 5xx)", fields: ["client_errors", "server_errors"], show: perSecond },
  { title: "Memory", fields: ["memory_bytes"], show: bytes },
];

const style = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const color = index => style(`--series-${(index % 6) + 1}`);

/** The numbers of one node at each instant, all instants the same for all nodes. */
function column(series, fields, grid) {
  const places = fields.map(field => series.fields.indexOf(field));
  const at = new Map(series.points.map(point => [Math.round(point[0] / 1000 / STEP_S), places.reduce((sum, place) => sum + point[place], 0)]));
  return grid.map(step => at.get(step) ?? null);
}

function dataOf(chart, all, isSummed) {
  const steps = all.flatMap(series => series.points.map(point => Math.round(point[0] / 1000 / STEP_S)));
  const last = Math.max(...steps);
  const first = Math.max(Math.min(...steps), last - 450);
  const grid = Array.from({ length: Math.max(0, last - first + 1) }, (_, index) => first + index);
  const columns = all.map(series => column(series, chart.fields, grid));
  const together = values => {
    const known = values.filter(value => value != null);
    if (known.length === 0) return null;
    return chart.together === "max" ? Math.max(...known) : known.reduce((sum, value) => sum + value, 0);
  };
  const shown = isSummed ? [grid.map((_, index) => together(columns.map(values => values[index])))] : columns;
  return [grid.map(step => step * STEP_S), ...shown.map(fillOne)];
}

/** Two points of a node may fall into one step, and none into the next. */
const fillOne = values => values.map((value, index) => value ?? values[index - 1] ?? null);

const current = data => data.slice(1).map(values => values.findLast(value => value != null));

function Chart({ chart, all, isSummed, theme }) {
  const box = useRef();
  const plot = useRef();
  const data = dataOf(chart, all, isSummed);
  const names = isSummed ? [chart.together === "max" ? "the slowest node" : "all nodes"] : all.map(series => series.address);
  const lines = names.length;
  useEffect(() => {
    const axis = { stroke: style("--faint"), grid: { stroke: style("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    plot.current = new uPlot(
      {
        width: box.current.clientWidth,
        height: HEIGHT,
        legend: { show: false },
        cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
        axes: [{ ...axis, space: 70, size: 26, values: (_, ticks) => ticks.map(tick => time(tick * 1000).slice(0, 5)) }, { ...axis, size: 52, space: 30, values: (_, ticks) => ticks.map(chart.show) }],
        scales: { y: { range: (_, __, max) => [0, max > 0 ? max * 1.1 : 1] } },
        series: [{}, ...names.map((label, index) => ({ label, stroke: color(index), width: 1.5, points: { show: false } }))],
      },
      data,
      box.current,
    );
    const observer = new ResizeObserver(([{ contentRect }]) => plot.current.setSize({ width: contentRect.width, height: HEIGHT }));
    observer.observe(box.current);
    return () => {
      observer.disconnect();
      plot.current.destroy();
    };
  }, [lines, isSummed, theme]);
  useEffect(() => plot.current.setData(data));
  const now = current(data);
  return html`<figure class="chart">
    <figcaption><span class="title">${chart.title}</span>
      ${names.map((name, index) => html`<span class="now" key=${name}><i class=${"swatch s" + ((index % 6) + 1)}></i>${isSummed || lines === 1 ? "" : name.split(":").pop()} <b>${chart.show(now[index])}</b></span>`)}
    </figcaption>
    <div class="plot" ref=${box} role="img" aria-label=${`${chart.title} of the last 15 minutes; now ${names.map((name, index) => `${name} ${chart.show(now[index])}`).join(", ")}`}></div>
  </figure>`;
}

export function Charts({ theme }) {
  const state = useAppState();
  const [isSummed, setSummed] = useState(false);
  const all = [...state.series.values()].filter(series => series.points.length > 1).sort((one, other) => (one.address < other.address ? -1 : 1));
  if (all.length === 0) return html`<section><h2>Last 15 minutes</h2><p class="faint">The nodes have just started to keep their figures: the first point comes in a few seconds.</p></section>`;
  return html`<section>
    <div class="bar"><h2>Last 15 minutes</h2>
      ${all.length > 1 && html`<div class="choice" role="group" aria-label="Lines">
        <button type="button" aria-pressed=${!isSummed} onClick=${() => setSummed(false)}>Each node</button>
        <button type="button" aria-pressed=${isSummed} onClick=${() => setSummed(true)}>Together</button></div>`}
    </div>
    <div class="charts">${CHARTS.map(chart => html`<${Chart} key=${chart.title} chart=${chart} all=${all} isSummed=${isSummed} theme=${theme} />`)}</div>
  </section>`;
}
