//! Every word that people read in the window, as data: a language is one value of [`Words`].
//!
//! A missing word is a compile error. Sentences with a value in them are functions, so that a language may put the value
//! where its grammar wants it. Numbers are formatted by `units` before they come here. Names of the field (`q8_0`,
//! `down_proj`, failure labels of the study) are the same in every language and are not listed.

mod cache;
mod compression;
mod hardware;
mod inspector;
mod methods;
mod profile;
mod recipe;
mod results;
mod shell;
mod sweep;
mod whole;

pub use cache::CacheWords;
pub use compression::CompressionWords;
pub use hardware::HardwareWords;
pub use inspector::InspectorWords;
pub use methods::MethodWords;
pub use profile::ProfileWords;
pub use recipe::RecipeWords;
pub use results::{CompareWords, LiveWords, ResultsWords, TradeOffWords, TrialsWords};
pub use shell::{CommandWords, HelpWords, OpenWords, ShellWords, TitleWords, ToolbarWords};
pub use sweep::SweepWords;
pub use whole::WholeWords;

/// The words of one language.
#[derive(Debug)]
pub struct Words {
    /// Titles of the tiles.
    pub titles: TitleWords,
    /// The bar at the top.
    pub toolbar: ToolbarWords,
    /// Opening models and studies.
    pub open: OpenWords,
    /// Names of commands in menus and in the palette.
    pub commands: CommandWords,
    /// The list of keys.
    pub help: HelpWords,
    /// Notices, log and what is left.
    pub shell: ShellWords,
    /// The recipe's table.
    pub recipe: RecipeWords,
    /// The methods of a layer.
    pub methods: MethodWords,
    /// What a recipe says of the whole model.
    pub whole: WholeWords,
    /// How a variant was made.
    pub compression: CompressionWords,
    /// The cache of compressed layers.
    pub cache: CacheWords,
    /// The sweep's form.
    pub sweep: SweepWords,
    /// Plots, trials, comparison and hardware.
    pub results: ResultsWords,
    /// One layer from near.
    pub inspector: InspectorWords,
    /// Forward passes taken apart.
    pub profile: ProfileWords,
}

/// English.
pub const EN: Words = Words {
    titles: TitleWords::EN,
    toolbar: ToolbarWords::EN,
    open: OpenWords::EN,
    commands: CommandWords::EN,
    help: HelpWords::EN,
    shell: ShellWords::EN,
    recipe: RecipeWords::EN,
    methods: MethodWords::EN,
    whole: WholeWords::EN,
    compression: CompressionWords::EN,
    cache: CacheWords::EN,
    sweep: SweepWords::EN,
    results: ResultsWords::EN,
    inspector: InspectorWords::EN,
    profile: ProfileWords::EN,
};

/// The words of the window's language.
pub fn current() -> &'static Words {
    &EN
}
