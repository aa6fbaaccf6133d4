//! Every example that people are shown works.

use std::fs;

use crate::cli::{GPTQ4, assert_code, folder, run, text};

#[test]
fn every_help_has_an_example_that_works() {
    let folder = folder();
    fs::write(folder.path().join("gptq4.toml"), GPTQ4).unwrap();
    for command in ["inspect", "eval", "bench", "profile", "sweep", "show", "report", "export", "devices", "cache"] {
        let help = run(folder.path(), &[command, "--help"]);
        assert_code(&help, 0, &[command, "--help"]);
        assert!(help.stderr.is_empty());
        let examples = text(&help.stdout).replace("\\\n", " ");
        let examples: Vec<Vec<&str>> = examples
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| words.first() == Some(&"trimtab"))
            .collect();
        assert!(!examples.is_empty(), "{command} has an example");
        for words in examples {
            assert_eq!(words[1], command);
            // The demo sweep is measured in minutes on a debug build; a small sweep has a test of its own.
            if command != "sweep" {
                assert_code(&run(folder.path(), &words[1..]), 0, &words);
            }
        }
    }
    // The recipe that the examples name is the one in the help.
    let help = run(folder.path(), &["eval", "--help"]);
    let (_, recipe) = text(&help.stdout).split_once("gptq4.toml:\n").expect("the recipe of the examples");
    let recipe: Vec<&str> = recipe.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert_eq!(recipe.join("\n"), GPTQ4.trim());
    let help = run(folder.path(), &["--help"]);
    assert!(text(&help.stdout).contains("trimtab sweep --demo"));
}

#[test]
fn the_examples_of_the_readme_work() {
    let folder = folder();
    let readme = include_str!("../../../README.md");
    // The demo sweep is measured in minutes on a debug build; its recorded study stands for it.
    fs::copy(folder.path().join("assets/demo/demo.study"), folder.path().join("demo.study")).unwrap();
    let mut n_run = 0;
    for block in readme.split("```").skip(1).step_by(2) {
        let (kind, body) = block.split_once('\n').unwrap();
        let lines: Vec<&str> = body.lines().map(|line| line.strip_prefix("   ").unwrap_or(line)).collect();
        if let (Some(name), "toml") = (lines[0].strip_prefix("# "), kind) {
            fs::write(folder.path().join(name), lines.join("\n")).unwrap();
        }
        for line in lines.iter().filter(|line| kind == "sh" && line.starts_with("trimtab ")) {
            let line = line.split(" # ").next().unwrap();
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            if words[0] != "sweep" {
                assert_code(&run(folder.path(), &words), 0, &words);
                n_run += 1;
            }
        }
    }
    assert!(n_run >= 9, "{n_run} examples");
}
