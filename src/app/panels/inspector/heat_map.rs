//! The magnitudes of the weights as a picture that is moved and zoomed.
//!
//! Squares of the zoom that is seen become textures when they are first seen, and stay: moving and zooming uploads
//! nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use egui::{Color32, ColorImage, Pos2, Rect, Response, Sense, TextureHandle, TextureOptions, Ui, Vec2, pos2, vec2};

use super::{Section, Shown, choice_ui, missing_ui, title_ui};
use crate::app::plots::paint::quiet;
use crate::app::theme::{Tokens, UNTINTED};
use crate::units::significant;
use crate::worker::heat_map::{HeatMap, Pooling};

/// Cells along a side of a texture.
const TILE: usize = 512;
/// Textures that are held, a mebibyte each; all are let go when there would be more.
const MAX_TILES: usize = 96;
/// The most points that one weight may take up.
const MAX_SCALE: f32 = 32.0;
/// The fewest points that the shorter side takes up when the map is fitted.
const MIN_SIDE: f32 = 48.0;

/// What of the map is seen, and its textures.
#[derive(Default)]
pub(super) struct HeatMapView {
    pooling: Pooling,
    place: Option<Place>,
    tiles: Tiles,
}

/// Where the map lies.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    /// Points a weight.
    scale: f32,
    /// From the corner of the area to that of the map, in points.
    offset: Vec2,
}

/// The textures of one map in one theme.
#[derive(Default)]
struct Tiles {
    of: Option<(Arc<HeatMap>, bool)>,
    /// The byte where the colors begin.
    low: u8,
    held: BTreeMap<(bool, usize, usize, usize), TextureHandle>,
}

impl HeatMapView {
    pub(super) fn ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let words = &shown.cx.words.inspector;
        let map = match &shown.inspection.map {
            Some(Ok(map)) => map,
            other => {
                title_ui(ui, shown, Section::Map, |_| {});
                let reason = other.as_ref().and_then(|why| why.as_ref().err()).map_or("", |why| why.as_str());
                return missing_ui(ui, shown, words.no_map, reason);
            }
        };
        self.tiles.belong_to(map, shown.cx.theme.dark, || self.place = None);
        let mut zoom = 1.0;
        title_ui(ui, shown, Section::Map, |ui| {
            for (pooling, text) in [(Pooling::Max, words.peak), (Pooling::Mean, words.average)] {
                choice_ui(ui, &mut self.pooling, pooling, text, words.pooling).on_hover_text(words.pooling_hint);
            }
            for (text, name, factor) in [("+", words.zoom_in, 2.0), ("−", words.zoom_out, 0.5)] {
                if ui.small_button(text).accessible_name(name).on_hover_text(name).clicked() {
                    zoom = factor;
                }
            }
            if ui.small_button(words.fit).clicked() {
                self.place = None;
            }
        });
        let area = vec2(ui.available_width(), (ui.available_height() - 18.0).max(60.0));
        let (rect, response) = ui.allocate_exact_size(area, Sense::click_and_drag());
        let response = response.accessible_name(words.map_name);
        let shape = vec2(map.shape[1] as f32, map.shape[0] as f32);
        let place = self.place.unwrap_or_else(|| Place::fitted(shape, area));
        let place = moved(place, &response, ui, (shape, area), zoom);
        self.place = (!response.double_clicked()).then_some(place).filter(|place| *place != Place::fitted(shape, area));
        let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
        painter.rect_filled(rect, 0.0, shown.cx.theme.input);
        self.paint(map, shown.cx.theme, &painter, rect, place);
        hover_ui(&response, shown, map, rect, place, self.pooling);
        legend_ui(ui, shown, map, self.tiles.low);
    }

    /// Draws the cells that are seen, from the zoom whose cells are no smaller than a pixel.
    fn paint(&mut self, map: &HeatMap, tokens: &Tokens, painter: &egui::Painter, area: Rect, place: Place) {
        let pixels = place.scale * painter.ctx().pixels_per_point();
        let number = level_for(map, pixels);
        let level = &map.levels[number];
        let width = place.scale * (map.factor << number) as f32;
        let origin = area.min + place.offset;
        let seen = |from: f32, to: f32, cells: usize| {
            let first = (from / width / TILE as f32).floor().max(0.0) as usize;
            let last = (to / width / TILE as f32).ceil().max(0.0) as usize;
            first..last.min(cells.div_ceil(TILE))
        };
        let (low, high) = (area.min - origin, area.max - origin);
        for row in seen(low.y, high.y, level.shape[0]) {
            for column in seen(low.x, high.x, level.shape[1]) {
                let texture = self.tiles.get(painter.ctx(), self.pooling, (number, row, column), tokens);
                let Some(texture) = texture else { continue };
                let cells = texture.size_vec2();
                let corner = origin + vec2(column as f32, row as f32) * TILE as f32 * width;
                let uv = Rect::from_min_max(pos2(0.0, 0.0), pos2(1.0, 1.0));
                painter.image(texture.id(), Rect::from_min_size(corner, cells * width), uv, UNTINTED);
            }
        }
    }
}

