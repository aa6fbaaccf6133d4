//! Numbers of a recipe that controls show: only the user changes them.

use trimtab::recipe::{
    ActivationRange, Activations, GptqOptions, HqqOptions, LowRank, LowRankMethod, PartialSettings, Rounding, Sharing,
    SharingMethod, Sparsity, SparsityMethod, StaticOptions,
};

use super::*;

/// Values that a recipe may have, beyond the rails and between the steps of their controls.
fn odd_recipes() -> Vec<Recipe> {
    let int4 = IntFormat { bits: 4, group: Group::Size(32), symmetric: true };
    let of =
        |settings: PartialSettings| Recipe { default: settings, ..Recipe::uniform("odd", WeightFormat::Native, None) };
    let rounded = |rounding| {
        let weights = Some(WeightFormat::Int(int4));
        PartialSettings { weights, rounding: Some(rounding), ..PartialSettings::default() }
    };
    let gptq = GptqOptions { damping: 1e-8, block: 2048, ..GptqOptions::default() };
    let range = ActivationRange::Percentile(62.512_34);
    let options = StaticOptions { range, smoothing: Some(0.123_456) };
    let int8 = PartialSettings {
        activations: Some(Activations::Int8Static(options)),
        ..rounded(Rounding::Hqq(HqqOptions { iterations: 500, norm: 1e-3 }))
    };
    let sparse = Sparsity::new(SparsityMethod::Magnitude, 0.070_1);
    let sparse = PartialSettings { sparsity: Some(sparse), ..PartialSettings::default() };
    let thin = LowRank::with_ratio(LowRankMethod::Svd, 1e-3);
    let thin = PartialSettings { low_rank: Some(LowRank { align: 300, ..thin }), ..PartialSettings::default() };
    let mut whole = of(PartialSettings::default());
    let cut = WidthCut { fraction: 0.333, score: ChannelScore::WeightNorm, blocks: None, align: Some(576) };
    whole.structure.ffn = Some(cut);
    whole.attention.window = Some(100_000);
    whole.attention.sinks = 1_000;
    whole.calibration.windows = Some(200_000);
    whole.calibration.context = Some(2);
    let (method, ratio) = (SharingMethod::Basis, Some(0.001_5));
    whole.sharing.push(Sharing { role: LayerRole::QProj, blocks: [0, 5], method, ratio });
    vec![of(rounded(Rounding::Gptq(gptq))), of(int8), of(sparse), of(thin), whole]
}

/// A look into each field that is shown, and out of it without typing; returns into how many.
fn look_into_fields(harness: &mut Harness<'_, World>) -> usize {
    let fields: Vec<_> = harness.query_all_by_role(Role::SpinButton).map(|field| field.rect().center()).collect();
    let mut n = 0;
    for field in fields {
        harness.drag_at(field);
        harness.drop_at(field);
        harness.run();
        n += usize::from(harness.ctx.memory(|memory| memory.focused().is_some()));
        harness.key_press(Key::Enter);
        harness.run();
    }
    n
}

/// The recipe in this tile and no other.
fn alone(recipe: &Recipe, tile: Tile) -> Harness<'static, World> {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    for other in Tile::ALL.into_iter().filter(|other| *other != tile) {
        assert!(harness.state_mut().view.apply(Command::ToggleTile(other)).is_none());
    }
    harness.state_mut().editor.set(recipe.clone(), trimtab::app::editor::Gesture::Whole);
    harness.run();
    assert!(matches!(harness.state().editor.draft().plan, Some(Ok(_))), "{recipe:?}");
    harness
}

#[test]
fn looking_at_a_recipe_does_not_change_it() {
    let unchanged = |harness: &Harness<'_, World>, recipe: &Recipe| {
        let is_edit = |command: &&Command| matches!(command, Command::SetRecipe(_));
        assert_eq!(harness.state().sent.iter().find(is_edit), None);
        assert_eq!(harness.state().editor.draft().recipe, *recipe);
    };
    let mut looked = Vec::new();
    for recipe in odd_recipes() {
        let mut harness = alone(&recipe, Tile::Recipe);
        choose(&mut harness, "Select", "All down_proj");
        click(&mut harness, "Methods of selection");
        let in_methods = look_into_fields(&mut harness);
        unchanged(&harness, &recipe);
        let mut harness = alone(&recipe, Tile::Whole);
        looked.push([in_methods, look_into_fields(&mut harness)]);
        unchanged(&harness, &recipe);
    }
    // Of methods: damping, block; iterations, norm, percentile, exponent; amount; share, multiple. Of the whole model: two
    // widths, windows, context; then blocks and multiple of the cut, window, sinks, blocks and share of the group.
    assert_eq!(looked, [[2, 4], [4, 4], [1, 4], [2, 4], [0, 12]]);
}

#[test]
fn a_typed_number_is_taken_as_it_is() {
    let mut harness = World::with_model().harness(SIZE, Theme::Dark);
    harness.state_mut().editor.set(odd_recipes().swap_remove(0), trimtab::app::editor::Gesture::Whole);
    harness.run();
    choose(&mut harness, "Select", "All down_proj");
    click(&mut harness, "Methods of selection");
    harness.get_by_role_and_label(Role::SpinButton, "damping").click();
    harness.run();
    harness.get_by_role_and_label(Role::SpinButton, "damping").type_text("2e-7");
    harness.run();
    harness.key_press(Key::Enter);
    harness.run();
    let Rounding::Gptq(options) = harness.state().settings(DOWN).rounding else { panic!("it stays gptq") };
    assert_eq!((options.damping, options.block), (2e-7, 2048));
}
