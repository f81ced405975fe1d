//! Wakes whoever waits for events or outcomes. Only a wake-up: the truth is a listing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use notify::{EventKind, RecursiveMode, Watcher as _};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::ManagerError;

/// Why somebody was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// something changed in the events directory
    Store,
    /// INT or TERM
    End,
    /// HUP
    Reload,
    /// something has happened to a worker or the supervisor
    News,
    /// the time is up
    Time,
}

/// Knows of signals, and from [`Wake::watch`] on waits for them and for the events directory. HUP, INT and TERM do
/// not end the process while it lives.
pub(super) struct Wake {
    inbox: Receiver<Woken>,
    sender: Sender<Woken>,
    ends: Arc<AtomicBool>,
    reloads: Arc<AtomicBool>,
    watches: Option<(notify::RecommendedWatcher, signal_hook::iterator::Handle)>,
}

impl Wake {
    /// Notes the signals that come.
    pub(super) fn on_signals() -> Result<Wake, ManagerError> {
        let (sender, inbox) = channel();
        let (ends, reloads) = (Arc::default(), Arc::default());
        for (signal, flag) in [(SIGHUP, &reloads), (SIGINT, &ends), (SIGTERM, &ends)] {
            signal_hook::flag::register(signal, Arc::clone(flag)).map_err(ManagerError::Signals)?;
        }
        Ok(Wake { inbox, sender, ends, reloads, watches: None })
    }

    /// Watches signals and `events`, unless it does already: `false` where the watch is new, so that whoever is to
    /// wait looks once more.
    pub(super) fn watch(&mut self, events: &Path) -> Result<bool, ManagerError> {
        if self.watches.is_some() {
            return Ok(true);
        }
        let wake = self.sender.clone();
        let watcher = watch_events(events, move || {
            let _ = wake.send(Woken::Store);
        })?;
        let wake = self.sender.clone();
        let signals = watch_signals(move |signal| wake.send(woken_by(signal)).is_ok())?;
        // what came before
        for (flag, signal) in [(&self.reloads, SIGHUP), (&self.ends, SIGTERM)] {
            if flag.load(Ordering::Relaxed) {
                let _ = self.sender.send(woken_by(signal));
            }
        }
        self.watches = Some((watcher, signals));
        Ok(false)
    }

    /// Wakes whoever waits, from another thread.
    pub(super) fn sender(&self) -> Sender<Woken> {
        self.sender.clone()
    }

    /// Whether INT or TERM has come.
    pub(super) fn ends(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Waits for `time`, whatever the store does meanwhile; a signal ends it.
    pub(super) fn pause(&self, time: Duration) -> Woken {
        let until = super::clock::instant() + time;
        loop {
            let left = until.saturating_duration_since(super::clock::instant());
            match self.wait(Some(left)) {
                Woken::Store | Woken::News if !left.is_zero() => {}
                woken => return woken,
            }
        }
    }

    /// Waits until something happens, or for `limit`. Wake-ups that came in the meantime are one.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Woken {
        let first = match limit {
            Some(limit) => self.inbox.recv_timeout(limit),
            None => self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        let mut woken = match first {
            Ok(woken) => woken,
            Err(RecvTimeoutError::Timeout) => return Woken::Time,
            Err(RecvTimeoutError::Disconnected) => return Woken::End,
        };
        // who is woken looks at the store in any case
        let mut news = woken == Woken::News;
        while matches!(woken, Woken::Store | Woken::News) {
            match self.inbox.try_recv() {
                Ok(next) => woken = next,
                Err(_) => break,
            }
            news |= woken == Woken::News;
        }
        if news && woken == Woken::Store { Woken::News } else { woken }
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        if let Some((_, signals)) = &self.watches {
            signals.close();
        }
    }
}

fn woken_by(signal: i32) -> Woken {
    if signal == SIGHUP { Woken::Reload } else { Woken::End }
}

/// Calls `changed` whenever something may have changed in the directory `events`, on a thread of its own, as
/// long as the watcher lives.
pub(super) fn watch_events(
    events: &Path,
    changed: impl Fn() + Send + 'static,
) -> Result<notify::RecommendedWatcher, ManagerError> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // reads are reported too, and an error is worth a look at the truth
        if event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_))) {
            changed();
        }
    })
    .map_err(ManagerError::Watch)?;
    watcher.watch(events, RecursiveMode::NonRecursive).map_err(ManagerError::Watch)?;
    Ok(watcher)
}

/// Calls `seen` with each HUP, INT or TERM from now on, on a thread of its own, until it says `false`
/// or the handle is closed.
pub(super) fn watch_signals(
    mut seen: impl FnMut(i32) -> bool + Send + 'static,
) -> Result<signal_hook::iterator::Handle, ManagerError> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(ManagerError::Signals)?;
    let handle = signals.handle();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if !seen(signal) {
                break;
            }
        }
    });
    Ok(handle)
}
