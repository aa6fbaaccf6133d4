use super::*;
use crate::export::report::fixtures::small_study;

const NAMES: [&str; 5] = ["reference", "Q8_0", "<script>alert(1)</script> & \"co\"", "too big", "still running"];

#[test]
fn a_report_stands_alone() {
    let page = html(&small_study(NAMES));
    for word in ["<script", "http://", "https://", "src=", "href=", "@import", "url("] {
        assert!(!page.contains(word), "{word}");
    }
    assert!(page.contains("prefers-color-scheme: dark"));
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;co&quot;"));
}

#[test]
fn a_report_is_known_by_its_maker() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let ours = html(&small_study(NAMES));
    let late = format!("<!doctype html>{}{GENERATOR}", " ".repeat(1024));
    for (text, expected) in
        [(ours.as_str(), true), ("<!doctype html><p>Trimtab</p>", false), (&late, false), ("", false)]
    {
        fs::write(&path, text).unwrap();
        assert_eq!(is_report(&path).unwrap(), expected, "{text:.60}");
    }
    assert!(!is_report(folder.path()).unwrap());
    assert!(is_report(&folder.path().join("absent.html")).is_err());
}

#[test]
fn every_tag_is_closed_in_order() {
    for study in [small_study(NAMES), Study::default()] {
        let page = html(&study);
        let mut open = Vec::new();
        for tag in page.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').expect("tags end");
            let name = tag.split([' ', '/']).next().unwrap();
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed), "in {tag:?}");
            } else if !tag.ends_with('/') && !matches!(name, "!doctype" | "meta") {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

#[test]
fn numbers_carry_their_basis_and_marks() {
    let page = html(&small_study(NAMES));
    let cases = [
        ("gptq-256, report", "protocol and split beside the number"),
        ("class=\"front\"", "the Pareto front"),
        ("class=\"bar hollow\"", "simulated speed is hollow"),
        ("≈ ", "simulated numbers are marked"),
        ("(not resolved)", "a ratio whose interval holds 1"),
        ("failed: out of memory", "a failure is a row"),
        ("choose a smaller context", "with its message"),
        ("unfinished", "so is a running trial"),
        ("42 layers simulated", "cautions"),
        ("cc1, plus on 0.90 cores", "conditions"),
        ("mean KL up to 0.100 nats", "limits"),
        ("3 done, 1 failed, 1 unfinished; stopped by the user", "counts"),
    ];
    for (text, why) in cases {
        assert!(page.contains(text), "{why}: {text}");
    }
}

#[test]
fn nothing_that_is_not_finite_is_drawn() {
    for names in [NAMES, [""; 5]] {
        let page = html(&small_study(names));
        assert!(!page.contains("NaN") && !page.contains("\"inf") && !page.contains("n/a"));
    }
}
