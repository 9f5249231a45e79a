//! What is shown of the measurements: a row for each node, and two sparklines of the whole cluster.

use std::collections::VecDeque;

use ratatui::{
    Frame,
    layout::{Constraint, Layout},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Sparkline, Table},
};
use serde_json::{Value, json};

use super::sample::{NodeSample, Sample};
use crate::cli::{output, status::format_bytes};

/// Measurements that are kept for the sparklines.
const KEPT: usize = 300;
const HEADERS: [&str; 11] = [
    "NODE",
    "STATE",
    "DATA",
    "DIFFER",
    "KEYS",
    "WRITES/S",
    "REQUESTS/S",
    "P50",
    "P99",
    "SUBSCRIBERS",
    "MEMORY",
];
const WIDTHS: [u16; 11] = [21, 8, 18, 6, 11, 9, 10, 8, 8, 11, 9];
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
    let height = u16::try_from(history.now.nodes.len()).unwrap_or(u16::MAX).saturating_add(3);
    let areas: [_; 5] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height),
        Constraint::Min(3),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let keys: u64 =
        history.now.nodes.iter().filter_map(|node| node.own.as_ref()).map(|own| own.keys).max().unwrap_or(0);
    let head = format!(
        "DynaRust  cluster {}  {} members  {keys} keys",
        history.now.cluster,
        history.now.nodes.len()
    );
    frame.render_widget(Paragraph::new(Line::from(head)).style(style(Modifier::BOLD)), areas[0]);
    let rows = history.rows().into_iter().zip(&history.now.nodes);
    let rows = rows.map(|(cells, node)| Row::new(cells).style(colour(state_colour(node))));
    let table = Table::new(rows, WIDTHS.map(Constraint::Length))
        .header(Row::new(HEADERS).style(style(Modifier::DIM)))
        .block(Block::bordered().title("nodes"));
    frame.render_widget(table, areas[1]);
    for (area, title, rates, shade) in [
        (areas[2], "writes/s", &history.writes, Color::Green),
        (areas[3], "requests/s", &history.requests, Color::Cyan),
    ] {
        let width = usize::from(area.width.saturating_sub(2));
        let shown: Vec<u64> = rates.iter().skip(rates.len().saturating_sub(width)).copied().collect();
        let (now, most) = (shown.last().copied().unwrap_or(0), shown.iter().copied().max().unwrap_or(0));
        let block = Block::bordered().title(format!("{title}: {now}, at most {most}"));
        frame.render_widget(Sparkline::default().data(&shown).style(colour(Some(shade))).block(block), area);
    }
    let foot = problem.map_or_else(|| "q ends".to_owned(), |why| format!("q ends. {why}"));
    frame.render_widget(Paragraph::new(foot).style(style(Modifier::DIM)), areas[4]);
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
                roots: BTreeMap::from([("t".to_owned(), root.to_owned())]),
            }),
        };
        let nodes = vec![node("a:1", "self", "x"), node("b:1", "alive", "y"), node("c:1", "down", "x")];
        Sample { at, cluster: "c1".into(), nodes }
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
        let mut small = Terminal::new(TestBackend::new(10, 3)).expect("a screen");
        small.draw(|frame| draw(frame, &history, None)).expect("a small screen is no failure");
    }
}
