//! Tells systemd how the node is, where it runs as a service of `Type=notify`: that it serves, in which phase it is, and that it stops. With
//! `WatchdogSec=` it also says at intervals that it is alive. A node of which a part has stopped does not say so, and systemd restarts it.
//!
//! The messages go to the socket in NOTIFY_SOCKET. Without that variable nobody wants to know.

use std::{env, sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::node::{Node, Readiness};

/// Time between two looks at the phase, if no watchdog asks for more.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
/// How often the node reports within the time after which systemd takes it for dead. The manual says twice; a busy machine may delay one.
const REPORTS_PER_WATCHDOG: u32 = 3;

/// Says that the node serves, and from then on how it is. Call this once, when it listens and has opened its data.
pub fn ready(node: &Arc<Node>) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        warn!(%error, "cannot tell systemd that the node is ready: the service will be taken for one that does not start");
        return;
    }
    tokio::spawn(report(node.clone(), sd_notify::watchdog_enabled()));
}

/// Says that the node stops.
pub fn stopping() {
    // Whoever does not hear it learns it from the end of the process.
    let _ = sd_notify::notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
}

async fn report(node: Arc<Node>, watchdog: Option<Duration>) {
    let mut ticks = interval(pace(watchdog));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        ticks.tick().await;
        let readiness = node.readiness();
        if readiness == Readiness::Draining {
            return;
        }
        let status = describe(&readiness);
        let mut messages = Vec::new();
        if status != told {
            messages.push(NotifyState::Status(&status));
        }
        if watchdog.is_some() && is_alive(&readiness) {
            messages.push(NotifyState::Watchdog);
        }
        if !messages.is_empty() && sd_notify::notify(&messages).is_ok() {
            told = status;
        }
    }
}

/// Time between two reports.
fn pace(watchdog: Option<Duration>) -> Duration {
    let asked = watchdog.map(|watchdog| (watchdog / REPORTS_PER_WATCHDOG).max(Duration::from_millis(1)));
    asked.map_or(STATUS_INTERVAL, |asked| asked.min(STATUS_INTERVAL))
}

/// One line for `systemctl status`.
fn describe(readiness: &Readiness) -> String {
    match readiness.detail() {
        Some(detail) => format!("{}: {}", readiness.phase(), detail.replace('\n', " ")),
        None => readiness.phase().to_owned(),
    }
}

/// Whether a restart would not help.
fn is_alive(readiness: &Readiness) -> bool {
    !matches!(readiness, Readiness::Broken(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_node_is_given_up() {
        assert!(!is_alive(&Readiness::Broken("a thread stopped".into())));
        for readiness in [Readiness::Ready, Readiness::Joining(None), Readiness::ReadOnly("full".into())] {
            assert!(is_alive(&readiness), "{readiness:?}");
        }
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(describe(&Readiness::Ready), "ready");
        assert_eq!(describe(&Readiness::ReadOnly("disk\nfull".into())), "read-only: disk full");
    }

    #[test]
    fn it_reports_well_within_the_time_of_the_watchdog() {
        assert_eq!(pace(None), STATUS_INTERVAL);
        assert_eq!(pace(Some(Duration::from_secs(3))), Duration::from_secs(1));
        assert_eq!(pace(Some(Duration::from_secs(60))), STATUS_INTERVAL);
        assert!(pace(Some(Duration::ZERO)) > Duration::ZERO);
    }
}
