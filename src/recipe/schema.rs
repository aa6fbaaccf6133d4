//! The recipe file: TOML, a default and rules in order, later rules win field by field.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::model::{LayerPath, LayerRole};
use crate::recipe::{
    Activations, AttentionSettings, Calibration, Correction, KvCacheSettings, LayerSettings, LowRank, Rounding,
    Sharing, SharingMethod, Sparsity, Structure, WeightFormat,
};

/// The version of the recipe schema that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// What the user asked for. May name layers that a model lacks; [`Recipe::resolve`] tells.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// For every linear layer of the blocks; embedding and head only when a rule names them.
    #[serde(default, skip_serializing_if = "PartialSettings::is_empty")]
    pub default: PartialSettings,
    /// In order; later rules win.
    #[serde(default, rename = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
    /// Parts that are removed.
    #[serde(default, skip_serializing_if = "Structure::is_empty")]
    pub structure: Structure,
    /// Layers that share a tensor.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sharing: Vec<Sharing>,
    /// Formats of cached keys and values.
    #[serde(default, skip_serializing_if = "KvCacheSettings::is_default")]
    pub kv_cache: KvCacheSettings,
    /// How attention is computed, and what it sees.
    #[serde(default, skip_serializing_if = "AttentionSettings::is_default")]
    pub attention: AttentionSettings,
    /// The text that calibrated methods read.
    #[serde(default, skip_serializing_if = "Calibration::is_default")]
    pub calibration: Calibration,
}

/// Settings of which each may be left to an earlier rule.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialSettings {
    /// Format of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// How weights are rounded to their format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// How activations enter the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<Activations>,
    /// Pruning; a fraction of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Two thin factors in the place of the matrix; a ratio of 1 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_rank: Option<LowRank>,
    /// A low-rank term beside quantized weights; a rank of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
}

impl PartialSettings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn needs_calibration(&self) -> bool {
        let settings = LayerSettings {
            weights: self.weights.unwrap_or_default(),
            rounding: self.rounding.unwrap_or_default(),
            activations: self.activations.unwrap_or_default(),
            sparsity: self.sparsity,
            low_rank: self.low_rank,
            correction: self.correction,
        };
        settings.needs_calibration()
    }

    /// Whether these settings leave a layer as the checkpoint has it.
    fn is_plain(&self) -> bool {
        self.weights.is_none_or(|weights| weights == WeightFormat::Native)
            && self.activations.is_none_or(|activations| activations == Activations::Float)
            && self.sparsity.is_none_or(|sparsity| sparsity.fraction == 0.0)
            && self.low_rank.is_none_or(|low_rank| low_rank.is_full())
    }
}

impl From<LayerSettings> for PartialSettings {
    fn from(settings: LayerSettings) -> Self {
        let LayerSettings { weights, rounding, activations, sparsity, low_rank, correction } = settings;
        Self {
            weights: Some(weights),
            rounding: (rounding != Rounding::Nearest).then_some(rounding),
            activations: (activations != Activations::Float).then_some(activations),
            sparsity,
            low_rank,
            correction,
        }
    }
}

/// Settings for the layers that a target matches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The layers.
    pub target: Target,
    /// Format of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// How weights are rounded to their format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
    /// How activations enter the product.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<Activations>,
    /// Pruning; a fraction of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Two thin factors in the place of the matrix; a ratio of 1 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low_rank: Option<LowRank>,
    /// A low-rank term beside quantized weights; a rank of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<Correction>,
    /// `false` leaves the layers as the checkpoint has them, whatever earlier rules say; the settings stay in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl Rule {
    /// A rule that gives `settings` to the layers of `target`.
    pub fn new(target: Target, settings: PartialSettings) -> Self {
        let PartialSettings { weights, rounding, activations, sparsity, low_rank, correction } = settings;
        Self { target, weights, rounding, activations, sparsity, low_rank, correction, enabled: None }
    }

    /// What the rule sets.
    pub fn settings(&self) -> PartialSettings {
        PartialSettings {
            weights: self.weights,
            rounding: self.rounding,
            activations: self.activations,
            sparsity: self.sparsity,
            low_rank: self.low_rank,
            correction: self.correction,
        }
    }
}

/// The layers that a rule speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The layer with this module path.
    Path(LayerPath),
    /// The layers whose module path matches; `*` also crosses dots.
    Glob(String),
    /// The layers with this role.
    Role(LayerRole),
    /// The layers of blocks first to last, both included.
    Blocks([u16; 2]),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => write!(f, "path {:?}", path.0),
            Self::Glob(glob) => write!(f, "glob {glob:?}"),
            Self::Role(role) => write!(f, "role {:?}", role.name()),
            Self::Blocks([first, last]) => write!(f, "blocks {first} to {last}"),
        }
    }
}

/// A recipe file that cannot be read as one.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// Not TOML, or not this schema.
    #[error("read the recipe: {0}")]
    Syntax(#[from] Box<toml::de::Error>),
    /// Written for another version of the schema.
    #[error("read the recipe: format_version {found} is newer than {FORMAT_VERSION}; update Trimtab to use it")]
    Version {
        /// The version in the file.
        found: u32,
    },
}

