//! One table of design tokens, made into egui's light and dark style. The only file that names a color.

#![expect(clippy::disallowed_methods, reason = "this is the one file that names colors")]

use egui::{Color32, CornerRadius, FontFamily, FontId, Margin, Shadow, Stroke, Style, TextStyle, Theme, Visuals, vec2};

/// The grid that spacing is a multiple of, in points.
pub const GRID: f32 = 4.0;
/// Height of a row of a table, in points.
pub const ROW_HEIGHT: f32 = 22.0;
/// Height of a table's header, in points.
pub const HEADER_HEIGHT: f32 = 22.0;
/// Size of the name of a quantity and of secondary text, in points.
pub const SMALL: f32 = 11.0;
/// Size of text, in points.
pub const BODY: f32 = 13.0;
/// Size of numbers in tables and totals, in points.
pub const MONO: f32 = 12.0;
/// Size of a heading, in points.
pub const HEADING: f32 = 17.0;

/// Colors by meaning, for one theme. Meaning is never color alone: add a [`Mark`] or a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tokens {
    /// Whether the surfaces are dark.
    pub dark: bool,
    /// Behind and between tiles.
    pub base: Color32,
    /// A tile.
    pub panel: Color32,
    /// Bars and headers.
    pub raised: Color32,
    /// Text fields and plot areas.
    pub input: Color32,
    /// A control at rest.
    pub widget: Color32,
    /// A control under the pointer.
    pub widget_hover: Color32,
    /// A control that is held or open.
    pub widget_active: Color32,
    /// Lines between things.
    pub border: Color32,
    /// Every other row.
    pub stripe: Color32,
    /// Grid lines of plots.
    pub grid: Color32,
    /// Text.
    pub text: Color32,
    /// Units, captions, intervals.
    pub text_weak: Color32,
    /// Headings and what is selected.
    pub text_strong: Color32,
    /// The one accent: links, focus, the running thing.
    pub accent: Color32,
    /// A filled accent, behind [`Tokens::on_accent`].
    pub accent_fill: Color32,
    /// Text on [`Tokens::accent_fill`].
    pub on_accent: Color32,
    /// Behind selected rows.
    pub selection: Color32,
    /// Better than the reference, beyond its interval; within a limit.
    pub good: Color32,
    /// Needs attention.
    pub warn: Color32,
    /// Worse, failed, beyond a limit.
    pub bad: Color32,
    /// The variant in plots.
    pub variant: Color32,
    /// The reference in plots.
    pub reference: Color32,
    /// The trial pinned to side A.
    pub side_a: Color32,
    /// The trial pinned to side B.
    pub side_b: Color32,
    /// Lines that have no other meaning, told apart by people with color blindness.
    pub series: [Color32; 6],
}

const fn rgb(hex: u32) -> Color32 {
    Color32::from_rgb((hex >> 16) as u8, (hex >> 8) as u8, hex as u8)
}

/// The dark theme.
pub const DARK: Tokens = Tokens {
    dark: true,
    base: rgb(0x0e1012),
    panel: rgb(0x16181b),
    raised: rgb(0x1c1f23),
    input: rgb(0x0f1113),
    widget: rgb(0x272b30),
    widget_hover: rgb(0x32373d),
    widget_active: rgb(0x3c4249),
    border: rgb(0x2a2e33),
    stripe: rgb(0x191c1f),
    grid: rgb(0x6b737b),
    text: rgb(0xcdd2d8),
    text_weak: rgb(0x8a929b),
    text_strong: rgb(0xf3f5f7),
    accent: rgb(0x5aa2ff),
    accent_fill: rgb(0x2563c4),
    on_accent: rgb(0xffffff),
    selection: rgb(0x1e3a5f),
    good: rgb(0x57bd82),
    warn: rgb(0xe3a93f),
    bad: rgb(0xea6a61),
    variant: rgb(0x5aa2ff),
    reference: rgb(0x99a1aa),
    side_a: rgb(0xf0a35a),
    side_b: rgb(0x4fc3c8),
    series: [rgb(0x5aa2ff), rgb(0xf0a35a), rgb(0x57bd82), rgb(0xd884c8), rgb(0xd9c858), rgb(0x4fc3c8)],
};

