//! The recipe that is being edited: its history and what follows from it. Pure.

use std::path::{Path, PathBuf};

use crate::app::context::Draft;
use crate::device::DeviceInfo;
use crate::model::{Fingerprint, ModelGraph};
use crate::recipe::Recipe;

/// The longest history kept.
const MAX_STEPS: usize = 200;

/// The recipe that is being edited, with undo and redo.
#[derive(Debug, Default)]
pub struct Editor {
    draft: Draft,
    undo: Vec<Recipe>,
    redo: Vec<Recipe>,
    dragging: bool,
    resolved_for: Option<(Fingerprint, DeviceInfo, PathBuf)>,
}

/// Whether an edit is made by a pointer that is still down: all edits of one drag are one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gesture {
    /// A click, a key, a menu entry.
    Whole,
    /// Part of a drag.
    Dragging,
}

impl Editor {
    /// The recipe with what follows from it.
    pub fn draft(&self) -> &Draft {
        &self.draft
    }

    /// Whether an undo step exists.
    pub fn can_undo(&self) -> bool {
        !self.undo.is_empty()
    }

    /// Whether a redo step exists.
    pub fn can_redo(&self) -> bool {
        !self.redo.is_empty()
    }

    /// Replaces the recipe: one step, or part of the step of a drag. An equal recipe is no step.
    pub fn set(&mut self, recipe: Recipe, gesture: Gesture) {
        if recipe == self.draft.recipe {
            return;
        }
        let joins = gesture == Gesture::Dragging && self.dragging;
        self.dragging = gesture == Gesture::Dragging;
        let before = self.replace(recipe);
        if !joins {
            self.undo.push(before);
            if self.undo.len() > MAX_STEPS {
                self.undo.remove(0);
            }
        }
        self.redo.clear();
    }

    /// The pointer is up: the next edit is a step of its own.
    pub fn end_drag(&mut self) {
        self.dragging = false;
    }

    /// One step back.
    pub fn undo(&mut self) {
        if let Some(recipe) = self.undo.pop() {
            let now = self.replace(recipe);
            self.redo.push(now);
        }
    }

    /// One step forward.
    pub fn redo(&mut self) {
        if let Some(recipe) = self.redo.pop() {
            let now = self.replace(recipe);
            self.undo.push(now);
        }
    }

    /// Brings settings and plan up to date with recipe, model, device and the text to calibrate on where the recipe names
    /// none; does nothing when they are.
    pub fn resolve(&mut self, graph: Option<&ModelGraph>, device: &DeviceInfo, text: &Path) {
        let is_current = match (&self.resolved_for, graph) {
            (Some((fingerprint, known, calibrated)), Some(graph)) => {
                *fingerprint == graph.fingerprint && known == device && calibrated == text
            }
            (None, None) => true,
            _ => false,
        };
        if is_current {
            return;
        }
        self.draft.settings = graph.map(|graph| self.draft.recipe.settings(graph)).unwrap_or_default();
        self.draft.blocks = graph.map(|graph| self.draft.recipe.block_shapes(graph)).unwrap_or_default();
        self.draft.shapes = graph.map(|graph| Recipe::layer_shapes(graph, &self.draft.blocks)).unwrap_or_default();
        self.draft.plan = graph.map(|graph| self.draft.recipe.clone().calibrated_on(text).resolve(graph, device));
        self.draft.generation += 1;
        self.resolved_for = graph.map(|graph| (graph.fingerprint.clone(), device.clone(), text.to_owned()));
    }

    fn replace(&mut self, recipe: Recipe) -> Recipe {
        self.resolved_for = None;
        self.draft.generation += 1;
        self.draft.plan = None;
        std::mem::replace(&mut self.draft.recipe, recipe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::model::fixtures::tiny_graph;
    use crate::recipe::{GptqOptions, PartialSettings, Rounding, WeightFormat};

    fn named(name: &str) -> Recipe {
        Recipe::uniform(name, WeightFormat::Q8_0, None)
    }

    #[test]
    fn steps_go_back_and_forth_and_a_drag_is_one() {
        let mut editor = Editor::default();
        editor.set(named("a"), Gesture::Whole);
        editor.set(named("a"), Gesture::Whole);
        for name in ["b", "c", "d"] {
            editor.set(named(name), Gesture::Dragging);
        }
        editor.end_drag();
        editor.set(named("e"), Gesture::Dragging);
        let mut seen = Vec::new();
        while editor.can_undo() {
            editor.undo();
            seen.push(editor.draft().recipe.name.clone());
        }
        assert_eq!(seen, ["d", "a", "reference"]);
        editor.redo();
        editor.redo();
        assert_eq!(editor.draft().recipe.name, "d");
        editor.set(named("f"), Gesture::Whole);
        assert!(!editor.can_redo());
    }

    #[test]
    fn the_plan_follows_recipe_model_and_device() {
        let graph = tiny_graph();
        let spec = DeviceSpec::Cpu { threads: 1 };
        let device = DeviceInfo::named(spec, "cpu");
        let (text, mut editor) = (Path::new(""), Editor::default());
        editor.resolve(Some(&graph), &device, text);
        let reference = editor.draft().plan.as_ref().unwrap().as_ref().unwrap().weight_bytes();
        let generation = editor.draft().generation;
        editor.resolve(Some(&graph), &device, text);
        assert_eq!(editor.draft().generation, generation, "nothing changed");
        editor.set(named("a"), Gesture::Whole);
        editor.resolve(Some(&graph), &device, text);
        assert!(editor.draft().plan.as_ref().unwrap().as_ref().unwrap().weight_bytes() < reference);
        editor.set(Recipe::uniform("k", WeightFormat::Q4k, None), Gesture::Whole);
        editor.resolve(Some(&graph), &device, text);
        assert!(editor.draft().plan.as_ref().unwrap().is_err());
        let gptq = Rounding::Gptq(GptqOptions::default());
        let recipe = Recipe::uniform("g", WeightFormat::Q4_0, None);
        let default = PartialSettings { rounding: Some(gptq), ..recipe.default };
        editor.set(Recipe { default, ..recipe }, Gesture::Whole);
        editor.resolve(Some(&graph), &device, text);
        assert!(editor.draft().plan.as_ref().unwrap().is_err(), "there is no text to calibrate on");
        editor.resolve(Some(&graph), &device, Path::new("a.jsonl"));
        assert!(editor.draft().plan.as_ref().unwrap().is_ok());
        assert_eq!(editor.draft().recipe.calibration.data, None, "the recipe stays as it was written");
        editor.resolve(None, &device, text);
        assert!(editor.draft().plan.is_none() && editor.draft().settings.is_empty());
    }
}
