//! What the window shows. Shows only: every change is a command.

use std::collections::BTreeMap;

use egui::{Align2, CentralPanel, Color32, Frame, Id, Margin, RichText, Stroke, Ui, Visuals};
use egui_tiles::{Behavior, SimplificationOptions, TabState, TileId, Tiles, Tree, UiResponse};

use crate::app::command::{Command, DialogKind};
use crate::app::context::ViewContext;
use crate::app::layout::{Room, Tile, default_tree};
use crate::app::open_screen::OpenScreen;
use crate::app::palette::Palette;
use crate::app::panels::{self, Panel};
use crate::app::path_prompt::PathPrompt;
use crate::app::theme::GRID;
use crate::app::{actions, clear_cache, help, toolbar};

/// Everything that is drawn: tiles, their panels, and what lies over them.
pub struct View {
    tree: Option<Tree<Tile>>,
    panels: BTreeMap<Tile, Box<dyn Panel>>,
    open: OpenScreen,
    over: Over,
}

/// What lies over the tiles.
#[derive(Default)]
enum Over {
    #[default]
    Nothing,
    Palette(Palette),
    Help,
    Path(PathPrompt),
    ClearCache,
}

impl View {
    /// The window with this arrangement; the default of its size for `None`, and where a tile is missing: an earlier
    /// version did not have it.
    pub fn new(tree: Option<Tree<Tile>>) -> Self {
        let has = |tree: &Tree<Tile>, tile: &Tile| tree.tiles.find_pane(tile).is_some();
        let tree = tree.filter(|tree| Tile::ALL.iter().all(|tile| has(tree, tile)));
        Self { tree, panels: panels::registry(), open: OpenScreen::default(), over: Over::Nothing }
    }

    /// How the tiles lie now.
    pub fn tree(&self) -> Option<&Tree<Tile>> {
        self.tree.as_ref()
    }

    /// Applies a command about the view itself; gives any other back.
    pub fn apply(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::ResetLayout => self.tree = None,
            Command::ToggleTile(tile) => self.toggle(tile),
            Command::TogglePalette => {
                let is_open = matches!(self.over, Over::Palette(_));
                self.over = if is_open { Over::Nothing } else { Over::Palette(Palette::default()) };
            }
            Command::ToggleHelp => {
                self.over = if matches!(self.over, Over::Help) { Over::Nothing } else { Over::Help };
            }
            Command::AskClearCache => self.over = Over::ClearCache,
            other => return Some(other),
        }
        None
    }

    /// Asks for a path inside the window, where no dialog can be opened.
    pub fn ask_for_path(&mut self, kind: DialogKind, suggested: String) {
        self.over = Over::Path(PathPrompt::new(kind, suggested));
    }

    /// Draws everything.
    pub fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        if matches!(self.over, Over::Nothing) {
            actions::keys(cx, ui.ctx());
        }
        let bar = Frame::new().fill(cx.theme.raised).inner_margin(Margin::symmetric(8, 0));
        let bar = egui::Panel::top("toolbar").frame(bar).exact_size(toolbar::HEIGHT).show_separator_line(true);
        bar.show(ui, |ui| toolbar::ui(cx, &|tile| is_visible(self.tree.as_ref(), tile), ui));
        let central = Frame::new().fill(if cx.graph.is_some() { cx.theme.base } else { cx.theme.panel });
        CentralPanel::no_frame().frame(central).show(ui, |ui| {
            if cx.graph.is_some() {
                self.tiles_ui(cx, ui);
            } else {
                self.open.ui(cx, ui);
            }
        });
        let close = match &mut self.over {
            Over::Nothing => false,
            Over::Palette(palette) => palette.ui(cx, ui.ctx()),
            Over::Help => help::ui(cx, ui.ctx()),
            Over::Path(prompt) => prompt.ui(cx, ui.ctx()),
            Over::ClearCache => clear_cache::ui(cx, ui.ctx()),
        };
        if close {
            self.over = Over::Nothing;
        }
        drop_ui(cx, ui);
    }

    fn tiles_ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let room = Room::of(ui.ctx().content_rect().size());
        let tree = self.tree.get_or_insert_with(|| default_tree(room));
        tree.ui(&mut Behaviour { cx, panels: &mut self.panels }, ui);
    }

    fn toggle(&mut self, tile: Tile) {
        let Some(tree) = &mut self.tree else { return };
        if let Some(id) = tree.tiles.find_pane(&tile) {
            let shown = tree.is_visible(id);
            tree.set_visible(id, !shown);
            if !shown {
                tree.make_active(|candidate, _| candidate == id);
            }
        }
    }
}

