//! A study that is driven for the window: on thread `study-driver`, with updates through a bounded channel.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use log::Level;

use crate::session::driver::{Controls, Driver, Told, unrecorded};
use crate::session::paths::new_journal;
use crate::session::{StartError, Wake};
use crate::study::journal::JournalWriter;
use crate::study::{Study, StudyEvent, StudyHeader};
use crate::worker::Runner;

/// Updates that wait for the window. Live events leave the upper half to the others.
const UPDATES: usize = 16_384;

/// What the driver tells the window.
#[derive(Debug)]
pub(super) enum Update {
    /// The study begins, or goes on, in this journal.
    Began {
        /// What is known of it so far.
        study: Box<Study>,
        /// Its journal, if it can be written.
        journal: Option<PathBuf>,
    },
    /// Something happened.
    Event(StudyEvent),
    /// The user should know.
    Notice(Level, String),
    /// Nothing more comes.
    Over,
}

/// A running study.
#[derive(Debug)]
pub struct DriverHandle {
    controls: Arc<Controls>,
    updates: Option<Receiver<Update>>,
    thread: Option<JoinHandle<()>>,
}

/// Where a study is recorded.
#[derive(Debug, Clone)]
pub(super) enum Record {
    /// In a new journal in this folder.
    New(Option<PathBuf>),
    /// In this journal, which exists.
    Resume(PathBuf),
}

impl DriverHandle {
    /// Starts the thread. `wake` is called when there are updates.
    pub(super) fn start(
        header: StudyHeader,
        record: Record,
        runners: Vec<Box<dyn Runner>>,
        wake: Wake,
    ) -> Result<Self, StartError> {
        let controls = Arc::new(Controls::default());
        let seen = Arc::clone(&controls);
        let (to_window, updates) = bounded(UPDATES);
        let window = Window { updates: to_window, wake };
        let thread = std::thread::Builder::new()
            .name("study-driver".to_owned())
            .spawn(move || {
                run_for_window(header, record, runners, &seen, &window);
                window.tell(Update::Over);
            })
            .map_err(StartError::Thread)?;
        Ok(Self { controls, updates: Some(updates), thread: Some(thread) })
    }

    /// What happened, in order.
    pub(super) fn try_next(&self) -> Option<Update> {
        self.updates.as_ref()?.try_recv().ok()
    }

    /// Whether something waits.
    pub(super) fn has_next(&self) -> bool {
        self.updates.as_ref().is_some_and(|updates| !updates.is_empty())
    }

    /// Starts no new trial until it is called with `false`.
    pub(super) fn pause(&self, paused: bool) {
        self.controls.paused.store(paused, Ordering::Relaxed);
        self.look_up();
    }

    /// Ends the running trial and the study.
    pub(super) fn stop(&self) {
        self.controls.stopping.store(true, Ordering::Relaxed);
        self.look_up();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.controls.paused.load(Ordering::Relaxed)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.controls.stopping.load(Ordering::Relaxed)
    }

    /// How long the study rested between trials because it was paused.
    pub(super) fn rested(&self) -> Duration {
        self.controls.rested()
    }

    fn look_up(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for DriverHandle {
    /// Ends the study and waits for its worker to be gone.
    fn drop(&mut self) {
        self.updates = None;
        self.controls.hurried.store(true, Ordering::Relaxed);
        self.stop();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread that drives studies has panicked");
        }
    }
}

struct Window {
    updates: Sender<Update>,
    wake: Wake,
}

impl Window {
    /// Hands over an update; a live event is dropped when the window is slow, the others wait. Returns whether it was
    /// taken.
    fn tell(&self, update: Update) -> bool {
        let is_live = matches!(&update, Update::Event(event) if !event.is_journaled());
        if is_live && self.updates.len() >= UPDATES / 2 {
            return false;
        }
        let is_taken = self.updates.send(update).is_ok();
        // Later updates are found by the same poll: it goes on until nothing waits.
        if self.updates.len() <= 1 {
            (self.wake)();
        }
        is_taken
    }
}

fn run_for_window(
    header: StudyHeader,
    record: Record,
    runners: Vec<Box<dyn Runner>>,
    controls: &Controls,
    window: &Window,
) {
    let opened = match record {
        Record::Resume(path) => match Driver::resume(header, &path, runners) {
            Ok((driver, damage)) => {
                for line in damage {
                    window.tell(Update::Notice(Level::Warn, line));
                }
                Ok((driver, Some(path)))
            }
            Err(error) => Err(error),
        },
        Record::New(folder) => Ok(record_new(header, folder.as_deref(), runners, window)),
    };
    let (mut driver, journal) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            window.tell(Update::Notice(Level::Error, error.to_string()));
            return;
        }
    };
    window.tell(Update::Began { study: Box::new(driver.study.clone()), journal });
    driver.run(controls, &mut |told| {
        window.tell(match told {
            Told::Event(event, _) => Update::Event(event.clone()),
            Told::Notice(level, text) => Update::Notice(level, text),
        })
    });
}

/// A journal that cannot be written does not stop a study.
fn record_new(
    header: StudyHeader,
    folder: Option<&Path>,
    runners: Vec<Box<dyn Runner>>,
    window: &Window,
) -> (Driver, Option<PathBuf>) {
    let created = match folder {
        None => Err("there is no folder for the user's files: neither XDG_DATA_HOME nor HOME is set".to_owned()),
        Some(folder) => std::fs::create_dir_all(folder)
            .map_err(|error| format!("make the folder: {error}: {}", folder.display()))
            .map(|()| new_journal(folder, &header.spec.name, header.created_unix_secs))
            .and_then(|path| Ok((JournalWriter::create(&path).map_err(|error| error.to_string())?, path))),
    };
    match created {
        Ok((writer, path)) => (Driver::new(header, Study::default(), Some(writer), runners), Some(path)),
        Err(error) => {
            window.tell(Update::Notice(Level::Error, unrecorded(&error)));
            (Driver::new(header, Study::default(), None, runners), None)
        }
    }
}
