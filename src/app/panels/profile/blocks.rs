//! A bar a block, by part.

use egui::{Align2, FontId, Pos2, Rect, RichText, Role, Sense, Ui, WidgetInfo, vec2};

use super::{Shown, color};
use crate::app::plots::paint::quiet;
use crate::app::plots::profile::Bar;
use crate::app::theme::{MONO, SMALL};
use crate::units::{duration, percent};

/// Height of a bar's row, in points.
pub(super) const ROW: f32 = 18.0;
/// Width of the names before the bars, and of the times behind them, in points.
const NAME: f32 = 64.0;
const TIME: f32 = 66.0;

pub(super) fn ui(shown: &Shown<'_>, ui: &mut Ui) {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    ui.spacing_mut().item_spacing.y = 0.0;
    ui.horizontal_wrapped(|ui| {
        if shown.is_wide {
            ui.label(RichText::new(words.blocks).small().strong().color(tokens.text));
        }
        let all = shown.view.total.secs.max(f64::MIN_POSITIVE);
        for (group, effort) in &shown.view.groups {
            let (rect, _) = ui.allocate_exact_size(vec2(8.0, 14.0), Sense::hover());
            let square = Rect::from_center_size(rect.center(), vec2(8.0, 8.0));
            ui.painter().rect_filled(square, 1.0, color(*group, tokens));
            ui.add_space(-4.0);
            ui.label(quiet(format!("{} {}", (words.group)(*group), percent(effort.secs / all)), tokens));
        }
    });
    let longest = shown.view.longest();
    for bar in &shown.view.bars {
        bar_ui(shown, ui, bar, longest);
    }
}

fn bar_ui(shown: &Shown<'_>, ui: &mut Ui, bar: &Bar, longest: f64) {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let (row, response) = ui.allocate_exact_size(vec2(ui.available_width(), ROW), Sense::hover());
    let name = bar.block.map_or_else(|| words.outside.to_owned(), |block| (words.block)(block));
    let time = duration(bar.secs());
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, format!("{}: {name} {time}", words.blocks_name)));
    let painter = ui.painter();
    let left = Pos2::new(row.left(), row.center().y);
    painter.text(left, Align2::LEFT_CENTER, &name, FontId::proportional(SMALL), tokens.text_weak);
    let right = Pos2::new(row.right(), row.center().y);
    painter.text(right, Align2::RIGHT_CENTER, time, FontId::monospace(MONO), tokens.text);
    let whole = (row.width() - NAME - TIME).max(0.0);
    let mut begin = row.left() + NAME;
    for (group, secs) in &bar.parts {
        let width = whole * (secs / longest) as f32;
        let part = Rect::from_min_size(Pos2::new(begin, row.top() + 3.0), vec2(width, ROW - 6.0));
        painter.rect_filled(part, 0.0, color(*group, tokens));
        begin += width;
    }
    response.on_hover_ui(|ui| {
        ui.label(RichText::new(name).strong());
        for (group, secs) in &bar.parts {
            let share = percent(secs / bar.secs().max(f64::MIN_POSITIVE));
            ui.label(format!("{} {} · {share}", (words.group)(*group), duration(*secs)));
        }
    });
}
