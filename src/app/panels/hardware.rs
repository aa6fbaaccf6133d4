//! Processor, memory and GPUs of this machine.

use egui::{Label, Pos2, Rect, RichText, ScrollArea, Sense, Shape, Stroke, Ui, vec2};
use egui_plot::PlotPoint;

use crate::app::command::Command;
use crate::app::context::ViewContext;
use crate::app::panels::Panel;
use crate::app::plots::paint::{self, quiet, tokens};
use crate::app::plots::sparkline::{Sparkline, sparkline};
use crate::app::theme::{MONO, SMALL};
use crate::app::words::{self, HardwareWords};
use crate::telemetry::{GpuDevice, GpuReading, GpuSample, HardwareSample, TelemetrySnapshot};
use crate::units::{bytes, duration, percent, significant};

/// Size of one gauge, in points.
const GAUGE: egui::Vec2 = vec2(172.0, 62.0);
/// Width of the part about the cache, in points.
const CACHE_WIDTH: f32 = 96.0;
/// Columns of a sparkline.
const COLUMNS: usize = 75;

/// The hardware tile.
#[derive(Debug, Default)]
pub struct HardwarePanel {
    cache: Option<(f64, usize, Vec<Gauge>)>,
}

/// One quantity of the machine.
#[derive(Debug)]
struct Gauge {
    name: String,
    /// The newest reading, or why there is none.
    value: Result<String, String>,
    /// What else is known of it, shown where the pointer rests.
    more: String,
    line: Sparkline,
}

impl Panel for HardwarePanel {
    fn title(&self) -> &'static str {
        words::current().titles.hardware
    }

    fn ui(&mut self, cx: &ViewContext<'_>, ui: &mut Ui) {
        let words = &cx.words.results.hardware;
        cache_ui(cx, ui);
        let telemetry = cx.telemetry.as_ref();
        let Some(newest) = telemetry.history.last() else {
            paint::empty_ui(ui, words.no_reading, words.no_reading_hint);
            return;
        };
        let (at, len) = (newest.at_secs, telemetry.history.len());
        if self.cache.as_ref().is_none_or(|(cached, cached_len, _)| *cached != at || *cached_len != len) {
            self.cache = Some((at, len, gauges(telemetry, newest, words)));
        }
        let Some((.., gauges)) = &self.cache else { return };
        let tokens = tokens(ui);
        let span = telemetry.history.first().map_or(0.0, |first| at - first.at_secs);
        let cores = (words.cores)(telemetry.n_cores);
        let parts = [telemetry.cpu_model.clone(), Some(cores), Some((words.last)(&duration(span)))];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        ui.add(Label::new(quiet(parts.join(" · "), tokens)).truncate());
        ScrollArea::vertical().auto_shrink(false).show(ui, |ui| {
            ui.horizontal_wrapped(|ui| {
                for gauge in gauges {
                    gauge_ui(ui, gauge);
                }
            });
        });
    }
}

/// What the cache of compressed layers takes up, and the button that asks before it is cleared.
fn cache_ui(cx: &ViewContext<'_>, ui: &mut Ui) {
    let (words, tokens) = (&cx.words.cache, tokens(ui));
    egui::Panel::right("cache").resizable(false).exact_size(CACHE_WIDTH).show_separator_line(false).show(ui, |ui| {
        ui.label(quiet(words.name, tokens)).on_hover_text(words.hint);
        let size = match (cx.cache.bytes, cx.cache.busy) {
            (Some(n), false) => RichText::new(bytes(n)).monospace().size(MONO).color(tokens.text_strong),
            _ => RichText::new(words.unknown).size(SMALL).color(tokens.text_weak),
        };
        ui.add(Label::new(size).truncate()).on_hover_text(words.hint);
        let button = ui.add_enabled(cx.cache.can_clear(), egui::Button::new(words.clear));
        if button.accessible_name(cx.words.commands.clear_cache).clicked() {
            cx.send(Command::AskClearCache);
        }
    });
}

