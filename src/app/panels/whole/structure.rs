//! Channels, heads and blocks that are removed.

use egui::Ui;

use super::{blocks_left, choice_ui, option_ui, preview, quiet_ui, row_ui, rows_ui};
use crate::app::context::ViewContext;
use crate::app::widgets::choice::Choice;
use crate::app::widgets::format_menu::Legality;
use crate::app::widgets::number::{drag_ui, percent_ui};
use crate::model::{BlockShape, ModelGraph};
use crate::recipe::{BlockCut, BlockPart, BlockScore, ChannelScore, Recipe, Structure, SurvivorUpdate, WidthCut};

/// Blocks a point of dragging.
pub(super) const BLOCK_SPEED: f64 = 0.1;

const SCORES: [(&str, ChannelScore); 3] = [
    ("weight_norm", ChannelScore::WeightNorm),
    ("activation_norm", ChannelScore::ActivationNorm),
    ("taylor", ChannelScore::Taylor),
];

/// Which kind of width a control is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Channels,
    Heads,
}

pub(super) fn ui(cx: &ViewContext<'_>, graph: &ModelGraph, structure: &mut Structure, ui: &mut Ui) {
    let words = &cx.words.whole;
    rows_ui("structure", ui, |ui| {
        cut_ui(cx, graph, Width::Channels, &mut structure.ffn, ui);
        cut_ui(cx, graph, Width::Heads, &mut structure.heads, ui);
        blocks_ui(cx, graph, structure, ui);
        let cuts = [structure.ffn, structure.heads];
        if cuts.into_iter().flatten().any(|cut| cut.fraction > 0.0) {
            row_ui(words.update, "", ui, |ui| {
                for ((text, update), note) in
                    [("least_squares", SurvivorUpdate::LeastSquares), ("none", SurvivorUpdate::None)]
                        .into_iter()
                        .zip(words.update_note)
                {
                    if choice_ui(words.update, text, note, structure.update == update, Ok(None), ui) {
                        structure.update = update;
                    }
                }
            });
        }
        ui.label(words.widths).on_hover_text(words.widths_note);
        preview::widths_ui(cx, graph, ui);
        ui.end_row();
    });
}

/// One width: its share, the widths that come of it, and the options once something is removed.
fn cut_ui(cx: &ViewContext<'_>, graph: &ModelGraph, width: Width, cut: &mut Option<WidthCut>, ui: &mut Ui) {
    let words = &cx.words.whole;
    let (name, note) = match width {
        Width::Channels => (words.ffn, words.ffn_note),
        Width::Heads => (words.heads, words.heads_note),
    };
    row_ui(name, note, ui, |ui| {
        let fraction = cut.map_or(0.0, |cut| cut.fraction);
        if let Some(fraction) = percent_ui(&(words.removed)(name), fraction, 0.0..=95.0, 100.0, ui) {
            *cut = if fraction > 0.0 {
                let base = cut.unwrap_or(WidthCut {
                    fraction: 0.0,
                    score: ChannelScore::default(),
                    blocks: None,
                    align: None,
                });
                Some(WidthCut { fraction, ..base })
            } else {
                None
            };
        }
        quiet_ui(cx, &preview::widths_text(cx, graph, width == Width::Heads), ui);
    });
    let Some(cut) = cut else { return };
    option_ui(cx, words.score, ui, |ui| {
        for (text, score) in SCORES {
            if choice_ui(name, text, "", cut.score == score, Ok(None), ui) {
                cut.score = score;
            }
        }
    });
    option_ui(cx, words.in_blocks, ui, |ui| {
        let last = u16::try_from(graph.family.n_blocks().saturating_sub(1)).unwrap_or(u16::MAX);
        let [first_block, last_block] = cut.blocks.unwrap_or([0, last]);
        let (response, first) = drag_ui(first_block, 0..=last_block, BLOCK_SPEED, ui);
        response.accessible_name((words.first_block)(name));
        quiet_ui(cx, "–", ui);
        let (response, end) = drag_ui(last_block, first_block..=last.max(first_block), BLOCK_SPEED, ui);
        response.accessible_name((words.last_block)(name));
        if first.is_some() || end.is_some() {
            let blocks = [first.unwrap_or(first_block), end.unwrap_or(last_block)];
            cut.blocks = (blocks != [0, last]).then_some(blocks);
        }
        quiet_ui(cx, words.align, ui);
        let default = if width == Width::Channels { WidthCut::FFN_ALIGN } else { 1 };
        let (response, align) = drag_ui(cut.align.unwrap_or(default), 1..=512, 0.2, ui);
        response.accessible_name((words.align_of)(name));
        if let Some(align) = align {
            cut.align = (align != default).then_some(align);
        }
    });
}

