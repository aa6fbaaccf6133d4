//! The recipe file: TOML, a default and rules in order, later rules win field by field.

use serde::{Deserialize, Serialize};

use crate::model::{LayerPath, LayerRole};
use crate::recipe::{Sparsity, WeightFormat};

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
}

/// Settings of which each may be left to an earlier rule.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartialSettings {
    /// Format of the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<WeightFormat>,
    /// Pruning; a fraction of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
}

impl PartialSettings {
    fn is_empty(&self) -> bool {
        *self == Self::default()
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
    /// Pruning; a fraction of 0 undoes an earlier rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// `false` leaves the layers as the checkpoint has them, whatever earlier rules say; the settings stay in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
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
        }
    }

    /// One format for every linear layer of the blocks.
    pub fn uniform(name: &str, weights: WeightFormat, sparsity: Option<Sparsity>) -> Self {
        let default = PartialSettings { weights: Some(weights), sparsity };
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

    /// Whether this recipe leaves every layer as the checkpoint has it, on any model.
    pub fn is_reference(&self) -> bool {
        let plain = |weights: Option<WeightFormat>, sparsity: Option<Sparsity>| {
            weights.is_none_or(|weights| weights == WeightFormat::Native)
                && sparsity.is_none_or(|sparsity| sparsity.fraction == 0.0)
        };
        plain(self.default.weights, self.default.sparsity)
            && self.rules.iter().all(|rule| rule.enabled == Some(false) || plain(rule.weights, rule.sparsity))
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
    fn every_named_format_round_trips() {
        for format in WeightFormat::NAMED {
            let recipe = Recipe::uniform("x", format, None);
            assert_eq!(Recipe::from_toml(&recipe.to_toml()).unwrap(), recipe, "{}", recipe.to_toml());
            assert!(recipe.to_toml().contains(&format!("\"{}\"", format.label())));
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
    }
}
