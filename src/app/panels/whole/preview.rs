//! The widths that the structure leaves, before anything is measured.

use egui::{Rect, RichText, Sense, Stroke, StrokeKind, Ui, pos2, vec2};

use crate::app::context::ViewContext;
use crate::model::{BlockShape, ModelFamily, ModelGraph};
use crate::recipe::{BlockCut, BlockPart};

/// Height of the bars, in points.
const HEIGHT: f32 = 34.0;
/// Width of a block's two bars and the gap behind them, at most.
const STEP: f32 = 26.0;

/// `768 → 576`, with the number of blocks where only some change: `768 → 576 in 3 of 6`.
pub(super) fn widths_text(cx: &ViewContext<'_>, graph: &ModelGraph, of_heads: bool) -> String {
    let width = |shape: &BlockShape| if of_heads { shape.n_heads } else { shape.intermediate_size };
    let before = shapes(graph);
    let (Some(first), Some(least)) =
        (before.iter().map(width).max(), cx.draft.blocks.iter().map(width).filter(|n| *n > 0).min())
    else {
        return String::new();
    };
    if first == least { first.to_string() } else { format!("{first} → {least}") }
}

/// Two bars a block, heads and channels: filled where they stay, a frame where they go.
pub(super) fn widths_ui(cx: &ViewContext<'_>, graph: &ModelGraph, ui: &mut Ui) {
    let words = &cx.words.whole;
    let before = shapes(graph);
    let n = before.len().max(1) as f32;
    ui.vertical(|ui| {
        let step = (ui.available_width() / n).min(STEP);
        let (rect, response) = ui.allocate_exact_size(vec2(step * n, HEIGHT), Sense::hover());
        let (gap, bar) = (step * 0.16, step * 0.38);
        let longest = |width: fn(&BlockShape) -> usize| before.iter().map(width).max().unwrap_or(1).max(1) as f32;
        let (most_heads, most_channels) = (longest(|shape| shape.n_heads), longest(|shape| shape.intermediate_size));
        for (number, (was, is)) in before.iter().zip(&cx.draft.blocks).enumerate() {
            let left = rect.left() + step * number as f32;
            let bars = [
                (was.n_heads, is.n_heads, most_heads, left),
                (was.intermediate_size, is.intermediate_size, most_channels, left + bar + gap * 0.5),
            ];
            for (was, is, most, x) in bars {
                let column = |height: f32| {
                    Rect::from_min_max(pos2(x, rect.bottom() - HEIGHT * height), pos2(x + bar, rect.bottom()))
                };
                ui.painter().rect_filled(column(is as f32 / most), 1.0, cx.theme.variant);
                if is < was {
                    let frame = Stroke::new(1.0, cx.theme.faded(cx.theme.text_weak));
                    ui.painter().rect_stroke(column(was as f32 / most), 1.0, frame, StrokeKind::Inside);
                }
            }
        }
        let hovered = response.hover_pos().map(|at| ((at.x - rect.left()) / step) as usize);
        if let Some((block, (was, is))) =
            hovered.and_then(|number| before.iter().zip(&cx.draft.blocks).enumerate().nth(number))
        {
            let change = |was: usize, is: usize| if was == is { was.to_string() } else { format!("{was} → {is}") };
            let heads = change(was.n_heads, is.n_heads);
            response.on_hover_text((words.block_widths)(
                block,
                &heads,
                &change(was.intermediate_size, is.intermediate_size),
            ));
        }
        let text = match &cx.draft.recipe.structure.blocks {
            Some(cut) if cut.drop.is_empty() && cut.count > 0 => format!("{}: {}", part(cut), words.chosen_later),
            _ => cx.words.methods.preview.to_owned(),
        };
        ui.label(RichText::new(text).small().color(cx.theme.text_weak)).on_hover_text(words.widths_note);
    });
}

/// `2 block`, `1 attention`: how many of what go.
fn part(cut: &BlockCut) -> String {
    let name = match cut.part {
        BlockPart::Block => "block",
        BlockPart::Attention => "attention",
        BlockPart::Mlp => "mlp",
    };
    format!("{} × {name}", cut.count)
}

/// Widths of the blocks as the checkpoint has them.
pub(super) fn shapes(graph: &ModelGraph) -> Vec<BlockShape> {
    let ModelFamily::Llama(config) = &graph.family;
    (0..config.n_blocks).map(|block| config.block_shape(block)).collect()
}
