//! A listening socket as a pipeline writes it: where it listens, and how.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Address;

/// As many connections may wait to be accepted; the kernel clamps it to `net.core.somaxconn`.
const BACKLOG: u32 = 4096;
/// Who may connect is decided by the directory, as with systemd.
const MODE: u32 = 0o666;

/// A listening socket of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self")]
pub struct Socket {
    /// where it listens
    pub address: Address,
    /// how many connections may wait to be accepted
    pub backlog: u32,
    /// accepting (of a datagram socket: reading) where there is nothing says so instead of waiting
    pub nonblocking: bool,
    /// an address that no interface has yet may be bound
    pub free_bind: bool,
    /// IPv6 means IPv6 only; false: the wildcard takes IPv4 as well
    pub v6only: bool,
    /// the receive buffer in bytes; `None`: the system's
    pub receive_buffer: Option<u64>,
    /// the mode of a unix socket's path
    pub mode: u32,
    /// whose a unix socket's path is: a name or a number; `None`: the supervisor's user
    pub owner: Option<String>,
    /// the group of a unix socket's path: a name or a number; `None`: the supervisor's group
    pub group: Option<String>,
}

impl Socket {
    /// The socket at `address` of which nothing else is said.
    pub fn new(address: Address) -> Socket {
        Socket {
            address,
            backlog: BACKLOG,
            nonblocking: true,
            free_bind: false,
            v6only: true,
            receive_buffer: None,
            mode: MODE,
            owner: None,
            group: None,
        }
    }

    /// Which socket it is: the address, and what of it cannot be changed while it is bound. Equal keys are one
    /// socket; what else differs is changed in place.
    pub fn key(&self) -> String {
        let mut key = self.address.to_string();
        if !self.v6only {
            key.push_str("?dual-stack");
        }
        if !self.nonblocking {
            key.push_str("?blocking");
        }
        key
    }
}

impl From<Address> for Socket {
    fn from(address: Address) -> Socket {
        Socket::new(address)
    }
}

/// Written as its address alone where nothing else was said, which is also how records of before options have it.
impl Serialize for Socket {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self == Socket::new(self.address.clone()) {
            true => self.address.serialize(to),
            // the derived one, with every field
            false => Socket::serialize(self, to),
        }
    }
}

impl<'de> Deserialize<'de> for Socket {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Socket, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Plain(Address),
            Full(#[serde(with = "Socket")] Socket),
        }
        Ok(match Written::deserialize(from)? {
            Written::Plain(address) => Socket::new(address),
            Written::Full(socket) => socket,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p25_a_socket_without_options_is_written_as_its_address() {
        let plain = Socket::new("tcp://[::]:80".parse().unwrap());
        assert_eq!(serde_json::to_string(&plain).unwrap(), "\"tcp://[::]:80\"");
        let all = Socket {
            backlog: 1,
            nonblocking: false,
            free_bind: true,
            v6only: false,
            receive_buffer: Some(1),
            mode: 0o600,
            owner: Some("root".to_owned()),
            group: Some("0".to_owned()),
            ..plain.clone()
        };
        for socket in [plain, all] {
            let text = serde_json::to_string(&socket).unwrap();
            assert_eq!(serde_json::from_str::<Socket>(&text).unwrap(), socket);
        }
    }

    #[test]
    fn w32_what_cannot_be_changed_in_place_makes_another_socket() {
        let socket = Socket::new("tcp://[::]:80".parse().unwrap());
        let changed = [
            Socket { backlog: 1, free_bind: true, ..socket.clone() },
            Socket { nonblocking: false, ..socket.clone() },
            Socket { v6only: false, ..socket.clone() },
        ];
        assert_eq!(
            changed.map(|changed| changed.key()),
            ["tcp://[::]:80", "tcp://[::]:80?blocking", "tcp://[::]:80?dual-stack"]
        );
    }
}
