//! Latencies of a node's requests, from the histogram of its metrics.

/// The name of the histogram's buckets.
const BUCKET: &str = "dynarust_http_request_duration_seconds_bucket{";
/// Streams answer at once, or when something happens; links are not requests of clients.
const LEFT_ASIDE: [&str; 4] = ["subscribe", "link", "ws", "websocket"];

/// How many requests took at most so long, by the upper bound of a bucket in seconds, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram(Vec<(f64, u64)>);

impl Histogram {
    /// The histogram of all routes in a page of metrics.
    pub fn parse(metrics: &str) -> Self {
        let mut buckets: Vec<(f64, u64)> = Vec::new();
        for line in metrics.lines() {
            let Some((bound, count)) = bucket(line) else { continue };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        Self(buckets)
    }

    /// The time that this part of the requests since `before` took at most, in seconds; `None` if there were none. It is the bound of a
    /// bucket.
    pub fn quantile_since(&self, before: &Self, part: f64) -> Option<f64> {
        let earlier =
            |bound: f64| before.0.iter().find(|(known, _)| *known == bound).map_or(0, |(_, count)| *count);
        let counts: Vec<_> =
            self.0.iter().map(|(bound, count)| (*bound, count.saturating_sub(earlier(*bound)))).collect();
        let total = counts.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let wanted = (total as f64 * part).ceil() as u64;
        counts.iter().find(|(_, count)| *count >= wanted).map(|(bound, _)| *bound)
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.0.last().map_or(0, |(_, count)| *count)
    }
}

fn bucket(line: &str) -> Option<(f64, u64)> {
    let (labels, count) = line.strip_prefix(BUCKET)?.rsplit_once("} ")?;
    let label = |name: &str| {
        labels.split(',').find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
    };
    if label("route").is_some_and(|route| LEFT_ASIDE.iter().any(|other| route.contains(other))) {
        return None;
    }
    let bound = label("le")?;
    let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
    Some((bound, count.parse::<f64>().ok()? as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_requests_since_the_measurement_before() {
        let page = |fast: u64, slow: u64| {
            Histogram::parse(&format!(
                "# TYPE x histogram\n\
                 {BUCKET}route=\"get\",le=\"0.001\"}} {fast}\n{BUCKET}route=\"get\",le=\"0.1\"}} {all}\n\
                 {BUCKET}route=\"get\",le=\"+Inf\"}} {all}\n{BUCKET}route=\"subscribe\",le=\"+Inf\"}} 1000\n",
                all = fast + slow
            ))
        };
        let (before, now) = (page(100, 0), page(198, 2));
        assert_eq!(now.count(), 200);
        assert_eq!(now.quantile_since(&before, 0.5), Some(0.001));
        assert_eq!(now.quantile_since(&before, 0.99), Some(0.1));
        assert_eq!(now.quantile_since(&now, 0.5), None);
    }
}
