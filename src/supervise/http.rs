//! The smallest HTTP client that can tell whether a server is well: one GET, one status, no name looked up,
//! never longer than it may take.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};

use crate::model::{Address, HttpUrl};

use super::oneshot::Cancel;
use super::{clock, process};

/// A status line that is longer than this is none.
const LONGEST: usize = 4 << 10;
/// How much of the rest of an answer is read, so that the server can finish it.
const REST: usize = 64 << 10;
/// And for how long, where the server keeps the connection although it was asked not to.
const REST_TIME: Duration = Duration::from_millis(100);

/// Gets `url`. Fine is a status from 200 to 399, before `deadline`.
///
/// # Errors
/// Why not, on one line.
pub(super) fn get(url: &HttpUrl, deadline: Instant, cancel: &Cancel) -> Result<(), String> {
    let socket = connect(&url.address, deadline, cancel)?;
    let HttpUrl { host, target, .. } = url;
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pointsman\r\nConnection: close\r\n\r\n"
    );
    let mut left = request.as_bytes();
    while !left.is_empty() {
        match rustix::net::send(&socket, left, SendFlags::NOSIGNAL) {
            Ok(count) => left = &left[count..],
            Err(Errno::AGAIN) => wait(&socket, PollFlags::OUT, deadline, cancel)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot ask: {error}")),
        }
    }
    let mut answer = Vec::new();
    let status = loop {
        if let Some(end) = answer.iter().position(|&byte| byte == b'\n') {
            break String::from_utf8_lossy(&answer[..end]).trim_end().to_owned();
        }
        if answer.len() >= LONGEST || !receive(&socket, &mut answer, deadline, cancel)? {
            return Err("what answers does not speak HTTP".to_owned());
        }
    };
    let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok());
    // closing on a server that still writes would have it log an error for each of these
    let until = deadline.min(clock::after(REST_TIME));
    while code.is_some() && answer.len() < REST && receive(&socket, &mut answer, until, cancel) == Ok(true) {}
    match code {
        Some(200..=399) => Ok(()),
        Some(_) => Err(format!("answered {}", status.split_once(' ').map_or("", |(_, said)| said))),
        None => Err("what answers does not speak HTTP".to_owned()),
    }
}

fn connect(address: &Address, deadline: Instant, cancel: &Cancel) -> Result<OwnedFd, String> {
    let refused = |error: Errno| format!("cannot connect to {address}: {error}");
    let open = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).map_err(refused)
    };
    let (socket, connected) = match address {
        Address::Tcp(at) | Address::Udp(at) => {
            let family =
                if matches!(at, SocketAddr::V4(_)) { AddressFamily::INET } else { AddressFamily::INET6 };
            let socket = open(family)?;
            let connected = rustix::net::connect(&socket, at);
            (socket, connected)
        }
        Address::Unix(path) | Address::UnixDatagram(path) => {
            let socket = open(AddressFamily::UNIX)?;
            let at = SocketAddrUnix::new(path.as_str()).map_err(refused)?;
            let connected = rustix::net::connect(&socket, &at);
            (socket, connected)
        }
    };
    match connected {
        Ok(()) => Ok(socket),
        Err(Errno::INPROGRESS) => {
            wait(&socket, PollFlags::OUT, deadline, cancel)?;
            match rustix::net::sockopt::socket_error(&socket) {
                Ok(Ok(())) => Ok(socket),
                Ok(Err(error)) | Err(error) => Err(refused(error)),
            }
        }
        Err(error) => Err(refused(error)),
    }
}

/// Reads on; false at the end of the answer.
fn receive(
    socket: &OwnedFd,
    answer: &mut Vec<u8>,
    deadline: Instant,
    cancel: &Cancel,
) -> Result<bool, String> {
    let mut bytes = [0u8; 4096];
    loop {
        match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(false),
            Ok((count, _)) => {
                answer.extend_from_slice(&bytes[..count]);
                return Ok(true);
            }
            Err(Errno::AGAIN) => wait(socket, PollFlags::IN, deadline, cancel)?,
            Err(Errno::INTR) => {}
            Err(error) => return Err(format!("the answer broke off: {error}")),
        }
    }
}

fn wait(socket: &OwnedFd, what: PollFlags, deadline: Instant, cancel: &Cancel) -> Result<(), String> {
    loop {
        let mut fds = [PollFd::new(socket, what), PollFd::new(cancel.fd(), PollFlags::IN)];
        let left = clock::until(deadline);
        let _ = rustix::event::poll(&mut fds, Some(&process::timespec(left)));
        if !fds[1].revents().is_empty() {
            return Err("it was cancelled".to_owned());
        }
        if !fds[0].revents().is_empty() {
            return Ok(());
        }
        if left.is_zero() {
            return Err("no answer in time".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    fn answered(answer: &'static [u8]) -> Result<(), String> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = HttpUrl::parse(&format!("http://{}/up", listener.local_addr().unwrap())).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let count = stream.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"GET /up HTTP/1.1\r\nHost: 127.0.0.1:"));
            stream.write_all(answer).unwrap();
        });
        let result = get(&url, clock::after(Duration::from_secs(10)), &Cancel::new().unwrap());
        server.join().unwrap();
        result
    }

    #[test]
    fn w15_a_status_from_200_to_399_is_well() {
        assert_eq!(answered(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"), Ok(()));
        assert_eq!(answered(b"HTTP/1.0 302 Found\r\n\r\n"), Ok(()));
        for (answer, why) in [
            (&b"HTTP/1.1 503 Service Unavailable\r\n\r\n"[..], "answered 503 Service Unavailable"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "answered 100 Continue"),
            (b"SSH-2.0-x\r\n", "what answers does not speak HTTP"),
            (b"", "what answers does not speak HTTP"),
        ] {
            assert_eq!(answered(answer), Err(why.to_owned()));
        }
    }

    #[test]
    fn w15_an_answer_that_does_not_come_is_not_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let url = HttpUrl::parse(&format!("http://unix:{}:/", path.display())).unwrap();
        let cancel = Cancel::new().unwrap();
        let limit = || clock::after(Duration::from_millis(30));
        assert!(get(&url, limit(), &cancel).unwrap_err().starts_with("cannot connect to unix://"));
        let _silent = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(get(&url, limit(), &cancel), Err("no answer in time".to_owned()));
        cancel.cancel();
        let century = clock::after(Duration::MAX);
        assert_eq!(get(&url, century, &cancel), Err("it was cancelled".to_owned()));
    }
}
