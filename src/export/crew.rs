//! Threads that share the many small parts of an export.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::bounded;

use crate::export::ExportError;
use crate::export::atomic::io_error;

/// Results that wait for the caller, for each thread.
const WAITING: usize = 4;

/// Does the jobs from 0 up to `n_jobs`, each on one of as many threads as there are cores; `told` hears of each on this
/// thread, in any order. Ends early when `told` fails.
///
/// - `work`: gets the number of a job, and memory that stays its thread's own from job to job
/// - `path`: the file that an error of the system is said to be of
pub(super) fn share_out<S: Default, T: Send>(
    n_jobs: usize,
    path: &Path,
    work: impl Fn(usize, &mut S) -> T + Sync,
    mut told: impl FnMut(usize, T) -> Result<(), ExportError>,
) -> Result<(), ExportError> {
    let n_threads = rayon::current_num_threads().min(n_jobs);
    let next = AtomicUsize::new(0);
    let (send, done) = bounded(n_threads * WAITING);
    thread::scope(|scope| {
        for index in 0..n_threads {
            let (send, work, next) = (send.clone(), &work, &next);
            let labor = move || {
                let mut memory = S::default();
                loop {
                    let job = next.fetch_add(1, Ordering::Relaxed);
                    // Nobody listens any more once the caller has failed.
                    if job >= n_jobs || send.send((job, work(job, &mut memory))).is_err() {
                        return;
                    }
                }
            };
            let begun = thread::Builder::new().name(format!("export-{index}")).spawn_scoped(scope, labor);
            match begun {
                Err(error) if index == 0 => return Err(io_error("start a thread for", path)(error)),
                // Those that there are do all jobs.
                Err(_) => break,
                Ok(_) => {}
            }
        }
        drop(send);
        done.into_iter().try_for_each(|(job, made)| told(job, made))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once_and_a_failure_ends_the_rest() {
        for n_jobs in [0, 1, 1000] {
            let mut seen = vec![0; n_jobs];
            let work = |job: usize, memory: &mut Vec<usize>| {
                memory.push(job);
                job * 2
            };
            share_out(n_jobs, Path::new("out"), work, |job, twice| {
                assert_eq!(twice, job * 2);
                seen[job] += 1;
                Ok(())
            })
            .unwrap();
            assert!(seen.iter().all(|times| *times == 1));
        }
        let begun = AtomicUsize::new(0);
        let work = |_, (): &mut ()| begun.fetch_add(1, Ordering::Relaxed);
        let failed = share_out(1_000_000, Path::new("out"), work, |_, _| Err(ExportError::Cancelled));
        assert!(matches!(failed, Err(ExportError::Cancelled)));
        assert!(begun.into_inner() < 1_000_000);
    }
}
