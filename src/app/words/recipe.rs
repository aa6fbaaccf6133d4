//! Words of the recipe's table.

/// Words of the recipe's table.
#[derive(Debug)]
pub struct RecipeWords {
    /// The text field that narrows the table.
    pub filter: &'static str,
    /// Hint inside that field.
    pub filter_hint: &'static str,
    /// Shown when the filter leaves nothing.
    pub filter_empty: &'static str,
    /// Column: on, or as the checkpoint has it.
    pub on: &'static str,
    /// Column: the layer.
    pub layer: &'static str,
    /// Column: rows and columns of the matrix.
    pub shape: &'static str,
    /// Column: format of the weights.
    pub weights: &'static str,
    /// Column: bytes as packed.
    pub bytes: &'static str,
    /// Column: bits a weight.
    pub bits: &'static str,
    /// Settings that differ among layers.
    pub mixed: &'static str,
    /// The embedding's row.
    pub embedding: &'static str,
    /// The head's row.
    pub head: &'static str,
    /// A block's row, by number.
    pub block: fn(u16) -> String,
    /// Accessible name: compress this layer or keep it as stored.
    pub toggle_name: fn(&str) -> String,
    /// Accessible name: the format of this layer's weights.
    pub weights_name: fn(&str) -> String,
    /// Accessible name: open or close this block.
    pub expand_name: fn(&str) -> String,
    /// What the next edit changes: so many layers.
    pub selected: fn(usize) -> String,
    /// Accessible name of that many layers, for the controls of the selection.
    pub selection_name: &'static str,
    /// Shown when nothing is selected.
    pub select_hint: &'static str,
    /// Menu that selects by role.
    pub select: &'static str,
    /// Selects every linear layer of the blocks.
    pub select_all: &'static str,
    /// Selects attention.
    pub select_attention: &'static str,
    /// Selects the MLPs.
    pub select_mlp: &'static str,
    /// Selects what the filter shows.
    pub select_shown: &'static str,
    /// Selects nothing.
    pub select_none: &'static str,
    /// Selects all layers with a role.
    pub select_role: fn(&str) -> String,
    /// Menu of shipped recipes.
    pub presets: &'static str,
    /// Gives layers back what the checkpoint has.
    pub reset: &'static str,
    /// The recipe's name.
    pub name: &'static str,
    /// Heading of the integer formats in the menu.
    pub int_heading: &'static str,
    /// Bits of an integer format.
    pub int_bits: &'static str,
    /// Group of an integer format.
    pub int_group: &'static str,
    /// One grid a row.
    pub int_row: &'static str,
    /// Whether zero is in the middle of the grid.
    pub int_symmetric: &'static str,
    /// The format is dequantized on this device.
    pub simulated_note: &'static str,
    /// The same in one word, inside the menu of formats.
    pub simulated: &'static str,
    /// What the first column does.
    pub toggle_note: &'static str,
    /// Shape and stored format of a layer.
    pub layer_note: fn(&str, &str) -> String,
    /// Heading of the problems.
    pub issues: fn(usize) -> String,
    /// Instead of a table when there is no model.
    pub no_model: &'static str,
}

impl RecipeWords {
    /// English.
    pub const EN: Self = Self {
        filter: "Filter layers",
        filter_hint: "Filter: name, role or format",
        filter_empty: "No layer matches the filter",
        on: "On",
        layer: "Layer",
        shape: "Shape",
        weights: "Weights",
        bytes: "Bytes",
        bits: "Bits/w",
        mixed: "mixed",
        embedding: "embedding",
        head: "head",
        block: |number| format!("block {number}"),
        toggle_name: |layer| format!("Compress {layer}"),
        weights_name: |layer| format!("Weights of {layer}"),
        expand_name: |block| format!("Show layers of {block}"),
        selected: |n| if n == 1 { "1 layer selected".to_owned() } else { format!("{n} layers selected") },
        selection_name: "selection",
        select_hint: "Click rows to select; Shift extends, Ctrl adds",
        select: "Select",
        select_all: "All layers of the blocks",
        select_attention: "Attention",
        select_mlp: "MLP",
        select_shown: "What the filter shows",
        select_none: "Nothing",
        select_role: |role| format!("All {role}"),
        presets: "Presets",
        reset: "Reset",
        name: "Recipe name",
        int_heading: "Integer grid",
        int_bits: "Bits",
        int_group: "Group",
        int_row: "row",
        int_symmetric: "Symmetric",
        simulated_note: "Simulated on this device: quality and bytes are the format's own, speed is not",
        simulated: "simulated",
        toggle_note: "Off leaves the layer as the checkpoint has it; on gives its settings back",
        layer_note: |shape, stored| format!("{shape} (out × in), stored as {stored}"),
        issues: |n| {
            if n == 1 {
                "1 problem keeps this recipe from running".to_owned()
            } else {
                format!("{n} problems keep this recipe from running")
            }
        },
        no_model: "Open a model to set precision and pruning for each layer",
    };
}
