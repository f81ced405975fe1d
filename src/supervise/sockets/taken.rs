//! The sockets of other processes: found among their descriptors, and duplicated.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, sockopt};
use rustix::process::PidfdGetfdFlags;

use crate::fsx::Dir;
use crate::model::Address;

use super::SocketError;

/// A socket that another process waits for clients on.
#[derive(Debug)]
pub(in crate::supervise) struct Found {
    /// where, as a pipeline writes it
    pub(in crate::supervise) address: String,
    /// whether accepting or reading never waits
    pub(in crate::supervise) nonblocking: bool,
    /// IPv6 means IPv6 only
    pub(in crate::supervise) v6only: bool,
    /// which socket it is
    pub(in crate::supervise) cookie: Option<u64>,
    /// a duplicate
    pub(in crate::supervise) fd: OwnedFd,
}

impl Found {
    /// What `fd` is, where clients come to it.
    pub(super) fn of(fd: OwnedFd) -> Option<Found> {
        Found::waiting(fd).filter(|found| !found.only_sends())
    }

    /// What `fd` is: a stream socket that listens, or a datagram socket that is bound to a port or path and to no peer.
    pub(super) fn waiting(fd: OwnedFd) -> Option<Found> {
        let kind = sockopt::socket_type(&fd).ok()?;
        let waits = match kind {
            SocketType::STREAM => sockopt::socket_acceptconn(&fd).unwrap_or(false),
            SocketType::DGRAM => rustix::net::getpeername(&fd).ok().flatten().is_none(),
            _ => false,
        };
        let domain = sockopt::socket_domain(&fd).ok()?;
        let known = [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX].contains(&domain);
        let address = if waits && known { address(&fd, kind == SocketType::STREAM)? } else { return None };
        let nonblocking = rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        let v6only = domain != AddressFamily::INET6 || sockopt::ipv6_v6only(&fd).unwrap_or(true);
        let cookie = super::cookie(&fd);
        Some(Found { address, nonblocking, v6only, cookie, fd })
    }

    /// What only sends has a port as well: one that the system has chosen, on every address.
    fn only_sends(&self) -> bool {
        let at = self.address.strip_prefix("udp://").and_then(|at| at.parse::<SocketAddr>().ok());
        at.is_some_and(|at| at.ip().is_unspecified() && ephemeral().contains(&at.port()))
    }

    /// Whether it listens at `address`.
    pub(in crate::supervise) fn is_at(&self, address: &Address) -> bool {
        self.address == address.to_string()
    }
}

/// Duplicates of the sockets among the descriptors of process `pid` that clients come to.
pub(in crate::supervise) fn of_process(pid: u32, pidfd: &OwnedFd) -> Result<Vec<Found>, SocketError> {
    let refused = |why: String| SocketError::Take { pid, why };
    let table =
        Dir::open(Path::new(&format!("/proc/{pid}/fd"))).map_err(|e| refused(e.kind().to_string()))?;
    let mut found: Vec<Found> = Vec::new();
    for name in table.names().map_err(|e| refused(e.kind().to_string()))? {
        let target = table.read_link(&name).unwrap_or_default();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| target.to_string_lossy().starts_with("socket:")) else {
            continue;
        };
        let fd = match rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::BADF) => continue, // closed meanwhile
            Err(e) => return Err(refused(e.to_string())),
        };
        // one socket may have several descriptors
        let one = Found::of(fd)
            .filter(|one| one.cookie.is_none() || !found.iter().any(|known| known.cookie == one.cookie));
        found.extend(one);
    }
    Ok(found)
}

/// Where `fd` is bound, as a pipeline writes it; `None` where no client could come.
fn address(fd: &OwnedFd, is_stream: bool) -> Option<String> {
    let any = rustix::net::getsockname(fd).ok()?;
    if let Ok(at) = SocketAddr::try_from(any.clone()) {
        let scheme = if is_stream { "tcp" } else { "udp" };
        return (at.port() != 0).then(|| format!("{scheme}://{at}"));
    }
    let unix = SocketAddrUnix::try_from(any).ok()?;
    let path = String::from_utf8_lossy(unix.path_bytes()?).into_owned();
    Some(format!("{}://{path}", if is_stream { "unix" } else { "unix-dgram" }))
}

/// The ports that the system gives to whoever asks for none.
fn ephemeral() -> RangeInclusive<u16> {
    let text = crate::fsx::read_path(Path::new("/proc/sys/net/ipv4/ip_local_port_range"), 64);
    let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
    let mut ends = text.split_whitespace().filter_map(|port| port.parse().ok());
    ends.next().unwrap_or(32768)..=ends.next().unwrap_or(60999)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    #[test]
    fn w6_what_clients_come_to_is_found_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let found = |fd: OwnedFd| Found::of(fd).map(|found| found.address);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = tcp.local_addr().unwrap();
        let client = TcpStream::connect(at).unwrap();
        assert_eq!(found(tcp.into()), Some(format!("tcp://{at}")));
        assert_eq!(found(client.into()), None);
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = udp.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(at).unwrap();
        assert_eq!(found(udp.into()), Some(format!("udp://{at}")));
        assert_eq!(found(client.into()), None, "it has a peer");
        let asks = UdpSocket::bind("0.0.0.0:0").unwrap();
        assert_eq!(found(asks.into()), None, "its port is any");
        let stream = UnixListener::bind(path("s")).unwrap();
        assert_eq!(found(stream.into()), Some(format!("unix://{}", path("s").display())));
        let datagram = UnixDatagram::bind(path("d")).unwrap();
        assert_eq!(found(datagram.into()), Some(format!("unix-dgram://{}", path("d").display())));
        assert_eq!(found(UnixDatagram::unbound().unwrap().into()), None);
    }
}
