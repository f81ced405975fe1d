//! What `/proc` says of a worker: whether its program is still the one on disk, and how many connections it has.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fsx::{Dir, Meta};

/// Tables of more than this are not read to their end.
const TABLE: u64 = 64 << 20;

/// Why process `pid` does not run what its path names any more; `None` where it does, or nobody can tell.
pub fn outdated(pid: u32) -> Option<String> {
    let link = Dir::open(Path::new("/proc")).ok()?.dir(pid.to_string()).ok()?.read_link("exe").ok()?;
    let shown = link.to_str()?;
    if let Some(path) = shown.strip_suffix(" (deleted)") {
        return Some(format!("its program {path} has been replaced or removed"));
    }
    // a path of another mount namespace names something else here
    let running = Meta::of_path(Path::new(&format!("/proc/{pid}/exe"))).ok()?;
    let there = Meta::of_path(&PathBuf::from(format!("/proc/{pid}/root{shown}"))).ok()?;
    (running.identity != there.identity).then(|| format!("its program {shown} has been replaced"))
}

/// How many connections process `pid` and those of its group have open, over TCP and unix sockets; `None` where
/// that cannot be seen.
pub fn connections(pid: u32) -> Option<usize> {
    let own = open_sockets(pid)?;
    let mut sockets: BTreeSet<u64> = own;
    for name in Dir::open(Path::new("/proc")).ok()?.names().ok()? {
        let Some(other) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if super::process::stat(other).is_some_and(|stat| stat.group == pid) {
            sockets.extend(open_sockets(other).unwrap_or_default());
        }
    }
    let table = |name: &str| {
        let path = PathBuf::from(format!("/proc/{pid}/net/{name}"));
        crate::fsx::read_path(&path, TABLE).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    };
    let tables = ["tcp", "tcp6"].map(|name| table(name).unwrap_or_default());
    let connected: BTreeSet<u64> =
        tables.iter().flat_map(|table| tcp(table)).chain(unix(&table("unix").unwrap_or_default())).collect();
    Some(sockets.intersection(&connected).count())
}

/// The inodes of the sockets that process `pid` has open.
fn open_sockets(pid: u32) -> Option<BTreeSet<u64>> {
    let table = Dir::open(&PathBuf::from(format!("/proc/{pid}/fd"))).ok()?;
    let links = table.names().ok()?.into_iter().filter_map(|name| table.read_link(name).ok());
    let inode =
        |link: std::ffi::OsString| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(inode).collect())
}

/// The inodes of those that listen to nobody new: `0A` is LISTEN, inode 0 belongs to no process any more.
fn tcp(table: &str) -> Vec<u64> {
    let connected = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        (*fields.get(3)? != "0A").then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(connected).collect()
}

/// The inodes of connected unix sockets that a client has reached by a path.
fn unix(table: &str) -> Vec<u64> {
    let connected = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let named = fields.len() > 7 && fields[4] == "0001" && fields[5] == "03";
        named.then(|| fields[6].parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(connected).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w23_tables_of_the_kernel_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0\n\
             \x20  1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4 30 10 -1\n";
        assert_eq!(tcp(table), [12]);
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0: 00000002 00000000 00010000 0001 01 21 /run/a\n0: 00000003 00000000 00000000 0001 03 22 /run/a\n\
             0: 00000003 00000000 00000000 0001 03 23\n0: 00000002 00000000 00000000 0002 01 24 /run/notify\n";
        assert_eq!(unix(table), [22]);
    }

    #[test]
    fn w23_what_this_process_has_open_is_counted() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let before = connections(std::process::id()).unwrap();
        let _one = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _other = listener.accept().unwrap();
        assert!(connections(std::process::id()).unwrap() >= before.saturating_sub(1));
        assert!(open_sockets(std::process::id()).unwrap().len() >= 3);
        assert_eq!(outdated(std::process::id()), None);
    }
}
