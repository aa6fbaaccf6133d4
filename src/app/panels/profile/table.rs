//! Every operation with its time, what it reaches and what limits it.

use egui::{Align2, CursorIcon, FontId, Pos2, Rect, Role, Sense, Ui, WidgetInfo, vec2};

use super::{Shown, color};
use crate::app::plots::profile::{Column, Sort};
use crate::app::theme::{HEADER_HEIGHT, MONO, ROW_HEIGHT, SMALL};
use crate::measure::roofline::Effort;
use crate::model::Operation;
use crate::units::{count, duration, per_second, percent, significant};

/// Width below which a row has no room for all numbers, in points.
const NARROW: f32 = 480.0;

/// Where a column's text stands, as a share of the width: numbers end there, words begin there.
const PLACES: [(f32, Align2); 6] = [
    (0.0, Align2::LEFT_CENTER),
    (0.37, Align2::RIGHT_CENTER),
    (0.52, Align2::RIGHT_CENTER),
    (0.64, Align2::RIGHT_CENTER),
    (0.79, Align2::RIGHT_CENTER),
    (0.81, Align2::LEFT_CENTER),
];

/// Draws the table; gives the order asked for.
pub(super) fn ui(shown: &Shown<'_>, ui: &mut Ui, sort: Sort) -> Sort {
    ui.spacing_mut().item_spacing.y = 0.0;
    let sort = header_ui(shown, ui, sort);
    for (index, row) in shown.view.rows.iter().enumerate() {
        row_ui(shown, ui, index, row);
    }
    sort
}

fn header_ui(shown: &Shown<'_>, ui: &mut Ui, sort: Sort) -> Sort {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let (rect, _) = ui.allocate_exact_size(vec2(ui.available_width(), HEADER_HEIGHT), Sense::hover());
    let names = [words.operation_column, words.time, words.flops, words.bytes, words.ceiling, words.bound_by];
    let mut after = sort;
    let mut begin = rect.left();
    for ((column, name), (place, align)) in Column::ALL.into_iter().zip(names).zip(PLACES) {
        let at = Pos2::new(rect.left() + rect.width() * place, rect.center().y);
        // A column of numbers ends at its place, one of words begins there and ends before the next numbers.
        let end = match column {
            Column::Operation => rect.left() + rect.width() * 0.22,
            Column::Bound => rect.right(),
            _ => at.x,
        };
        let cell = Rect::from_min_max(Pos2::new(begin, rect.top()), Pos2::new(end, rect.bottom()));
        begin = end;
        let response =
            ui.interact(cell, ui.scope_id().with(name), Sense::click()).on_hover_cursor(CursorIcon::PointingHand);
        response.widget_info(|| WidgetInfo::labeled(Role::Button, true, (words.sort_by)(name)));
        let is_sorted = sort.column == column;
        let arrow = match (is_sorted, sort.descending) {
            (false, _) => "",
            (true, true) => " ▾",
            (true, false) => " ▴",
        };
        let is_strong = is_sorted || response.hovered();
        let shade = if is_strong { tokens.text } else { tokens.text_weak };
        ui.painter().text(at, align, format!("{name}{arrow}"), FontId::proportional(SMALL), shade);
        if response.clicked() {
            after = sort.after_click(column);
        }
        if column == Column::Ceiling {
            response.on_hover_text(words.ceiling_hint);
        }
    }
    after
}

fn row_ui(shown: &Shown<'_>, ui: &mut Ui, index: usize, (operation, effort): &(Operation, Effort)) {
    let (words, tokens) = (&shown.cx.words.profile, shown.cx.theme);
    let (rect, response) = ui.allocate_exact_size(vec2(ui.available_width(), ROW_HEIGHT), Sense::hover());
    let name = (words.operation)(*operation);
    response.widget_info(|| WidgetInfo::labeled(Role::Label, true, name));
    if index % 2 == 1 {
        ui.painter().rect_filled(rect, 0.0, tokens.stripe);
    }
    let share = effort.secs / shown.view.total.secs.max(f64::MIN_POSITIVE);
    // The share of the time lies behind the name and the time.
    let bar =
        Rect::from_min_size(Pos2::new(rect.left(), rect.bottom() - 3.0), vec2(rect.width() * 0.37 * share as f32, 2.0));
    ui.painter().rect_filled(bar, 0.0, color(operation.group(), tokens));
    let giga = |rate: Option<f64>| rate.map_or_else(String::new, |rate| significant(rate / 1e9, 3));
    // The bar shows the share where there is no room for its number.
    let time = match duration(effort.secs) {
        time if rect.width() < NARROW => time,
        time => format!("{time} {:>6}", percent_short(share)),
    };
    let bound = if rect.width() < NARROW { words.bound_short } else { words.bound };
    let texts = [
        name.to_owned(),
        time,
        giga(effort.flops_per_second().filter(|rate| *rate > 0.0)),
        giga(effort.bytes_per_second()),
        effort.ceiling_share().map_or_else(String::new, percent_short),
        bound(effort.bound()).to_owned(),
    ];
    let painter = ui.painter().with_clip_rect(rect.intersect(ui.clip_rect()));
    for ((text, (place, align)), column) in texts.into_iter().zip(PLACES).zip(Column::ALL) {
        let at = Pos2::new(rect.left() + rect.width() * place, rect.center().y);
        let (font, shade) = match column {
            Column::Operation => (FontId::proportional(if rect.width() < NARROW { SMALL } else { MONO }), tokens.text),
            Column::Bound => (FontId::proportional(SMALL), tokens.text_weak),
            _ => (FontId::monospace(SMALL), tokens.text),
        };
        painter.text(at, align, text, font, shade);
    }
    response.on_hover_ui(|ui| card_ui(shown, ui, *operation, effort));
}

/// Whole per cent from ten on: a column has no room for more.
fn percent_short(fraction: f64) -> String {
    if fraction >= 0.0995 { format!("{} %", count((fraction * 100.0).round() as u64)) } else { percent_two(fraction) }
}

fn percent_two(fraction: f64) -> String {
    format!("{} %", significant(fraction * 100.0, 2))
}

/// What there is to know of one operation.
pub(super) fn card_ui(shown: &Shown<'_>, ui: &mut Ui, operation: Operation, effort: &Effort) {
    let words = &shown.cx.words.profile;
    ui.label(egui::RichText::new((words.operation)(operation)).strong());
    let time = format!("{} · {}", duration(effort.secs), percent(effort.secs / shown.view.total.secs));
    ui.label(format!("{time} · × {}", effort.n));
    let rates = [
        effort.flops_per_second().filter(|rate| *rate > 0.0).map(|rate| per_second(rate, "FLOP/s")),
        effort.bytes_per_second().map(|rate| per_second(rate, "B/s")),
        effort.intensity().map(|intensity| format!("{} {}", significant(intensity, 3), words.intensity)),
    ];
    ui.label(rates.into_iter().flatten().collect::<Vec<_>>().join(" · "));
    if let Some(share) = effort.ceiling_share() {
        ui.label(format!("{} {} · {}", percent(share), words.ceiling, (words.bound)(effort.bound())));
    }
    let same = |found: &&crate::study::OperationProfile| found.operation == operation;
    let products = shown.pass.operations.iter().filter(same).filter_map(|found| found.product.as_deref());
    let products: std::collections::BTreeSet<&str> = products.collect();
    for product in products {
        ui.label(crate::app::plots::paint::quiet(product, shown.cx.theme));
    }
}
