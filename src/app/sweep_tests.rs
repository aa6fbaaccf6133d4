use super::*;

fn with_data(kind: SweepKind) -> SweepSettings {
    let mut settings = SweepSettings { kind, ..SweepSettings::default() };
    settings.quality.data = PathBuf::from("search.jsonl");
    settings
}

#[test]
fn each_kind_becomes_its_strategy() {
    let draft = Recipe::uniform("draft", WeightFormat::Q8_0, None);
    let trials = |kind| match with_data(kind).strategy(&draft).unwrap() {
        StrategySpec::List { recipes } => recipes.len(),
        StrategySpec::Grid { axes, .. } => axes.iter().map(|axis| axis.settings.len()).product(),
        StrategySpec::Progressive { rungs, .. } => rungs.iter().map(|axis| axis.settings.len()).sum(),
    };
    assert_eq!(trials(SweepKind::ThisRecipe), 1);
    assert_eq!(trials(SweepKind::Presets), SweepSettings::default().presets.len());
    assert_eq!(trials(SweepKind::Grid), 8);
    assert_eq!(trials(SweepKind::LadderSparsity), 6);
    assert_eq!(trials(SweepKind::LadderFormats), 4);
}

#[test]
fn a_grid_varies_rounding_and_every_way_of_pruning() {
    let mut settings = with_data(SweepKind::Grid);
    settings.formats = [WeightFormat::Q4_0].into();
    settings.roundings = ["nearest", "gptq"].map(str::to_owned).into();
    settings.grid_percents = [0, 30, 50].into();
    settings.sparsity_methods = [SparsityMethod::Magnitude, SparsityMethod::Wanda].into();
    let StrategySpec::Grid { axes, .. } = settings.strategy(&Recipe::reference()).unwrap() else { panic!("a grid") };
    assert_eq!(axes.iter().map(|axis| axis.settings.len()).collect::<Vec<_>>(), [1, 2, 1 + 2 * 2]);
    settings.kind = SweepKind::LadderSparsity;
    settings.ladder_method = SparsityMethod::SparseGpt;
    let StrategySpec::Progressive { rungs, .. } = settings.strategy(&Recipe::reference()).unwrap() else {
        panic!("a ladder is progressive");
    };
    let methods = rungs[0].settings.iter().filter_map(|settings| settings.sparsity).map(|sparsity| sparsity.method);
    assert!(methods.eq([SparsityMethod::SparseGpt; 6]));
}

#[test]
fn recipes_without_a_text_get_the_forms_when_a_study_starts() {
    let source = || ModelSource::Safetensors { dir: "m".into() };
    let spec = |settings: &SweepSettings| {
        let strategy = settings.strategy(&Recipe::uniform("draft", WeightFormat::Q8_0, None)).unwrap();
        settings.spec(strategy, source(), DeviceSpec::Cpu { threads: 1 })
    };
    let check = |settings: &SweepSettings, is_calibrated: bool| {
        for recipe in crate::study::planned_recipes(&spec(settings)) {
            let expected = (recipe.needs_calibration() && is_calibrated).then(|| PathBuf::from("c.jsonl"));
            if recipe.needs_calibration() {
                assert_eq!(recipe.calibration.data, expected, "{}", recipe.name);
            }
        }
    };
    let mut settings = with_data(SweepKind::Presets);
    check(&settings, false);
    settings.calibration = "c.jsonl".into();
    check(&settings, true);
    settings.kind = SweepKind::Grid;
    settings.roundings = ["gptq".to_owned()].into();
    check(&settings, true);
    settings.kind = SweepKind::LadderSparsity;
    settings.ladder_method = SparsityMethod::Wanda;
    check(&settings, true);
}

#[test]
fn what_is_missing_is_named() {
    let draft = Recipe::uniform("draft", WeightFormat::Q8_0, None);
    let mut settings = SweepSettings::default();
    assert_eq!(settings.strategy(&draft), Err(Incomplete::Data));
    settings.with_quality = false;
    assert!(settings.strategy(&draft).is_ok());
    settings.presets.clear();
    assert_eq!(settings.strategy(&draft), Err(Incomplete::Nothing));
    settings.kind = SweepKind::LadderFormats;
    settings.limits = Limits::default();
    assert_eq!(settings.strategy(&draft), Err(Incomplete::Limit));
    settings.kind = SweepKind::ThisRecipe;
    assert_eq!(settings.strategy(&Recipe::reference()), Err(Incomplete::Reference));
    (settings.with_speed, settings.with_sample) = (false, false);
    assert_eq!(settings.strategy(&draft), Err(Incomplete::Workload));
}

#[test]
fn formats_are_tried_from_many_bits_to_few() {
    let choices = SweepSettings::choices();
    assert_eq!(choices.first(), Some(&WeightFormat::F32));
    assert!(choices.windows(2).all(|pair| nominal_bits(pair[0]) >= nominal_bits(pair[1])));
    let StrategySpec::Progressive { rungs, .. } =
        with_data(SweepKind::LadderFormats).strategy(&Recipe::reference()).unwrap()
    else {
        panic!("a ladder is progressive");
    };
    let formats: Vec<_> = rungs[0].settings.iter().filter_map(|settings| settings.weights).collect();
    let expected = [WeightFormat::Q8_0, WeightFormat::Q5_1, WeightFormat::Q4_1, WeightFormat::Q4_0];
    assert_eq!(formats, expected);
}
