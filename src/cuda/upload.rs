//! Stored weights on their way to a card: threads read, check and lay out one piece while another is copied.
//!
//! The host holds a few pieces at a time, whatever the size of the model.

use std::error::Error;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender};

use crate::cuda::CudaError;
use crate::cuda::card::{Buffer, Card, HostMemory};
use crate::cuda::layout::Rows;
use crate::nn::StoredWeights;

/// Bytes that are read and copied at once, as far as rows allow.
pub(super) const PIECE_BYTES: usize = if cfg!(test) { 16 << 10 } else { 16 << 20 };
/// Bytes that are read before they are laid out: they are still in a core's cache then.
const PART_BYTES: usize = 256 << 10;
/// Threads that read, where there are as many cores.
pub(super) const MOST_READERS: usize = 4;

/// Weights that a card does not have yet.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) weights: Arc<dyn StoredWeights>,
    pub(super) rows: Rows,
}

/// Whole rows of a job.
#[derive(Debug, Clone, Copy)]
struct Piece {
    job: usize,
    first: usize,
    n: usize,
}

/// A piece by its number, laid out in the memory that comes with it, or why not.
type Laid<'a> = (usize, Result<&'a mut [u8], Box<dyn Error + Send + Sync>>);

/// Copies the codes of every job to a buffer of its own. `watch` hears of jobs done and in all, after each piece, and ends
/// the copying by returning `false`.
///
/// Of weights that cannot be read, the first in the order of the jobs are told.
pub(super) fn upload(
    card: &Rc<dyn Card>,
    jobs: &[Job],
    watch: &dyn Fn(u32, u32) -> bool,
) -> Result<Vec<Buffer>, CudaError> {
    // A card that has no room for all says so before anything is read.
    let buffers: Vec<Buffer> =
        jobs.iter().map(|job| Buffer::zeroed(card, job.rows.bytes())).collect::<Result<_, _>>()?;
    let pieces = pieces(jobs);
    let room = pieces.iter().map(|piece| piece.n * jobs[piece.job].rows.stride).max().unwrap_or(0);
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let n_readers = MOST_READERS.min(cores).min(pieces.len());
    let mut memory: Vec<HostMemory> =
        (0..pieces.len().min(n_readers + 2)).map(|_| HostMemory::new(card, room)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Whatever ends this closure closes the channels, which ends the readers.
        let (give, free) = crossbeam_channel::bounded(memory.len());
        let (tell, laid) = crossbeam_channel::bounded(memory.len() + n_readers);
        for memory in &mut memory {
            give.send(memory.bytes()).expect("the readers begin below");
        }
        for number in 0..n_readers {
            let (pieces, next, free, tell) = (&pieces, &next, free.clone(), tell.clone());
            let reader = move || read_pieces(jobs, pieces, next, &free, &tell);
            let thread = std::thread::Builder::new().name(format!("upload-{number}"));
            thread.spawn_scoped(scope, reader).map_err(|error| CudaError::Weights(error.into()))?;
        }
        drop((free, tell));
        copy_pieces(jobs, &pieces, &buffers, (&laid, &give), watch)
    })?;
    Ok(buffers)
}

/// Rows of every job in turn.
fn pieces(jobs: &[Job]) -> Vec<Piece> {
    let of_job = |(index, job): (usize, &Job)| {
        let most = (PIECE_BYTES / job.rows.stride.max(job.rows.packed).max(1)).max(1);
        let n_rows = job.rows.n;
        (0..n_rows).step_by(most).map(move |first| Piece { job: index, first, n: most.min(n_rows - first) })
    };
    jobs.iter().enumerate().flat_map(of_job).collect()
}

/// Takes one piece after the other until none is left, one fails, or nobody wants more.
fn read_pieces<'a>(
    jobs: &[Job],
    pieces: &[Piece],
    next: &AtomicUsize,
    free: &Receiver<&'a mut [u8]>,
    tell: &Sender<Laid<'a>>,
) {
    let mut packed = Vec::new();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(piece) = pieces.get(number) else { return };
        let Ok(memory) = free.recv() else { return };
        let read = read_piece(&jobs[piece.job], *piece, memory, &mut packed);
        if read.is_err() {
            // Those before it are already taken.
            next.store(pieces.len(), Ordering::Relaxed);
        }
        if tell.send((number, read.map(|()| memory))).is_err() {
            return;
        }
    }
}

/// Rows of a piece in the order of a card; `packed` is room that is kept.
fn read_piece(
    job: &Job,
    piece: Piece,
    memory: &mut [u8],
    packed: &mut Vec<u8>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let Job { weights, rows } = job;
    let laid = &mut memory[..piece.n * rows.stride];
    if rows.are_same() {
        return weights.read_into((piece.first * rows.packed) as u64, laid);
    }
    let most = (PART_BYTES / rows.packed.max(1)).max(1);
    for (part, laid) in laid.chunks_mut(most * rows.stride).enumerate() {
        let n = laid.len() / rows.stride;
        packed.resize(n * rows.packed, 0);
        weights.read_into(((piece.first + part * most) * rows.packed) as u64, packed)?;
        rows.lay(packed, laid);
    }
    Ok(())
}

/// Copies what the readers have, in whatever order it comes.
fn copy_pieces<'a>(
    jobs: &[Job],
    pieces: &[Piece],
    buffers: &[Buffer],
    (laid, give): (&Receiver<Laid<'a>>, &Sender<&'a mut [u8]>),
    watch: &dyn Fn(u32, u32) -> bool,
) -> Result<(), CudaError> {
    let mut rows_left: Vec<usize> = jobs.iter().map(|job| job.rows.n).collect();
    let (mut done, total) = (0, jobs.len() as u32);
    let mut failed = None;
    for (number, read) in laid {
        let memory = match read {
            Ok(memory) => memory,
            Err(error) => {
                if failed.as_ref().is_none_or(|(first, _)| number < *first) {
                    failed = Some((number, error));
                }
                continue;
            }
        };
        let Piece { job, first, n } = pieces[number];
        let stride = jobs[job].rows.stride;
        if failed.is_none() {
            buffers[job].write_at(first * stride, &memory[..n * stride])?;
        }
        rows_left[job] -= n;
        done += u32::from(rows_left[job] == 0);
        // Without readers nobody wants it back.
        give.send(memory).unwrap_or_default();
        if !watch(done, total) {
            return Err(CudaError::Ended);
        }
    }
    failed.map_or(Ok(()), |(_, error)| Err(CudaError::Weights(error)))
}
