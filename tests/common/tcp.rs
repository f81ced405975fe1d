//! The sockets of this machine that listen on loopback, as the kernel shows them.

use std::io::{BufRead as _, BufReader};

/// A socket that listens.
pub struct Listening {
    pub inode: u64,
    /// how many connections nobody has accepted yet
    pub queued: usize,
}

/// Those that listen at this port of 127.0.0.1.
pub fn listening(port: u16) -> Vec<Listening> {
    let address = format!("0100007F:{port:04X}");
    let table = BufReader::new(std::fs::File::open("/proc/net/tcp").unwrap());
    let mut found = Vec::new();
    for line in table.lines().skip(1) {
        let line = line.unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        // those that listen come first; of the others, a load leaves tens of thousands
        if fields[3] != "0A" {
            break;
        }
        if fields[1] == address {
            let (_, queued) = fields[4].split_once(':').unwrap();
            let queued = usize::from_str_radix(queued, 16).unwrap();
            found.push(Listening { inode: fields[9].parse().unwrap(), queued });
        }
    }
    found
}
