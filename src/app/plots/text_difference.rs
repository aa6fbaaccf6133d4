//! Which words of two texts differ.

/// Words compared at most on each side; the rest of a longer text is taken as different.
pub const MAX_WORDS: usize = 600;

/// A run of words of one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The words with the white space behind them.
    pub text: String,
    /// Whether the other text has them too, in this order.
    pub common: bool,
}

/// Both texts in runs: words of a longest common subsequence are common, the others are not.
///
/// Words are runs of characters up to and including white space. Takes at most [`MAX_WORDS`]² steps.
pub fn text_difference(a: &str, b: &str) -> [Vec<Run>; 2] {
    let words_a: Vec<&str> = a.split_inclusive(char::is_whitespace).collect();
    let words_b: Vec<&str> = b.split_inclusive(char::is_whitespace).collect();
    let (head_a, head_b) = (&words_a[..words_a.len().min(MAX_WORDS)], &words_b[..words_b.len().min(MAX_WORDS)]);
    let same = |i: usize, j: usize| head_a[i].trim_end() == head_b[j].trim_end();
    let (n, m) = (head_a.len(), head_b.len());
    // longest[i][j]: length of the longest common subsequence of the words from i and from j on.
    let mut longest = vec![0_u16; (n + 1) * (m + 1)];
    let at = |i: usize, j: usize| i * (m + 1) + j;
    for i in (0..n).rev() {
        for j in (0..m).rev() {
            longest[at(i, j)] = if same(i, j) {
                longest[at(i + 1, j + 1)] + 1
            } else {
                longest[at(i + 1, j)].max(longest[at(i, j + 1)])
            };
        }
    }
    let mut common_a = vec![false; words_a.len()];
    let mut common_b = vec![false; words_b.len()];
    let (mut i, mut j) = (0, 0);
    while i < n && j < m {
        if same(i, j) {
            common_a[i] = true;
            common_b[j] = true;
            i += 1;
            j += 1;
        } else if longest[at(i + 1, j)] >= longest[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    [runs(&words_a, &common_a), runs(&words_b, &common_b)]
}

fn runs(words: &[&str], common: &[bool]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (word, &common) in words.iter().zip(common) {
        match runs.last_mut() {
            Some(run) if run.common == common => run.text.push_str(word),
            _ => runs.push(Run { text: (*word).to_owned(), common }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(a: &str, b: &str) -> [String; 2] {
        text_difference(a, b).map(|runs| {
            runs.iter().map(|run| if run.common { run.text.clone() } else { format!("[{}]", run.text) }).collect()
        })
    }

    #[test]
    fn differing_words_are_found() {
        let cases = [
            ("", "", ["", ""]),
            ("a b", "a b", ["a b", "a b"]),
            ("a red ball", "a ball", ["a [red ]ball", "a ball"]),
            ("a dog ran", "a cat ran", ["a [dog ]ran", "a [cat ]ran"]),
            ("x", "", ["[x]", ""]),
            ("end", "end more", ["end", "end [more]"]),
        ];
        for (a, b, expected) in cases {
            assert_eq!(marked(a, b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn long_texts_are_bounded_and_nothing_is_dropped() {
        let a = "word ".repeat(5000);
        let [runs_a, _] = text_difference(&a, &a);
        assert_eq!(runs_a.iter().map(|run| run.text.len()).sum::<usize>(), a.len());
        assert_eq!(runs_a.len(), 2);
        assert!(runs_a[0].common && !runs_a[1].common);
    }
}
