//! The connections of a supervisor: lines in, lines out, and nobody slow or dead holds up the loop.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use crate::fsx::{Dir, FsError};

use super::local;
use super::news::Bulletin;
use super::wire::{Answer, Ask};

/// The name of the socket in the run directory.
pub(super) const SOCKET: &str = "supervisor.sock";
/// A longer line is nothing a manager sends.
const LINE: usize = 1 << 20;
/// A client that leaves this much unread is let go.
const UNREAD: usize = 4 << 20;
/// News wait in the ring, not with the client, beyond this.
const AHEAD: usize = 64 << 10;

/// All of them, by number.
pub(super) struct Clients {
    listener: OwnedFd,
    next: u64,
    all: BTreeMap<u64, Client>,
}

struct Client {
    socket: OwnedFd,
    input: Vec<u8>,
    output: Vec<u8>,
    /// the number of the last news sent, once it listens
    seen: Option<u64>,
    over: bool,
}

impl Clients {
    /// Begins to listen: from here on the supervisor is reachable.
    pub(super) fn listen(run: &Dir) -> Result<Clients, FsError> {
        let listener = local::bind(run, SOCKET, SocketType::STREAM, 0o600)?;
        Ok(Clients { listener, next: 0, all: BTreeMap::new() })
    }

    /// The descriptor on which new ones arrive.
    pub(super) fn listener(&self) -> &OwnedFd {
        &self.listener
    }

    /// Number, descriptor, and whether something waits to be written.
    pub(super) fn fds(&self) -> impl Iterator<Item = (u64, &OwnedFd, bool)> {
        self.all.iter().map(|(id, client)| (*id, &client.socket, !client.output.is_empty()))
    }

    /// Takes the one that waits.
    pub(super) fn accept(&mut self) {
        if let Some(socket) = local::accept(&self.listener) {
            let client = Client { socket, input: Vec::new(), output: Vec::new(), seen: None, over: false };
            self.all.insert(self.next, client);
            self.next += 1;
        }
    }

    /// What client `id` asks, as far as it has arrived. What cannot be understood is answered here.
    pub(super) fn asks(&mut self, id: u64) -> Vec<Ask> {
        let Some(client) = self.all.get_mut(&id) else { return Vec::new() };
        client.read();
        let mut asks = Vec::new();
        while let Some(end) = client.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = client.input.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(ask) => asks.push(ask),
                Err(error) => client.say(&Answer::Refused { why: format!("not understood: {error}") }),
            }
        }
        if client.input.len() > LINE {
            client.say(&Answer::Refused { why: format!("a line is longer than {LINE} bytes") });
            client.write();
            client.over = true;
        }
        asks
    }

    /// Answers client `id`.
    pub(super) fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(client) = self.all.get_mut(&id) {
            client.say(answer);
        }
    }

    /// Client `id` gets news above `after` from now on.
    pub(super) fn subscribe(&mut self, id: u64, after: u64) {
        if let Some(client) = self.all.get_mut(&id) {
            client.seen = Some(after);
        }
    }

    /// Writes what can be written without waiting, and lets go of those who are gone.
    pub(super) fn flush(&mut self, bulletin: &Bulletin) {
        self.all.retain(|_, client| {
            client.follow(bulletin);
            client.write();
            !client.over
        });
    }
}

impl Client {
    fn read(&mut self) {
        let mut bytes = [0u8; 16 << 10];
        while self.input.len() <= LINE {
            match rustix::net::recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    self.over = true;
                    return;
                }
                Ok((count, _)) => self.input.extend_from_slice(&bytes[..count.min(bytes.len())]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.over = true;
                    return;
                }
            }
        }
    }

    fn say(&mut self, what: &impl serde::Serialize) {
        serde_json::to_writer(&mut self.output, what).expect("answers are plain text");
        self.output.push(b'\n');
        self.over |= self.output.len() > UNREAD;
    }

    fn follow(&mut self, bulletin: &Bulletin) {
        while let Some(seen) = self.seen.filter(|_| self.output.len() < AHEAD) {
            let Some(line) = bulletin.next(seen) else { return };
            self.seen = Some(line.number);
            self.say(line);
        }
    }

    fn write(&mut self) {
        while !self.output.is_empty() {
            match rustix::net::send(&self.socket, &self.output, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.over = true;
                    return;
                }
            }
        }
    }
}
