//! Which channels of the input are large.

use egui::{Button, Label, RichText, Ui, vec2};
use egui_plot::{GridMark, Line, PlotPoint, PlotPoints};

use super::{Section, Shown, calibration, choice_ui, missing_ui, title_ui};
use crate::app::command::{Command, DialogKind};
use crate::app::plots::decimate::min_max;
use crate::app::plots::paint::{self, line_legend, quiet};
use crate::app::plots::scale::log_marks;
use crate::model::LayerPath;
use crate::units::{count, significant};
use crate::worker::inspection::InputRanges;

/// In which order channels are drawn, and their curves.
#[derive(Default)]
pub(super) struct InputsView {
    by_channel: bool,
    cache: Option<((LayerPath, u64), bool, Curves)>,
}

/// Decimal logarithms over the place of a channel.
struct Curves {
    largest: Vec<PlotPoint>,
    typical: Vec<PlotPoint>,
    /// Where zeros lie, if there are any: a power of ten below all that have a logarithm.
    floor: f64,
    /// Channels that are zero all the time.
    n_zero: usize,
}

impl Curves {
    fn new(inputs: &InputRanges, by_channel: bool) -> Self {
        let magnitudes = inputs.max_abs.iter().chain(&inputs.mean_abs).copied();
        let least = magnitudes.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let has_zero = inputs.max_abs.iter().chain(&inputs.mean_abs).any(|value| *value == 0.0);
        let floor = match has_zero {
            false => f64::NEG_INFINITY,
            true if least.is_finite() => (least.log10() - 0.5).floor(),
            true => -1.0,
        };
        let position = |value: f64| if value > 0.0 { value.log10() } else { floor };
        let curve = |values: &[f64]| {
            let mut values = values.to_vec();
            if !by_channel {
                values.sort_by(|a, b| b.total_cmp(a));
            }
            let points = values.iter().enumerate();
            let points = points.map(|(at, value)| PlotPoint::new(at as f64, position(*value))).collect();
            min_max(points, 2_000)
        };
        let n_zero = inputs.max_abs.iter().filter(|value| **value == 0.0).count();
        Self { largest: curve(&inputs.max_abs), typical: curve(&inputs.mean_abs), floor, n_zero }
    }
}

impl InputsView {
    /// Returns whether inputs are calibrated from now on, when the user says so.
    pub(super) fn ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) -> Option<bool> {
        let words = &shown.cx.words.inspector;
        let inputs = &shown.inspection.view.inputs;
        let mut is_calibrated = shown.inspection.request.calibration.is_some();
        let was_calibrated = is_calibrated;
        title_ui(ui, shown, Section::Inputs, |ui| {
            if matches!(inputs, Some(Ok(_))) {
                choice_ui(ui, &mut self.by_channel, false, words.sorted, words.order);
                choice_ui(ui, &mut self.by_channel, true, words.by_channel, words.order);
            }
            if was_calibrated {
                let button = Button::selectable(true, RichText::new(words.calibrate).small()).small();
                is_calibrated = !ui.add(button).on_hover_text(words.calibrated_hint).clicked();
            }
        });
        match inputs {
            Some(Ok(inputs)) => self.inputs_ui(shown, inputs, ui),
            Some(Err(reason)) => missing_ui(ui, shown, words.not_calibrated, reason),
            None if was_calibrated => missing_ui(ui, shown, words.not_calibrated, ""),
            None => is_calibrated = offer_ui(ui, shown),
        }
        (is_calibrated != was_calibrated).then_some(is_calibrated)
    }

    fn inputs_ui(&mut self, shown: &Shown<'_>, inputs: &InputRanges, ui: &mut Ui) {
        let words = &shown.cx.words.inspector;
        let by_channel = self.by_channel;
        if self.cache.as_ref().is_none_or(|(key, order, _)| *key != shown.key() || *order != by_channel) {
            self.cache = Some((shown.key(), by_channel, Curves::new(inputs, by_channel)));
        }
        let Some((.., curves)) = &self.cache else { return };
        let tokens = shown.cx.theme;
        let floor = curves.floor;
        let y_axis = paint::y_axis(tokens).formatter(move |mark: GridMark, _: &_| tick(mark.value, floor));
        let x_label = if by_channel { words.channel } else { words.sorted_channels };
        let plot = paint::plot("inputs", tokens)
            .allow_double_click_reset(true)
            .height((ui.available_height() - 18.0).max(60.0))
            .set_margin_fraction(vec2(0.01, 0.06))
            .y_grid_spacer(move |input| log_marks(floor, input.bounds.0, input.bounds.1))
            .custom_x_axes(vec![paint::x_axis(tokens).label(quiet(x_label, tokens))])
            .custom_y_axes(vec![y_axis]);
        let plotted = plot.show(ui, |plot_ui| {
            let line = |points| Line::new("", PlotPoints::Borrowed(points)).width(1.6).allow_hover(false);
            plot_ui.line(line(&curves.typical).color(tokens.reference));
            plot_ui.line(line(&curves.largest).color(tokens.variant));
        });
        let frame = *plotted.transform.frame();
        let response = plotted.response.accessible_name(words.inputs_plot);
        let painter = ui.painter().with_clip_rect(response.rect);
        let at = frame.right_top() + vec2(-100.0, 4.0);
        let at = line_legend(&painter, at, tokens.variant, words.largest, tokens);
        line_legend(&painter, at, tokens.reference, words.typical, tokens);
        let largest = inputs.max_abs.iter().copied().fold(0.0, f64::max);
        let mut text =
            format!("{} {} · {}", words.largest, significant(largest, 3), (words.tokens)(&count(inputs.n_tokens)));
        if curves.n_zero > 0 {
            text = format!("{text} · {}", (words.zero_channels)(curves.n_zero));
        }
        ui.add(Label::new(quiet(&text, tokens)).truncate()).on_hover_text(text);
    }
}

