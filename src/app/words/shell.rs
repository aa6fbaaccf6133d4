//! Words of the bars, menus, opening, help and notices.

use crate::app::command::DialogKind;

/// Titles of the tiles.
#[derive(Debug)]
#[expect(missing_docs, reason = "one title a tile")]
pub struct TitleWords {
    pub app: &'static str,
    pub recipe: &'static str,
    pub whole: &'static str,
    pub sweep: &'static str,
    pub trade_off: &'static str,
    pub latency: &'static str,
    pub memory: &'static str,
    pub quality: &'static str,
    pub compare: &'static str,
    pub inspector: &'static str,
    pub profile: &'static str,
    pub trials: &'static str,
    pub hardware: &'static str,
    pub log: &'static str,
}

impl TitleWords {
    /// English.
    pub const EN: Self = Self {
        app: "Trimtab",
        recipe: "Recipe",
        whole: "Whole model",
        sweep: "Sweep",
        trade_off: "Trade-off",
        latency: "Latency",
        memory: "Memory",
        quality: "Quality",
        compare: "Compare",
        inspector: "Inspector",
        profile: "Profile",
        trials: "Trials",
        hardware: "Hardware",
        log: "Log",
    };
}

/// The bar at the top.
#[derive(Debug)]
pub struct ToolbarWords {
    /// Shown when no model is open.
    pub no_model: &'static str,
    /// While headers are read.
    pub opening: fn(&str) -> String,
    /// Family and number of blocks.
    pub blocks: fn(&str, usize) -> String,
    /// Choice of the device.
    pub device: &'static str,
    /// Before the cards that may share a study.
    pub also_on: &'static str,
    /// What sharing does.
    pub also_on_hint: &'static str,
    /// Bits a weight, after the number.
    pub bits_per_weight: &'static str,
    /// Explains the totals.
    pub totals_hint: &'static str,
    /// Starts the sweep.
    pub run: &'static str,
    /// Starts no new trial.
    pub pause: &'static str,
    /// Goes on.
    pub resume: &'static str,
    /// Ends the sweep.
    pub stop: &'static str,
    /// After the user asked to stop.
    pub stopping: &'static str,
    /// While paused.
    pub paused: &'static str,
    /// Trials done of those planned, and time left.
    pub progress: fn(u32, u32) -> String,
    /// Time left.
    pub left: fn(&str) -> String,
    /// Goes on with an unfinished study.
    pub go_on: &'static str,
    /// Submenu: light and dark.
    pub theme: &'static str,
    /// Menu: files.
    pub menu_file: &'static str,
    /// Menu: edit.
    pub menu_edit: &'static str,
    /// Menu: tiles.
    pub menu_view: &'static str,
    /// Menu: help.
    pub menu_help: &'static str,
    /// Submenu: exports.
    pub menu_export: &'static str,
    /// Submenu: recent.
    pub menu_recent: &'static str,
    /// A recorded study is shown and its model is not open.
    pub recorded: &'static str,
    /// What that means.
    pub recorded_hint: &'static str,
    /// The draft has problems.
    pub not_runnable: &'static str,
    /// Where they are listed.
    pub not_runnable_hint: &'static str,
}

impl ToolbarWords {
    /// English.
    pub const EN: Self = Self {
        no_model: "No model",
        opening: |name| format!("Opening {name}…"),
        blocks: |family, n| format!("{family}, {n} blocks"),
        device: "Device",
        also_on: "Share the next study with",
        also_on_hint: "Each card runs trials of its own at the same time; a result names the card that it was found on",
        bits_per_weight: "bits/weight",
        totals_hint: "Bytes of all tensors as stored, then as this recipe packs them, scales and minimums included",
        run: "Run",
        pause: "Pause",
        resume: "Resume",
        stop: "Stop",
        stopping: "stopping…",
        paused: "paused",
        progress: |done, total| format!("{done}/{total}"),
        left: |time| format!("{time} left"),
        go_on: "Continue",
        theme: "Theme",
        menu_file: "File",
        menu_edit: "Edit",
        menu_view: "View",
        menu_help: "Help",
        menu_export: "Export",
        menu_recent: "Open recent",
        recorded: "recorded",
        recorded_hint: "A recorded study is shown. Open its model to run more",
        not_runnable: "recipe has problems",
        not_runnable_hint: "They are listed under the recipe",
    };
}

