//! `top`: all nodes of a cluster and what they do, on a full screen that is drawn anew every second. Where there is no terminal it prints
//! one measurement and ends.

mod latency;
mod sample;
mod screen;

use std::time::{Duration, Instant};

use dynarust_client::Client;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use self::{
    sample::{Asked, Sample},
    screen::History,
};
use crate::{
    cli::{
        Exit, output,
        remote::CommandError,
        shell::{Common, Outcome, run},
    },
    error::Result,
};

/// The time between two measurements.
const PERIOD: Duration = Duration::from_secs(1);
/// How long to look for a key before looking whether the screen is still wanted.
const KEY_WAIT: Duration = Duration::from_millis(200);

/// Whose cluster to show.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  DynaRust top\n  DynaRust top --json\n\n\
                        Keys: q ends it. RATE: per second. LATENCY: from the head of a request to the head of its answer, streams left \
                        aside; half of them and 99 of 100 were faster. DATA: when the node last held the same as the node that is asked.")]
pub struct Top {
    #[command(flatten)]
    common: Common,
}

/// Shows the cluster until somebody presses q.
pub fn top(arguments: &Top) -> Result<Exit> {
    let client = arguments.common.connection.client(None)?;
    run(async {
        let asked = Asked { client, connection: &arguments.common.connection };
        let first = Sample::take(&asked).await?;
        if output::is_terminal() && !arguments.common.json {
            return full_screen(&asked, first).await;
        }
        sleep(PERIOD).await;
        let history = History::new(first).with(Sample::take(&asked).await?);
        let text = match arguments.common.json {
            true => format!("{}\n", json!({ "nodes": history.figures() })),
            false => screen::to_text(&history),
        };
        output::print(&text)?;
        Ok(Exit::Success)
    })
}

async fn full_screen(asked: &Asked<'_>, first: Sample) -> Outcome {
    let failed = |error: std::io::Error| CommandError {
        exit: Exit::Failure,
        why: format!("cannot use the terminal: {error}"),
    };
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(asked, first, &mut terminal).await;
    // Whatever happened, the terminal is given back.
    let restored = ratatui::try_restore().map_err(failed);
    shown?;
    restored?;
    Ok(Exit::Success)
}

async fn show(
    asked: &Asked<'_>,
    first: Sample,
    terminal: &mut DefaultTerminal,
) -> std::result::Result<(), CommandError> {
    let mut keys = keys();
    let mut history = History::new(first);
    let mut problem = None;
    loop {
        terminal
            .draw(|frame| screen::draw(frame, &history, problem.as_deref()))
            .map_err(|error| CommandError { exit: Exit::Failure, why: format!("cannot draw: {error}") })?;
        let next = Instant::now() + PERIOD;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            match timeout(left, keys.recv()).await {
                Ok(Some(Pressed::Quit) | None) => return Ok(()),
                // The terminal has another size.
                Ok(Some(Pressed::Other)) => break,
                Err(_) => {}
            }
        }
        // A node that hangs answers late, or never.
        let sample = tokio::select! {
            sample = Sample::take(asked) => sample,
            () = quit(&mut keys) => return Ok(()),
        };
        match sample {
            Ok(sample) => {
                history = history.with(sample);
                problem = None;
            }
            // It may come back.
            Err(error) => problem = Some(error.why),
        }
    }
}

enum Pressed {
    Quit,
    Other,
}

/// Completes once the user wants to leave.
async fn quit(keys: &mut mpsc::Receiver<Pressed>) {
    while let Some(Pressed::Other) = keys.recv().await {}
}

/// What is pressed. The thread ends with the receiver.
fn keys() -> mpsc::Receiver<Pressed> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            let pressed = match event::poll(KEY_WAIT) {
                Ok(true) => event::read(),
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            let sent = match pressed {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Press => {
                    let is_interrupt =
                        key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => sender.blocking_send(Pressed::Quit),
                        _ if is_interrupt => sender.blocking_send(Pressed::Quit),
                        _ => Ok(()),
                    }
                }
                Ok(Event::Resize(..)) => sender.blocking_send(Pressed::Other),
                Ok(_) => Ok(()),
                // There is no terminal any more.
                Err(_) => sender.blocking_send(Pressed::Quit),
            };
            if sent.is_err() {
                break;
            }
        }
    });
    receiver
}

/// The client that is asked about a member.
fn client_of(asked: &Asked<'_>, address: &str) -> Option<Client> {
    let scheme = if asked.client.current_endpoint().is_encrypted() { "https" } else { "http" };
    let address = crate::cli::connection::parse_address(&format!("{scheme}://{address}")).ok()?;
    asked.connection.client_of_member(None, &address).ok()
}
