//! Models whose weights stay in their files, as in workers for cards, beside those that hold them.

use std::cell::RefCell;

use super::*;
use crate::nn::NnError;

fn checkpoint(dir: &Path) -> Checkpoint {
    crate::checkpoint::open(&ModelSource::Safetensors { dir: dir.to_path_buf() }).unwrap()
}

/// The model of a folder as workers for the processor and for cards have it.
fn held_and_stored(dir: &Path) -> [ModelStore; 2] {
    let load = |place| ModelStore::on(place, checkpoint(dir), Device::Cpu, &|_, _| true).unwrap();
    [load(Place::open(DeviceSpec::Cpu { threads: 1 }).unwrap()), load(Place::emulated())]
}

/// Bytes of the reference's weights in the memory of the host.
fn host_bytes(store: &ModelStore) -> u64 {
    store.reference().layers().map(|layer| layer.host_bytes()).sum()
}

#[test]
fn a_model_for_a_card_is_not_held_by_the_host() {
    let dir = tempfile::tempdir().unwrap();
    write_toy(&Toy::new(|config| (config.attention_bias, config.tied_head) = (true, false)), dir.path());
    let [held, stored] = held_and_stored(dir.path());
    assert_eq!(host_bytes(&stored), 0);
    let ended = stored.place().load(stored.reference(), &|done, _| done < 2).unwrap_err();
    assert!(matches!(ended, RuntimeError::Cancelled), "{ended}");

    let told = RefCell::new(Vec::new());
    let watch = |done, total| {
        told.borrow_mut().push((done, total));
        true
    };
    let placed = stored.place().load(stored.reference(), &watch).unwrap();
    let n_layers = stored.reference().layers().count() as u32;
    let told = told.into_inner();
    assert!(told.is_sorted() && told.last() == Some(&(n_layers, n_layers)), "{told:?}");
    let weights: u64 = stored.reference().layers().map(|layer| layer.held_bytes()).sum();
    let bias: usize = stored.reference().layers().filter_map(|layer| Some(layer.bias()?.elem_count() * 4)).sum();
    let (_, on_card) = placed.on_card().unwrap();
    assert!(on_card == weights || on_card == weights + bias as u64, "{on_card} of {weights}");
    assert_eq!(host_bytes(&stored), 0, "nothing stays behind");

    // What tables say of products that nobody ran.
    for (held, stored) in held.reference().layers().zip(stored.reference().layers()) {
        assert_eq!((stored.product(), stored.arithmetic()), (held.product(), held.arithmetic()));
        assert_eq!((stored.held_bytes(), stored.n_multiplied()), (held.held_bytes(), held.n_multiplied()));
    }
    assert_eq!(host_bytes(&stored), 0, "nor is anything read for a table");

    // The host multiplies when it is asked to.
    assert_eq!(logits(stored.reference()), logits(held.reference()));
    assert!(host_bytes(&stored) > 0);
}

#[test]
fn variants_of_stored_layers_are_those_of_held_ones() {
    let dir = tempfile::tempdir().unwrap();
    write_toy(&Toy::new(|_| ()), dir.path());
    let recipes = [
        "[default]\nweights = \"q4_0\"",
        "[[rule]]\ntarget = { path = \"model.layers.1.mlp.up_proj\" }\nweights = \"q8_0\"",
        GPTQ,
        "[structure.heads]\nfraction = 0.5\nscore = \"weight_norm\"",
        "[[sharing]]\nrole = \"up_proj\"\nblocks = [0, 1]\nmethod = \"tie\"",
    ];
    for (number, recipe) in recipes.into_iter().enumerate() {
        let [held, mut stored] = held_and_stored(dir.path());
        // Both are made on a card.
        let mut held = held.moved_to(Place::emulated());
        let out = [0, 1].map(|side| dir.path().join(format!("variant-{number}-{side}")));
        let [first, second] = [(&mut held, &out[0]), (&mut stored, &out[1])].map(|(store, out)| {
            let plan = plan(store, recipe);
            store.make(&plan, Some(&text()), &(), out).unwrap()
        });
        for (first, second) in first.model.layers().zip(second.model.layers()) {
            assert!(first.dequantize().unwrap() == second.dequantize().unwrap(), "{recipe}: {}", first.path());
        }
        let [first_file, second_file] = out.map(|out| VariantFile::open(&out).unwrap());
        for layer in first.model.layers() {
            let [first, second] = [&first_file, &second_file].map(|file| file.weights(layer.path()).unwrap().unwrap());
            assert!(first.dequantize() == second.dequantize(), "{recipe}: {} as a file", layer.path());
        }
        assert_eq!((first.weight_bytes, first.held_bytes()), (second.weight_bytes, second.held_bytes()), "{recipe}");
    }
}

#[test]
fn weights_that_cannot_be_read_any_more_are_an_error_with_their_file() {
    let dir = tempfile::tempdir().unwrap();
    write_toy(&Toy::new(|_| ()), dir.path());
    let [_, mut stored] = held_and_stored(dir.path());
    let path = dir.path().join("model.safetensors");
    let len = path.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len / 2).unwrap();
    let is_told = |said: String| said.contains("changed while being read") && said.contains("model.safetensors");

    let refused = stored.place().put(stored.reference()).unwrap_err();
    assert!(matches!(refused, RuntimeError::Checkpoint(_)) && is_told(refused.to_string()), "{refused}");
    let refused = stored.reference().embed(&[1, 2]).unwrap_err();
    assert!(matches!(refused, NnError::Stored(_)) && is_told(refused.to_string()), "{refused}");
    let plan = plan(&stored, "[default]\nweights = \"q4_0\"");
    let refused = stored.build(&plan, None, &()).unwrap_err();
    assert!(is_told(refused.to_string()), "{refused}");
    assert!(is_told(stored.reference().parts().embedding.dequantize().unwrap_err().to_string()));
}

#[test]
fn a_broken_weight_is_found_before_anything_runs() {
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let dir = tempfile::tempdir().unwrap();
        let mut toy = Toy::new(|_| ());
        toy.weights.get_mut("model.layers.1.mlp.up_proj.weight").unwrap()[7_777] = broken;
        write_toy(&toy, dir.path());
        let store = ModelStore::on(Place::emulated(), checkpoint(dir.path()), Device::Cpu, &|_, _| true).unwrap();
        let refused = store.place().put(store.reference()).unwrap_err();
        assert!(matches!(refused, RuntimeError::BrokenWeight { .. }), "{refused}");
        let said = refused.to_string();
        assert!(said.starts_with("weight 7777 of model.layers.1.mlp.up_proj.weight is not finite"), "{said}");
    }
}
