//! Makes sockets: bound, with their options, and listening where they are of that kind.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::fsx::{Dir, EntryKind, FsError};
use crate::model::{Address, Socket};
use crate::supervise::local;

/// `/etc/passwd` and `/etc/group` beyond this are none.
const ACCOUNTS: u64 = 16 << 20;

/// A fresh socket as `socket` says, listening if it is of that kind. Why it is not to be had, in words for the
/// operator.
pub(in crate::supervise) fn bind(socket: &Socket) -> Result<OwnedFd, String> {
    match &socket.address {
        Address::Tcp(at) => internet(socket, *at, SocketType::STREAM).map_err(|e| reason(*at, e)),
        Address::Udp(at) => internet(socket, *at, SocketType::DGRAM).map_err(|e| reason(*at, e)),
        Address::Unix(path) => unix(socket, Path::new(path), SocketType::STREAM),
        Address::UnixDatagram(path) => unix(socket, Path::new(path), SocketType::DGRAM),
    }
}

/// What of `socket` can be changed while it is bound, on `fd`, which is bound at its address.
pub(super) fn adjust(socket: &Socket, fd: &OwnedFd) -> Result<(), String> {
    let words = |e: Errno| e.to_string();
    if socket.address.is_stream() {
        rustix::net::listen(fd, backlog(socket)).map_err(words)?;
    }
    if let Some(bytes) = socket.receive_buffer {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // with the right to it beyond the system's limit, else up to that
        sockopt::set_socket_recv_buffer_size_force(fd, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, bytes))
            .map_err(words)?;
    }
    if let Some((parent, name)) = socket.address.path().and_then(|path| parts(Path::new(path))) {
        let parent = Dir::open(parent).map_err(|e| crate::model::chain(&e))?;
        give(socket, &parent, name)?;
    }
    Ok(())
}

fn backlog(socket: &Socket) -> i32 {
    i32::try_from(socket.backlog).unwrap_or(i32::MAX)
}

fn flags(socket: &Socket) -> SocketFlags {
    match socket.nonblocking {
        true => SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        false => SocketFlags::CLOEXEC,
    }
}

fn internet(socket: &Socket, address: SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let fd = rustix::net::socket_with(family, kind, flags(socket), None)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    // from birth: an overlapping address can be bound before the old one goes only if both carry it
    sockopt::set_socket_reuseport(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, socket.v6only)?;
    }
    if socket.free_bind {
        let raw = socket2::SockRef::from(&fd);
        let free = if address.is_ipv6() { raw.set_freebind_v6(true) } else { raw.set_freebind_v4(true) };
        free.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::INVAL))?;
    }
    if let Some(bytes) = socket.receive_buffer {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        sockopt::set_socket_recv_buffer_size_force(&fd, bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, bytes))?;
    }
    rustix::net::bind(&fd, &address)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&fd, backlog(socket))?;
    }
    Ok(fd)
}

/// The system's reason, and what to do about it.
fn reason(address: SocketAddr, error: Errno) -> String {
    let port = address.port();
    match error {
        Errno::ACCESS => format!(
            "port {port} needs root, CAP_NET_BIND_SERVICE or `sysctl net.ipv4.ip_unprivileged_port_start={port}`"
        ),
        Errno::ADDRINUSE => format!(
            "somebody else listens there ({error}); `ss -lnp 'sport = :{port}'` says who, \
             and `--take-over` takes the sockets of a running service"
        ),
        Errno::ADDRNOTAVAIL => {
            let kind = if matches!(address.ip(), IpAddr::V4(_)) { "IPv4" } else { "IPv6" };
            format!(
                "no interface has this {kind} address ({error}); with `free_bind: true` it is bound all the same"
            )
        }
        error => error.to_string(),
    }
}

/// The directory and the name of a unix socket.
pub(super) fn parts(path: &Path) -> Option<(&Path, &str)> {
    path.parent().zip(path.file_name().and_then(|name| name.to_str()))
}

/// Bound under a name of its own and renamed with mode and owner set, so that clients find the old socket or the
/// new one, and never one that they may not use.
fn unix(socket: &Socket, path: &Path, kind: SocketType) -> Result<OwnedFd, String> {
    let (parent, name) = parts(path).ok_or("it is no path of a file")?;
    let words = |error: FsError| crate::model::chain(&error);
    let parent = Dir::open(parent).map_err(words)?;
    match crate::fsx::optional(parent.meta(name)).map_err(words)? {
        Some(meta) if meta.kind != EntryKind::Special => return Err("something else is there".to_owned()),
        _ => {}
    }
    // short: a name may have 255 bytes
    let temporary = format!(".pointsman-{}", std::process::id());
    let _ = parent.remove_file(&temporary);
    let bound = || -> Result<OwnedFd, String> {
        let errno = |e: Errno| e.to_string();
        let fd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags(socket), None).map_err(errno)?;
        let at = local::address(&parent, &temporary).map_err(errno)?;
        rustix::net::bind(&fd, &at).map_err(errno)?;
        give(socket, &parent, &temporary)?;
        if let Some(bytes) = socket.receive_buffer {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            sockopt::set_socket_recv_buffer_size(&fd, bytes).map_err(errno)?;
        }
        if kind == SocketType::STREAM {
            rustix::net::listen(&fd, backlog(socket)).map_err(errno)?;
        }
        parent.rename(&temporary, &parent, name).map_err(words)?;
        Ok(fd)
    };
    bound().inspect_err(|_| drop(parent.remove_file(&temporary)))
}