impl Place {
    /// The whole map in the middle of the area; of a thin one the beginning.
    fn fitted(shape: Vec2, area: Vec2) -> Self {
        let whole = (area.x / shape.x).min(area.y / shape.y);
        let scale = whole.max(MIN_SIDE.min(area.y) / shape.x.min(shape.y)).min(MAX_SCALE);
        let offset = ((area - shape * scale) * 0.5).max(Vec2::ZERO);
        Self { scale, offset }
    }

    /// Zoomed about a point of the area.
    fn zoomed(self, factor: f32, about: Vec2, least: f32) -> Self {
        let scale = (self.scale * factor).clamp(least.min(MAX_SCALE), MAX_SCALE);
        Self { scale, offset: about - (about - self.offset) * (scale / self.scale) }
    }

    /// Moved so far that the map fills the area, or lies in its middle where it is smaller.
    fn held(self, shape: Vec2, area: Vec2) -> Self {
        let hold = |offset: f32, side: f32, room: f32| {
            if side <= room { (room - side) * 0.5 } else { offset.clamp(room - side, 0.0) }
        };
        let size = shape * self.scale;
        Self { offset: vec2(hold(self.offset.x, size.x, area.x), hold(self.offset.y, size.y, area.y)), ..self }
    }
}

/// The place after what pointer and buttons did.
fn moved(place: Place, response: &Response, ui: &Ui, (shape, area): (Vec2, Vec2), button: f32) -> Place {
    let mut place = place;
    let least = (area.x / shape.x).min(area.y / shape.y);
    if button != 1.0 {
        place = place.zoomed(button, area * 0.5, least);
    }
    if response.dragged() {
        place.offset += response.drag_delta();
    }
    if let Some(pointer) = response.hover_pos() {
        let zoom = ui.input(|input| input.zoom_delta());
        if zoom != 1.0 {
            place = place.zoomed(zoom, pointer - response.rect.min, least);
        }
    }
    place.held(shape, area)
}

/// The zoom whose cells are at least a pixel wide, so that no cell is skipped, or the coarsest.
fn level_for(map: &HeatMap, pixels_a_weight: f32) -> usize {
    let cell = pixels_a_weight * map.factor as f32;
    let wanted = (1.0 / cell.max(f32::MIN_POSITIVE)).log2().ceil().max(0.0) as usize;
    wanted.min(map.levels.len() - 1)
}

impl Tiles {
    /// Lets the textures of another map or theme go; `on_other_map` is called for another map.
    fn belong_to(&mut self, map: &Arc<HeatMap>, dark: bool, on_other_map: impl FnOnce()) {
        match &self.of {
            Some((of, theme)) if Arc::ptr_eq(of, map) && *theme == dark => return,
            Some((of, _)) if Arc::ptr_eq(of, map) => {}
            _ => on_other_map(),
        }
        self.held.clear();
        self.low = low_of(map);
        self.of = Some((Arc::clone(map), dark));
    }

