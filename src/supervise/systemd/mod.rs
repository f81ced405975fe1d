//! systemd as the service manager: each process is a transient unit of its own, started through `pointsman __exec`
//! as always. The rules are in `spec/systemd.md`.
//!
//! Nothing of ours has to be there: systemd starts workers again by itself. Whoever asks for something becomes the
//! table's hands as long as it needs them ([`crew`]), reads the record, looks at the units, and goes on.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::fsx::{Dir, FsError, Lock};
use crate::model::{Listen, Slot, TakeOver, chain};

use super::client::{HangUp, Slots, Unreachable};
use super::record::{self, Record};
use super::service_manager::{NewsSource, ServiceManager};
use super::wire::{Answer, Ask, News, NewsLine, Taken, WorkerReport, WorkerSpec};
use super::{clock, process};

mod bus;
mod crew;
pub(super) mod own;
mod ready;
mod unit;

pub(super) use bus::Scope;
pub use ready::await_ready;

use bus::Bus;
use crew::Crew;
use unit::Names;

/// Answers come from memory and from systemd, which has ten seconds.
const PATIENCE: Duration = Duration::from_secs(30);
/// Only one process at a time has hands in a run directory.
const LOCK: &str = "systemd.lock";
/// Whoever has them lets go within this time, or is at work.
const TURN: Duration = Duration::from_secs(5);

fn record_name(scope: Scope) -> &'static str {
    match scope {
        Scope::System => "systemd.json",
        Scope::User => "systemd-user.json",
    }
}

/// What is written down of what runs as units of `scope`.
pub(super) fn recorded(run: &Path, scope: Scope) -> Result<Vec<WorkerReport>, FsError> {
    record::recorded(run, record_name(scope))
}

/// The highest number of an event that is written down with them.
pub(super) fn last_event(run: &Path, scope: Scope) -> u64 {
    record::last_event(run, record_name(scope))
}

/// The hands of this process in a run directory, where it has any.
pub(super) type Shared = Arc<Mutex<Weak<Hands>>>;

const LOST: &str = "the connection to systemd is lost";

/// systemd, for the workers of a run directory.
#[derive(Debug)]
pub(super) struct Systemd {
    run: PathBuf,
    program: PathBuf,
    scope: Scope,
    shared: Shared,
    hands: Option<Arc<Hands>>,
}

/// A thread that does what is asked for, until nobody needs it any more.
#[derive(Debug)]
pub(super) struct Hands {
    orders: Mutex<Sender<Order>>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

/// Who is told the news above a number, until it is over.
#[derive(Debug)]
struct Listener {
    after: u64,
    lines: Sender<NewsLine>,
    over: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Order {
    /// something has happened to a unit
    Look,
    /// the connection is lost
    Lost,
    /// do it, then answer
    Ask(Box<Ask>, Sender<Answer>),
    /// somebody listens from now on
    Listen(Listener),
    /// nobody needs it any more
    End,
}

impl Systemd {
    /// The systemd of `scope`, where it answers.
    ///
    /// # Errors
    /// [`Unreachable::NoSystemd`].
    pub(super) fn reach(
        run: &Path,
        program: &Path,
        scope: Scope,
        shared: &Shared,
    ) -> Result<Systemd, Unreachable> {
        let hands = shared.lock().expect("nobody panics with it").upgrade();
        let systemd = Systemd {
            run: run.to_owned(),
            program: program.to_owned(),
            scope,
            shared: Arc::clone(shared),
            hands,
        };
        if systemd.hands.is_none() {
            Bus::open(scope).map_err(|e| absent(e.to_string()))?.close();
        }
        Ok(systemd)
    }

    /// Goes on where whoever was here before left off: what has to run and does not is started.
    ///
    /// # Errors
    /// As for [`Systemd::reach`].
    pub(super) fn resume(mut self) -> Result<Systemd, Unreachable> {
        self.hands()?;
        Ok(self)
    }

