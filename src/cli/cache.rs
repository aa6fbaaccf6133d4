//! `trimtab cache`: what later runs use again, and how to be rid of it.

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::cache::{DEFAULT_BUDGET_BYTES, Store, store_dir};
use crate::cli::Verdict;
use crate::cli::args::CacheArgs;
use crate::cli::out::{Out, quoted};
use crate::units;

pub(super) fn run(args: &CacheArgs, out: &mut Out) -> anyhow::Result<Verdict> {
    let Some(dir) = store_dir() else {
        bail!("neither XDG_CACHE_HOME nor HOME names a folder for the user's files: nothing is kept");
    };
    let store = Store::open(&dir, DEFAULT_BUDGET_BYTES).with_context(|| format!("open the cache {}", quoted(&dir)))?;
    let freed = args.clear.then(|| store.clear());
    let (bytes, entries, budget) = (store.size(), store.n_entries(), store.budget_bytes());
    if args.json {
        let path = dir.to_string_lossy();
        out.json(&json!({
            "folder": path, "bytes": bytes, "entries": entries, "budget_bytes": budget, "freed_bytes": freed,
        }))?;
        return Ok(Verdict::Done);
    }
    let mut lines = vec![
        ("folder", dir.display().to_string()),
        ("entries", units::count(entries as u64)),
        ("size", format!("{} of at most {}", units::bytes(bytes), units::bytes(budget))),
    ];
    lines.extend(freed.map(|freed| ("freed", units::bytes(freed))));
    let lines: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<11} {value}")).collect();
    out.data(&lines.join("\n"))?;
    Ok(Verdict::Done)
}
