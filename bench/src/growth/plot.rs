//! The points as an SVG: panels of lines over the number of rows, both axes logarithmic.

use std::fmt::Write;

use super::Point;

const PANEL_WIDTH: f64 = 330.0;
const PANEL_HEIGHT: f64 = 240.0;
const COLUMNS: usize = 2;
/// Around the axes of a panel: room for its title, its numbers and its legend.
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 34.0;
/// Distinguishable also without colours: each has its own dashes.
const STROKES: [(&str, &str); 6] = [
    ("#1b6ca8", ""),
    ("#c8553d", "6 3"),
    ("#3f8f4f", "2 2"),
    ("#7a4fa3", "8 2 2 2"),
    ("#8a6d00", "4 4"),
    ("#444", "1 3"),
];

/// A figure that a panel shows, of clusters of each size that has it.
struct Panel {
    title: &'static str,
    figures: &'static [(&'static str, &'static str)],
}

const PANELS: [Panel; 6] = [
    Panel {
        title: "processor time of a write, µs",
        figures: &[("put_cpu_us", "PUT"), ("put_replica_cpu_us", "a replica")],
    },
    Panel { title: "processor time of a read, µs", figures: &[("get_cpu_us", "GET")] },
    Panel { title: "operations a second", figures: &[("put_per_s", "PUT"), ("get_per_s", "GET")] },
    Panel {
        title: "bytes of a row",
        figures: &[("memory_bytes_per_row", "memory"), ("disk_bytes_per_row", "disk")],
    },
    Panel { title: "start, seconds", figures: &[("first_read_s", "answers"), ("ready_s", "ready")] },
    Panel {
        title: "finding one row that differs",
        figures: &[("comparison_bytes", "bytes"), ("comparison_round_trips", "round trips")],
    },
];

/// A line of a panel.
struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

/// All panels.
pub fn svg(points: &[Point]) -> String {
    let rows = PANELS.len().div_ceil(COLUMNS);
    let (width, height) = (PANEL_WIDTH * COLUMNS as f64, PANEL_HEIGHT * rows as f64);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"10\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (number, panel) in PANELS.iter().enumerate() {
        let at = (PANEL_WIDTH * (number % COLUMNS) as f64, PANEL_HEIGHT * (number / COLUMNS) as f64);
        panel.draw(at, &panel.series(points), &mut out);
    }
    out + "</svg>\n"
}

impl Panel {
    fn series(&self, points: &[Point]) -> Vec<Series> {
        let mut nodes: Vec<u64> = points.iter().map(|point| point.nodes).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let mut all = Vec::new();
        for (figure, name) in self.figures {
            for &nodes in &nodes {
                let mut line: Vec<(f64, f64)> = points
                    .iter()
                    .filter(|point| point.nodes == nodes)
                    .filter_map(|point| Some((point.rows as f64, *point.figures.get(*figure)?)))
                    // Zero has no place on such an axis.
                    .filter(|(_, value)| *value > 0.0)
                    .collect();
                line.sort_by(|a, b| a.0.total_cmp(&b.0));
                let of = if nodes == 1 { String::new() } else { format!(", {nodes} nodes") };
                if !line.is_empty() {
                    all.push(Series { name: format!("{name}{of}"), points: line });
                }
            }
        }
        all
    }

