//! Closes sockets without losing anybody: first nobody new gets into their queues, and whoever waits there is served
//! by the processes that still accept; then those are told to finish, and the listening ends. What is closed is
//! written down first: whoever comes after one that was killed goes on with it.

use std::time::{Duration, Instant};

use crate::model::{Listen, Slot, Socket};

use super::clock;
use super::crew::Check;
use super::doing::{Doing, Parts};
use super::slots::{Act, Table, Worker};
use super::taking::is_shared;

/// How often is looked whether a queue is empty.
const LOOK: Duration = Duration::from_millis(5);
/// A queue counts as empty after so long without anybody in it: who had begun to connect has arrived by then, on a
/// path with this round trip.
const QUIET: Duration = Duration::from_millis(100);
/// Processes that accept nothing for so long will not empty it.
const LIMIT: Duration = Duration::from_secs(2);

/// Sockets that are being emptied, and what follows then.
pub(super) struct Closing {
    keys: Vec<String>,
    /// ends those who still accept
    then: Vec<Act>,
    /// since when the queues have been empty
    empty: Option<Instant>,
    deadline: Instant,
}

impl Closing {
    /// When there is something to look for at the latest.
    pub(super) fn next(&self) -> Instant {
        self.deadline.min(clock::after(LOOK))
    }
}

/// Takes away every slot that is not in `keep`, and the sockets that none needs then; nobody is asked any more
/// whether it is well. Sockets that somebody accepts from are emptied first, which goes on after this returns; what is
/// being closed already goes on as well.
pub(super) fn settle(crew: &mut impl Doing, keep: &[Slot]) {
    let begun = crew.parts().closing.take().map(|closing| closing.then);
    let mut acts = begun.unwrap_or_default();
    acts.extend(crew.parts().table.settle(keep));
    let ready = |(n, worker): (u64, &Worker)| worker.ready.then_some(n);
    for n in crew.parts().table.workers().filter_map(ready).collect::<Vec<_>>() {
        if let Some((check, _)) = crew.watched_mut(n) {
            *check = Check::None;
        }
    }
    let Parts { table, sockets, .. } = crew.parts();
    sockets.adjust(&table.accepted_sockets());
    let keys = sockets.surplus(&table.needed_sockets());
    begin(crew, keys, acts);
}

/// Carries `acts` out, which follow from what whoever was here before has left, and goes on with what that one has
/// begun to close.
pub(super) fn resume(crew: &mut impl Doing, acts: Vec<Act>) {
    let Parts { table, sockets, .. } = crew.parts();
    let keys = table.closing.iter().filter(|key| sockets.holds(key)).cloned().collect();
    begin(crew, keys, acts);
}

fn begin(crew: &mut impl Doing, keys: Vec<String>, acts: Vec<Act>) {
    let table = crew.parts().table;
    let (shared, keys): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| is_shared(table, key));
    table.closing.clone_from(&keys);
    let (then, acts): (Vec<Act>, Vec<Act>) = acts.into_iter().partition(|act| empties(table, act, &keys));
    crew.carry_out(acts);
    let Parts { table, sockets, holder, closing, .. } = crew.parts();
    for key in &shared {
        sockets.let_go(key, holder);
        table.outsiders.remove(key);
    }
    if !keys.is_empty() {
        sockets.shut_out(&keys);
        let wait = if then.is_empty() { Duration::ZERO } else { LIMIT };
        *closing = Some(Closing { keys, then, empty: None, deadline: clock::after(wait) });
    }
    crew.save();
    on_time_to_close(crew);
}

/// Whether `act` asks somebody to finish who accepts from one of `keys`, and has not been asked yet.
fn empties(table: &Table, act: &Act, keys: &[String]) -> bool {
    let Act::Drain(n) = act else { return false };
    table.worker(*n).is_some_and(|worker| {
        worker.ready && !worker.told && worker.sockets.iter().any(|key| keys.contains(key))
    })
}

/// Goes on with what is being closed.
pub(super) fn on_time_to_close(crew: &mut impl Doing) {
    let Parts { sockets, closing: Some(closing), .. } = crew.parts() else { return };
    let empty = closing.keys.iter().all(|key| sockets.is_empty(key));
    let since = empty.then(|| closing.empty.unwrap_or_else(clock::now));
    closing.empty = since;
    let quiet = since.is_some_and(|since| clock::now().saturating_duration_since(since) >= QUIET);
    if quiet || clock::until(closing.deadline).is_zero() {
        close_now(crew);
    }
}

/// Ends what is being closed, without waiting any longer.
pub(super) fn close_now(crew: &mut impl Doing) {
    let Some(Closing { keys, then, .. }) = crew.parts().closing.take() else { return };
    let told: Vec<u64> =
        then.iter().filter_map(|act| if let Act::Drain(n) = act { Some(*n) } else { None }).collect();
    crew.carry_out(then);
    // whoever closes its listening socket in time does not meet its end
    crew.until_heard(&told);
    if let Err(why) = crew.hold() {
        tracing::warn!(why, "a socket may stay in the holder");
    }
    let Parts { table, sockets, holder, .. } = crew.parts();
    for key in keys {
        sockets.close(&key, holder);
        table.outsiders.remove(&key);
    }
    table.closing.clear();
    crew.save();
}

/// Lets go what a holder has come back with and nobody can come to any more; and what was given once, is not any more,
/// and no slot uses.
pub(super) fn let_go_of_stale(crew: &mut impl Doing) {
    let Parts { table, sockets, holder, .. } = crew.parts();
    let mut stays = table.needed_sockets();
    stays.extend(table.closing.iter().cloned());
    sockets.let_go_of_closed(&stays, holder);
    for key in sockets.stale(|| table.needed_sockets()) {
        tracing::info!(key, "is not given any more");
        sockets.let_go(&key, holder);
    }
}

/// Closes what was bound for a process that never got ready: nobody will accept from it.
pub(super) fn close_unneeded(crew: &mut impl Doing, listen: Option<&Listen>) {
    let Some(Listen::Sockets(bound)) = listen else { return };
    let Parts { table, sockets, holder, .. } = crew.parts();
    let needed = table.needed_sockets();
    let unneeded = |key: &String| !needed.contains(key) && !table.closing.contains(key) && sockets.holds(key);
    for key in bound.values().map(Socket::key).filter(unneeded).collect::<Vec<_>>() {
        if is_shared(table, &key) {
            sockets.let_go(&key, holder);
            table.outsiders.remove(&key);
        } else {
            sockets.shut_out(std::slice::from_ref(&key));
            sockets.close(&key, holder);
        }
    }
}

#[cfg(test)]
mod tests;