fn is_visible(tree: Option<&Tree<Tile>>, tile: Tile) -> bool {
    tree.is_none_or(|tree| tree.tiles.find_pane(&tile).is_some_and(|id| tree.is_visible(id)))
}

/// While files hover over the window: where they may be dropped. Once they are: their commands.
fn drop_ui(cx: &ViewContext<'_>, ui: &Ui) {
    let (hovering, dropped) = ui.input(|input| {
        let dropped: Vec<_> = input.raw.dropped_files.iter().map(|file| file.path().to_owned()).collect();
        (!input.raw.hovered_files.is_empty(), dropped)
    });
    for path in dropped {
        cx.send(Command::OpenPath(path));
    }
    if hovering {
        let layer = egui::LayerId::new(egui::Order::Foreground, Id::unique("drop"));
        let painter = ui.ctx().layer_painter(layer);
        let rect = ui.ctx().content_rect();
        painter.rect_filled(rect, 0.0, cx.theme.base.gamma_multiply(0.8));
        let font = egui::TextStyle::Heading.resolve(ui.style());
        painter.text(rect.center(), Align2::CENTER_CENTER, cx.words.open.drop_here, font, cx.theme.text_strong);
    }
}

/// How tiles and tabs look, and what is drawn in them.
struct Behaviour<'a, 'b> {
    cx: &'a ViewContext<'b>,
    panels: &'a mut BTreeMap<Tile, Box<dyn Panel>>,
}

impl Behavior<Tile> for Behaviour<'_, '_> {
    fn pane_ui(&mut self, ui: &mut Ui, _: TileId, tile: &mut Tile) -> UiResponse {
        let frame = Frame::new().fill(self.cx.theme.panel).inner_margin(Margin::same(8));
        frame.show(ui, |ui| {
            ui.set_min_size(ui.available_size());
            if let Some(panel) = self.panels.get_mut(tile) {
                ui.push_id(*tile, |ui| panel.ui(self.cx, ui));
            }
        });
        UiResponse::None
    }

    fn tab_title_for_pane(&mut self, tile: &Tile) -> egui::WidgetText {
        RichText::new(tile.title(&self.cx.words.titles)).small().into()
    }

    fn on_tab_button(&mut self, tiles: &mut Tiles<Tile>, id: TileId, response: egui::Response) -> egui::Response {
        if let Some(tile) = tiles.get_pane(&id).copied() {
            response.context_menu(|ui| {
                if ui.button(self.cx.words.shell.hide_tile).clicked() {
                    self.cx.send(Command::ToggleTile(tile));
                }
            });
        }
        response
    }

    fn retain_pane(&mut self, tile: &Tile) -> bool {
        self.panels.contains_key(tile)
    }

    fn simplification_options(&self) -> SimplificationOptions {
        SimplificationOptions { all_panes_must_have_tabs: true, ..SimplificationOptions::default() }
    }

    fn gap_width(&self, _: &egui::Style) -> f32 {
        GRID
    }

    fn min_size(&self) -> f32 {
        64.0
    }

    fn tab_bar_height(&self, _: &egui::Style) -> f32 {
        24.0
    }

    fn tab_title_spacing(&self, _: &Visuals) -> f32 {
        8.0
    }

    fn tab_bar_color(&self, _: &Visuals) -> Color32 {
        self.cx.theme.raised
    }

    fn tab_bg_color(&self, _: &Visuals, _: &Tiles<Tile>, _: TileId, state: &TabState) -> Color32 {
        if state.active { self.cx.theme.panel } else { Color32::TRANSPARENT }
    }

    fn tab_outline_stroke(&self, _: &Visuals, _: &Tiles<Tile>, _: TileId, _: &TabState) -> Stroke {
        Stroke::NONE
    }

    fn tab_bar_hline_stroke(&self, _: &Visuals) -> Stroke {
        Stroke::NONE
    }

    fn tab_text_color(&self, _: &Visuals, _: &Tiles<Tile>, _: TileId, state: &TabState) -> Color32 {
        if state.active { self.cx.theme.text_strong } else { self.cx.theme.text_weak }
    }
}
