//! Rounding and activations.

use egui::Ui;

use super::{Form, count_ui, number_ui};
use crate::recipe::{
    ActivationRange, Activations, AwqOptions, DynamicOptions, GptqOptions, HqqOptions, ImatrixOptions, LayerChange,
    Rounding, StaticOptions,
};

impl Form<'_> {
    pub(super) fn rounding_ui(&mut self, ui: &mut Ui) {
        let words = self.words;
        let current = self.methods.rounding.same();
        Self::name_ui(words.rounding, ui);
        ui.horizontal(|ui| {
            for (rounding, note) in Rounding::all().into_iter().zip(words.rounding_note) {
                let selected = current.is_some_and(|current| current.name() == rounding.name());
                self.choice_ui([words.rounding, rounding.name(), note], selected, LayerChange::Rounding(rounding), ui);
            }
        });
        ui.end_row();
        let Some(current) = current.filter(|rounding| *rounding != Rounding::Nearest) else { return };
        ui.label("");
        ui.horizontal(|ui| match current {
            Rounding::Nearest => {}
            Rounding::Gptq(options) => self.gptq_ui(options, ui),
            Rounding::Awq(options) => {
                let of = |options| LayerChange::Rounding(Rounding::Awq(options));
                if let Some(grid) = count_ui(words.grid, options.grid, 1..=100, ui) {
                    self.change = Some(of(AwqOptions { grid, ..options }));
                }
                let flipped = of(AwqOptions { clip: !options.clip, ..options });
                self.check_ui(words.clip, words.rounding_note[2], options.clip, flipped, ui);
            }
            Rounding::Hqq(options) => {
                let of = |options| LayerChange::Rounding(Rounding::Hqq(options));
                if let Some(iterations) = count_ui(words.iterations, options.iterations, 1..=u16::MAX, ui) {
                    self.change = Some(of(HqqOptions { iterations, ..options }));
                }
                if let Some(norm) = number_ui([words.norm, ""], options.norm, 1e-3..=1.0, 0.005, ui) {
                    self.change = Some(of(HqqOptions { norm, ..options }));
                }
            }
            Rounding::Imatrix(options) => {
                let flipped = LayerChange::Rounding(Rounding::Imatrix(ImatrixOptions { uniform: !options.uniform }));
                self.check_ui(words.uniform, words.uniform_note, options.uniform, flipped, ui);
            }
        });
        ui.end_row();
    }

    fn gptq_ui(&mut self, options: GptqOptions, ui: &mut Ui) {
        let words = self.words;
        let of = |options| LayerChange::Rounding(Rounding::Gptq(options));
        let damping = [words.damping, words.damping_note];
        if let Some(damping) = number_ui(damping, options.damping, 1e-8..=1.0, 0.005, ui) {
            self.change = Some(of(GptqOptions { damping, ..options }));
        }
        if let Some(block) = count_ui(words.block, options.block, 1..=u16::MAX, ui) {
            self.change = Some(of(GptqOptions { block, ..options }));
        }
        let flipped = of(GptqOptions { act_order: !options.act_order, ..options });
        self.check_ui(words.act_order, words.act_order_note, options.act_order, flipped, ui);
        let flipped = of(GptqOptions { static_groups: !options.static_groups, ..options });
        self.check_ui(words.static_groups, words.static_groups_note, options.static_groups, flipped, ui);
    }

    pub(super) fn activations_ui(&mut self, ui: &mut Ui) {
        let words = self.words;
        let current = self.methods.activations.same();
        Self::name_ui(words.activations, ui);
        ui.horizontal(|ui| {
            for (activations, note) in Activations::all().into_iter().zip(words.activations_note) {
                let selected = current.is_some_and(|current| current.name() == activations.name());
                let change = LayerChange::Activations(activations);
                self.choice_ui([words.activations, activations.name(), note], selected, change, ui);
            }
        });
        ui.end_row();
        match current {
            None | Some(Activations::Float) => {}
            Some(Activations::Int8Dynamic(options)) => {
                ui.label("");
                ui.horizontal(|ui| {
                    self.smoothing_ui(
                        options.smoothing,
                        &|smoothing| Activations::Int8Dynamic(DynamicOptions { smoothing }),
                        ui,
                    );
                });
                ui.end_row();
            }
            Some(Activations::Int8Static(options)) => {
                self.option_name_ui(words.range, ui);
                ui.horizontal(|ui| self.range_ui(options, ui));
                ui.end_row();
                ui.label("");
                ui.horizontal(|ui| {
                    self.smoothing_ui(
                        options.smoothing,
                        &|smoothing| Activations::Int8Static(StaticOptions { smoothing, ..options }),
                        ui,
                    );
                });
                ui.end_row();
            }
        }
    }

    fn range_ui(&mut self, options: StaticOptions, ui: &mut Ui) {
        let of = |range| LayerChange::Activations(Activations::Int8Static(StaticOptions { range, ..options }));
        let percentile = match options.range {
            ActivationRange::Percentile(value) => Some(value),
            ActivationRange::Absmax | ActivationRange::Mse => None,
        };
        for (text, range, selected) in [
            ("absmax", ActivationRange::Absmax, options.range == ActivationRange::Absmax),
            ("percentile", ActivationRange::Percentile(99.9), percentile.is_some()),
            ("mse", ActivationRange::Mse, options.range == ActivationRange::Mse),
        ] {
            self.choice_ui([self.words.range, text, ""], selected, of(range), ui);
        }
        if let Some(value) = percentile
            && let Some(value) = number_ui(["%", ""], value, 50.0..=100.0, 0.05, ui)
        {
            self.change = Some(of(ActivationRange::Percentile(value)));
        }
    }

    fn smoothing_ui(&mut self, current: Option<f64>, of: &dyn Fn(Option<f64>) -> Activations, ui: &mut Ui) {
        let words = self.words;
        let flipped = of(if current.is_some() { None } else { Some(0.5) });
        let change = LayerChange::Activations(flipped);
        self.check_ui(words.smoothing, words.smoothing_note, current.is_some(), change, ui);
        if let Some(value) = current
            && let Some(value) = number_ui(["α", ""], value, 0.0..=1.0, 0.005, ui)
        {
            self.change = Some(LayerChange::Activations(of(Some(value))));
        }
    }
}