impl Recipe {
    /// The recipe that changes nothing.
    pub fn reference() -> Self {
        Self {
            format_version: FORMAT_VERSION,
            name: "reference".to_owned(),
            default: PartialSettings::default(),
            rules: Vec::new(),
            structure: Structure::default(),
            sharing: Vec::new(),
            kv_cache: KvCacheSettings::default(),
            attention: AttentionSettings::default(),
            calibration: Calibration::default(),
        }
    }

    /// One format for every linear layer of the blocks.
    pub fn uniform(name: &str, weights: WeightFormat, sparsity: Option<Sparsity>) -> Self {
        let default = PartialSettings { weights: Some(weights), sparsity, ..PartialSettings::default() };
        Self { name: name.to_owned(), default, ..Self::reference() }
    }

    /// Reads a recipe from TOML.
    ///
    /// # Errors
    /// [`RecipeError`] with line and column when the text is not a recipe, or was written for a newer version.
    pub fn from_toml(text: &str) -> Result<Self, RecipeError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: Option<u32>,
        }
        // A newer file may have fields that this version does not know: its version is the better message.
        if let Ok(Version { format_version: Some(found) }) = toml::from_str(text)
            && found > FORMAT_VERSION
        {
            return Err(RecipeError::Version { found });
        }
        Ok(toml::from_str(text).map_err(Box::new)?)
    }

    /// Writes the recipe as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe is made of tables, strings and numbers")
    }

    /// Whether some rule, used or not, names a method that reads a calibration text.
    pub fn needs_calibration(&self) -> bool {
        let used = self.rules.iter().filter(|rule| rule.enabled != Some(false)).map(Rule::settings);
        std::iter::once(self.default).chain(used).any(|settings| settings.needs_calibration())
            || self.structure.needs_calibration()
            || self.sharing.iter().any(|sharing| sharing.method == SharingMethod::Basis)
    }

    /// Whether zeros in place are all that this recipe makes of the checkpoint, on any model: nothing that could be smaller
    /// or faster.
    pub fn is_masked_only(&self) -> bool {
        let used = self.rules.iter().filter(|rule| rule.enabled != Some(false)).map(Rule::settings);
        let mut prunes = false;
        let others = std::iter::once(self.default).chain(used).all(|settings| {
            prunes |= settings.sparsity.is_some_and(|sparsity| sparsity.fraction > 0.0);
            let is_smaller = settings.sparsity.is_some_and(|sparsity| sparsity.is_bitmask());
            !is_smaller && PartialSettings { sparsity: None, ..settings }.is_plain()
        });
        prunes
            && others
            && self.structure.is_empty()
            && self.sharing.is_empty()
            && self.kv_cache.is_default()
            && self.attention.is_default()
    }

    /// This recipe with `text` to calibrate on, where it needs one and names none. An empty path is no text.
    #[must_use]
    pub fn calibrated_on(mut self, text: &Path) -> Self {
        if self.calibration.data.is_none() && !text.as_os_str().is_empty() && self.needs_calibration() {
            self.calibration.data = Some(text.to_owned());
        }
        self
    }

    /// Whether this recipe leaves every layer as the checkpoint has it, on any model.
    pub fn is_reference(&self) -> bool {
        self.default.is_plain()
            && self.rules.iter().all(|rule| rule.enabled == Some(false) || rule.settings().is_plain())
            && self.structure.is_empty()
            && self.sharing.is_empty()
            && self.kv_cache.is_default()
            && self.attention.is_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Group, IntFormat};

    const CONTRACT: &str = r#"
        format_version = 1
        name = "4-bit MLP, 30 % sparse attention"
        [default]
        weights = "native"
        [[rule]]
        target = { role = "down_proj" }
        weights = { int = { bits = 4, group = 32, symmetric = false } }
        [[rule]]
        target = { glob = "model.layers.*.self_attn.*" }
        sparsity = { method = "magnitude", fraction = 0.3, scope = "matrix" }
        [[rule]]
        target = { path = "model.layers.0.mlp.down_proj" }
        weights = "q8_0"
        [[rule]]
        target = { blocks = [0, 3] }
        weights = { int = { bits = 8, group = "row" } }
    "#;

    #[test]
    fn the_contract_parses_and_round_trips() {
        let recipe = Recipe::from_toml(CONTRACT).unwrap();
        assert_eq!(recipe.rules.len(), 4);
        assert_eq!(recipe.rules[0].target, Target::Role(LayerRole::DownProj));
        let int = IntFormat { bits: 4, group: Group::Size(32), symmetric: false };
        assert_eq!(recipe.rules[0].weights, Some(WeightFormat::Int(int)));
        assert_eq!(recipe.rules[2].weights, Some(WeightFormat::Q8_0));
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe);
    }

    #[test]
    fn zeros_alone_are_told_from_what_is_smaller() {
        let half = Some(crate::recipe::Sparsity::magnitude(0.5));
        let check =
            |recipe: Recipe, expected: bool| assert_eq!(recipe.is_masked_only(), expected, "{}", recipe.to_toml());
        check(Recipe::reference(), false);
        check(Recipe::uniform("a", WeightFormat::Native, half), true);
        check(Recipe::uniform("b", WeightFormat::Q8_0, half), false);
        let bitmask = half.map(|half| Sparsity { storage: crate::recipe::SparseStorage::Bitmask, ..half });
        check(Recipe::uniform("d", WeightFormat::Native, bitmask), false);
        let kv_cache = KvCacheSettings { keys: crate::recipe::KvFormat::Q8_0, ..KvCacheSettings::default() };
        check(Recipe { kv_cache, ..Recipe::uniform("c", WeightFormat::Native, half) }, false);
    }

    #[test]
    fn every_named_format_round_trips() {
        for format in WeightFormat::NAMED {
            let recipe = Recipe::uniform("x", format, None);
            assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe, "{}", recipe.to_toml());
            assert!(recipe.to_toml().contains(&format!("\"{}\"", format.label())));
        }
    }

    #[test]
    fn every_method_reads_from_its_name_and_from_its_table() {
        let text = r#"
            format_version = 1
            [default]
            weights = { fp8 = "block" }
            rounding = "gptq"
            activations = { method = "int8_static", range = { percentile = 99.9 }, smoothing = 0.5 }
            low_rank = { method = "whitened", ratio = 0.9 }
            [[rule]]
            target = { role = "up_proj" }
            rounding = { method = "gptq", damping = 0.1, act_order = false }
            sparsity = { method = "sparsegpt", pattern = "2:4" }
            correction = { rank = 16 }
            [[rule]]
            target = { role = "down_proj" }
            rounding = { method = "imatrix", uniform = true }
            activations = "int8_dynamic"
            sparsity = { method = "wanda", fraction = 0.5, allocation = "owl", storage = "bitmask" }
            [structure]
            update = "none"
            [structure.ffn]
            fraction = 0.25
            score = "taylor"
            [structure.blocks]
            count = 1
            part = "attention"
            [[sharing]]
            role = "q_proj"
            blocks = [2, 3]
            method = "tie"
            [kv_cache]
            keys = "q8_0"
            values = "q4_0"
            [attention]
            window = 64
            sinks = 4
            [calibration]
            data = "calibration.jsonl"
            windows = 16
            policy = "dense"
        "#;
        let recipe = Recipe::from_toml(text).unwrap();
        assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe, "{}", recipe.to_toml());
        assert!(!recipe.is_reference() && recipe.needs_calibration());
        assert_eq!(recipe.default.rounding, Some(Rounding::Gptq(crate::recipe::GptqOptions::default())));
        assert_eq!(recipe.rules[1].sparsity.unwrap().scope, crate::recipe::SparsityScope::Row);
        let [first, second] = [0, 1].map(|rule: usize| recipe.rules[rule].sparsity.unwrap());
        assert_eq!((first.fraction, first.label().as_str()), (0.5, "2:4 sparsegpt"));
        assert_eq!(second.label(), "50.0 % sparse wanda owl bitmask");
        assert!(second.is_bitmask() && !first.is_bitmask());
        assert_eq!(recipe.to_toml().matches("storage").count(), 1, "{}", recipe.to_toml());
    }

    #[test]
    fn every_example_of_the_guide_is_a_recipe() {
        let guide = include_str!("../../RECIPES.md");
        let examples: Vec<&str> =
            guide.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
        assert_eq!(examples.len(), 6);
        for example in examples {
            let recipe = Recipe::from_toml(&format!("format_version = 1\n{example}"));
            assert!(!recipe.unwrap_or_else(|error| panic!("{error}\n{example}")).is_reference(), "{example}");
        }
    }

    #[test]
    fn unknown_fields_and_newer_versions_are_refused() {
        let check = |text: &str, expected: &str| {
            let message = Recipe::from_toml(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        };
        check("format_version = 2\nnew_field = 1", "newer");
        check("format_version = 1\ncolour = 1", "colour");
        check("format_version = 1\n[default]\nweights = \"q9\"", "q9");
        check("format_version = 1\n[default]\nweights = { int = { bits = 4, group = 48 } }", "48");
        check("format_version = 1\n[default]\nrounding = \"gtpq\"", "gtpq");
        check("format_version = 1\n[default]\nrounding = { method = \"gptq\", dampening = 1 }", "dampening");
        check(
            "format_version = 1\n[default]\nsparsity = { method = \"wanda\", fraction = 0.5, pattern = \"2:4\" }",
            "both",
        );
        check("format_version = 1\n[default]\nsparsity = { method = \"wanda\", pattern = \"4:2\" }", "4:2");
        check(
            "format_version = 1\n[default]\nsparsity = { method = \"wanda\", fraction = 0.5, storage = \"csr\" }",
            "csr",
        );
        check("format_version = 1\n[default]\nlow_rank = { ratio = 0.5, energy = 0.9 }", "exactly one");
    }
}
