//! What a setting keeps of a layer, as a bar: kept, zero in place, removed. Shares only: no weight is looked at.

use egui::{Rect, Sense, Stroke, StrokeKind, Ui, Vec2, pos2, vec2};

use crate::app::theme::Tokens;
use crate::recipe::Pattern;

/// Shares of a layer's weights; what neither is cut nor masked is kept.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Shares {
    /// Removed by structure: the tensor is smaller.
    pub cut: f64,
    /// Zero in place: the tensor is as large as before.
    pub masked: f64,
}

impl Shares {
    /// Kept share.
    pub fn kept(self) -> f64 {
        (1.0 - self.cut - self.masked).max(0.0)
    }

    /// Whether everything is kept.
    pub fn is_whole(self) -> bool {
        self.cut == 0.0 && self.masked == 0.0
    }
}

/// Draws a strip of this size: what is kept filled, zeros hatched inside the tensor, removed parts as an empty frame.
pub fn ui(shares: Shares, pattern: Option<Pattern>, size: Vec2, tokens: &Tokens, ui: &mut Ui) -> egui::Response {
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    paint(shares, pattern, rect, tokens, ui);
    response
}

/// As [`ui`], in a place that is there already.
pub fn paint(shares: Shares, pattern: Option<Pattern>, rect: Rect, tokens: &Tokens, ui: &Ui) {
    let painter = ui.painter();
    let x = |share: f64| rect.left() + rect.width() * share as f32;
    let stays = Rect::from_min_max(rect.min, pos2(x(1.0 - shares.cut), rect.bottom()));
    let kept = Rect::from_min_max(rect.min, pos2(x(shares.kept()), rect.bottom()));
    painter.rect_filled(stays, 0.0, tokens.faded(tokens.variant).gamma_multiply(0.5));
    match pattern.filter(|_| shares.masked > 0.0 && rect.height() >= 8.0) {
        Some(pattern) => {
            // Which of a run are zero is not known yet: the first ones stand for the kept.
            let run = f32::from(pattern.len) * 6.0;
            let n_runs = (stays.width() / run).floor().max(1.0) as u32;
            let step = stays.width() / n_runs as f32;
            for number in 0..n_runs {
                let left = stays.left() + step * number as f32;
                let width = step * (1.0 - pattern.fraction() as f32);
                let cell = Rect::from_min_size(pos2(left, stays.top()), vec2(width - 1.0, stays.height()));
                painter.rect_filled(cell, 0.0, tokens.variant);
            }
        }
        None => drop(painter.rect_filled(kept, 0.0, tokens.variant)),
    }
    if shares.cut > 0.0 {
        let gone = Rect::from_min_max(pos2(stays.right(), rect.top()), rect.max);
        painter.rect_stroke(gone, 0.0, Stroke::new(1.0, tokens.border), StrokeKind::Inside);
    }
}