/// The light theme.
pub const LIGHT: Tokens = Tokens {
    dark: false,
    base: rgb(0xe2e5e9),
    panel: rgb(0xfbfcfd),
    raised: rgb(0xf0f2f5),
    input: rgb(0xffffff),
    widget: rgb(0xe4e7eb),
    widget_hover: rgb(0xd8dde2),
    widget_active: rgb(0xcbd1d8),
    border: rgb(0xd3d8dd),
    stripe: rgb(0xf4f6f8),
    grid: rgb(0x8d959e),
    text: rgb(0x2a2f35),
    text_weak: rgb(0x626b75),
    text_strong: rgb(0x0c0f12),
    accent: rgb(0x1a62c9),
    accent_fill: rgb(0x2368d0),
    on_accent: rgb(0xffffff),
    selection: rgb(0xcfe1fa),
    good: rgb(0x1b7a44),
    warn: rgb(0x935f00),
    bad: rgb(0xbb342a),
    variant: rgb(0x1a62c9),
    reference: rgb(0x6c757f),
    side_a: rgb(0xb55a09),
    side_b: rgb(0x0d7a80),
    series: [rgb(0x1a62c9), rgb(0xb55a09), rgb(0x1b7a44), rgb(0xa2328f), rgb(0x7d6a00), rgb(0x0d7a80)],
};

/// The tint of a picture that keeps its own colors.
pub const UNTINTED: Color32 = Color32::WHITE;

/// How a number was obtained, told by shape as well as by color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Taken by a clock, a counter or an evaluation.
    Measured,
    /// Computed without running it.
    Estimated,
    /// Run on another product than the format's own.
    Simulated,
    /// The trial ended early.
    Failed,
}

impl Mark {
    /// The glyph, one of the bundled fonts'.
    pub const fn glyph(self) -> &'static str {
        match self {
            Self::Measured => "●",
            Self::Estimated => "◌",
            Self::Simulated => "◍",
            Self::Failed => "✖",
        }
    }

    /// The glyph with what it marks behind it.
    pub fn before(self, text: &str) -> String {
        format!("{} {text}", self.glyph())
    }

    /// The color of the glyph.
    pub const fn color(self, tokens: &Tokens) -> Color32 {
        match self {
            Self::Measured => tokens.variant,
            Self::Estimated => tokens.text_weak,
            Self::Simulated => tokens.warn,
            Self::Failed => tokens.bad,
        }
    }
}