/// Opening models and studies.
#[derive(Debug)]
pub struct OpenWords {
    /// Heading of the first screen.
    pub heading: &'static str,
    /// What the program does, in one sentence.
    pub lead: &'static str,
    /// Opens the demo.
    pub demo: &'static str,
    /// What the demo is.
    pub demo_hint: &'static str,
    /// Opens a Hugging Face folder.
    pub folder: &'static str,
    /// What such a folder holds.
    pub folder_hint: &'static str,
    /// Opens a GGUF file.
    pub gguf: &'static str,
    /// What is read from it.
    pub gguf_hint: &'static str,
    /// Shows a recorded study.
    pub study: &'static str,
    /// What a study is.
    pub study_hint: &'static str,
    /// The field for a path.
    pub path: &'static str,
    /// Hint inside that field.
    pub path_hint: &'static str,
    /// Opens the path of the field.
    pub open: &'static str,
    /// Heading of the recent list.
    pub recent: &'static str,
    /// Files can be dropped.
    pub drop: &'static str,
    /// While files hover over the window.
    pub drop_here: &'static str,
    /// The model cannot be opened.
    pub refused: &'static str,
    /// So many tensors cannot be used.
    pub refused_tensors: fn(usize) -> String,
    /// Heading of the prompt that replaces a dialog for opening.
    pub prompt_open: &'static str,
    /// Heading of the prompt that replaces a dialog for saving.
    pub prompt_save: &'static str,
    /// Why there is no dialog.
    pub no_dialog: &'static str,
    /// Takes the path.
    pub accept: &'static str,
    /// Closes the prompt.
    pub cancel: &'static str,
}

impl OpenWords {
    /// English.
    pub const EN: Self = Self {
        heading: "Open a model",
        lead: "Set precision and pruning for each layer, measure the variants beside the reference, export the one you choose",
        demo: "Demo",
        demo_hint: "stories15M, a small Llama that comes with the program",
        folder: "Open folder…",
        folder_hint: "Hugging Face layout: config.json, safetensors, tokenizer.json",
        gguf: "Open GGUF…",
        gguf_hint: "One file with its own tokenizer; Llama family",
        study: "Open study…",
        study_hint: "A recorded sweep, to look at or to continue",
        path: "Path",
        path_hint: "/path/to/model folder, .gguf, .study or recipe .toml",
        open: "Open",
        recent: "Recent",
        drop: "or drop a folder or file anywhere in this window",
        drop_here: "Drop to open",
        refused: "This model cannot be opened",
        prompt_open: "Open by path",
        prompt_save: "Save as",
        no_dialog: "No file dialog is available here; type or paste the path",
        accept: "OK",
        cancel: "Cancel",
        refused_tensors: |n| if n == 1 { "1 tensor refused".to_owned() } else { format!("{n} tensors refused") },
    };
}

impl OpenWords {
    /// Heading of the prompt for a path.
    pub const fn prompt_heading(&self, kind: DialogKind) -> &'static str {
        match kind {
            DialogKind::Export(_) => self.prompt_save,
            _ => self.prompt_open,
        }
    }
}

/// Names of commands in menus and in the palette.
#[derive(Debug)]
#[expect(missing_docs, reason = "one name a command")]
pub struct CommandWords {
    pub pause_or_resume: &'static str,
    pub continue_study: &'static str,
    pub demo: &'static str,
    pub theme_light: &'static str,
    pub theme_dark: &'static str,
    pub theme_system: &'static str,
    pub open_recipe: &'static str,
    pub open_data: &'static str,
    pub open_calibration: &'static str,
    pub clear_cache: &'static str,
    pub export_recipe: &'static str,
    pub export_report: &'static str,
    pub export_csv: &'static str,
    pub export_json_lines: &'static str,
    pub export_folder: &'static str,
    pub export_gguf: &'static str,
    pub export_compressed_tensors: &'static str,
    pub undo: &'static str,
    pub redo: &'static str,
    pub reference: &'static str,
    pub palette: &'static str,
    pub help: &'static str,
    pub reset_layout: &'static str,
    pub show_tile: fn(&str) -> String,
    pub select_next_trial: &'static str,
    pub select_previous_trial: &'static str,
    pub pin_a: &'static str,
    pub pin_b: &'static str,
    pub load_recipe: &'static str,
    pub quit: &'static str,
}