fn gauges(telemetry: &TelemetrySnapshot, newest: &HardwareSample, words: &HardwareWords) -> Vec<Gauge> {
    let host = |name: &str, value: Option<String>, absent: &str, read: fn(&HardwareSample) -> Option<f64>| Gauge {
        name: name.to_owned(),
        value: value.ok_or_else(|| absent.to_owned()),
        more: String::new(),
        line: sparkline(telemetry.history.iter().map(|sample| (sample.at_secs, read(sample))), COLUMNS),
    };
    let celsius = |degrees: f64| format!("{} °C", significant(degrees, 3));
    let megahertz = |clock: f64| format!("{} MHz", significant(clock, 4));
    let memory = newest.memory_used_bytes.map(|used| used_of(used, newest.memory_total_bytes, words));
    let mut gauges = vec![
        host(words.cpu, newest.cpu_fraction.map(percent), words.no_cpu, |sample| sample.cpu_fraction),
        host(words.memory, memory, words.no_memory, |sample| sample.memory_used_bytes.map(|n| n as f64)),
        host(words.clock, newest.frequency_mhz.map(megahertz), words.no_clock, |sample| sample.frequency_mhz),
        host(words.temperature, newest.temperature_celsius.map(celsius), words.no_temperature, |sample| {
            sample.temperature_celsius
        }),
    ];
    if telemetry.gpus.is_empty() {
        let reason = telemetry.no_gpu.clone().unwrap_or_else(|| words.no_gpu.to_owned());
        let (name, value) = (words.gpu.to_owned(), Err(reason));
        gauges.push(Gauge { name, value, more: String::new(), line: Sparkline::default() });
    }
    for (number, (device, gpu)) in telemetry.gpus.iter().zip(&newest.gpus).enumerate() {
        push_gpu(&mut gauges, telemetry, (number, device, gpu), words);
    }
    gauges
}

fn push_gpu(
    gauges: &mut Vec<Gauge>,
    telemetry: &TelemetrySnapshot,
    (number, device, gpu): (usize, &GpuDevice, &GpuSample),
    words: &HardwareWords,
) {
    let gauge = |name: String, what, value: Option<String>, more: String, read: fn(&GpuSample) -> Option<f64>| {
        let series = telemetry.history.iter().map(|sample| (sample.at_secs, sample.gpus.get(number).and_then(read)));
        let reason = || telemetry.no_gpu.clone().unwrap_or_else(|| absent(device, what, words));
        Gauge { name, value: value.ok_or_else(reason), more, line: sparkline(series, COLUMNS) }
    };
    let megahertz = |clock: Option<u32>| clock.map(|clock| format!("{clock} MHz"));
    let memory = gpu.memory_used_bytes.map(|used| used_of(used, device.memory_total_bytes, words));
    let watts = gpu.power_watts.map(|watts| format!("{} W", significant(watts, 3)));
    let celsius = gpu.temperature_celsius.map(|degrees| format!("{} °C", significant(degrees, 3)));
    let limits: Vec<&str> = gpu.limits.iter().map(|limit| (words.limit)(*limit)).collect();
    let limited = if limits.is_empty() { String::new() } else { (words.limited)(&limits.join(", ")) };
    gauges.extend([
        gauge(
            (words.gpu_name)(number, &device.name),
            GpuReading::Utilization,
            gpu.utilization.map(percent),
            device.description.label(),
            |gpu| gpu.utilization,
        ),
        gauge((words.gpu_memory_of)(number), GpuReading::Memory, memory, users(gpu, words), |gpu| {
            gpu.memory_used_bytes.map(|n| n as f64)
        }),
        gauge((words.gpu_power)(number), GpuReading::Power, watts, limited.clone(), |gpu| gpu.power_watts),
        gauge((words.gpu_sm_clock)(number), GpuReading::SmClock, megahertz(gpu.sm_clock_mhz), limited, |gpu| {
            gpu.sm_clock_mhz.map(f64::from)
        }),
        gauge(
            (words.gpu_memory_clock)(number),
            GpuReading::MemoryClock,
            megahertz(gpu.memory_clock_mhz),
            String::new(),
            |gpu| gpu.memory_clock_mhz.map(f64::from),
        ),
        gauge((words.gpu_temperature)(number), GpuReading::Temperature, celsius, String::new(), |gpu| {
            gpu.temperature_celsius
        }),
    ]);
}

