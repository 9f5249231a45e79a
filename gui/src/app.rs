//! A frame of the window, wherever it is drawn: on a screen, or in a test. It takes the client's messages, draws the model, and hands the commands on.

use crate::{
    client::Client,
    message::Message,
    model::{Link, Model},
    views::{self, View},
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use egui::ViewportCommand;

/// How long a frame takes messages; the others wait for the next one, so that the window stays quick.
const MESSAGES_TIME: Duration = Duration::from_millis(8);
/// How often a window in which nothing happens is drawn, for countdowns and ages.
const IDLE_FRAME: Duration = Duration::from_secs(1);

/// The application.
pub struct App {
    model: Model,
    view: View,
    client: Client,
    /// Whether sizes and colors are set.
    is_installed: bool,
}

impl App {
    /// With a client that has no connection yet.
    pub fn new(mut model: Model, client: Client) -> Self {
        model.connect();
        Self { model, view: View::default(), client, is_installed: false }
    }

    /// What the window knows.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the window knows, to do as a user does.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// One frame.
    pub fn frame(&mut self, ui: &mut egui::Ui) {
        if !std::mem::replace(&mut self.is_installed, true) {
            views::install(ui.ctx());
        }
        self.model.now_ms = now_ms();
        let begin = Instant::now();
        while begin.elapsed() < MESSAGES_TIME {
            let Some(message) = self.client.receive() else { break };
            self.model.receive(message);
        }
        if begin.elapsed() >= MESSAGES_TIME {
            ui.ctx().request_repaint();
        }
        if self.client.is_gone() {
            let why =
                "the part of this window that talks to the nodes has stopped: start it again".to_owned();
            self.model.receive(Message::Refused { address: String::new(), why });
        }
        // As Ctrl+Q: what was typed is asked about.
        if ui.input(|input| input.viewport().close_requested()) && !self.model.is_closing {
            ui.ctx().send_viewport_cmd(ViewportCommand::CancelClose);
            self.model.close();
        }
        views::show(ui, &mut self.model, &mut self.view);
        if self.model.is_closing {
            ui.ctx().send_viewport_cmd(ViewportCommand::Close);
        }
        while let Some(command) = self.model.take_command() {
            if let Err(command) = self.client.send(command) {
                // It has much to do: in the next frame.
                self.model.put_back(*command);
                break;
            }
        }
        let is_flashing =
            self.model.changes.front().is_some_and(|it| self.model.now_ms < it.at_ms + views::FLASH_MS);
        let is_pending = matches!(self.model.link, Link::Connecting { .. }) || is_flashing;
        ui.ctx().request_repaint_after(if is_pending { Duration::from_millis(100) } else { IDLE_FRAME });
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
