//! The threads that products share: one hand-over costs less than a microsecond.
//!
//! Work is split before it starts (a thread gets the same outputs of a matrix at every call, so they stay in its
//! cache), and nothing is counted while it runs. A thread that has nothing to do spins for a while, because the next
//! product of a step comes within microseconds, and then sleeps.

use std::cell::UnsafeCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, OnceLock, PoisonError};
use std::thread;

/// Turns of an idle thread before it sleeps: some 100 microseconds.
const SPINS: u32 = 1 << 14;
/// Turns of a waiting caller before it lets others run: threads may outnumber cores.
const PATIENCE: u32 = 1 << 12;

/// One of the equal shares of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Its number, below `count`.
    pub(super) index: usize,
    /// Shares of the task.
    pub(super) count: usize,
}

impl Share {
    /// A task of one share.
    pub(super) const WHOLE: Self = Self { index: 0, count: 1 };

    /// This share of `n` items in whole grains of `grain` items; only the last grain may be smaller.
    pub(super) fn of(self, n: usize, grain: usize) -> Range<usize> {
        let grains = n.div_ceil(grain.max(1));
        let place = |index: usize| (grains * index / self.count * grain).min(n);
        place(self.index)..place(self.index + 1)
    }
}

/// Sets how many threads tasks are shared by, the caller's included: from 1 to 1,024.
pub fn set_threads(threads: usize) {
    Pool::global().threads.store(threads.clamp(1, MOST), Ordering::Relaxed);
}

/// Threads that tasks are shared by, the caller's included.
pub fn threads() -> usize {
    Pool::global().threads.load(Ordering::Relaxed)
}

/// Runs `task` once for each share, on as many threads, and returns when all are done.
///
/// A call while another task runs (from another thread, or from within a task) gets one share: the whole.
///
/// # Panics
/// If a share panics, once all are done.
pub(super) fn share_out(task: impl Fn(Share) + Sync) {
    Pool::global().run(&task);
}

/// [`share_out`], or the whole on this thread where a hand-over would cost more than it saves.
pub(super) fn share_out_if(is_large: bool, task: impl Fn(Share) + Sync) {
    if is_large { share_out(task) } else { task(Share::WHOLE) }
}

/// A task as its threads see it. The lifetime is erased: [`Pool::run`] does not return before every share is done.
type Task = &'static (dyn Fn(Share) + Sync);

/// Threads of a pool.
const MOST: usize = 1024;

struct Pool {
    threads: AtomicUsize,
    /// Threads that were started; held by the caller whose task runs.
    caller: Mutex<usize>,
    round: Round,
}

/// What the caller and its threads share.
struct Round {
    /// Number of the task and its shares, see [`Sign`]; a change is the sign to start.
    sign: AtomicU64,
    /// Shares that are not done, the caller's own aside.
    pending: AtomicUsize,
    /// The last task of which somebody took the share with this number: its thread, or the caller when that one has not
    /// begun. A processor that something else uses for a while does not hold up a task.
    taken: Box<[Taken]>,
    has_panicked: AtomicBool,
    task: UnsafeCell<Option<Task>>,
    sleepers: Mutex<usize>,
    wake: Condvar,
    /// Whether someone may sleep: read after `sign` is changed, so that no sleeper is missed.
    is_anyone_asleep: AtomicBool,
}

/// On a cache line of its own: threads take their shares without disturbing each other.
#[repr(align(64))]
struct Taken(AtomicU64);

/// A task's number, and how many shares it has: one word, so that a thread that comes late never mixes two tasks.
#[derive(Clone, Copy)]
struct Sign(u64);

impl Sign {
    fn number(self) -> u64 {
        self.0 >> 16
    }

    fn count(self) -> usize {
        (self.0 & 0xffff) as usize
    }

    fn next(self, count: usize) -> Self {
        Self((self.number() + 1) << 16 | count as u64)
    }
}

// SAFETY: `task` is written by the one caller that holds `Pool::caller`, while no share is pending; it is read by who
// took a share of the task, which is then pending until it is run. What it points to is `Sync`.
unsafe impl Sync for Round {}
// SAFETY: as above; nothing in it belongs to a thread.
unsafe impl Send for Round {}

