//! A worker as pointsman likes them, in std only: an HTTP server that takes its socket from
//! `LISTEN_FDS`, reads `$POINTSMAN_CONFIG/body` once, says `READY=1`, and on TERM finishes what it
//! has accepted. Without `LISTEN_FDS` it binds the address in its first argument.
#![allow(
    unsafe_code,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "it is a program of its own"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, thread};

static ENDING: AtomicBool = AtomicBool::new(false);
static OPEN: AtomicUsize = AtomicUsize::new(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = PathBuf::from(env::var_os("POINTSMAN_CONFIG").unwrap_or_else(|| ".".into()));
    let file = config.join("body");
    let body = std::fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let listener = listener()?;
    // several workers share the socket: whoever loses the race for a connection must not hang
    listener.set_nonblocking(true)?;
    // SAFETY: the handler only stores to an atomic.
    unsafe { signal(15, on_term) };
    if let Some(path) = env::var_os("NOTIFY_SOCKET") {
        UnixDatagram::unbound()?.send_to(b"READY=1\nSTATUS=greeting\n", path)?;
    }
    println!("greeter {} serves {}", std::process::id(), body.trim_end());
    while !ENDING.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, _)) => {
                OPEN.fetch_add(1, Ordering::SeqCst);
                let body = body.clone();
                thread::spawn(move || {
                    let _ = greet(stream, &body);
                    OPEN.fetch_sub(1, Ordering::SeqCst);
                });
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => wait(&listener),
            Err(error) => return Err(error.into()),
        }
    }
    drop(listener);
    while OPEN.load(Ordering::SeqCst) > 0 {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn listener() -> Result<TcpListener, Box<dyn std::error::Error>> {
    let ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if ours && env::var("LISTEN_FDS").is_ok_and(|count| count != "0") {
        // SAFETY: the parent says that descriptor 3 is a socket for this process, and nothing else
        // here has touched it.
        return Ok(TcpListener::from(unsafe { OwnedFd::from_raw_fd(3) }));
    }
    let address = env::args().nth(1).ok_or("neither LISTEN_FDS nor an address")?;
    Ok(TcpListener::bind(address)?)
}

fn greet(mut stream: TcpStream, body: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut bytes = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => request.extend_from_slice(&bytes[..count]),
            // TERM may come to this thread, and a read with a timeout is not restarted
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let length = body.len();
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Waits a moment for a connection or the end.
fn wait(listener: &TcpListener) {
    let mut fds = [Pollfd { fd: listener.as_raw_fd(), events: 1, revents: 0 }];
    // SAFETY: one valid `struct pollfd`, and its count.
    unsafe { poll(fds.as_mut_ptr(), 1, 20) };
}

extern "C" fn on_term(_: i32) {
    ENDING.store(true, Ordering::SeqCst);
}

#[repr(C)]
struct Pollfd {
    fd: i32,
    events: i16,
    revents: i16,
}

unsafe extern "C" {
    fn poll(fds: *mut Pollfd, count: u64, timeout: i32) -> i32;
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}
