//! What is shown of the measurements: a row for each node, and two sparklines of the whole cluster.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};
use serde_json::{Value, json};

use super::sample::{NodeSample, Sample};
use crate::cli::{output, status::format_bytes};

/// Measurements that are kept for the sparklines.
const KEPT: usize = 300;
const HEADERS: [&str; 11] =
    ["NODE", "STATE", "DATA", "DIFFER", "KEYS", "WRITES/S", "REQ/S", "P50", "P99", "SUBS", "MEMORY"];
/// Columns that a narrow screen leaves out, the first of them first.
const LEFT_OUT: [&str; 8] = ["P50", "DIFFER", "MEMORY", "SUBS", "P99", "DATA", "KEYS", "STATE"];
/// Between two columns.
const GAP: usize = 1;
/// The least height of a sparkline with its frame.
const CHART_HEIGHT_MIN: u16 = 4;
const UNKNOWN: &str = "-";

/// The last two measurements, and the rates of those before.
pub struct History {
    before: Option<Sample>,
    now: Sample,
    writes: VecDeque<u64>,
    requests: VecDeque<u64>,
}

/// What is shown of a node.
struct Figures {
    writes_per_second: u64,
    requests_per_second: u64,
    p50: Option<f64>,
    p99: Option<f64>,
}

impl History {
    /// Of the first measurement: there are no rates yet.
    pub fn new(first: Sample) -> Self {
        Self { before: None, now: first, writes: VecDeque::new(), requests: VecDeque::new() }
    }