fn tick(position: f64, floor: f64) -> String {
    if position <= floor { "0".to_owned() } else { significant(10_f64.powf(position), 1) }
}

/// Why there is nothing, and the button that changes it. Returns whether it was clicked.
fn offer_ui(ui: &mut Ui, shown: &Shown<'_>) -> bool {
    let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
    let text = calibration(shown.cx).and_then(|calibration| calibration.data);
    let mut is_wanted = false;
    ui.vertical_centered(|ui| {
        ui.add_space((ui.available_height() * 0.5 - 46.0).max(4.0));
        ui.label(RichText::new(words.not_calibrated).strong().color(tokens.text));
        ui.allocate_ui_with_layout(
            vec2(ui.available_width().min(300.0), 0.0),
            egui::Layout::top_down(egui::Align::Center),
            |ui| ui.label(quiet(words.not_calibrated_hint, tokens)),
        );
        match text {
            Some(path) => {
                let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
                let button = ui.button(words.calibrate).on_hover_text((words.calibrate_hint)(&name));
                is_wanted = button.clicked();
            }
            None => {
                if ui.button(shown.cx.words.commands.open_calibration).clicked() {
                    shown.cx.send(Command::Dialog(DialogKind::OpenCalibration));
                }
            }
        }
    });
    is_wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_are_sorted_or_stay() {
        let inputs = InputRanges { n_tokens: 3, max_abs: vec![1.0, 100.0, 0.0], mean_abs: vec![0.1, 10.0, 0.0] };
        let y = |points: &[PlotPoint]| points.iter().map(|point| point.y.round()).collect::<Vec<_>>();
        let sorted = Curves::new(&inputs, false);
        assert_eq!(y(&sorted.largest), [2.0, 0.0, -2.0]);
        assert_eq!(y(&Curves::new(&inputs, true).typical), [-1.0, 1.0, -2.0]);
        assert_eq!((sorted.floor, sorted.n_zero), (-2.0, 1), "a zero lies below all that are none");
        assert_eq!([-2.0, -1.0, 2.0].map(|at| tick(at, sorted.floor)), ["0", "0.1", "100"]);
        let silent = InputRanges { n_tokens: 3, max_abs: vec![0.0; 2], mean_abs: vec![0.0; 2] };
        assert_eq!(y(&Curves::new(&silent, true).largest), [-1.0, -1.0]);
    }
}
