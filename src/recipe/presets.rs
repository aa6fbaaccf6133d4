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
            preset!("kv-q8_0"),
            preset!("bf16"),
            preset!("q8_0"),
            preset!("light"),
            preset!("fp8-row"),
            preset!("q6-mixed"),
            preset!("w8a8-smooth"),
            preset!("q4-mixed"),
            preset!("gptq-q4_0"),
            preset!("searched-q4"),
            preset!("q4_0"),
            preset!("gptq-4"),
            preset!("int4-g32"),
            preset!("int4-mlp-sparse-attention"),
            preset!("magnitude-30"),
            preset!("medium"),
            preset!("svd-90"),
            preset!("sparsegpt-2-4"),
            preset!("wanda-50-bitmask-f16"),
            preset!("full"),
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

    #[test]
    fn names_and_ids_tell_presets_apart() {
        for (position, preset) in presets().iter().enumerate() {
            let same = |other: &Preset| other.id == preset.id || other.recipe().name == preset.recipe().name;
            assert_eq!(presets().iter().position(same), Some(position), "{}", preset.id);
        }
    }
}