impl CommandWords {
    /// English.
    pub const EN: Self = Self {
        pause_or_resume: "Pause or resume",
        continue_study: "Continue the study shown",
        demo: "Open the demo",
        theme_light: "Light theme",
        theme_dark: "Dark theme",
        theme_system: "Theme of the system",
        open_recipe: "Open recipe…",
        open_data: "Choose evaluation text…",
        open_calibration: "Choose calibration text…",
        clear_cache: "Clear the cache of compressed layers…",
        export_recipe: "Export recipe…",
        export_report: "Export report (HTML)…",
        export_csv: "Export trials (CSV)…",
        export_json_lines: "Export trials (JSON Lines)…",
        export_folder: "Export model (Hugging Face folder)…",
        export_gguf: "Export model (GGUF)…",
        export_compressed_tensors: "Export model (compressed-tensors folder)…",
        undo: "Undo",
        redo: "Redo",
        reference: "Start from the reference",
        palette: "Commands…",
        help: "Keyboard",
        reset_layout: "Reset layout",
        show_tile: |title| format!("Show or hide {title}"),
        select_next_trial: "Select next trial",
        select_previous_trial: "Select previous trial",
        pin_a: "Pin selected trial to A",
        pin_b: "Pin selected trial to B",
        load_recipe: "Edit the selected trial's recipe",
        quit: "Quit",
    };
}

/// The list of keys.
#[derive(Debug)]
#[expect(missing_docs, reason = "one line a key")]
pub struct HelpWords {
    pub title: &'static str,
    pub close: &'static str,
    pub search: &'static str,
    pub search_hint: &'static str,
    pub nothing_found: &'static str,
    pub zoom: &'static str,
}

impl HelpWords {
    /// English.
    pub const EN: Self = Self {
        title: "Keyboard",
        close: "Close",
        search: "Search commands",
        search_hint: "Type a command",
        nothing_found: "No command matches",
        zoom: "Zoom in, zoom out, reset",
    };
}

/// Notices, log and what is left.
#[derive(Debug)]
#[expect(missing_docs, reason = "one sentence an event")]
pub struct ShellWords {
    pub log_empty: &'static str,
    pub copy_log: &'static str,
    pub saved: fn(&str) -> String,
    pub exporting: fn(&str) -> String,
    pub dismiss: &'static str,
    pub hide_tile: &'static str,
    pub no_thread: fn(&str) -> String,
    pub needs_model: &'static str,
    pub needs_legal_recipe: &'static str,
    pub unreadable: fn(&str, &str) -> String,
    pub not_saved: fn(&str) -> String,
    pub exists: fn(&str) -> String,
    pub recipe_opened: fn(&str) -> String,
    pub unknown_file: fn(&str) -> String,
}

impl ShellWords {
    /// English.
    pub const EN: Self = Self {
        log_empty: "Nothing to report",
        copy_log: "Copy log",
        saved: |text| format!("Saved {text}"),
        exporting: |path| format!("Writing and checking {path}"),
        dismiss: "Dismiss",
        hide_tile: "Hide (View menu shows it again)",
        no_thread: |reason| format!("No thread could be started: {reason}"),
        needs_model: "Open a model first",
        needs_legal_recipe: "This recipe cannot run on the model; the recipe tile lists its problems",
        unreadable: |path, reason| format!("{path} cannot be opened: {reason}"),
        not_saved: |reason| format!("Nothing was saved: {reason}"),
        exists: |path| format!("{path} exists already; choose another name"),
        recipe_opened: |name| format!("Editing recipe {name}"),
        unknown_file: |path| format!("{path} is neither a model folder, a .gguf, a .study nor a recipe .toml"),
    };
}
