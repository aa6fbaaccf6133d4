//! Stored weights on a card beside held ones, and what becomes of those that cannot be read.

use std::cell::Cell;
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use half::{bf16, f16};

use crate::compress::{ActivationGrid, PackedWeights, quantize_ggml};
use crate::cuda::CudaError;
use crate::cuda::card::Card;
use crate::cuda::emulated_card::EmulatedCard;
use crate::cuda::linear::Uploaded;
use crate::cuda::matrix::Matrix;
use crate::cuda::upload::{MOST_READERS, PIECE_BYTES};
use crate::model::{GgmlType, StoredFormat};
use crate::nn::toy::noise;
use crate::nn::{MatrixSource, StoredWeights, Weights};
use crate::recipe::Execution;

/// Weights in the place of a file.
#[derive(Debug)]
struct Stored {
    format: StoredFormat,
    bytes: Vec<u8>,
    /// Bytes that were read, of all that count here.
    read: Arc<AtomicUsize>,
    /// Whether reading fails.
    is_gone: bool,
}

impl StoredWeights for Stored {
    fn format(&self) -> StoredFormat {
        self.format
    }

    fn n_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_into(&self, begin: u64, bytes: &mut [u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        if self.is_gone {
            return Err(format!("{} bytes are gone", self.bytes.len()).into());
        }
        bytes.copy_from_slice(&self.bytes[begin as usize..][..bytes.len()]);
        self.read.fetch_add(bytes.len(), Ordering::Relaxed);
        Ok(())
    }
}

fn card() -> Rc<dyn Card> {
    Rc::new(EmulatedCard::default())
}

fn source(format: StoredFormat, bytes: Vec<u8>, shape: [usize; 2]) -> MatrixSource {
    of(Stored { format, bytes, read: Arc::default(), is_gone: false }, shape)
}

fn of(stored: Stored, shape: [usize; 2]) -> MatrixSource {
    let weights = Weights::Stored(Arc::new(stored));
    MatrixSource { weights, shape, execution: Execution::Packed, activations: ActivationGrid::Float }
}

fn stored_bytes(packed: &PackedWeights) -> (StoredFormat, Vec<u8>) {
    match packed {
        PackedWeights::F32(weights) => (StoredFormat::F32, bytemuck::cast_slice(weights).to_vec()),
        PackedWeights::F16(weights) => (StoredFormat::F16, bytemuck::cast_slice(weights).to_vec()),
        PackedWeights::Bf16(weights) => (StoredFormat::Bf16, bytemuck::cast_slice(weights).to_vec()),
        PackedWeights::Ggml { format, bytes } => (StoredFormat::Ggml(*format), bytes.clone()),
        other => panic!("a checkpoint has no {other:?}"),
    }
}

/// What the card has of a matrix of so many rows, and how its kernels are told of it.
fn on_card(card: &Rc<dyn Card>, matrix: &Matrix, rows: usize) -> (Vec<u8>, Vec<u64>, String) {
    let args = matrix.args();
    let mut codes = vec![0; rows * matrix.stride()];
    card.download(args[0], &mut codes).unwrap();
    (codes, args[1..].to_vec(), matrix.label())
}

#[test]
fn stored_weights_lie_on_a_card_as_held_ones() {
    let card = card();
    let mut all = Vec::new();
    // Rows that are multiples of 16 bytes and rows that are not, in several pieces.
    for shape @ [rows, inputs] in [[300, 96], [1_111, 41], [1, 7]] {
        let weights: Vec<f32> = (0..rows * inputs).map(|i| noise(inputs, i, 0.4)).collect();
        all.push((shape, PackedWeights::F16(weights.iter().map(|weight| f16::from_f32(*weight)).collect())));
        all.push((shape, PackedWeights::Bf16(weights.iter().map(|weight| bf16::from_f32(*weight)).collect())));
        all.push((shape, PackedWeights::F32(weights)));
    }
    for format in GgmlType::ALL {
        let shape @ [rows, inputs] = if format.block_len() == 32 { [700, 96] } else { [130, 768] };
        let weights: Vec<f32> = (0..rows * inputs).map(|i| noise(3, i, 0.4)).collect();
        all.push((shape, quantize_ggml(&weights, inputs, format).unwrap()));
    }
    let stored = |(shape, packed): &([usize; 2], PackedWeights)| {
        let (format, bytes) = stored_bytes(packed);
        (source(format, bytes, *shape), ActivationGrid::Float)
    };
    let wanted: Vec<_> = all.iter().map(stored).collect();
    let uploaded = Uploaded::default();
    let found = uploaded.upload(&card, &wanted, &|_, _| true).unwrap();
    assert_eq!(found.len(), all.len());
    for (matrix, (shape, packed)) in found.iter().zip(&all) {
        let float = ActivationGrid::Float;
        let held = Matrix::new(&card, &Rc::default(), packed, *shape, Execution::Packed, float).unwrap();
        assert!(on_card(&card, matrix, shape[0]) == on_card(&card, &held, shape[0]), "{shape:?} {}", held.label());
    }
    // They are known by the identity of their weights, however often a source was cloned.
    let again = uploaded.upload(&card, &wanted.clone(), &|_, _| panic!("nothing is left to copy")).unwrap();
    assert!(again.is_empty());
    drop(found);
    assert_eq!(uploaded.upload(&card, &wanted[..2], &|_, _| true).unwrap().len(), 2, "they went with their matrices");
}

/// Matrices of one piece each, that count together what is read of them.
fn pieces(n: usize) -> (Arc<AtomicUsize>, Vec<(MatrixSource, ActivationGrid)>) {
    let (read, shape) = (Arc::new(AtomicUsize::new(0)), [PIECE_BYTES / 64, 16]);
    let one = |_| {
        let (read, bytes) = (Arc::clone(&read), vec![0; PIECE_BYTES]);
        (of(Stored { format: StoredFormat::F32, bytes, read, is_gone: false }, shape), ActivationGrid::Float)
    };
    let wanted = (0..n).map(one).collect();
    (read, wanted)
}

#[test]
fn the_host_is_a_few_pieces_ahead_of_the_card_at_most() {
    let (read, wanted) = pieces(40);
    let (most, told) = (Cell::new(0), Cell::new(0));
    let watch = |done: u32, total: u32| {
        // Time to run ahead, for whoever would.
        std::thread::sleep(Duration::from_millis(3));
        most.set(most.get().max(read.load(Ordering::Relaxed) - done as usize * PIECE_BYTES));
        told.set(told.get() + 1);
        assert!(done == told.get() && total == 40, "{done} of {total}");
        true
    };
    let found = Uploaded::default().upload(&card(), &wanted, &watch).unwrap();
    assert!(found.len() == 40 && read.load(Ordering::Relaxed) == 40 * PIECE_BYTES);
    assert!(most.get() <= (MOST_READERS + 2) * PIECE_BYTES, "{} bytes ahead", most.get());
}

#[test]
fn who_watches_ends_the_copying_and_the_reading() {
    let (read, wanted) = pieces(40);
    let card = card();
    let ended = Uploaded::default().upload(&card, &wanted, &|done, _| done < 3).unwrap_err();
    assert!(matches!(ended, CudaError::Ended), "{ended}");
    assert!(read.load(Ordering::Relaxed) <= (3 + 2 * MOST_READERS + 2) * PIECE_BYTES, "nobody reads on");
    assert_eq!(card.allocated_bytes().0, 0);
}

#[test]
fn of_weights_that_are_gone_the_first_are_told() {
    let gone =
        |len: usize| Stored { format: StoredFormat::F32, bytes: vec![0; len], read: Arc::default(), is_gone: true };
    let (_, mut wanted) = pieces(12);
    wanted.insert(5, (of(gone(64), [1, 16]), ActivationGrid::Float));
    wanted.insert(6, (of(gone(128), [2, 16]), ActivationGrid::Float));
    let card = card();
    for _ in 0..20 {
        let failed = Uploaded::default().upload(&card, &wanted, &|_, _| true).unwrap_err();
        assert!(matches!(&failed, CudaError::Weights(error) if error.to_string() == "64 bytes are gone"), "{failed}");
    }
    assert_eq!(card.allocated_bytes().0, 0);
}
