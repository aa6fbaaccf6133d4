use super::*;
use crate::model::{BlockShape, LlamaConfig};
use crate::nn::toy::{Gates, Toy};

/// ∂ loss / ∂ gate by central differences of the f64 forward pass.
fn difference(toy: &Toy, tokens: &[u32], gate: impl Fn(&mut Gates) -> &mut f64) -> f64 {
    const STEP: f64 = 1e-4;
    let loss = |value| {
        let mut gates = toy.open_gates();
        *gate(&mut gates) = value;
        toy.loss(tokens, &gates)
    };
    ((loss(1.0 + STEP) - loss(1.0 - STEP)) / (2.0 * STEP)).abs()
}

fn check(toy: &Toy, tokens: &[u32]) {
    let found = gate_gradients(&toy.model(), tokens).unwrap();
    let open = toy.open_gates();
    let lens = |lists: &[Vec<f64>]| lists.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!((lens(&found.heads), lens(&found.channels)), (lens(&open.heads), lens(&open.channels)));
    for block in 0..toy.config.n_blocks {
        for (kind, found) in [("head", &found.heads[block]), ("channel", &found.channels[block])] {
            for index in [0, 1, 7, 23].into_iter().filter(|index| *index < found.len()) {
                let expected = difference(toy, tokens, |gates| {
                    let lists = if kind == "head" { &mut gates.heads } else { &mut gates.channels };
                    &mut lists[block][index]
                });
                let bound = 1e-2 * expected + 1e-6;
                let found = found[index];
                assert!((found - expected).abs() < bound, "{kind} {index} of {block}: {found} for {expected}");
            }
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let changes: [fn(&mut LlamaConfig); 4] = [
        |_| (),
        |config| (config.attention_bias, config.mlp_bias, config.tied_head) = (true, true, false),
        |config| (config.hidden_act, config.rope_order) = (HiddenAct::Gelu, crate::model::RopeOrder::Interleaved),
        |config| {
            let shape =
                |(n_heads, n_kv_heads, intermediate_size)| BlockShape { n_heads, n_kv_heads, intermediate_size };
            config.n_blocks = 3;
            config.block_shapes = [(4, 4, 0), (0, 0, 24), (2, 1, 30)].map(shape).to_vec();
        },
    ];
    for change in changes {
        check(&Toy::new(change), &[1, 5, 99, 0, 127, 42, 42, 7]);
    }
}

#[test]
fn windows_and_long_texts_are_differentiated_too() {
    let mut toy = Toy::new(|config| {
        config.max_context = 200;
        config.n_blocks = 1;
    });
    toy.attention.window = Some(5);
    toy.attention.sinks = 2;
    // More positions than one run of logits has.
    let tokens: Vec<u32> = (0..140).map(|i| (i * 37 + 11) % 128).collect();
    check(&toy, &tokens);
}

#[test]
fn a_text_without_a_second_token_is_refused() {
    assert!(matches!(gate_gradients(&Toy::new(|_| ()).model(), &[1]), Err(NnError::Shape(_))));
}
