//! A client that asks all the time, each time on a fresh connection.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a client rests after each request. Four that never rest take all of the processor from what is tested, and
/// from every other test, and find no more: the four are the most that ever wait at once.
const REST: Duration = Duration::from_millis(2);

/// One request on a fresh connection: the body, or what failed. Connect errors, resets, time-outs, short
/// answers and every status but 200 are failures.
pub fn get(address: SocketAddr) -> Result<String, String> {
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, limit).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(limit)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(limit)).map_err(|e| e.to_string())?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n").map_err(|e| format!("write: {e}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("read: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no whole answer: {answer:?}"))?;
    let ok = head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.0 200");
    if !ok {
        return Err(format!("status: {}", head.lines().next().unwrap_or_default()));
    }
    Ok(body.trim_end().to_owned())
}

/// What the client has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// how often each body
    pub bodies: BTreeMap<String, usize>,
    /// every failure
    pub failures: Vec<String>,
}

impl Seen {
    pub fn requests(&self) -> usize {
        self.bodies.values().sum::<usize>() + self.failures.len()
    }
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    /// the bodies that are right at the moment
    right: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// Clients at work.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts four clients; `right` are the bodies that count as right from now on.
    pub fn on(address: SocketAddr, right: &[&str]) -> Load {
        Load::start(4, REST, move || get(address), right)
    }

    /// The same with clients that `ask` in another way: an answer, or what failed.
    pub fn of(ask: impl Fn() -> Result<String, String> + Send + Sync + 'static, right: &[&str]) -> Load {
        Load::start(4, REST, ask, right)
    }

    /// The same with so many clients, each of which rests for so long after a request.
    pub fn resting(clients: usize, rest: Duration, address: SocketAddr, right: &[&str]) -> Load {
        Load::start(clients, rest, move || get(address), right)
    }

    fn start(
        clients: usize,
        rest: Duration,
        ask: impl Fn() -> Result<String, String> + Send + Sync + 'static,
        right: &[&str],
    ) -> Load {
        let shared = Arc::new(Shared::default());
        *shared.right.lock().unwrap() = right.iter().map(ToString::to_string).collect();
        let ask: Arc<Ask> = Arc::new(ask);
        let threads = (0..clients).map(|_| client(Arc::clone(&ask), rest, Arc::clone(&shared))).collect();
        Load { shared, threads }
    }

    /// From now on these bodies are right; a request on its way may get an old one.
    pub fn expect(&self, right: &[&str]) {
        *self.shared.right.lock().unwrap() = right.iter().map(ToString::to_string).collect();
    }

    /// Waits until this many more requests have been answered.
    pub fn more(&self, requests: usize) {
        let until = self.requests() + requests;
        let begun = std::time::Instant::now();
        while self.requests() < until {
            assert!(begun.elapsed() < super::PATIENCE, "the clients get no answers");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How many requests have been answered, or not, so far.
    pub fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().requests()
    }

    /// Every failure so far.
    pub fn failures(&self) -> Vec<String> {
        self.shared.seen.lock().unwrap().failures.clone()
    }

    /// Ends the clients.
    pub fn end(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.shared.seen.lock().unwrap().clone()
    }
}

type Ask = dyn Fn() -> Result<String, String> + Send + Sync;

fn client(ask: Arc<Ask>, rest: Duration, shared: Arc<Shared>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while !shared.stop.load(Ordering::Relaxed) {
            let before = shared.right.lock().unwrap().clone();
            let answer = ask();
            let after = shared.right.lock().unwrap().clone();
            let mut seen = shared.seen.lock().unwrap();
            match answer {
                Ok(body) if before.contains(&body) || after.contains(&body) => {
                    *seen.bodies.entry(body).or_default() += 1;
                }
                Ok(body) => seen.failures.push(format!("wrong generation: {body:?}, right is {after:?}")),
                Err(failure) => seen.failures.push(failure),
            }
            drop(seen);
            std::thread::sleep(rest);
        }
    })
}