    fn hands(&mut self) -> Result<&Hands, Unreachable> {
        if self.hands.as_ref().is_none_or(|hands| hands.is_over()) {
            let mut shared = self.shared.lock().expect("nobody panics with it");
            let there = shared.upgrade().filter(|hands| !hands.is_over());
            let hands = match there {
                Some(hands) => hands,
                None => {
                    let hands = Hands::new(&self.run, &self.program, self.scope);
                    let hands = Arc::new(hands.map_err(absent)?);
                    *shared = Arc::downgrade(&hands);
                    hands
                }
            };
            drop(shared);
            self.hands = Some(hands);
        }
        Ok(self.hands.as_deref().expect("it was seen to above"))
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer, Unreachable> {
        let hands = self.hands()?;
        let (sender, answer) = channel();
        hands.order(Order::Ask(Box::new(ask), sender));
        let gone = |why: String| Unreachable::Gone { why };
        let lost = |error| match error {
            RecvTimeoutError::Timeout => format!("nothing is known of systemd's units within {PATIENCE:?}"),
            RecvTimeoutError::Disconnected => LOST.to_owned(),
        };
        match answer.recv_timeout(PATIENCE).map_err(|e| gone(lost(e)))? {
            Answer::Refused { why } => Err(Unreachable::Refused { why }),
            answer => Ok(answer),
        }
    }

    /// What runs, for those who only look.
    fn look(&self) -> Result<Slots, Unreachable> {
        let gone = |why: String| Unreachable::Gone { why };
        let Some(dir) = crate::fsx::optional(Dir::open(&self.run)).map_err(|e| gone(chain(&e)))? else {
            return Ok(Slots { supervisor: None, news: 0, workers: Vec::new(), lost: BTreeMap::new() });
        };
        let record = Record::named(dir, record_name(self.scope)).map_err(|e| gone(chain(&e)))?;
        let (mut table, news) = record.load().map_err(|e| gone(chain(&e)))?;
        if !table.is_empty() {
            let bus = Bus::open(self.scope).map_err(|e| gone(e.to_string()))?;
            let seen = crew::observe(&mut table, &bus, &Names::of(&self.run));
            bus.close();
            seen.map_err(|e| gone(e.to_string()))?;
        }
        Ok(Slots { supervisor: None, news, workers: table.report(), lost: table.lost })
    }
}

fn absent(why: String) -> Unreachable {
    Unreachable::NoSystemd { why }
}

impl ServiceManager for Systemd {
    fn slots(&mut self) -> Result<Slots, Unreachable> {
        match self.hands.as_ref().is_some_and(|hands| !hands.is_over()) {
            true => Slots::of(self.ask(Ask::Slots)?),
            false => self.look(),
        }
    }

    fn ensure(&mut self, event: u64, spec: &WorkerSpec, force: bool) -> Result<(), Unreachable> {
        self.ask(Ask::Ensure { event, spec: Box::new(spec.clone()), force, in_place: false }).map(drop)
    }

    fn ensure_in_place(&mut self, event: u64, spec: &WorkerSpec) -> Result<(), Unreachable> {
        self.ask(Ask::Ensure { event, spec: Box::new(spec.clone()), force: false, in_place: true }).map(drop)
    }

    fn abandon(&mut self, event: u64) -> Result<(), Unreachable> {
        self.ask(Ask::Abandon { event }).map(drop)
    }

    fn settle(&mut self, keep: &[Slot]) -> Result<(), Unreachable> {
        self.ask(Ask::Settle { slots: keep.to_vec() }).map(drop)
    }

    fn take_over(
        &mut self,
        from: &TakeOver,
        groups: BTreeMap<String, Listen>,
        look: bool,
    ) -> Result<Taken, Unreachable> {
        Taken::of(self.ask(Ask::TakeOver { pid: from.pid, started: from.started, groups, look })?)
    }

    fn listen(&mut self, after: u64) -> Result<Box<dyn NewsSource>, Unreachable> {
        let hands = self.hands()?;
        let wake = Arc::clone(&hands.wake);
        let (sender, lines) = channel();
        let over = Arc::new(AtomicBool::new(false));
        hands.order(Order::Listen(Listener { after, lines: sender, over: Arc::clone(&over) }));
        // from here on nothing is missed
        self.ask(Ask::Slots)?;
        Ok(Box::new(Lines { lines, over, wake }))
    }
}

/// News of this process's own hands.
struct Lines {
    lines: Receiver<NewsLine>,
    over: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
}

impl NewsSource for Lines {
    fn hang_up(&self) -> Option<HangUp> {
        let (over, wake) = (Arc::clone(&self.over), Arc::clone(&self.wake));
        Some(HangUp::by(move || {
            over.store(true, Ordering::Release);
            // where the hands are at rest, the news have ended already
            let _ = rustix::io::write(&wake, &1u64.to_ne_bytes());
        }))
    }