impl Pool {
    fn global() -> &'static Self {
        static POOL: OnceLock<Pool> = OnceLock::new();
        POOL.get_or_init(|| Self {
            threads: AtomicUsize::new(thread::available_parallelism().map_or(1, std::num::NonZero::get).min(MOST)),
            caller: Mutex::new(0),
            round: Round {
                sign: AtomicU64::new(0),
                pending: AtomicUsize::new(0),
                taken: (0..MOST).map(|_| Taken(AtomicU64::new(0))).collect(),
                has_panicked: AtomicBool::new(false),
                task: UnsafeCell::new(None),
                sleepers: Mutex::new(0),
                wake: Condvar::new(),
                is_anyone_asleep: AtomicBool::new(false),
            },
        })
    }

    #[expect(clippy::disallowed_methods, reason = "a panic must not free what other threads still read")]
    fn run(&'static self, task: &(dyn Fn(Share) + Sync)) {
        let count = self.threads.load(Ordering::Relaxed);
        let alone = || task(Share::WHOLE);
        if count < 2 {
            return alone();
        }
        let Ok(mut started) = self.caller.try_lock() else { return alone() };
        while *started + 1 < count {
            let index = *started + 1;
            let seen = self.round.sign.load(Ordering::Relaxed);
            let thread = thread::Builder::new().name(format!("product-{index}"));
            if thread.spawn(move || self.round.serve(index, seen)).is_err() {
                return alone();
            }
            *started = index;
        }
        let round = &self.round;
        // SAFETY: only the lifetime changes; this function does not return before `pending` is 0, after which no thread
        // uses the task.
        let erased = unsafe { std::mem::transmute::<&(dyn Fn(Share) + Sync), Task>(task) };
        // SAFETY: the lock is held and no share is pending, so no thread reads the cell.
        unsafe { *round.task.get() = Some(erased) };
        round.pending.store(count - 1, Ordering::Relaxed);
        let sign = Sign(round.sign.load(Ordering::Relaxed)).next(count);
        round.sign.store(sign.0, Ordering::SeqCst);
        if round.is_anyone_asleep.load(Ordering::SeqCst) {
            drop(round.sleepers.lock().unwrap_or_else(PoisonError::into_inner));
            round.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| task(Share { index: 0, count })));
        for index in 1..count {
            round.take(index, sign);
        }
        let mut turns = 0;
        while round.pending.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns < PATIENCE { std::hint::spin_loop() } else { thread::yield_now() }
        }
        let has_panicked = round.has_panicked.swap(false, Ordering::Relaxed);
        drop(started);
        if let Err(payload) = own {
            resume_unwind(payload);
        }
        assert!(!has_panicked, "a thread of the task panicked; its message is above");
    }
}

impl Round {
    /// A thread's life: it ends with the process.
    fn serve(&self, index: usize, mut seen: u64) -> ! {
        loop {
            seen = self.wait(seen);
            self.take(index, Sign(seen));
        }
    }

    /// Runs share `index` of the task, if there is one that nobody has taken.
    #[expect(clippy::disallowed_methods, reason = "a caller waits for this share; its panic becomes the caller's")]
    fn take(&self, index: usize, sign: Sign) {
        let (number, count) = (sign.number(), sign.count());
        if index >= count {
            return;
        }
        let taken = &self.taken[index].0;
        let last = taken.load(Ordering::Relaxed);
        if last >= number || taken.compare_exchange(last, number, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // SAFETY: the share was free, so the caller of this very task waits for it and does not write the cell.
        let task = unsafe { *self.task.get() };
        let run = || task.iter().for_each(|task| task(Share { index, count }));
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            self.has_panicked.store(true, Ordering::Relaxed);
        }
        self.pending.fetch_sub(1, Ordering::Release);
    }

    /// Waits for a sign other than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        for _ in 0..SPINS {
            let sign = self.sign.load(Ordering::Acquire);
            if sign != seen {
                return sign;
            }
            std::hint::spin_loop();
        }
        let mut sleepers = self.sleepers.lock().unwrap_or_else(PoisonError::into_inner);
        *sleepers += 1;
        self.is_anyone_asleep.store(true, Ordering::SeqCst);
        loop {
            let sign = self.sign.load(Ordering::SeqCst);
            if sign != seen {
                *sleepers -= 1;
                self.is_anyone_asleep.store(*sleepers > 0, Ordering::SeqCst);
                return sign;
            }
            sleepers = self.wake.wait(sleepers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A slice that the shares of a task write different parts of.
#[derive(Debug)]
pub(super) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for `&mut [T]` cut into parts, of which each goes to one thread.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(super) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), lent: PhantomData }
    }

    /// The part `range`.
    ///
    /// # Panics
    /// If it is not inside the slice.
    ///
    /// # Safety
    /// No other part that is alive may overlap it.
    #[expect(clippy::mut_from_ref, reason = "parts do not overlap, as the caller promises")]
    pub(super) unsafe fn range(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "a part of the slice");
        // SAFETY: inside the slice, which is lent mutably for 'a, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_everything_once_in_whole_grains() {
        for (n, grain, count) in [(0, 16, 2), (1, 16, 3), (100, 16, 3), (288, 16, 64), (7, 1, 2)] {
            let mut next = 0;
            for index in 0..count {
                let range = Share { index, count }.of(n, grain);
                assert_eq!(range.start, next);
                assert!(range.is_empty() || range.start.is_multiple_of(grain));
                next = range.end;
            }
            assert_eq!(next, n);
        }
    }

    #[test]
    fn every_share_runs_whoever_calls() {
        let sum = |n: usize| {
            let mut values = vec![0_u32; n];
            let parts = Parts::new(&mut values);
            share_out(|share| {
                // SAFETY: shares do not overlap.
                for value in unsafe { parts.range(share.of(n, 1)) } {
                    *value += 1;
                    share_out(|inner| assert!(inner == Share::WHOLE || share == Share::WHOLE, "one task is shared"));
                }
            });
            values.iter().all(|value| *value == 1)
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..200).for_each(|n| assert!(sum(n))));
            }
        });
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the panic is what is tested")]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let result = catch_unwind(|| share_out(|share| assert!(share.index + 1 < share.count, "the last share")));
        assert!(result.is_err());
        let ran = AtomicUsize::new(0);
        share_out(|_| {
            ran.fetch_add(1, Ordering::Relaxed);
        });
        assert!(ran.into_inner() >= 1);
    }
}
