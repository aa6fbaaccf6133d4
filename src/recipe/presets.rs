//! The recipes that ship with the program.

use crate::recipe::Recipe;

/// A shipped recipe.
#[derive(Debug, Clone, Copy)]
pub struct Preset {
    /// File name without `.toml`.
    pub id: &'static str,
    /// The file's text.
    pub toml: &'static str,
}

impl Preset {
    /// The recipe.
    pub fn recipe(&self) -> Recipe {
        Recipe::from_toml(self.toml).expect("shipped recipes are parsed by a test")
    }
}

macro_rules! preset {
    ($id:literal) => {
        Preset { id: $id, toml: include_str!(concat!("../../assets/recipes/", $id, ".toml")) }
    };
}

/// Every shipped recipe, from careful to daring.
pub fn presets() -> &'static [Preset] {
    const {
        &[
            preset!("q8_0"),
            preset!("q6-mixed"),
            preset!("q4-mixed"),
            preset!("q4_0"),
            preset!("int4-mlp-sparse-attention"),
            preset!("int4-g32"),
            preset!("magnitude-30"),
            preset!("bf16"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_parses_and_has_a_name() {
        for preset in presets() {
            assert!(!preset.recipe().name.is_empty(), "{}", preset.id);
        }
    }
}