    /// With the next one.
    pub fn with(mut self, sample: Sample) -> Self {
        self.before = Some(std::mem::replace(&mut self.now, sample));
        let rates: Vec<_> = self.now.nodes.iter().filter_map(|node| self.figures_of(node)).collect();
        for (kept, rate) in [
            (&mut self.writes, rates.iter().map(|it| it.writes_per_second).sum()),
            (&mut self.requests, rates.iter().map(|it| it.requests_per_second).sum()),
        ] {
            kept.push_back(rate);
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        self
    }

    fn figures_of(&self, node: &NodeSample) -> Option<Figures> {
        let before = self.before.as_ref()?;
        let seconds = self.now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let earlier = before.nodes.iter().find(|other| other.node == node.node)?.own.as_ref()?;
        let now = node.own.as_ref()?;
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
        Some(Figures {
            writes_per_second: rate(now.writes, earlier.writes),
            requests_per_second: rate(now.requests.count(), earlier.requests.count()),
            p50: now.requests.quantile_since(&earlier.requests, 0.5),
            p99: now.requests.quantile_since(&earlier.requests, 0.99),
        })
    }

    /// All figures of all nodes, for programs.
    pub fn figures(&self) -> Value {
        let nodes = self.now.nodes.iter().map(|node| {
            let (own, figures) = (node.own.as_ref(), self.figures_of(node));
            let figures = figures.as_ref();
            json!({
                "node": node.node,
                "address": node.address,
                "state": node.state,
                "data": node.data,
                "differing_tables": self.now.differing_tables(node),
                "keys": own.map(|own| own.keys),
                "subscriptions": own.map(|own| own.subscriptions),
                "memory_bytes": own.map(|own| own.memory_bytes),
                "disk_bytes": own.map(|own| own.disk_bytes),
                "writes_per_second": figures.map(|it| it.writes_per_second),
                "requests_per_second": figures.map(|it| it.requests_per_second),
                "latency_p50_seconds": figures.and_then(|it| it.p50),
                "latency_p99_seconds": figures.and_then(|it| it.p99),
            })
        });
        nodes.collect()
    }

    /// A row of cells for each node.
    fn rows(&self) -> Vec<Vec<String>> {
        self.now.nodes.iter().map(|node| self.row(node)).collect()
    }

    fn row(&self, node: &NodeSample) -> Vec<String> {
        let own = node.own.as_ref();
        let figures = self.figures_of(node);
        let figures = figures.as_ref();
        let known = |count: Option<u64>| count.map_or(UNKNOWN.to_owned(), |count| count.to_string());
        let latency = |seconds: Option<f64>| seconds.map_or(UNKNOWN.to_owned(), format_latency);
        vec![
            node.address.clone(),
            node.state.clone(),
            node.data.clone(),
            known(self.now.differing_tables(node).map(|count| count as u64)),
            known(own.map(|own| own.keys)),
            known(figures.map(|it| it.writes_per_second)),
            known(figures.map(|it| it.requests_per_second)),
            latency(figures.and_then(|it| it.p50)),
            latency(figures.and_then(|it| it.p99)),
            known(own.map(|own| own.subscriptions)),
            own.map_or(UNKNOWN.to_owned(), |own| format_bytes(own.memory_bytes)),
        ]
    }
}

/// The bound of a bucket of latencies.
fn format_latency(seconds: f64) -> String {
    match seconds {
        _ if seconds.is_infinite() => "slower".to_owned(),
        0.0..0.001 => format!("{:.0} µs", seconds * 1e6),
        0.001..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

/// One measurement as a table of text.
pub fn to_text(history: &History) -> String {
    let head = HEADERS.map(str::to_owned).to_vec();
    output::columns(&[head].into_iter().chain(history.rows()).collect::<Vec<_>>())
}

/// Draws the screen; `problem` is why the last measurement failed, if it did.
pub fn draw(frame: &mut Frame<'_>, history: &History, problem: Option<&str>) {
    let count = history.now.nodes.len();
    let [head, middle, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)])
            .areas(frame.area());
    // The nodes first; charts where there is room for both.
    let height = u16::try_from(count).unwrap_or(u16::MAX).saturating_add(1).min(middle.height);
    let chart = (middle.height - height) / 2;
    let chart = if chart < CHART_HEIGHT_MIN { 0 } else { chart };
    let [table, writes, requests] =
        Layout::vertical([Constraint::Min(height), Constraint::Length(chart), Constraint::Length(chart)])
            .areas(middle);
    let own = history.now.nodes.iter().filter_map(|node| node.own.as_ref());
    let text = format!(
        "DynaRust  cluster {}  {count} {}  {} keys",
        history.now.cluster,
        if count == 1 { "member" } else { "members" },
        own.map(|own| own.keys).max().unwrap_or(0)
    );
    frame.render_widget(Paragraph::new(Line::from(text)).style(style(Modifier::BOLD)), head);
    let left_out = draw_nodes(frame, table, history);
    if chart > 0 {
        draw_chart(frame, writes, "writes/s", &history.writes, Color::Green);
        draw_chart(frame, requests, "requests/s", &history.requests, Color::Cyan);
    }
    let columns = match left_out {
        0 => String::new(),
        1 => ". A wider screen has 1 more column".to_owned(),
        _ => format!(". A wider screen has {left_out} more columns"),
    };
    let text = problem.map_or_else(|| format!("q ends{columns}"), |why| format!("q ends. {why}"));
    frame.render_widget(Paragraph::new(text).style(style(Modifier::DIM)), foot);
}

/// Draws a row for each node; how many columns have no room.
fn draw_nodes(frame: &mut Frame<'_>, area: Rect, history: &History) -> usize {
    let rows = history.rows();
    let widths = widths(&rows);
    let shown = columns_that_fit(&widths, usize::from(area.width));
    let pick = |cells: &[String]| Row::new(shown.iter().map(|column| cells[*column].clone()));
    let head = pick(&HEADERS.map(str::to_owned)).style(style(Modifier::DIM));
    let rows = rows.iter().zip(&history.now.nodes);
    let rows = rows.map(|(cells, node)| pick(cells).style(colour(state_colour(node))));
    let lengths =
        shown.iter().map(|column| Constraint::Length(u16::try_from(widths[*column]).unwrap_or(u16::MAX)));
    frame.render_widget(Table::new(rows, lengths).column_spacing(GAP as u16).header(head), area);
    HEADERS.len() - shown.len()
}

/// How wide each column is.
fn widths(rows: &[Vec<String>]) -> [usize; HEADERS.len()] {
    std::array::from_fn(|column| {
        let cells = rows.iter().map(|cells| cells[column].chars().count());
        cells.max().unwrap_or(0).max(HEADERS[column].len())
    })
}

/// The columns for which there is room.
fn columns_that_fit(widths: &[usize; HEADERS.len()], room: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..HEADERS.len()).collect();
    for name in LEFT_OUT {
        let needed: usize = shown.iter().map(|column| widths[*column] + GAP).sum();
        if needed <= room + GAP {
            break;
        }
        shown.retain(|column| HEADERS[*column] != name);
    }
    shown
}

fn draw_chart(frame: &mut Frame<'_>, area: Rect, title: &str, rates: &VecDeque<u64>, shade: Color) {
    let width = usize::from(area.width.saturating_sub(2));
    let shown: Vec<u64> = rates.iter().skip(rates.len().saturating_sub(width)).copied().collect();
    let (now, most) = (shown.last().copied().unwrap_or(0), shown.iter().copied().max().unwrap_or(0));
    let block = Block::bordered().title(format!("{title}: {now}, at most {most}"));
    frame.render_widget(Sparkline::default().data(&shown).style(colour(Some(shade))).block(block), area);
}