/// Gives the path of a unix socket its owner and mode.
fn give(socket: &Socket, parent: &Dir, name: &str) -> Result<(), String> {
    let id = |name: &Option<String>, file: &str| {
        name.as_ref()
            .map(|name| account(name, file).ok_or_else(|| format!("{file} knows no `{name}`")))
            .transpose()
    };
    let owner = id(&socket.owner, "/etc/passwd")?.map(Uid::from_raw);
    let group = id(&socket.group, "/etc/group")?.map(Gid::from_raw);
    if owner.is_some() || group.is_some() {
        rustix::fs::chownat(parent, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| match e {
            Errno::PERM => {
                "another owner of its path needs root (or a group that the supervisor is in)".to_owned()
            }
            e => e.to_string(),
        })?;
    }
    let mode = Mode::from_raw_mode(socket.mode);
    rustix::fs::chmodat(parent, name, mode, AtFlags::empty()).map_err(|e| e.to_string())
}

/// The number of the user or group `name`, by a file like `/etc/passwd`; a number is itself.
fn account(name: &str, file: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let text = crate::fsx::read_path(Path::new(file), ACCOUNTS).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Socket {
        Socket::new(address.parse().unwrap())
    }

    #[test]
    fn w30_a_unix_socket_replaces_a_socket_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s".repeat(90 - temp.path().as_os_str().len()));
        let socket = at(&format!("unix://{}", path.display()));
        let first = bind(&socket).unwrap();
        let _second = bind(&socket).unwrap();
        drop(first);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        let dir = Dir::open(temp.path()).unwrap();
        assert_eq!(dir.names().unwrap().len(), 1, "no other name is left");
        dir.write_new("file", b"x", 0o600).unwrap();
        let file = at(&format!("unix://{}", temp.path().join("file").display()));
        assert_eq!(bind(&file).unwrap_err(), "something else is there");
    }

    #[test]
    fn w30_a_unix_socket_has_its_mode_and_a_datagram_socket_takes_messages() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("log");
        let mut socket = at(&format!("unix-dgram://{}", path.display()));
        (socket.mode, socket.owner) = (0o620, Some("root".to_owned()));
        if !rustix::process::geteuid().is_root() {
            socket.owner = None;
        }
        let fd = bind(&socket).unwrap();
        assert_eq!(Dir::open(temp.path()).unwrap().meta("log").unwrap().mode & 0o777, 0o620);
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(b"hello", &path).unwrap();
        let mut bytes = [0u8; 16];
        assert_eq!(rustix::net::recv(&fd, &mut bytes[..], rustix::net::RecvFlags::empty()).unwrap().0, 5);
        socket.mode = 0o600;
        adjust(&socket, &fd).unwrap();
        assert_eq!(Dir::open(temp.path()).unwrap().meta("log").unwrap().mode & 0o777, 0o600);
        socket.group = Some("no-such-group".to_owned());
        assert_eq!(bind(&socket).unwrap_err(), "/etc/group knows no `no-such-group`");
    }

    #[test]
    fn w30_a_reason_says_what_to_do() {
        let privileged = reason("0.0.0.0:80".parse().unwrap(), Errno::ACCESS);
        assert!(privileged.starts_with("port 80 needs root, CAP_NET_BIND_SERVICE or"), "{privileged}");
        let absent = at("tcp://192.0.2.77:1");
        assert!(bind(&absent).unwrap_err().contains("`free_bind: true`"));
        assert!(bind(&Socket { free_bind: true, ..absent }).is_ok());
    }

    #[test]
    fn w30_v6_takes_v4_where_it_is_told_to() {
        if std::net::TcpListener::bind("[::1]:0").is_err() {
            return; // no IPv6 here
        }
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut socket = at(&format!("tcp://[::]:{port}"));
        let only = bind(&socket).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        socket.v6only = false;
        let _both = bind(&socket).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok(), "beside the other one");
        drop(only);
    }

    #[test]
    fn w31_a_socket_does_not_block_unless_it_is_told_to() {
        let blocks = |socket: &Socket| {
            let flags = rustix::fs::fcntl_getfl(bind(socket).unwrap()).unwrap();
            !flags.contains(rustix::fs::OFlags::NONBLOCK)
        };
        let temp = tempfile::tempdir().unwrap();
        let unix = format!("unix://{}", temp.path().join("s").display());
        for address in ["tcp://127.0.0.1:1", "udp://127.0.0.1:1", &unix] {
            let mut socket = at(address);
            if let Address::Tcp(any) | Address::Udp(any) = &mut socket.address {
                any.set_port(0);
            }
            assert!(!blocks(&socket), "{address}");
            socket.nonblocking = false;
            assert!(blocks(&socket), "{address}");
        }
    }
}