    fn draw(&self, (left, top): (f64, f64), series: &[Series], out: &mut String) {
        let x = Axis::of(
            series.iter().flat_map(|line| line.points.iter().map(|point| point.0)),
            left + LEFT,
            left + PANEL_WIDTH - RIGHT,
        );
        let y = Axis::of(
            series.iter().flat_map(|line| line.points.iter().map(|point| point.1)),
            top + PANEL_HEIGHT - BOTTOM,
            top + TOP,
        );
        let mut text = |at: (f64, f64), anchor: &str, said: &str| {
            writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{said}</text>", at.0, at.1)
                .expect("a string takes all that is written to it");
        };
        text((left + LEFT, top + 14.0), "start", self.title);
        for decade in x.decades() {
            text((x.place(decade), y.from + 14.0), "middle", &number(decade));
        }
        for decade in y.decades() {
            text((x.from - 6.0, y.place(decade) + 3.0), "end", &number(decade));
        }
        text(((x.from + x.to) / 2.0, y.from + 28.0), "middle", "rows");
        for decade in y.decades() {
            line(&[(x.from, y.place(decade)), (x.to, y.place(decade))], ("#ddd", ""), out);
        }
        for (number, (series, stroke)) in series.iter().zip(STROKES.iter().cycle()).enumerate() {
            let places: Vec<_> =
                series.points.iter().map(|point| (x.place(point.0), y.place(point.1))).collect();
            line(&places, *stroke, out);
            let name_at = (x.from + 92.0 * (number % 3) as f64, top + 26.0 + 11.0 * (number / 3) as f64);
            line(&[(name_at.0, name_at.1), (name_at.0 + 14.0, name_at.1)], *stroke, out);
            let (left, top) = (name_at.0 + 17.0, name_at.1 + 3.0);
            writeln!(out, "<text x=\"{left:.1}\" y=\"{top:.1}\" font-size=\"8.5\">{}</text>", series.name)
                .expect("a string takes all that is written to it");
        }
    }
}

fn line(places: &[(f64, f64)], (colour, dashes): (&str, &str), out: &mut String) {
    let places: Vec<_> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    writeln!(
        out,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\" stroke-dasharray=\"{dashes}\"/>",
        places.join(" ")
    )
    .expect("a string takes all that is written to it");
}

/// A logarithmic axis of whole decades between two places.
struct Axis {
    low: i32,
    high: i32,
    from: f64,
    to: f64,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.for_each(|value| (low, high) = (low.min(value), high.max(value)));
        if low > high {
            return Self { low: 0, high: 1, from, to };
        }
        let (low, high) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self { low, high: high.max(low + 1), from, to }
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.low..=self.high).map(|power| 10_f64.powi(power))
    }

    fn place(&self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.low)) / f64::from(self.high - self.low);
        self.from + (self.to - self.from) * share
    }
}

/// A power of ten as people write it.
fn number(power: f64) -> String {
    match power {
        1e6.. => format!("{} M", power / 1e6),
        1e3.. => format!("{},000", power / 1e3),
        _ => format!("{power}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(rows: u64, nodes: u64, figures: &[(&str, f64)]) -> Point {
        let figures = figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Point { rows, nodes, figures }
    }

    #[test]
    fn an_axis_has_whole_decades_and_places_between_them() {
        let axis = Axis::of([20.0, 4_000.0].into_iter(), 0.0, 300.0);
        assert_eq!(axis.decades().collect::<Vec<_>>(), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert!((axis.place(100.0) - 100.0).abs() < 1e-9 && (axis.place(10_000.0) - 300.0).abs() < 1e-9);
    }

    #[test]
    fn each_size_of_a_cluster_has_its_line() {
        let points = [
            point(10_000, 1, &[("put_cpu_us", 50.0)]),
            point(100_000, 1, &[("put_cpu_us", 60.0)]),
            point(10_000, 3, &[("put_cpu_us", 70.0), ("put_replica_cpu_us", 20.0)]),
        ];
        let names: Vec<_> =
            PANELS[0].series(&points).into_iter().map(|line| (line.name, line.points.len())).collect();
        assert_eq!(names, [("PUT".into(), 2), ("PUT, 3 nodes".into(), 1), ("a replica, 3 nodes".into(), 1)]);
        let svg = svg(&points);
        assert!(
            svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("PUT, 3 nodes"),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        for (value, text) in
            [(0.1, "0.1"), (100.0, "100"), (10_000.0, "10,000"), (1e7, "10 M"), (1e9, "1000 M")]
        {
            assert_eq!(number(value), text);
        }
    }
}