/// Why a GPU does not show a quantity.
fn absent(device: &GpuDevice, what: GpuReading, words: &HardwareWords) -> String {
    if device.is_lost {
        return words.lost.to_owned();
    }
    device.refused.get(&what).map_or_else(|| words.not_told.to_owned(), |refusal| (words.refused)(refusal))
}

/// Who holds the memory of a GPU: ours, then the others.
fn users(gpu: &GpuSample, words: &HardwareWords) -> String {
    let own = gpu.own_memory_bytes.map(|own| (words.own)(&bytes(own)));
    let n_others = (!gpu.others.is_empty()).then(|| (words.others)(gpu.others.len()));
    let others = gpu
        .others
        .iter()
        .map(|process| (words.other)(process.pid, process.name.as_deref(), process.memory_bytes.map(bytes).as_deref()));
    own.into_iter().chain(n_others).chain(others).collect::<Vec<_>>().join("\n")
}

fn used_of(used: u64, total: Option<u64>, words: &HardwareWords) -> String {
    total.map_or_else(|| bytes(used), |total| (words.of)(&bytes(used), &bytes(total)))
}

fn gauge_ui(ui: &mut Ui, gauge: &Gauge) {
    let tokens = tokens(ui);
    let absent = gauge.value.is_err();
    let size = if absent { vec2(GAUGE.x + 12.0, GAUGE.y) } else { GAUGE };
    let (rect, response) = ui.allocate_exact_size(size, Sense::hover());
    if !gauge.more.is_empty() {
        response.on_hover_text(&gauge.more);
    }
    ui.painter().rect_filled(rect, 4.0, tokens.raised);
    let inner = rect.shrink2(vec2(8.0, 5.0));
    let layout = egui::Layout::top_down(egui::Align::Min);
    let mut child = ui.new_child(egui::UiBuilder::new().max_rect(inner).layout(layout));
    child.set_clip_rect(rect.intersect(ui.clip_rect()));
    gauge_text_ui(&mut child, gauge);
    if !absent {
        let floor = Rect::from_min_max(Pos2::new(inner.left(), inner.bottom() - 18.0), inner.max);
        paint_line(ui, floor, &gauge.line.points);
    }
}

fn gauge_text_ui(ui: &mut Ui, gauge: &Gauge) {
    let tokens = tokens(ui);
    ui.spacing_mut().item_spacing.y = 1.0;
    ui.add(Label::new(quiet(&gauge.name, tokens)).truncate());
    match &gauge.value {
        Ok(value) => {
            let value = RichText::new(value).monospace().size(MONO).color(tokens.text_strong);
            ui.add(Label::new(value).truncate());
        }
        Err(reason) => {
            let text = RichText::new(reason).size(SMALL).color(tokens.text_weak);
            ui.add(Label::new(text).wrap()).on_hover_text(reason);
        }
    }
}

/// `points` are in 0..1 along and up.
fn paint_line(ui: &Ui, rect: Rect, points: &[PlotPoint]) {
    let tokens = tokens(ui);
    let at = |point: &PlotPoint| {
        Pos2::new(rect.left() + point.x as f32 * rect.width(), rect.bottom() - point.y as f32 * rect.height())
    };
    ui.painter().add(Shape::line(points.iter().map(at).collect(), Stroke::new(1.2, tokens.variant)));
}
