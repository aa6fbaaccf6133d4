//! Sparsity, low rank and the low-rank correction.

use egui::Ui;

use super::{Form, count_ui};
use crate::app::widgets::number::percent_ui;
use crate::app::widgets::share_strip::Shares;
use crate::recipe::{
    Allocation, Correction, Group, IntFormat, LayerChange, LowRank, LowRankMethod, Pattern, RankRule, SparseStorage,
    Sparsity, SparsityMethod, SparsityScope, WeightFormat, rank_of_ratio,
};

/// What a layer gets whose amount of sparsity is not set yet.
const FIRST_FRACTION: f64 = 0.3;
/// The kept share that low rank begins with.
const FIRST_RATIO: f64 = 0.9;
/// Length of the rails of shares, in points.
const RAIL: f32 = 110.0;

impl Form<'_> {
    pub(super) fn sparsity_ui(&mut self, ui: &mut Ui) {
        let words = self.words;
        let shared = self.methods.sparsity.same();
        let current = shared.flatten();
        Self::name_ui(words.sparsity, ui);
        ui.horizontal(|ui| {
            let none = LayerChange::Sparsity(None);
            self.choice_ui([words.sparsity, words.none, ""], shared == Some(None), none, ui);
            for (method, note) in SparsityMethod::ALL.into_iter().zip(words.sparsity_note) {
                let selected = current.is_some_and(|current| current.method == method);
                let change = LayerChange::Sparsity(Some(with_method(current, method)));
                self.choice_ui([words.sparsity, method.name(), note], selected, change, ui);
            }
        });
        ui.end_row();
        let Some(sparsity) = current else { return };
        self.option_name_ui(words.amount, ui);
        ui.horizontal(|ui| self.amount_ui(sparsity, ui));
        ui.end_row();
        if sparsity.pattern.is_none() {
            self.option_name_ui(words.scope, ui);
            ui.horizontal(|ui| {
                for (text, scope) in [("matrix", SparsityScope::Matrix), ("row", SparsityScope::Row)] {
                    let change = LayerChange::Sparsity(Some(Sparsity { scope, ..sparsity }));
                    self.choice_ui([words.scope, text, words.scope_note], sparsity.scope == scope, change, ui);
                }
                let owl = sparsity.allocation == Allocation::Owl;
                let allocation = if owl { Allocation::Uniform } else { Allocation::Owl };
                let flipped = LayerChange::Sparsity(Some(Sparsity { allocation, ..sparsity }));
                self.check_ui(words.owl, words.owl_note, owl, flipped, ui);
            });
            ui.end_row();
        }
        self.option_name_ui(words.storage, ui);
        ui.horizontal(|ui| {
            let storages = [SparseStorage::Masked, SparseStorage::Bitmask].into_iter().zip(words.storages);
            for ((storage, text), note) in storages.zip(words.storage_note) {
                let change = LayerChange::Sparsity(Some(Sparsity { storage, ..sparsity }));
                self.choice_ui([words.storage, text, note], sparsity.storage == storage, change, ui);
            }
        });
        ui.end_row();
        let shares = Shares { cut: self.cut, masked: (1.0 - self.cut) * sparsity.fraction };
        self.preview_ui(shares, sparsity.pattern, ui);
    }

    fn amount_ui(&mut self, sparsity: Sparsity, ui: &mut Ui) {
        let words = self.words;
        let fraction = if sparsity.pattern.is_some() { 0.5 } else { sparsity.fraction };
        let plain = Sparsity { pattern: None, fraction, scope: sparsity.method.scope(), ..sparsity };
        let change = LayerChange::Sparsity(Some(plain));
        self.choice_ui([words.amount, words.share, ""], sparsity.pattern.is_none(), change, ui);
        for pattern in [Pattern::TWO_OF_FOUR, Pattern::FOUR_OF_EIGHT] {
            let of_pattern = Sparsity::with_pattern(sparsity.method, pattern);
            let change = LayerChange::Sparsity(Some(Sparsity { storage: sparsity.storage, ..of_pattern }));
            self.choice_ui([words.amount, &pattern.to_string(), ""], sparsity.pattern == Some(pattern), change, ui);
        }
        if sparsity.pattern.is_none()
            && let Some(fraction) = percent_ui(words.share, sparsity.fraction, 1.0..=95.0, RAIL, ui)
        {
            self.change = Some(LayerChange::Sparsity(Some(Sparsity { fraction, ..sparsity })));
        }
    }

    pub(super) fn low_rank_ui(&mut self, ui: &mut Ui) {
        let words = self.words;
        let shared = self.methods.low_rank.same();
        let current = shared.flatten();
        Self::name_ui(words.low_rank, ui);
        ui.horizontal(|ui| {
            self.choice_ui([words.low_rank, words.none, ""], shared == Some(None), LayerChange::LowRank(None), ui);
            for (text, method, note) in [
                ("svd", LowRankMethod::Svd, words.low_rank_note[0]),
                ("whitened", LowRankMethod::Whitened, words.low_rank_note[1]),
            ] {
                let selected = current.is_some_and(|current| current.method == method);
                let first = LowRank { align: self.block_len(), ..LowRank::with_ratio(method, FIRST_RATIO) };
                let base = current.unwrap_or(first);
                let change = LayerChange::LowRank(Some(LowRank { method, ..base }));
                self.choice_ui([words.low_rank, text, note], selected, change, ui);
            }
        });
        ui.end_row();
        let Some(low_rank) = current else { return };
        self.option_name_ui(words.keep, ui);
        ui.horizontal(|ui| self.rank_rule_ui(low_rank, ui));
        ui.end_row();
        ui.label("");
        ui.horizontal(|ui| {
            let (value, most) = match low_rank.rank {
                RankRule::Ratio(value) | RankRule::Energy(value) => (value, 99.9),
                RankRule::ErrorBudget(value) => (value, 90.0),
            };
            if let Some(value) = percent_ui(words.keep, value, 0.1..=most, RAIL, ui) {
                let rank = with_value(low_rank.rank, value);
                self.change = Some(LayerChange::LowRank(Some(LowRank { rank, ..low_rank })));
            }
            if let Some(align) = count_ui(words.align, low_rank.align, 1..=256, ui) {
                self.change = Some(LayerChange::LowRank(Some(LowRank { align, ..low_rank })));
            }
            let text = match (low_rank.rank, self.shape) {
                (RankRule::Ratio(ratio), Some([rows, row_len])) => {
                    (words.rank_of)(rank_of_ratio(rows, row_len, ratio, low_rank.align), rows.min(row_len))
                }
                (RankRule::Ratio(_), None) => String::new(),
                _ => words.rank_later.to_owned(),
            };
            self.option_name_ui(&text, ui);
        });
        ui.end_row();
    }

    /// The length of a block of the layers' format: ranks of factors are multiples of it.
    fn block_len(&self) -> u16 {
        match self.weights {
            Some(WeightFormat::Int(IntFormat { group: Group::Size(size), .. })) => size,
            Some(format) => format.ggml().map_or(1, |ggml| u16::try_from(ggml.block_len()).unwrap_or(1)),
            None => 1,
        }
    }

    fn rank_rule_ui(&mut self, low_rank: LowRank, ui: &mut Ui) {
        let words = self.words;
        let rules = [RankRule::Ratio(FIRST_RATIO), RankRule::Energy(0.99), RankRule::ErrorBudget(0.01)];
        for ((rank, text), note) in rules.into_iter().zip(words.rank_rules).zip(words.rank_rules_note) {
            let selected = std::mem::discriminant(&rank) == std::mem::discriminant(&low_rank.rank);
            let change = LayerChange::LowRank(Some(LowRank { rank, ..low_rank }));
            self.choice_ui([words.keep, text, note], selected, change, ui);
        }
    }

    pub(super) fn correction_ui(&mut self, ui: &mut Ui) {
        let words = self.words;
        let shared = self.methods.correction.same();
        let current = shared.flatten();
        Self::name_ui(words.correction, ui);
        ui.horizontal(|ui| {
            let none = LayerChange::Correction(None);
            self.choice_ui([words.correction, words.none, ""], shared == Some(None), none, ui);
            for (text, method) in [("svd", LowRankMethod::Svd), ("whitened", LowRankMethod::Whitened)] {
                let selected = current.is_some_and(|current| current.method == method);
                let base = current.unwrap_or(Correction { rank: 16, method });
                let change = LayerChange::Correction(Some(Correction { method, ..base }));
                self.choice_ui([words.correction, text, words.correction_note], selected, change, ui);
            }
            let most = self.shape.map_or(1024, |[rows, row_len]| rows.min(row_len) as u16);
            if let Some(correction) = current
                && let Some(rank) = count_ui(words.rank, correction.rank, 1..=most, ui)
            {
                self.change = Some(LayerChange::Correction(Some(Correction { rank, ..correction })));
            }
        });
        ui.end_row();
    }
}

/// The same amount by another method.
fn with_method(current: Option<Sparsity>, method: SparsityMethod) -> Sparsity {
    let Some(current) = current else { return Sparsity::new(method, FIRST_FRACTION) };
    let base = match current.pattern {
        Some(pattern) => Sparsity::with_pattern(method, pattern),
        None => Sparsity::new(method, current.fraction),
    };
    Sparsity { allocation: current.allocation, storage: current.storage, ..base }
}

fn with_value(rule: RankRule, value: f64) -> RankRule {
    match rule {
        RankRule::Ratio(_) => RankRule::Ratio(value),
        RankRule::Energy(_) => RankRule::Energy(value),
        RankRule::ErrorBudget(_) => RankRule::ErrorBudget(value),
    }
}