    fn get(
        &mut self,
        ctx: &egui::Context,
        pooling: Pooling,
        (number, row, column): (usize, usize, usize),
        tokens: &Tokens,
    ) -> Option<&TextureHandle> {
        let (map, _) = self.of.as_ref()?;
        let level = map.levels.get(number)?;
        let key = (pooling == Pooling::Mean, number, row, column);
        if !self.held.contains_key(&key) {
            if self.held.len() >= MAX_TILES {
                self.held.clear();
            }
            let image = image(level.bytes(pooling), level.shape, [row, column], &tokens.heat(self.low));
            self.held.insert(key, ctx.load_texture("heat map", image, TextureOptions::NEAREST));
        }
        self.held.get(&key)
    }
}

/// The byte that one in twenty weights lie below: the colors begin there. Looks at a million weights at most.
fn low_of(map: &HeatMap) -> u8 {
    let bytes = &map.levels[0].max;
    let step = bytes.len().div_ceil(1 << 20).max(1);
    let mut counts = [0_usize; 256];
    bytes.iter().step_by(step).for_each(|byte| counts[usize::from(*byte)] += 1);
    let n: usize = counts[1..].iter().sum();
    let mut below = 0;
    for byte in 1..=253_u8 {
        below += counts[usize::from(byte)];
        if below * 20 > n {
            return byte;
        }
    }
    1
}

/// The cells of one square in the theme's colors.
fn image(bytes: &[u8], [rows, columns]: [usize; 2], [row, column]: [usize; 2], colors: &[Color32; 256]) -> ColorImage {
    let (top, left) = (row * TILE, column * TILE);
    let (height, width) = (TILE.min(rows - top), TILE.min(columns - left));
    let lines = bytes[top * columns..].chunks(columns).take(height);
    let pixels = lines.flat_map(|line| &line[left..left + width]).map(|byte| colors[usize::from(*byte)]).collect();
    ColorImage::new([width, height], pixels)
}

/// Tells which weights are under the pointer, and how large they are.
fn hover_ui(response: &Response, shown: &Shown<'_>, map: &HeatMap, area: Rect, place: Place, pooling: Pooling) {
    let Some(pointer) = response.hover_pos() else { return };
    let words = &shown.cx.words.inspector;
    let number = level_for(map, place.scale * response.ctx.pixels_per_point());
    let Some((cell, width)) = cell_at(map, number, pointer - area.min, place) else { return };
    let level = &map.levels[number];
    let magnitude = significant(map.magnitude(level.bytes(pooling)[cell[0] * level.shape[1] + cell[1]]), 3);
    let first = cell.map(|at| at * width);
    let text = if width == 1 {
        (words.cell)(first[0], first[1], &magnitude)
    } else {
        let last = [0, 1].map(|side| ((cell[side] + 1) * width).min(map.shape[side]) - 1);
        (words.cells)(first, last, &magnitude)
    };
    response.clone().on_hover_ui_at_pointer(|ui| {
        ui.label(text);
        ui.label(quiet(words.map_hint, shown.cx.theme));
    });
}

/// Row and column of the cell at a point of the area, and the weights along its side.
fn cell_at(map: &HeatMap, number: usize, at: Vec2, place: Place) -> Option<([usize; 2], usize)> {
    let width = map.factor << number;
    let weight = (at - place.offset) / place.scale;
    let is_inside = weight.min_elem() >= 0.0 && weight.x < map.shape[1] as f32 && weight.y < map.shape[0] as f32;
    is_inside.then(|| ([weight.y as usize / width, weight.x as usize / width], width))
}