/// The colour of a node that needs a look.
fn state_colour(node: &NodeSample) -> Option<Color> {
    match node.state.as_str() {
        "down" | "suspect" => Some(Color::Red),
        "left" | "forgotten" => Some(Color::DarkGray),
        _ if node.data.starts_with("behind") => Some(Color::Yellow),
        _ => None,
    }
}

/// A style with this colour, unless `NO_COLOR` is set.
fn colour(colour: Option<Color>) -> Style {
    match colour.filter(|_| output::is_coloured()) {
        Some(colour) => Style::new().fg(colour),
        None => Style::new(),
    }
}

fn style(modifier: Modifier) -> Style {
    Style::new().add_modifier(modifier)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        time::{Duration, Instant},
    };

    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::cli::shell::top::{latency::Histogram, sample::Own};

    fn sample(at: Instant, writes: u64) -> Sample {
        let node = |address: &str, state: &str, root: &str| NodeSample {
            node: address.to_owned(),
            address: address.to_owned(),
            state: state.to_owned(),
            data: "in step 2 s ago".to_owned(),
            own: (state != "down").then(|| Own {
                keys: 7,
                writes,
                subscriptions: 3,
                memory_bytes: 1 << 20,
                disk_bytes: 0,
                requests: Histogram::default(),
                roots: BTreeMap::from([("t".to_owned(), Some(root.to_owned()))]),
            }),
        };
        let nodes = vec![node("a:1", "self", "x"), node("b:1", "alive", "y"), node("c:1", "down", "x")];
        Sample { at, cluster: "c1".into(), nodes }
    }

    #[test]
    fn a_digest_that_is_not_known_yet_is_no_difference() {
        let mut sample = sample(Instant::now(), 0);
        let differing = |sample: &Sample| sample.differing_tables(&sample.nodes[1]);
        assert_eq!(differing(&sample), Some(1));
        for place in [1, 0] {
            let own = sample.nodes[place].own.as_mut().expect("it answers");
            let root = own.roots.insert("t".to_owned(), None).flatten();
            assert_eq!(differing(&sample), Some(0), "{place}");
            sample.nodes[place].own.as_mut().expect("it answers").roots.insert("t".to_owned(), root);
        }
    }

    #[test]
    fn columns_without_room_are_left_out_whole() {
        let names = |room| {
            let widths = widths(&[[
                "127.0.0.1:6660",
                "alive",
                "in step 2 s ago",
                "0",
                "120011",
                "0",
                "3",
                "3.2 ms",
                "3.2 ms",
                "0",
                "174.2 MiB",
            ]
            .map(str::to_owned)
            .to_vec()]);
            columns_that_fit(&widths, room).into_iter().map(|column| HEADERS[column]).collect::<Vec<_>>()
        };
        assert_eq!(names(200), HEADERS);
        assert_eq!(
            names(80),
            ["NODE", "STATE", "DATA", "KEYS", "WRITES/S", "REQ/S", "P99", "SUBS", "MEMORY"]
        );
        assert_eq!(names(40), ["NODE", "STATE", "WRITES/S", "REQ/S"]);
        assert_eq!(names(0), ["NODE", "WRITES/S", "REQ/S"]);
    }

    #[test]
    fn rates_are_those_between_two_measurements_and_the_screen_has_them() {
        let start = Instant::now();
        let history = History::new(sample(start, 100)).with(sample(start + Duration::from_secs(2), 300));
        let rows = history.rows();
        assert_eq!(rows[1][..6], ["b:1", "alive", "in step 2 s ago", "1", "7", "100"]);
        assert_eq!(rows[2][3..], [UNKNOWN; 8]);
        assert_eq!(history.figures()[0]["writes_per_second"], 100);
        let mut terminal = Terminal::new(TestBackend::new(140, 20)).expect("a screen");
        terminal.draw(|frame| draw(frame, &history, Some("gone"))).expect("drawn");
        let text = terminal.backend().to_string();
        for part in ["cluster c1", "3 members", "b:1", "writes/s: 200, at most 200", "q ends. gone"] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        for (width, height, expected) in [
            (80, 24, &["a:1", "NODE", "DATA", "REQ/S", "P99", "MEMORY", "writes/s: 200"][..]),
            (60, 8, &["a:1", "b:1", "c:1 ", "down", "WRITES/S", "A wider screen has"]),
        ] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a screen");
            terminal.draw(|frame| draw(frame, &history, None)).expect("drawn");
            let text = terminal.backend().to_string();
            for part in expected {
                assert!(text.contains(part), "{part}:\n{text}");
            }
        }
        let mut small = Terminal::new(TestBackend::new(10, 3)).expect("a screen");
        small.draw(|frame| draw(frame, &history, None)).expect("a small screen is no failure");
    }
}
