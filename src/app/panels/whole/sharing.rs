//! Layers of neighbouring blocks that share one tensor.

use egui::{ComboBox, Ui};

use super::structure::BLOCK_SPEED;
use super::{choice_ui, option_ui, quiet_ui, rows_ui};
use crate::app::context::ViewContext;
use crate::app::widgets::number::{drag_ui, percent_ui};
use crate::model::{LayerRole, ModelGraph};
use crate::recipe::{Sharing, SharingMethod};

/// The kept share that a shared basis begins with.
const FIRST_RATIO: f64 = 0.7;

pub(super) fn ui(cx: &ViewContext<'_>, graph: &ModelGraph, groups: &mut Vec<Sharing>, ui: &mut Ui) {
    let words = &cx.words.whole;
    let last = u16::try_from(graph.family.n_blocks().saturating_sub(1)).unwrap_or(u16::MAX);
    let mut removed = None;
    if !groups.is_empty() {
        rows_ui("sharing", ui, |ui| {
            for (number, group) in groups.iter_mut().enumerate() {
                group_ui(cx, (number + 1, last), group, &mut removed, ui);
            }
        });
    }
    if let Some(number) = removed {
        groups.remove(number);
    }
    let free = free_group(groups, last);
    let add = egui::Button::new(words.add_group);
    // In a row: a column of its own would stretch it.
    let add = ui.horizontal(|ui| ui.add_enabled(free.is_some(), add)).inner;
    if add.on_hover_text(words.sharing_note).clicked() {
        groups.extend(free);
    }
}

fn group_ui(
    cx: &ViewContext<'_>,
    (number, last): (usize, u16),
    group: &mut Sharing,
    removed: &mut Option<usize>,
    ui: &mut Ui,
) {
    let words = &cx.words.whole;
    let name = (words.group_role)(number);
    ui.horizontal(|ui| {
        let remove = ui.small_button("×").accessible_name((words.remove_group)(number));
        if remove.on_hover_text((words.remove_group)(number)).clicked() {
            *removed = Some(number - 1);
        }
        let combo = ComboBox::from_id_salt(&name).selected_text(group.role.name()).width(84.0);
        let shown = combo.show_ui(ui, |ui| {
            for role in roles() {
                ui.selectable_value(&mut group.role, role, role.name());
            }
        });
        shown.response.accessible_name(&name);
    });
    ui.horizontal(|ui| {
        quiet_ui(cx, words.in_blocks, ui);
        let [first_block, last_block] = group.blocks;
        let (response, first) = drag_ui(first_block, 0..=last_block.saturating_sub(1), BLOCK_SPEED, ui);
        response.accessible_name((words.first_block)(&name));
        quiet_ui(cx, "–", ui);
        let (response, end) = drag_ui(last_block, first_block.saturating_add(1)..=last, BLOCK_SPEED, ui);
        response.accessible_name((words.last_block)(&name));
        group.blocks = [first.unwrap_or(first_block), end.unwrap_or(last_block)];
        for ((text, method), note) in
            [("tie", SharingMethod::Tie), ("basis", SharingMethod::Basis)].into_iter().zip(words.method_note)
        {
            if choice_ui(&name, text, note, group.method == method, Ok(None), ui) {
                group.method = method;
                group.ratio = (method == SharingMethod::Basis).then_some(FIRST_RATIO);
            }
        }
    });
    ui.end_row();
    if let Some(ratio) = &mut group.ratio {
        option_ui(cx, words.ratio, ui, |ui| {
            let name = format!("{} {name}", words.ratio);
            *ratio = percent_ui(&name, *ratio, 1.0..=100.0, 100.0, ui).unwrap_or(*ratio);
        });
    }
}

/// Roles that layers of a block have.
fn roles() -> impl Iterator<Item = LayerRole> {
    LayerRole::ALL.into_iter().filter(|role| !matches!(role, LayerRole::Embedding | LayerRole::Head))
}

/// Two neighbouring blocks, from the last ones on, whose layers of some role share nothing yet.
fn free_group(groups: &[Sharing], last: u16) -> Option<Sharing> {
    let pairs = (1..=last).rev().map(|second| [second - 1, second]);
    let is_free = |role: LayerRole, [first, second]: [u16; 2]| {
        !groups.iter().any(|group| group.role == role && group.blocks[0] <= second && first <= group.blocks[1])
    };
    let found = roles().flat_map(|role| pairs.clone().map(move |blocks| (role, blocks)));
    let (role, blocks) = found.into_iter().find(|(role, blocks)| is_free(*role, *blocks))?;
    Some(Sharing { role, blocks, method: SharingMethod::Tie, ratio: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_group_never_overlaps_another() {
        let mut groups = Vec::new();
        while let Some(group) = free_group(&groups, 3) {
            let clash = |other: &Sharing| {
                other.role == group.role && other.blocks[0] <= group.blocks[1] && group.blocks[0] <= other.blocks[1]
            };
            assert!(!groups.iter().any(clash));
            groups.push(group);
        }
        assert_eq!(groups.len(), 2 * 7, "two pairs of four blocks for each of seven roles");
        assert_eq!(free_group(&[], 0), None, "one block has nobody to share with");
    }
}