    fn next_within(&mut self, limit: Duration) -> Result<Option<(u64, News)>, Unreachable> {
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(Some((line.number, line.news))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Unreachable::Gone { why: LOST.to_owned() }),
        }
    }
}

impl Hands {
    /// Takes the run directory's lock, and goes on where the record and the units are.
    fn new(run: &Path, program: &Path, scope: Scope) -> Result<Hands, String> {
        let dir = Dir::create_all(run, 0o755).map_err(|e| chain(&e))?;
        let deadline = clock::after(TURN);
        let lock = loop {
            match Lock::try_exclusive(&dir, LOCK).map_err(|e| chain(&e))? {
                Some(lock) => break lock,
                None if clock::until(deadline).is_zero() => {
                    return Err("another process is at work on its units".to_owned());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let bus = Bus::open(scope).map_err(|e| e.to_string())?;
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags).map_err(|e| e.to_string())?);
        let (orders, inbox) = channel();
        let order = {
            let (orders, wake) = (orders.clone(), Arc::clone(&wake));
            move |order: Order| give(&orders, &wake, order)
        };
        let lost = order.clone();
        bus.watch(move || order(Order::Look), move || lost(Order::Lost)).map_err(|e| e.to_string())?;
        let crew = Crew::muster(dir, program, scope, bus.clone());
        let crew = crew.inspect_err(|_| bus.close())?;
        let woken = Arc::clone(&wake);
        let thread = std::thread::spawn(move || {
            run_crew(crew, &inbox, &woken);
            bus.close();
            drop(lock);
        });
        Ok(Hands { orders: Mutex::new(orders), wake, thread: Some(thread) })
    }

    fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn order(&self, order: Order) {
        give(&self.orders.lock().expect("nobody panics with it"), &self.wake, order);
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        self.order(Order::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn give(orders: &Sender<Order>, wake: &OwnedFd, order: Order) {
    // nobody reads any more where the hands are at rest
    let _ = orders.send(order);
    let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
}

/// Waits for orders, answers and times, until nobody needs it any more or systemd is lost.
fn run_crew(mut crew: Crew, inbox: &Receiver<Order>, wake: &OwnedFd) {
    let mut listeners: Vec<Listener> = Vec::new();
    let mut ends = false;
    loop {
        tell(&crew, &mut listeners);
        // what is begun is not left to whoever comes next
        if ends && crew.closing.is_none() {
            return;
        }
        let limit = crew.next_time().map(|at| process::timespec(clock::until(at)));
        let mut fds = vec![PollFd::new(wake, PollFlags::IN), PollFd::new(crew.tries.fd(), PollFlags::IN)];
        fds.extend(crew.logs.fd().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let _ = rustix::event::poll(&mut fds, limit.as_ref());
        let grown = fds.get(2).is_some_and(|fd| !fd.revents().is_empty());
        drop(fds);
        if grown {
            crew.logs.tend();
        }
        let _ = rustix::io::read(wake, &mut [0u8; 8]);
        let mut looks = false;
        for order in inbox.try_iter() {
            match order {
                Order::Look => looks = true,
                Order::Lost => return,
                Order::End => ends = true,
                Order::Ask(ask, answer) => {
                    let _ = answer.send(crew.asked(*ask));
                    looks = true;
                }
                Order::Listen(mut listener) => {
                    let last = crew.bulletin.last();
                    if listener.after == 0 || listener.after > last {
                        listener.after = last;
                    }
                    listeners.push(listener);
                }
            }
        }
        if looks && let Err(error) = crew.look() {
            tracing::warn!(%error, "cannot see what the units do");
            return;
        }
        crew.on_answers();
        crew.on_time();
    }
}

fn tell(crew: &Crew, listeners: &mut Vec<Listener>) {
    listeners.retain_mut(|listener| {
        while let Some(line) = crew.bulletin.next(listener.after) {
            listener.after = line.number;
            if listener.lines.send(line.clone()).is_err() {
                return false;
            }
        }
        !listener.over.load(Ordering::Acquire)
    });
}
