//! The window on a desktop: settings in, frames, settings out. The only part that knows the screen, and the feature `desktop`: tests draw
//! frames without it.

use std::process::ExitCode;

use clap::Parser;

use crate::{app::App, arguments::Arguments, client::Client, model::Model, settings::Settings};

/// The first size of the window.
const SIZE: [f32; 2] = [1180.0, 760.0];
const SIZE_MIN: [f32; 2] = [720.0, 420.0];

impl eframe::App for App {
    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        self.frame(ui);
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        eframe::set_value(storage, eframe::APP_KEY, &self.model().settings);
    }

    fn persist_egui_memory(&self) -> bool {
        // It has what was typed, the token among it.
        false
    }
}

/// The program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let token = match arguments.token(std::env::var("DYNARUST_TOKEN").ok()) {
        Ok(token) => token,
        Err(why) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let options = eframe::NativeOptions {
        viewport: egui::ViewportBuilder::default()
            .with_title("DynaRust")
            .with_app_id("dynarust-gui")
            .with_inner_size(SIZE)
            .with_min_inner_size(SIZE_MIN),
        ..eframe::NativeOptions::default()
    };
    let opened = eframe::run_native(
        "dynarust-gui",
        options,
        Box::new(move |context| {
            let kept = context.storage.and_then(|storage| eframe::get_value(storage, eframe::APP_KEY));
            let mut settings: Settings = kept.unwrap_or_default();
            arguments.apply(&mut settings);
            let mut model = Model::new(settings, token);
            if let Some(table) = arguments.table {
                model.want(table, arguments.key);
            }
            let repaint = context.egui_ctx.clone();
            let client = Client::start(move || repaint.request_repaint())?;
            Ok(Box::new(App::new(model, client)))
        }),
    );
    match opened {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "error: no window can be opened: {error}. It needs a desktop (X11 or Wayland) with OpenGL"
            );
            ExitCode::FAILURE
        }
    }
}