impl Tokens {
    /// The table of a theme.
    pub const fn of(theme: Theme) -> &'static Self {
        match theme {
            Theme::Dark => &DARK,
            Theme::Light => &LIGHT,
        }
    }

    /// `color` for the band of an interval: the line itself stays on top.
    pub fn band(&self, color: Color32) -> Color32 {
        color.gamma_multiply(if self.dark { 0.22 } else { 0.18 })
    }

    /// `color` for what is there but not looked at.
    pub fn faded(&self, color: Color32) -> Color32 {
        color.gamma_multiply(if self.dark { 0.45 } else { 0.5 })
    }

    /// The colors of the bytes of a heat map: zero is the ground; from `low`, at least 1 and below 255, they lead over the
    /// accent to the strongest text, which the largest ones alone come near.
    pub fn heat(&self, low: u8) -> [Color32; 256] {
        const ACCENT_AT: f32 = 0.7;
        let mut colors = [self.input; 256];
        for (byte, color) in colors.iter_mut().enumerate().skip(1) {
            let along = (byte as f32 - f32::from(low)).max(0.0) / (255.0 - f32::from(low));
            *color = if along < ACCENT_AT {
                self.selection.lerp_to_gamma(self.accent, along / ACCENT_AT)
            } else {
                self.accent.lerp_to_gamma(self.text_strong, (along - ACCENT_AT) / (1.0 - ACCENT_AT))
            };
        }
        colors
    }

    /// egui's style with these colors.
    pub fn style(&self) -> Style {
        let base = if self.dark { Visuals::dark() } else { Visuals::light() };
        let mut style = Style { visuals: self.visuals(base), ..Style::default() };
        let font = |size, family| FontId::new(size, family);
        style.text_styles = [
            (TextStyle::Small, font(SMALL, FontFamily::Proportional)),
            (TextStyle::Body, font(BODY, FontFamily::Proportional)),
            (TextStyle::Button, font(BODY, FontFamily::Proportional)),
            (TextStyle::Monospace, font(MONO, FontFamily::Monospace)),
            (TextStyle::Heading, font(HEADING, FontFamily::Proportional)),
        ]
        .into();
        style.drag_value_text_style = TextStyle::Monospace;
        style.animation_time = 0.06;
        let spacing = &mut style.spacing;
        spacing.item_spacing = vec2(2.0 * GRID, GRID);
        spacing.button_padding = vec2(2.0 * GRID, 3.0);
        spacing.window_margin = Margin::same(12);
        spacing.menu_margin = Margin::same(8);
        spacing.interact_size = vec2(24.0, ROW_HEIGHT);
        spacing.indent = 4.0 * GRID;
        spacing.combo_height = 480.0;
        spacing.tooltip_width = 380.0;
        style.interaction.selectable_labels = false;
        style.interaction.tooltip_delay = 0.35;
        style
    }

    fn visuals(&self, base: Visuals) -> Visuals {
        let shadow = Shadow {
            offset: [0, 4],
            blur: 16,
            spread: 0,
            color: Color32::from_black_alpha(if self.dark { 120 } else { 40 }),
        };
        let mut visuals = Visuals {
            weak_text_color: Some(self.text_weak),
            hyperlink_color: self.accent,
            faint_bg_color: self.stripe,
            extreme_bg_color: self.input,
            text_edit_bg_color: Some(if self.dark { self.input } else { self.raised }),
            code_bg_color: self.raised,
            warn_fg_color: self.warn,
            error_fg_color: self.bad,
            panel_fill: self.panel,
            window_fill: self.raised,
            window_stroke: Stroke::new(1.0, self.border),
            window_corner_radius: CornerRadius::same(6),
            menu_corner_radius: CornerRadius::same(6),
            window_shadow: shadow,
            popup_shadow: shadow,
            slider_trailing_fill: true,
            indent_has_left_vline: false,
            ..base
        };
        visuals.selection.bg_fill = self.selection;
        visuals.selection.stroke = Stroke::new(1.0, self.text_strong);
        let widgets = &mut visuals.widgets;
        let states = [
            (&mut widgets.noninteractive, self.panel, self.border, self.text),
            (&mut widgets.inactive, self.widget, Color32::TRANSPARENT, self.text),
            (&mut widgets.hovered, self.widget_hover, Color32::TRANSPARENT, self.text_strong),
            (&mut widgets.active, self.widget_active, self.accent, self.text_strong),
            (&mut widgets.open, self.widget_active, Color32::TRANSPARENT, self.text_strong),
        ];
        for (state, fill, border, text) in states {
            state.bg_fill = fill;
            state.weak_bg_fill = fill;
            state.bg_stroke = Stroke::new(1.0, border);
            state.fg_stroke = Stroke::new(1.0, text);
            state.corner_radius = CornerRadius::same(4);
            state.expansion = 0.0;
        }
        visuals
    }
}

/// Gives `ctx` both styles, of which egui chooses by the theme preference, and the fonts.
///
/// The monospaced font also serves text: it alone has arrows and triangles.
pub fn install(ctx: &egui::Context) {
    let mut fonts = egui::FontDefinitions::default();
    let monospaced = fonts.families.get(&FontFamily::Monospace).cloned().unwrap_or_default();
    let proportional = fonts.families.entry(FontFamily::Proportional).or_default();
    proportional.extend(monospaced);
    ctx.set_fonts(fonts);
    ctx.set_style_of(Theme::Dark, DARK.style());
    ctx.set_style_of(Theme::Light, LIGHT.style());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as WCAG 2.1 defines it.
    fn luminance(color: Color32) -> f64 {
        let linear = |channel: u8| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(color.r()) + 0.7152 * linear(color.g()) + 0.0722 * linear(color.b())
    }

    fn contrast(a: Color32, b: Color32) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn text_and_marks_can_be_read_in_both_themes() {
        for tokens in [&DARK, &LIGHT] {
            for surface in [tokens.panel, tokens.raised, tokens.input, tokens.selection, tokens.stripe] {
                assert!(contrast(tokens.text, surface) >= 7.0, "text on {surface:?}");
                assert!(contrast(tokens.text_weak, surface) >= 3.5, "weak text on {surface:?}");
            }
            let marks = [tokens.good, tokens.warn, tokens.bad, tokens.accent, tokens.side_a, tokens.side_b];
            for color in tokens.series.into_iter().chain(marks).chain([tokens.reference]) {
                assert!(contrast(color, tokens.panel) >= 4.5, "{color:?} on the panel");
            }
            assert!(contrast(tokens.on_accent, tokens.accent_fill) >= 4.5);
        }
    }
}
