//! The singular values, and what a rank keeps.

use egui::{Label, Slider, Ui, vec2};
use egui_plot::{GridMark, HPlacement, Line, PlotPoint, PlotPoints, VLine};

use super::{Section, Shown, Target, missing_ui, title_ui};
use crate::app::plots::paint::{self, line_legend, quiet};
use crate::model::LayerPath;
use crate::recipe::{LayerSettings, LowRank, LowRankMethod};
use crate::units::{number, percent};
use crate::worker::inspection::Spectrum;

/// Shares of the energy whose ranks are named.
const SHARES: [(f64, &str); 3] = [(0.9, "90 %"), (0.95, "95 %"), (0.99, "99 %")];

/// The rank that is looked at, and the curves.
#[derive(Default)]
pub(super) struct SpectrumView {
    rank: Option<(LayerPath, usize)>,
    cache: Option<((LayerPath, u64), Curves)>,
    refused: Option<((Target, usize), Option<String>)>,
}

/// What is drawn of a spectrum.
struct Curves {
    /// Rank and share of the energy that it keeps.
    energy: Vec<PlotPoint>,
    /// Number of a singular value and its share of the first.
    values: Vec<PlotPoint>,
    /// The smallest rank for each of [`SHARES`].
    ranks: [usize; 3],
}

impl Curves {
    fn new(spectrum: &Spectrum) -> Self {
        let sums = spectrum.cumulative();
        let total = sums.last().copied().filter(|total| *total > 0.0).unwrap_or(1.0);
        let first = spectrum.singular_values.first().copied().filter(|first| *first > 0.0).unwrap_or(1.0);
        let values = spectrum.singular_values.iter().enumerate();
        Self {
            energy: sums.iter().enumerate().map(|(rank, sum)| PlotPoint::new(rank as f64, sum / total)).collect(),
            values: values.map(|(number, value)| PlotPoint::new(number as f64 + 1.0, value / first)).collect(),
            ranks: SHARES.map(|(share, _)| spectrum.rank_for(share)),
        }
    }
}

impl SpectrumView {
    pub(super) fn ui(&mut self, shown: &Shown<'_>, ui: &mut Ui) {
        let words = &shown.cx.words.inspector;
        let spectrum = match &shown.inspection.view.spectrum {
            Some(Ok(spectrum)) => spectrum,
            Some(Err(reason)) => {
                title_ui(ui, shown, Section::Spectrum, |_| {});
                return missing_ui(ui, shown, words.no_spectrum, reason);
            }
            None => {
                title_ui(ui, shown, Section::Spectrum, |_| {});
                return missing_ui(ui, shown, words.no_spectrum, "");
            }
        };
        if self.cache.as_ref().is_none_or(|(key, _)| *key != shown.key()) {
            self.cache = Some((shown.key(), Curves::new(spectrum)));
        }
        let Some((_, curves)) = &self.cache else { return };
        let full = spectrum.singular_values.len();
        let mut rank = match &self.rank {
            Some((layer, rank)) if *layer == shown.layer.path => (*rank).min(full),
            _ => curves.ranks[0],
        };
        title_ui(ui, shown, Section::Spectrum, |ui| {
            for ((_, share), at) in SHARES.into_iter().zip(curves.ranks) {
                let text = (words.rank_for)(share, at);
                if ui.small_button(quiet(text, shown.cx.theme)).clicked() {
                    rank = at;
                }
            }
        });
        curves_ui(ui, shown, curves, rank);
        self.rank_ui(ui, shown, spectrum, &mut rank);
        self.rank = Some((shown.layer.path.clone(), rank));
    }

    /// The slider, what its rank keeps and costs, and the button that uses it.
    fn rank_ui(&mut self, ui: &mut Ui, shown: &Shown<'_>, spectrum: &Spectrum, rank: &mut usize) {
        let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
        let full = spectrum.singular_values.len().max(1);
        ui.horizontal(|ui| {
            ui.spacing_mut().slider_width = (ui.available_width() - 150.0).max(60.0);
            let slider = Slider::new(rank, 1..=full).drag_value_speed(1.0);
            ui.add(slider).accessible_name(words.rank);
            let refused = self.refusal(shown, *rank);
            let button = ui.add_enabled(refused.is_none(), egui::Button::new(words.use_rank).small());
            let button = button.on_hover_text(words.use_rank_hint);
            let clicked = button.clicked();
            if let Some(reason) = refused {
                button.on_disabled_hover_text(reason);
            }
            if clicked {
                shown.apply(thin(shown.layer.shape, *rank));
            }
        });
        let energy = spectrum.energy(*rank);
        let share = share(shown.layer.shape, *rank);
        let cost = if share < 1.0 { (words.parameters)(&percent(share)) } else { words.not_smaller.to_owned() };
        let text = format!("{} · {cost}", (words.kept)(&percent(energy), &percent(1.0 - energy)));
        ui.add(Label::new(quiet(&text, tokens)).truncate()).on_hover_text(text);
    }

