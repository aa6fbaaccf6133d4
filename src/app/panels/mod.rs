//! The tiles of the window, one file each.

pub mod compare;
pub mod hardware;
pub mod inspector;
pub mod live;
pub mod log;
pub mod profile;
pub mod recipe;
pub mod sweep;
pub mod trade_off;
pub mod trials;
pub mod whole;

use std::collections::BTreeMap;

use crate::app::context::ViewContext;
use crate::app::layout::Tile;

/// One tile. Its struct holds view state (filter text, sort column) and caches; domain state comes from the context.
pub trait Panel {
    /// The tab's title.
    fn title(&self) -> &'static str;

    /// Draws the tile. Harmless when run twice in a frame; asks for changes through [`ViewContext::send`] only.
    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut egui::Ui);
}

/// Every panel by its tile.
pub fn registry() -> BTreeMap<Tile, Box<dyn Panel>> {
    [
        (Tile::Recipe, Box::<recipe::RecipePanel>::default() as Box<dyn Panel>),
        (Tile::Whole, Box::<whole::WholePanel>::default()),
        (Tile::Sweep, Box::<sweep::SweepPanel>::default()),
        (Tile::TradeOff, Box::<trade_off::TradeOffPanel>::default()),
        (Tile::Latency, Box::<live::LiveLatencyPanel>::default()),
        (Tile::Memory, Box::<live::LiveMemoryPanel>::default()),
        (Tile::Quality, Box::<live::LiveQualityPanel>::default()),
        (Tile::Compare, Box::<compare::ComparePanel>::default()),
        (Tile::Inspector, Box::<inspector::InspectorPanel>::default()),
        (Tile::Profile, Box::<profile::ProfilePanel>::default()),
        (Tile::Trials, Box::<trials::TrialsPanel>::default()),
        (Tile::Hardware, Box::<hardware::HardwarePanel>::default()),
        (Tile::Log, Box::<log::LogPanel>::default()),
    ]
    .into()
}
