//! What is asked of workers while the loop goes on: each try on a thread of its own, which wakes the loop
//! with what came of it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;

use crate::fsx::FsError;
use crate::model::Probe;

use super::clock;
use super::oneshot::Cancel;
use super::probe::{self, Subject};

/// The first try comes this long after the start, since few programs are ready at once; the next ones take
/// twice as long each.
pub(super) const FIRST: Duration = Duration::from_millis(10);
/// And at most this long.
pub(super) const SLOWEST: Duration = Duration::from_millis(500);
/// How often a ready worker is asked through probation,
const WATCH: Duration = Duration::from_secs(1);
/// how soon again after a no,
const AGAIN: Duration = Duration::from_millis(200);
/// how long it may take to answer,
const PATIENCE: Duration = Duration::from_secs(5);
/// after what time it counts as unwell,
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// and how many noes in a row are like a crash.
const NOES: u32 = 3;

/// All tries of a supervisor.
pub(super) struct Tries {
    program: PathBuf,
    run: PathBuf,
    sender: Sender<Done>,
    receiver: Receiver<Done>,
    event: Arc<OwnedFd>,
    count: u64,
}

/// A try that came to its end.
pub(super) struct Done {
    /// the worker that was asked
    pub(super) n: u64,
    /// which try
    pub(super) id: u64,
    /// yes, or why not
    pub(super) answer: Result<(), String>,
}

/// A try on its way. Dropped, it is called off, and nothing is heard of it that counts.
pub(super) struct Try {
    id: u64,
    begun: Instant,
    cancel: Option<Cancel>,
}

impl Try {
    /// Whether `done` is what came of it.
    pub(super) fn is(&self, done: &Done) -> bool {
        self.id == done.id
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
    }
}

impl Tries {
    /// None yet. `program` is our own binary.
    pub(super) fn new(run: &Path, program: &Path) -> Result<Tries, FsError> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| FsError::new("watch what is asked of workers in", run, e))?;
        let (sender, receiver) = channel();
        let (program, run) = (program.to_owned(), run.to_owned());
        Ok(Tries { program, run, sender, receiver, event: Arc::new(event), count: 0 })
    }

    /// The descriptor to poll: readable when [`Tries::done`] has something.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.event
    }

    /// The tries that have ended since it was asked last.
    pub(super) fn done(&mut self) -> Vec<Done> {
        let _ = rustix::io::read(&*self.event, &mut [0u8; 8]);
        self.receiver.try_iter().collect()
    }

    /// Where the workers' directories are.
    pub(super) fn run(&self) -> &Path {
        &self.run
    }

    /// Asks worker `n`; what comes of it is among [`Tries::done`] later.
    pub(super) fn ask(&mut self, n: u64, probe: Probe, subject: Subject, limit: Duration) -> Try {
        self.count += 1;
        let (id, begun) = (self.count, clock::now());
        let (sender, event, program) = (self.sender.clone(), Arc::clone(&self.event), self.program.clone());
        let tell = move |answer| {
            // nobody reads any more where the supervisor has ended
            let _ = sender.send(Done { n, id, answer });
            let _ = rustix::io::write(&*event, &1u64.to_ne_bytes());
        };
        let started = Cancel::new().and_then(|cancel| {
            let (tell, ours) = (tell.clone(), cancel.clone());
            // its program dies with this thread, which waits for it to the end
            std::thread::Builder::new()
                .spawn(move || tell(probe::ask(&probe, &subject, limit, &program, &ours)))
                .map(|_| cancel)
        });
        if let Err(error) = &started {
            tell(Err(format!("cannot ask it: {error}")));
        }
        Try { id, begun, cancel: started.ok() }
    }
}

/// One worker that is asked again and again.
pub(super) struct Asking {
    probe: Probe,
    now: Option<Try>,
    next: Option<Instant>,
    pause: Duration,
    noes: u32,
    /// why the last answer was no
    pub(super) last: Option<String>,
}

/// What an answer means for a worker that is watched.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// it does its work
    Well,
    /// it said no
    Unwell(String),
    /// it has said no so often that it is as good as dead
    Failed(String),
}

impl Asking {
    /// Begins soon.
    pub(super) fn new(probe: &Probe) -> Asking {
        let next = Some(clock::after(FIRST));
        Asking { probe: probe.clone(), now: None, next, pause: FIRST, noes: 0, last: None }
    }

    /// When [`Asking::turn`] has something to do.
    pub(super) fn next(&self) -> Option<Instant> {
        match (&self.now, self.next) {
            (Some(now), _) if self.last.is_none() => now.begun.checked_add(SLOW),
            (Some(_), _) => None,
            (None, next) => next,
        }
    }

    /// Asks where it is time to, for at most `limit`. A reason where an answer takes too long for one that is well.
    pub(super) fn turn(
        &mut self,
        n: u64,
        tries: &mut Tries,
        limit: Option<Duration>,
        subject: impl FnOnce(&Path) -> Subject,
    ) -> Option<String> {
        if let Some(now) = &self.now {
            if self.last.is_none() && clock::now() - now.begun >= SLOW {
                self.last = Some(format!("has not answered for {SLOW:?}"));
                return self.last.clone();
            }
            return None;
        }
        if self.next.is_some_and(|at| clock::until(at).is_zero()) {
            let subject = subject(tries.run());
            self.now = Some(tries.ask(n, self.probe.clone(), subject, limit.unwrap_or(PATIENCE)));
            self.next = None;
        }
        None
    }

    /// Whether `done` is the answer that is waited for; then it is waited for no longer.
    pub(super) fn is_answered_by(&mut self, done: &Done) -> bool {
        let answered = self.now.as_ref().is_some_and(|now| now.id == done.id);
        if answered {
            self.now = None;
        }
        answered
    }

    /// A worker that is getting ready has said no.
    pub(super) fn not_yet(&mut self, why: String) {
        self.last = Some(why);
        self.next = Some(clock::after(self.pause));
        self.pause = (self.pause * 2).min(SLOWEST);
    }

    /// A worker that is ready has answered.
    pub(super) fn heard(&mut self, answer: Result<(), String>) -> Health {
        let pause = if answer.is_ok() { WATCH } else { AGAIN };
        self.next = Some(clock::after(pause));
        self.last = answer.clone().err();
        self.noes = if answer.is_ok() { 0 } else { self.noes + 1 };
        match answer {
            Ok(()) => Health::Well,
            Err(why) if self.noes == NOES => Health::Failed(why),
            Err(why) => Health::Unwell(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w16_three_noes_in_a_row_are_a_failure_told_once() {
        let mut asking = Asking::new(&Probe::Http("http://127.0.0.1/".to_owned()));
        let no = || Err("no".to_owned());
        let unwell = || Health::Unwell("no".to_owned());
        assert_eq!(asking.heard(no()), unwell());
        assert_eq!(asking.heard(no()), unwell());
        assert_eq!(asking.heard(Ok(())), Health::Well);
        assert_eq!(asking.heard(no()), unwell());
        assert_eq!(asking.heard(no()), unwell());
        assert_eq!(asking.heard(no()), Health::Failed("no".to_owned()));
        assert_eq!(asking.heard(no()), unwell());
    }
}