    /// Why the rank cannot be used, if it cannot.
    fn refusal(&mut self, shown: &Shown<'_>, rank: usize) -> Option<&str> {
        if share(shown.layer.shape, rank) >= 1.0 {
            return Some(shown.cx.words.inspector.not_smaller);
        }
        let key = (shown.target(), rank);
        if self.refused.as_ref().is_none_or(|(known, _)| *known != key) {
            let refused = shown.refusal(thin(shown.layer.shape, rank));
            self.refused = Some((key, refused.map(|reason| (shown.cx.words.inspector.refused)(&reason))));
        }
        self.refused.as_ref().and_then(|(_, reason)| reason.as_deref())
    }
}

fn curves_ui(ui: &mut Ui, shown: &Shown<'_>, curves: &Curves, rank: usize) {
    let (words, tokens) = (&shown.cx.words.inspector, shown.cx.theme);
    // Both go from none to all, over the same height: each has an axis of its own in the color of its line.
    let energy = paint::y_axis(tokens).tick_label_color(tokens.variant).label(quiet(words.energy, tokens));
    let energy = energy.formatter(|mark: GridMark, _: &_| percent(mark.value));
    let relative = paint::y_axis(tokens).tick_label_color(tokens.reference).label(quiet(words.relative, tokens));
    let relative = relative.formatter(|mark: GridMark, _: &_| number(mark.value)).placement(HPlacement::Right);
    let plot = paint::plot("spectrum", tokens)
        .allow_double_click_reset(true)
        .include_y(0.0)
        .include_y(1.0)
        .height((ui.available_height() - 46.0).max(60.0))
        .set_margin_fraction(vec2(0.01, 0.06))
        .custom_x_axes(vec![paint::x_axis(tokens).label(quiet(words.rank_axis, tokens))])
        .custom_y_axes(vec![energy, relative]);
    let plotted = plot.show(ui, |plot_ui| {
        let line = |points| Line::new("", PlotPoints::Borrowed(points)).width(1.8).allow_hover(false);
        plot_ui.line(line(&curves.values).color(tokens.reference));
        plot_ui.line(line(&curves.energy).color(tokens.variant));
        plot_ui.vline(VLine::new("", rank as f64).color(tokens.text_weak).width(1.0).allow_hover(false));
    });
    let frame = *plotted.transform.frame();
    let response = plotted.response.accessible_name(words.spectrum_plot);
    let painter = ui.painter().with_clip_rect(response.rect);
    let at = frame.center_top() + vec2(4.0, frame.height() * 0.4);
    let at = line_legend(&painter, at, tokens.variant, words.energy, tokens);
    line_legend(&painter, at, tokens.reference, words.relative, tokens);
}

/// Parameters of two factors of this rank over those of the matrix.
fn share([rows, row_len]: [usize; 2], rank: usize) -> f64 {
    rank as f64 * (rows + row_len) as f64 / (rows * row_len).max(1) as f64
}

/// Settings of a layer of two thin factors.
fn thin(shape: [usize; 2], rank: usize) -> LayerSettings {
    let low_rank = Some(LowRank::with_ratio(LowRankMethod::Svd, share(shape, rank)));
    LayerSettings { low_rank, ..LayerSettings::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_end_at_the_whole_energy_and_zeros_are_drawn() {
        let curves = Curves::new(&Spectrum { singular_values: vec![2.0, 1.0, 0.0] });
        assert_eq!(curves.energy.iter().map(|point| point.y).collect::<Vec<_>>(), [0.0, 0.8, 1.0, 1.0]);
        assert_eq!(curves.values[1], PlotPoint::new(2.0, 0.5));
        assert_eq!(curves.ranks, [2, 2, 2]);
        let zeros = Curves::new(&Spectrum { singular_values: vec![0.0; 4] });
        assert!(zeros.energy.iter().chain(&zeros.values).all(|point| point.y == 0.0));
    }
}
