//! How a socket that is to be closed is emptied first: nobody new gets into its queue, and who waits in it is served
//! by whoever still accepts.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketType};
use socket2::{SockFilter, SockRef};

use crate::supervise::process;

/// `ldb [13]; and #SYN|ACK; jeq #SYN, drop; ret all; drop: ret 0`: the socket sees a segment from its TCP header on.
/// What opens a connection is dropped, and its client asks again a second later; what completes one passes.
const NO_SYN: [(u16, u8, u8, u32); 5] =
    [(0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 1, 0, 0x02), (0x06, 0, 0, u32::MAX), (0x06, 0, 0, 0)];

fn is_tcp(fd: &OwnedFd) -> bool {
    let internet = [AddressFamily::INET, AddressFamily::INET6];
    sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM)
        && sockopt::socket_domain(fd).is_ok_and(|domain| internet.contains(&domain))
}

/// From now on no new connection gets into the queue of `fd`. Does nothing for what is not TCP.
pub(super) fn shut_out(fd: &OwnedFd) {
    let filter = NO_SYN.map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k));
    if is_tcp(fd)
        && let Err(error) = SockRef::from(fd).attach_filter(&filter)
    {
        tracing::warn!(%error, "a socket is closed while connections may still arrive");
    }
}

/// Undoes [`shut_out`].
pub(super) fn let_in(fd: &OwnedFd) {
    if is_tcp(fd) {
        let _ = SockRef::from(fd).detach_filter(); // none is there, as a rule
    }
}

/// Whether nobody waits in the queue of `fd`.
pub(super) fn is_empty(fd: &OwnedFd) -> bool {
    !process::wait_readable(fd, Some(Duration::ZERO))
}

/// Whether somebody has ended the listening of `fd`.
pub(super) fn has_ended(fd: &OwnedFd) -> bool {
    is_tcp(fd) && !sockopt::socket_acceptconn(fd).unwrap_or(true)
}

/// Ends the listening of everybody who has `fd`. Whoever is in its queue is reset.
pub(super) fn end(fd: &OwnedFd) {
    if is_tcp(fd) {
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Read);
    }
}
