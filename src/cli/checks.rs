//! What a workload or study asks for that no worker could do, found before one starts.

use anyhow::bail;

use crate::study::{Budget, Limits, StrategySpec, StudySpec, Workload};

/// Fails with every problem of the workload on a model with this context.
pub(super) fn workload(workload: &Workload, max_context: usize) -> anyhow::Result<()> {
    refuse(&workload_problems(workload, max_context))
}

/// Fails with every problem of the study on a model with this context.
pub(super) fn study(spec: &StudySpec, max_context: usize) -> anyhow::Result<()> {
    let mut problems = workload_problems(&spec.workload, max_context);
    problems.extend(judging_problems(spec));
    problems.extend(budget_problems(&spec.budget));
    refuse(&problems)
}

fn refuse(problems: &[String]) -> anyhow::Result<()> {
    match problems {
        [] => Ok(()),
        [problem] => bail!("{problem}"),
        problems => bail!("{} problems:\n  {}", problems.len(), problems.join("\n  ")),
    }
}

fn workload_problems(workload: &Workload, max_context: usize) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |is_wrong: bool, problem: String| problems.extend(is_wrong.then_some(problem));
    let over = |what: &str, tokens: usize| format!("{what} {tokens}: the model's context is {max_context} tokens");
    if let Some(quality) = &workload.quality {
        let context = quality.context;
        check(context < 2, format!("context {context}: a window has at least 2 tokens"));
        check(context > max_context, over("context", context));
        check(quality.windows == Some(0), "windows 0: at least 1 is scored; leave it out for all of them".to_owned());
    }
    if let Some(speed) = &workload.speed {
        for (what, tokens) in [("prompt", speed.prompt), ("decode", speed.decode)] {
            check(tokens == 0, format!("{what} 0: speed needs at least 1 token"));
            check(tokens as usize > max_context, over(what, tokens as usize));
        }
        let repetitions = speed.repetitions;
        check(repetitions < 2, format!("repetitions {repetitions}: an interval needs at least 2"));
    }
    problems
}

/// Limits and ladders judge by a quality with an interval.
fn judging_problems(spec: &StudySpec) -> Vec<String> {
    let mut problems = Vec::new();
    let Limits { max_kl, max_perplexity_ratio } = spec.limits;
    let has_limits = max_kl.is_some() || max_perplexity_ratio.is_some();
    match &spec.workload.quality {
        None => {
            if let StrategySpec::Progressive { .. } = spec.strategy {
                problems
                    .push("strategy progressive: it judges each rung by quality; add [workload.quality]".to_owned());
            }
            if has_limits {
                problems
                    .push("limits: they are limits of quality, which is not measured; add [workload.quality]".into());
            }
        }
        Some(quality) if has_limits && quality.windows == Some(1) => {
            problems.push("limits: one window has no interval to judge by; score at least 2 windows".to_owned());
        }
        Some(_) => {}
    }
    for (name, limit) in [("max_kl", max_kl), ("max_perplexity_ratio", max_perplexity_ratio)] {
        problems.extend(
            limit
                .filter(|limit| !(limit.is_finite() && *limit >= 0.0))
                .map(|limit| format!("{name} {limit}: a limit is a number from 0")),
        );
    }
    problems
}

fn budget_problems(budget: &Budget) -> Vec<String> {
    let trials = (budget.trials == Some(0)).then(|| "budget.trials 0: no variant would be tried".to_owned());
    let secs = budget.secs.filter(|secs| secs.is_nan() || *secs <= 0.0);
    let secs = secs.map(|secs| format!("budget.secs {secs}: no variant would be tried"));
    trials.into_iter().chain(secs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::model::ModelSource;
    use crate::recipe::Recipe;
    use crate::study::{Protocol, QualityWorkload, SpeedWorkload};

    fn scored(context: usize, windows: Option<u32>) -> Workload {
        let data = "x.jsonl".into();
        let quality = QualityWorkload { data, protocol: Protocol::Gptq, context, windows, dequantized: false };
        Workload { quality: Some(quality), ..Workload::default() }
    }

    fn spec(workload: Workload, limits: Limits, budget: Budget, is_ladder: bool) -> StudySpec {
        let base = Recipe::reference();
        let strategy = if is_ladder {
            StrategySpec::Progressive { base, rungs: Vec::new() }
        } else {
            StrategySpec::List { recipes: vec![base] }
        };
        StudySpec {
            name: "s".to_owned(),
            model: ModelSource::Gguf { file: "x.gguf".into() },
            device: DeviceSpec::Cpu { threads: 1 },
            also_on: Vec::new(),
            workload,
            strategy,
            limits,
            budget,
            seed: 0,
        }
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let kl = Limits { max_kl: Some(0.1), ..Limits::default() };
        let speed = |prompt, decode, repetitions| Workload {
            speed: Some(SpeedWorkload { prompt, decode, repetitions }),
            ..Workload::default()
        };
        let (no_limits, no_budget) = (Limits::default(), Budget::default());
        let cases: [(StudySpec, &[&str]); 10] = [
            (spec(scored(256, None), kl, no_budget, true), &[]),
            (spec(speed(256, 256, 2), no_limits, no_budget, false), &[]),
            (spec(scored(1, Some(0)), no_limits, no_budget, false), &["context 1", "windows 0"]),
            (spec(scored(257, Some(1)), no_limits, no_budget, false), &["context is 256"]),
            (spec(speed(0, 257, 1), no_limits, no_budget, false), &["prompt 0", "decode 257", "repetitions 1"]),
            (spec(speed(8, 8, 2), kl, no_budget, true), &["progressive", "limits"]),
            (spec(scored(64, Some(1)), kl, no_budget, false), &["one window"]),
            (spec(scored(64, None), Limits { max_kl: Some(f64::NAN), ..kl }, no_budget, false), &["max_kl NaN"]),
            (
                spec(scored(64, None), no_limits, Budget { trials: Some(0), secs: Some(0.0) }, false),
                &["budget.trials 0", "budget.secs 0"],
            ),
            (
                spec(speed(0, 8, 2), kl, Budget { trials: Some(0), secs: None }, false),
                &["prompt 0", "limits", "budget.trials 0"],
            ),
        ];
        for (spec, expected) in cases {
            let found = study(&spec, 256).err().map(|error| error.to_string()).unwrap_or_default();
            let n_found = if found.contains('\n') { found.lines().count() - 1 } else { usize::from(!found.is_empty()) };
            assert_eq!(n_found, expected.len(), "{found}");
            for words in expected {
                assert!(found.contains(words), "{words}: {found}");
            }
        }
    }
}
