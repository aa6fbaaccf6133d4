//! Which tiles there are and how they lie.

use egui_tiles::{Container, Linear, LinearDir, TileId, Tiles, Tree};
use serde::{Deserialize, Serialize};

use crate::app::words::TitleWords;

/// A tile of the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is the panel of the same name")]
pub enum Tile {
    Recipe,
    Whole,
    Sweep,
    TradeOff,
    Latency,
    Memory,
    Quality,
    Compare,
    Inspector,
    Profile,
    Trials,
    Hardware,
    Log,
}

impl Tile {
    /// Every tile, in the order of the View menu.
    pub const ALL: [Self; 13] = [
        Self::Recipe,
        Self::Whole,
        Self::Sweep,
        Self::TradeOff,
        Self::Latency,
        Self::Memory,
        Self::Quality,
        Self::Compare,
        Self::Inspector,
        Self::Profile,
        Self::Trials,
        Self::Hardware,
        Self::Log,
    ];

    /// The tab's title.
    pub fn title(self, words: &TitleWords) -> &'static str {
        match self {
            Self::Recipe => words.recipe,
            Self::Whole => words.whole,
            Self::Sweep => words.sweep,
            Self::TradeOff => words.trade_off,
            Self::Latency => words.latency,
            Self::Memory => words.memory,
            Self::Quality => words.quality,
            Self::Compare => words.compare,
            Self::Inspector => words.inspector,
            Self::Profile => words.profile,
            Self::Trials => words.trials,
            Self::Hardware => words.hardware,
            Self::Log => words.log,
        }
    }
}

/// How much room the default arrangement has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Below 1440 × 860 points: tiles of a kind share tabs.
    Compact,
    /// Every tile has a place of its own.
    Wide,
}

impl Room {
    /// The room in a window of this size, in points.
    pub fn of(size: egui::Vec2) -> Self {
        if size.x < 1440.0 || size.y < 860.0 { Self::Compact } else { Self::Wide }
    }
}

/// The default arrangement.
pub fn default_tree(room: Room) -> Tree<Tile> {
    let mut tiles = Tiles::default();
    let trade_off = tabs(&mut tiles, &[Tile::TradeOff]);
    let compare = tabs(&mut tiles, &[Tile::Compare, Tile::Inspector, Tile::Profile]);
    let root = match room {
        Room::Wide => {
            let recipe = tabs(&mut tiles, &[Tile::Recipe, Tile::Whole]);
            let sweep = tabs(&mut tiles, &[Tile::Sweep]);
            let left = linear(&mut tiles, LinearDir::Vertical, &[(recipe, 0.58), (sweep, 0.42)]);
            let live = [Tile::Latency, Tile::Memory, Tile::Quality].map(|tile| (tabs(&mut tiles, &[tile]), 1.0));
            let live = linear(&mut tiles, LinearDir::Horizontal, &live);
            let centre = linear(&mut tiles, LinearDir::Vertical, &[(trade_off, 0.58), (live, 0.42)]);
            let top = linear(&mut tiles, LinearDir::Horizontal, &[(left, 0.29), (centre, 0.46), (compare, 0.25)]);
            let trials = tabs(&mut tiles, &[Tile::Trials]);
            let strip =
                [(Tile::Hardware, 0.68), (Tile::Log, 0.32)].map(|(tile, share)| (tabs(&mut tiles, &[tile]), share));
            let strip = linear(&mut tiles, LinearDir::Horizontal, &strip);
            linear(&mut tiles, LinearDir::Vertical, &[(top, 0.65), (trials, 0.22), (strip, 0.13)])
        }
        Room::Compact => {
            let left = tabs(&mut tiles, &[Tile::Recipe, Tile::Whole, Tile::Sweep]);
            let live = tabs(&mut tiles, &[Tile::Latency, Tile::Memory, Tile::Quality]);
            let centre = linear(&mut tiles, LinearDir::Vertical, &[(trade_off, 0.58), (live, 0.42)]);
            let top = linear(&mut tiles, LinearDir::Horizontal, &[(left, 0.335), (centre, 0.405), (compare, 0.26)]);
            let bottom = tabs(&mut tiles, &[Tile::Trials, Tile::Hardware, Tile::Log]);
            linear(&mut tiles, LinearDir::Vertical, &[(top, 0.73), (bottom, 0.27)])
        }
    };
    Tree::new(egui::Id::unique("tiles"), root, tiles)
}

fn tabs(tiles: &mut Tiles<Tile>, panes: &[Tile]) -> TileId {
    let children = panes.iter().map(|pane| tiles.insert_pane(*pane)).collect();
    tiles.insert_tab_tile(children)
}

fn linear(tiles: &mut Tiles<Tile>, dir: LinearDir, children: &[(TileId, f32)]) -> TileId {
    let mut linear = Linear::new(dir, children.iter().map(|(child, _)| *child).collect());
    for (child, share) in children {
        linear.shares.set_share(*child, *share);
    }
    tiles.insert_container(Container::Linear(linear))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_arrangements_hold_every_tile_once() {
        for room in [Room::Compact, Room::Wide] {
            let tree = default_tree(room);
            for tile in Tile::ALL {
                let found =
                    tree.tiles.tiles().filter(|held| matches!(held, egui_tiles::Tile::Pane(pane) if *pane == tile));
                assert_eq!(found.count(), 1, "{tile:?} in {room:?}");
            }
        }
    }
}
