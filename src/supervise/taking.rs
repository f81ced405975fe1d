//! Takes duplicates of sockets from the processes that have them: from a service that runs outside, which serves on
//! whatever comes of it, and from workers, where nobody else has them any more.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Listen, Socket};

use super::doing::{Doing, Parts};
use super::process;
use super::slots::{Role, Table};
use super::sockets::{Found, Sockets, given, of_process};
use super::wire::Taken;

/// Takes duplicates of what process (`pid`, `started`) listens on: for `listen` by equal address, for
/// `inherit` the rest. `look`: only says what would be taken. Taking twice is taking once.
///
/// Nothing was taken where this fails; the reason is for the operator. The other process notices nothing.
pub(super) fn take_over(
    crew: &mut impl Doing,
    pid: u32,
    started: u64,
    groups: &BTreeMap<String, Listen>,
    look: bool,
) -> Result<Taken, String> {
    let pidfd = process::open(pid, started).ok_or_else(|| format!("process {pid} is gone"))?;
    let found = of_process(pid, &pidfd).map_err(|e| e.to_string())?;
    if found.is_empty() {
        return Err(format!("process {pid} listens nowhere; name the one that has the sockets"));
    }
    let mut taken = Vec::new();
    let mut matched: BTreeSet<usize> = BTreeSet::new();
    for (name, socket) in groups.values().flat_map(sockets_in) {
        let at: Vec<usize> = (0..found.len()).filter(|&i| found[i].is_at(&socket.address)).collect();
        match at.as_slice() {
            [] => {}
            [one] => {
                may_be(crew.parts().sockets, name, socket, &found[*one])?;
                if matched.insert(*one) {
                    taken.push((socket.key(), *one));
                }
            }
            several => {
                return Err(format!(
                    "process {pid} has {} sockets at {} (SO_REUSEPORT), and a pipeline has one: turn that off there first",
                    several.len(),
                    socket.address
                ));
            }
        }
    }
    let inherits = groups.iter().find(|(_, listen)| matches!(listen, Listen::Inherit(_)));
    let rest = |i: &usize| !matched.contains(i);
    let (inherited, left): (Vec<usize>, Vec<usize>) =
        (0..found.len()).filter(rest).partition(|_| inherits.is_some());
    let names = |of: &mut dyn Iterator<Item = usize>| of.map(|i| found[i].address.clone()).collect();
    let all: Vec<String> = names(&mut taken.iter().map(|(_, i)| *i).chain(inherited.iter().copied()));
    let left: Vec<String> = names(&mut left.into_iter());
    if all.is_empty() {
        return Err(format!(
            "process {pid} listens on {}, and none of that is in `listen`: write the same addresses there",
            left.join(", ")
        ));
    }
    if !look {
        crew.hold()?;
        keep_taken(crew, (pid, started), found, &taken, inherits.map(|(group, _)| group.as_str()));
    }
    Ok(Taken { taken: all, left })
}

/// Whether `found` can be what `socket` says; what is not so cannot be made so while the other process uses it.
fn may_be(held: &Sockets, name: &str, socket: &Socket, found: &Found) -> Result<(), String> {
    let address = &socket.address;
    if held.given_key(name, socket).map_err(|e| e.to_string())?.is_some() {
        return Err(format!(
            "{address} is given by whoever owns its socket, and nothing else is taken for it"
        ));
    }
    if held.is_another(&socket.key(), found) {
        return Err(format!("{address} is listened on by workers of this service already"));
    }
    if found.nonblocking != socket.nonblocking {
        let (is, write) = if found.nonblocking { ("does not block", "true") } else { ("blocks", "false") };
        return Err(format!(
            "the socket at {address} {is}, which whoever has it now relies on: write `nonblocking: {write}` for it"
        ));
    }
    if found.v6only != socket.v6only {
        return Err(format!(
            "the socket at {address} is not as `v6only` says: write `v6only: {}`",
            found.v6only
        ));
    }
    Ok(())
}

fn keep_taken(
    crew: &mut impl Doing,
    from: (u32, u64),
    found: Vec<Found>,
    by_address: &[(String, usize)],
    inherits: Option<&str>,
) {
    let mut keys = Vec::new();
    let Parts { table, sockets, holder, .. } = crew.parts();
    for (i, found) in found.into_iter().enumerate() {
        match (by_address.iter().find(|(_, at)| *at == i), inherits) {
            (Some((key, _)), _) => {
                sockets.keep_found(key, found, holder);
                keys.push(key.clone());
            }
            (None, Some(group)) => keys.push(sockets.inherit(group, found, holder)),
            (None, None) => {}
        }
    }
    tracing::info!(pid = from.0, ?keys, "took the sockets of a service that runs outside");
    table.outsiders.extend(keys.into_iter().map(|key| (key, from)));
    crew.save();
}

/// Whether somebody who is none of ours has the socket of `key`, too: it must not notice what we do with it.
pub(super) fn is_shared(table: &Table, key: &str) -> bool {
    if given::is_given(key) {
        return true;
    }
    let lives = |(pid, started): &(u32, u64)| {
        process::stat(*pid).is_some_and(|now| now.started == *started && !matches!(now.state, 'Z' | 'X'))
    };
    table.outsiders.get(key).is_some_and(lives)
}

fn sockets_in(listen: &Listen) -> Vec<(&str, &Socket)> {
    match listen {
        Listen::Sockets(sockets) => sockets.iter().map(|(name, socket)| (name.as_str(), socket)).collect(),
        Listen::Inherit(_) => Vec::new(),
    }
}

/// Looks whether everything is here that slots need, and takes back what is not from the workers that have it: those
/// who kept it may have died together. What cannot be had stays lost as long as one of them serves.
pub(super) fn take_back(crew: &mut impl Doing) {
    let Parts { table, sockets, holder, .. } = crew.parts();
    let mut missing = table.needed_sockets();
    missing.retain(|key| !sockets.holds(key));
    if missing.is_empty() && table.lost.is_empty() {
        return;
    }
    let mut lost: BTreeMap<String, String> = BTreeMap::new();
    for (_, worker) in table.workers() {
        let has: Vec<&String> = worker.sockets.iter().filter(|key| missing.contains(*key)).collect();
        let process = worker.pid.zip(worker.started).filter(|_| !has.is_empty());
        let Some((pid, started)) = process else { continue };
        let Some(pidfd) = process::open(pid, started) else { continue };
        match of_process(pid, &pidfd) {
            // a worker that has closed it does not stand in the way of another one
            Ok(found) => {
                for found in found {
                    let is_it = |key: &&&String| match (table.cookies.get(**key), found.cookie) {
                        (Some(known), Some(cookie)) => *known == cookie,
                        _ => false,
                    };
                    let Some(key) = has.iter().find(is_it) else { continue };
                    missing.remove(*key);
                    sockets.take_back(key, found, holder);
                }
            }
            Err(error) if worker.ready && worker.role != Role::Leaving => {
                lost.extend(has.into_iter().map(|key| (key.clone(), error.to_string())));
            }
            Err(_) => {}
        }
    }
    lost.retain(|key, _| missing.contains(key));
    for (key, why) in lost.iter().filter(|(key, _)| !table.lost.contains_key(*key)) {
        tracing::error!(address = key, why, "a socket is lost: its workers serve on, and cannot be replaced");
    }
    table.lost = lost;
}