fn blocks_ui(cx: &ViewContext<'_>, graph: &ModelGraph, structure: &mut Structure, ui: &mut Ui) {
    let words = &cx.words.whole;
    let n_blocks = u16::try_from(graph.family.n_blocks()).unwrap_or(u16::MAX);
    let base = structure.blocks.clone().unwrap_or_default();
    let [none, many, these] = words.block_modes;
    row_ui(words.blocks, "", ui, |ui| {
        let cut = structure.blocks.as_ref();
        if choice_ui(words.blocks, none, "", cut.is_none(), Ok(None), ui) {
            structure.blocks = None;
        }
        let legality = if n_blocks > 1 { Ok(None) } else { Err(crate::recipe::Problem::NothingLeft.to_string()) };
        if choice_ui(words.blocks, many, "", cut_by_count(structure), legality.clone(), ui) {
            structure.blocks = Some(BlockCut { drop: Vec::new(), count: 1, ..base.clone() });
        }
        if choice_ui(words.blocks, these, "", cut_by_list(structure), legality, ui) {
            structure.blocks = Some(BlockCut { drop: vec![n_blocks.saturating_sub(1)], count: 0, ..base.clone() });
        }
    });
    let is_list = cut_by_list(structure);
    let Some(cut) = &mut structure.blocks else { return };
    if is_list {
        ui.label("");
        let drop = ui.horizontal_wrapped(|ui| drop_ui(cx, cut, n_blocks, ui)).inner;
        ui.end_row();
        if let Some(drop) = drop {
            cut.drop = drop;
        }
        if cut.is_empty() {
            structure.blocks = None;
            return;
        }
    } else {
        row_ui("", "", ui, |ui| {
            let most = if cut.part == BlockPart::Block { n_blocks.saturating_sub(1) } else { n_blocks };
            let (response, count) = drag_ui(cut.count, 1..=most, BLOCK_SPEED, ui);
            response.accessible_name(words.block_count);
            cut.count = count.unwrap_or(cut.count);
            quiet_ui(cx, words.score, ui);
            for (text, score) in
                [("block_influence", BlockScore::BlockInfluence), ("measured_kl", BlockScore::MeasuredKl)]
            {
                if choice_ui(words.blocks, text, "", cut.score == score, Ok(None), ui) {
                    cut.score = score;
                }
            }
        });
    }
    option_ui(cx, words.part, ui, |ui| {
        for (text, part) in [("block", BlockPart::Block), ("attention", BlockPart::Attention), ("mlp", BlockPart::Mlp)]
        {
            let legality = with_blocks(cx, graph, BlockCut { part, ..cut.clone() });
            if choice_ui(words.part, text, "", cut.part == part, legality, ui) {
                cut.part = part;
            }
        }
    });
}

/// A button for each block, pressed where it goes; the last one that is left cannot. Returns the blocks that go after a
/// click.
fn drop_ui(cx: &ViewContext<'_>, cut: &BlockCut, n_blocks: u16, ui: &mut Ui) -> Option<Vec<u16>> {
    ui.spacing_mut().item_spacing.x = 2.0;
    let blocks = &cx.draft.blocks;
    let n_left = blocks.iter().filter(|block| !block.is_empty()).count();
    let mut clicked = None;
    for block in 0..n_blocks {
        let selected = cut.drop.contains(&block);
        let is_last = !selected
            && n_left == 1
            && blocks.get(usize::from(block)).is_some_and(|shape| !shape.is_empty() && is_gone(*shape, cut.part));
        let legality = if is_last { Err(crate::recipe::Problem::NothingLeft.to_string()) } else { Ok(None) };
        let (text, name) = (block.to_string(), (cx.words.whole.block_name)(block));
        let choice = Choice { text: &text, name: &name, hint: "", simulated: "" };
        if choice.ui(selected, legality, ui) {
            clicked = Some(block);
        }
    }
    let block = clicked?;
    let mut drop = cut.drop.clone();
    if drop.contains(&block) {
        drop.retain(|other| *other != block);
    } else {
        drop.push(block);
        drop.sort_unstable();
    }
    Some(drop)
}

/// Whether nothing is left of a block without this part of it.
fn is_gone(block: BlockShape, part: BlockPart) -> bool {
    let (has_heads, has_mlp) = (block.n_heads > 0, block.intermediate_size > 0);
    match part {
        BlockPart::Block => true,
        BlockPart::Attention => !has_mlp,
        BlockPart::Mlp => !has_heads,
    }
}

fn with_blocks(cx: &ViewContext<'_>, graph: &ModelGraph, cut: BlockCut) -> Legality {
    let recipe = &cx.draft.recipe;
    let structure = Structure { blocks: Some(cut), ..recipe.structure.clone() };
    blocks_left(cx, graph, &Recipe { structure, ..recipe.clone() })
}

fn cut_by_list(structure: &Structure) -> bool {
    structure.blocks.as_ref().is_some_and(|cut| !cut.drop.is_empty())
}

fn cut_by_count(structure: &Structure) -> bool {
    structure.blocks.as_ref().is_some_and(|cut| cut.drop.is_empty())
}
