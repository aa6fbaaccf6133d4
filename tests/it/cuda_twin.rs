//! The twin of NVIDIA's driver, which the worker finds in a folder of the build's, and a model that is small enough for
//! kernels that run on the processor.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use trimtab::device::DeviceSpec;
use trimtab::model::ModelSource;
use trimtab::recipe::Recipe;
use trimtab::study::{Caution, Outcome, Protocol, QualityWorkload, StudyEvent, TrialId, TrialSpec, Workload};
use trimtab::worker::Runner as _;
use trimtab::worker::host::{Deadlines, WorkerConfig, WorkerHandle};

pub(crate) const WORKER: &str = env!("CARGO_BIN_EXE_trimtab-worker-cuda");
pub(crate) const CARD: DeviceSpec = DeviceSpec::Cuda { ordinal: 0 };
pub(crate) const PROCESSOR: DeviceSpec = DeviceSpec::Cpu { threads: 1 };

/// Environment variables that put the twin in the place of the driver, with this script.
pub(crate) fn twin(script: &str) -> Vec<(String, String)> {
    let folder = env!("TRIMTAB_DRIVER_TWIN");
    [("LD_LIBRARY_PATH", folder), ("TRIMTAB_TWIN", script)]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// The variable that names the twin of the library of products of many rows.
pub(crate) fn library() -> (String, String) {
    ("TRIMTAB_CUDA_LIBRARIES".to_owned(), env!("TRIMTAB_CUBLASLT_TWIN").to_owned())
}

/// A model of two blocks of width 32 over 128 letters, with a text of them.
pub(crate) struct Toy {
    dir: tempfile::TempDir,
}

const HIDDEN: usize = 32;
const CHANNELS: usize = 64;
const LETTERS: usize = 128;

impl Toy {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
            "intermediate_size": CHANNELS, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 16, "vocab_size": LETTERS, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "bos_token_id": 1,
            "eos_token_id": 2, "torch_dtype": "float32",
        });
        write("config.json", config.to_string());
        let vocabulary: Map<_, _> = (0..LETTERS).map(|id| (letter(id).to_string(), json!(id))).collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": [] },
        });
        write("tokenizer.json", tokenizer.to_string());
        let text: String = (0..150).map(|place| letter(place * 37 % 101 + 3)).collect();
        write("text.jsonl", json!({ "text": text }).to_string());
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![LETTERS, HIDDEN])];
        for block in 0..2 {
            let layers: [(&str, &[usize]); 9] = [
                ("input_layernorm", &[HIDDEN]),
                ("self_attn.q_proj", &[HIDDEN, HIDDEN]),
                ("self_attn.k_proj", &[HIDDEN / 2, HIDDEN]),
                ("self_attn.v_proj", &[HIDDEN / 2, HIDDEN]),
                ("self_attn.o_proj", &[HIDDEN, HIDDEN]),
                ("post_attention_layernorm", &[HIDDEN]),
                ("mlp.gate_proj", &[CHANNELS, HIDDEN]),
                ("mlp.up_proj", &[CHANNELS, HIDDEN]),
                ("mlp.down_proj", &[HIDDEN, CHANNELS]),
            ];
            tensors.extend(layers.map(|(name, shape)| (format!("model.layers.{block}.{name}.weight"), shape.to_vec())));
        }
        tensors.push(("model.norm.weight".to_owned(), vec![HIDDEN]));
        std::fs::write(dir.path().join("model.safetensors"), safetensors(&tensors)).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A worker of this model for cards, with the twin and its script.
    pub(crate) fn handle(&self, script: &str) -> WorkerHandle {
        self.handle_with(script, Deadlines::default())
    }

    /// [`Self::handle`] with the library of products of many rows.
    pub(crate) fn handle_with_library(&self, script: &str) -> WorkerHandle {
        let env = twin(script).into_iter().chain([library()]).collect();
        self.worker(WORKER, CARD, env, Deadlines::default())
    }

    pub(crate) fn handle_with(&self, script: &str, deadlines: Deadlines) -> WorkerHandle {
        self.worker(WORKER, CARD, twin(script), deadlines)
    }

    /// A worker of this model for the processor.
    pub(crate) fn on_processor(&self) -> WorkerHandle {
        self.worker(env!("CARGO_BIN_EXE_trimtab"), PROCESSOR, Vec::new(), Deadlines::default())
    }

    fn worker(
        &self,
        exe: &str,
        device: DeviceSpec,
        mut env: Vec<(String, String)>,
        deadlines: Deadlines,
    ) -> WorkerHandle {
        let cache = self.path().join("cache").display().to_string();
        env.push(("XDG_CACHE_HOME".to_owned(), cache));
        let source = ModelSource::Safetensors { dir: self.path().to_path_buf() };
        WorkerHandle::new(WorkerConfig { exe: PathBuf::from(exe), source, device, deadlines, env })
    }

    /// A trial of two windows of quality.
    pub(crate) fn quality(&self, number: u32, recipe: &Recipe, device: DeviceSpec) -> TrialSpec {
        let quality = QualityWorkload {
            data: self.path().join("text.jsonl"),
            protocol: Protocol::Gptq,
            context: 12,
            windows: Some(2),
            dequantized: false,
        };
        let workload = Workload { quality: Some(quality), ..Workload::default() };
        TrialSpec { id: TrialId(number), recipe: recipe.clone(), device, workload, seed: 0 }
    }
}

/// The letter that is a token: no text of one merges into another.
fn letter(id: usize) -> char {
    char::from_u32(0x100 + id as u32).unwrap()
}

/// A recipe that this repository ships.
pub(crate) fn shipped(name: &str) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/recipes").join(name).with_extension("toml");
    Recipe::from_toml(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// How a trial ended, with its cautions and its memory over time.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcome: Outcome,
    pub(crate) cautions: Vec<Caution>,
    pub(crate) memory: Vec<(u64, u64)>,
}

/// Runs a trial to its end; `observe` sees the events before it.
pub(crate) fn run_with(
    handle: &mut WorkerHandle,
    spec: &TrialSpec,
    mut observe: impl FnMut(&mut WorkerHandle, &StudyEvent),
) -> Finished {
    handle.submit(spec);
    let deadline = Instant::now() + Duration::from_mins(2);
    while Instant::now() < deadline {
        match handle.next_event(Duration::from_millis(50)) {
            Some(StudyEvent::TrialFinished { outcome, cautions, memory_curve: memory, .. }) => {
                return Finished { outcome, cautions, memory };
            }
            Some(event) => observe(handle, &event),
            None => {}
        }
    }
    panic!("the trial did not end");
}

pub(crate) fn run(handle: &mut WorkerHandle, spec: &TrialSpec) -> Finished {
    run_with(handle, spec, |_, _| {})
}

/// A file of tensors whose numbers are noise; those of norms are near 1.
fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    let mut state = 1_u64;
    for (name, shape) in tensors {
        let begin = data.len();
        let (center, spread) = if name.contains("norm") { (1.0, 0.1) } else { (0.0, 0.3) };
        for _ in 0..shape.iter().product::<usize>() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 40) as f32 / (1 << 23) as f32 - 1.0;
            data.extend((center + spread * noise).to_le_bytes());
        }
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
        header.insert(name.clone(), entry);
    }
    let header = json!(header).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()
}
