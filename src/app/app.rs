//! The window's state: who owns what.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::app::command::CommandQueue;
use crate::app::context::Selection;
use crate::app::editor::Editor;
use crate::app::notices::Notices;
use crate::app::planner::Planner;
use crate::app::prefs::{self, Prefs};
use crate::app::tasks::Tasks;
use crate::app::ui::View;
use crate::app::{RunOptions, theme};
use crate::session::{Session, Wake};

/// Pause between two frames while a trial is being timed.
const TIMED_FRAME: Duration = Duration::from_millis(100);

/// The window.
pub struct App {
    pub(super) session: Session,
    pub(super) editor: Editor,
    pub(super) selection: Selection,
    pub(super) prefs: Prefs,
    pub(super) planner: Planner,
    pub(super) view: View,
    pub(super) notices: Notices,
    pub(super) tasks: Tasks,
    pub(super) commands: CommandQueue,
    /// Whether a trial is being timed: then events wake the window at 10 Hz at most.
    pub(super) timed: Arc<AtomicBool>,
    /// The study's generation when a trial was last chosen for the user.
    pub(super) chosen_at: u64,
}

impl App {
    /// The window with the preferences of the last run; opens what `options` name.
    pub fn new(cc: &eframe::CreationContext<'_>, options: RunOptions) -> Self {
        theme::install(&cc.egui_ctx);
        let prefs = Prefs::load(cc.storage);
        cc.egui_ctx.set_theme(prefs.theme);
        let timed = Arc::new(AtomicBool::new(false));
        let wake = wake(cc.egui_ctx.clone(), timed.clone());
        let mut app = Self {
            session: Session::new(wake.clone()),
            editor: Editor::default(),
            selection: Selection::default(),
            planner: Planner::default(),
            view: View::new(prefs.tree.clone()),
            notices: Notices::default(),
            tasks: Tasks::new(wake),
            commands: CommandQueue::default(),
            prefs,
            timed,
            chosen_at: 0,
        };
        app.begin(options);
        app
    }
}

/// Wakes the window from any thread: at once, or with the next of ten frames a second while a trial is being timed.
fn wake(ctx: egui::Context, timed: Arc<AtomicBool>) -> Wake {
    Arc::new(move || {
        if timed.load(Ordering::Relaxed) {
            ctx.request_repaint_after(TIMED_FRAME);
        } else {
            ctx.request_repaint();
        }
    })
}

impl eframe::App for App {
    fn logic(&mut self, ctx: &egui::Context, _: &mut eframe::Frame) {
        self.advance(ctx);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        self.show(ui);
        if !self.commands.is_empty() {
            ui.ctx().request_repaint();
        }
    }

    fn save(&mut self, storage: &mut dyn eframe::Storage) {
        self.prefs.tree = self.view.tree().cloned();
        eframe::set_value(storage, prefs::KEY, &self.prefs);
    }

    fn clear_color(&self, visuals: &egui::Visuals) -> [f32; 4] {
        visuals.panel_fill.to_normalized_gamma_f32()
    }
}