/// The colors with the magnitudes that they stand for.
fn legend_ui(ui: &mut Ui, shown: &Shown<'_>, map: &HeatMap, low: u8) {
    let tokens = shown.cx.theme;
    ui.horizontal(|ui| {
        ui.spacing_mut().item_spacing.x = 4.0;
        ui.label(quiet(format!("≤ {}", significant(map.magnitude(low), 2)), tokens));
        let (bar, _) = ui.allocate_exact_size(vec2(96.0, 8.0), Sense::hover());
        let colors = tokens.heat(low);
        for step in 0..96_u8 {
            let left = bar.left() + f32::from(step);
            let color = colors[usize::from(low) + usize::from(step) * usize::from(255 - low) / 95];
            let rect = Rect::from_min_size(Pos2::new(left, bar.top()), vec2(1.0, bar.height()));
            ui.painter().rect_filled(rect, 0.0, color);
        }
        ui.label(quiet(significant(map.largest, 2), tokens));
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::theme::DARK;

    fn map(shape: [usize; 2]) -> HeatMap {
        let weights: Vec<f32> = (0..shape[0] * shape[1]).map(|i| (i % 251) as f32 / 250.0).collect();
        HeatMap::of(&weights, shape)
    }

    #[test]
    fn cells_are_never_smaller_than_a_pixel() {
        let map = map([1024, 600]);
        let cases = [(3.0, 0), (1.0, 0), (0.9, 1), (0.5, 1), (0.3, 2), (0.25, 2), (1e-9, map.levels.len() - 1)];
        for (scale, expected) in cases {
            assert_eq!(level_for(&map, scale), expected, "{scale}");
        }
    }

    #[test]
    fn zooming_keeps_the_weight_under_the_pointer() {
        let (shape, area) = (vec2(600.0, 1024.0), vec2(300.0, 200.0));
        let fitted = Place::fitted(shape, area);
        assert!((fitted.scale - 200.0 / 1024.0).abs() < 1e-6 && fitted.offset.y.abs() < 1e-3);
        let map = map([1024, 600]);
        let about = vec2(150.0, 60.0);
        let (before, _) = cell_at(&map, 0, about, fitted).unwrap();
        let zoomed = fitted.zoomed(4.0, about, fitted.scale).held(shape, area);
        let (after, _) = cell_at(&map, 0, about, zoomed).unwrap();
        assert!(before[0].abs_diff(after[0]) <= 1, "{before:?} {after:?}");
        let far = Place { offset: vec2(-1e6, 1e6), ..zoomed }.held(shape, area);
        assert_eq!(far.offset, vec2(area.x - shape.x * far.scale, 0.0).max(far.offset));
        assert!(fitted.zoomed(1e9, about, fitted.scale).scale <= MAX_SCALE);
        assert!((fitted.zoomed(1e-9, about, fitted.scale).scale - fitted.scale).abs() < 1e-6);
    }

    #[test]
    fn a_thin_map_can_be_seen() {
        let place = Place::fitted(vec2(288.0, 32_000.0), vec2(300.0, 200.0));
        assert!((place.scale * 288.0 - MIN_SIDE).abs() < 1e-3 && place.offset.y == 0.0);
    }

    #[test]
    fn colors_begin_where_weights_begin() {
        let mut weights = vec![0.0_f32; 400];
        weights[..100].fill(1e-3);
        weights[100] = 1.0;
        let map = HeatMap::of(&weights, [20, 20]);
        assert_eq!(low_of(&map), map.levels[0].max[0], "zeros do not count");
        for weights in [vec![0.0; 4], vec![0.5; 4]] {
            assert_eq!(low_of(&HeatMap::of(&weights, [2, 2])), 1);
        }
        let colors = DARK.heat(100);
        assert_eq!([colors[0], colors[1], colors[100]], [DARK.input, DARK.selection, DARK.selection]);
        assert_eq!(colors[255], DARK.text_strong);
    }

    #[test]
    fn squares_hold_their_cells() {
        let map = map([600, 1030]);
        let level = &map.levels[0];
        let colors = DARK.heat(low_of(&map));
        let last = image(&level.max, level.shape, [1, 2], &colors);
        assert_eq!(last.size, [1030 - 2 * TILE, 600 - TILE]);
        assert_eq!(last.pixels[0], colors[usize::from(level.max[TILE * 1030 + 2 * TILE])]);
        assert_eq!(*last.pixels.last().unwrap(), colors[usize::from(*level.max.last().unwrap())]);
    }
}
