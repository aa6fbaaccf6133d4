//! Numbers that only the user changes: what a file says stays as it is while it is shown, however odd.

use std::ops::RangeInclusive;

use egui::emath::Numeric;
use egui::{DragValue, Response, Slider, SliderClamping, Ui};

use crate::units::number;

/// A number that is dragged or typed; returns what the user made of it. `range` is widened by a value beyond it, so that
/// looking at such a value does not change it.
pub fn drag_ui<N: Numeric>(value: N, range: RangeInclusive<N>, speed: f64, ui: &mut Ui) -> (Response, Option<N>) {
    let mut now = value;
    let mut drag = DragValue::new(&mut now).range(widened(value, range)).clamp_existing_to_range(false).speed(speed);
    if !N::INTEGRAL {
        drag = drag.custom_formatter(|value, _| number(value));
    }
    let response = ui.add(drag.update_while_editing(false));
    let edit = response.changed().then_some(now).filter(|now| is_other(value, *now));
    (response, edit)
}

/// A fraction as per cent, on a rail of `width` points; returns what the user made of it. `range` is in per cent.
pub fn percent_ui(name: &str, fraction: f64, range: RangeInclusive<f64>, width: f32, ui: &mut Ui) -> Option<f64> {
    let value = 100.0 * fraction;
    let mut now = value;
    ui.spacing_mut().slider_width = width;
    let slider = Slider::new(&mut now, widened(value, range)).clamping(SliderClamping::Edits).suffix(" %");
    let slider = slider.custom_formatter(|value, _| number(value)).update_while_editing(false);
    let is_changed = ui.add(slider).accessible_name(name).changed();
    (is_changed && is_other(value, now)).then_some(now / 100.0)
}

fn widened<N: Numeric>(value: N, range: RangeInclusive<N>) -> RangeInclusive<N> {
    let (first, last) = range.into_inner();
    (if value < first { value } else { first })..=(if value > last { value } else { last })
}

/// Whether one number reads unlike the other: leaving a field without typing is no edit.
fn is_other<N: Numeric>(before: N, after: N) -> bool {
    number(before.to_f64()) != number(after.to_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_in_the_value_that_is_there() {
        for (value, expected) in [(4, 2..=8), (1, 1..=8), (9, 2..=9)] {
            assert_eq!(widened(value, 2..=8), expected);
        }
    }

    #[test]
    fn a_number_that_reads_the_same_is_no_edit() {
        assert!(!is_other(100.0 * 0.07, 7.0) && !is_other(1e-8, 1e-8) && !is_other(3_u16, 3));
        assert!(is_other(33.3, 33.0) && is_other(1e-8, 2e-8) && is_other(16_777_216_u32, 16_777_217));
    }
}
