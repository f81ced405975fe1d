//! Where a socket listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Where a socket listens: `tcp://127.0.0.1:80`, `udp://[::1]:53`, `unix:///run/x.sock`,
/// `unix-dgram:///run/x.sock`. Checked when read: a port, and never 0; an absolute path that fits into a socket address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// a stream socket
    Tcp(SocketAddr),
    /// a datagram socket
    Udp(SocketAddr),
    /// a unix stream socket at an absolute path
    Unix(String),
    /// a unix datagram socket at an absolute path
    UnixDatagram(String),
}

const SCHEMES: &str = "write tcp://, udp://, unix:// or unix-dgram://";

/// Text that is no [`Address`], and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address: {why}")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl AddressError {
    pub(super) fn why(&self) -> &'static str {
        self.why
    }
}

impl Address {
    /// `host:port`, or the path: what `{addr:NAME}` stands for.
    pub fn plain(&self) -> String {
        match self {
            Address::Tcp(socket) | Address::Udp(socket) => socket.to_string(),
            Address::Unix(path) | Address::UnixDatagram(path) => path.clone(),
        }
    }

    /// The path of a unix socket.
    pub fn path(&self) -> Option<&str> {
        match self {
            Address::Tcp(_) | Address::Udp(_) => None,
            Address::Unix(path) | Address::UnixDatagram(path) => Some(path),
        }
    }

    /// Whether connections come to it, and not datagrams.
    pub fn is_stream(&self) -> bool {
        matches!(self, Address::Tcp(_) | Address::Unix(_))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let error = |why| AddressError { text: text.chars().take(120).collect(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| error(SCHEMES))?;
        if matches!(scheme, "unix" | "unix-dgram") {
            let path = rest.strip_prefix('/').ok_or_else(|| error("a unix socket needs an absolute path"))?;
            // sun_path has 108 bytes, with the ending NUL
            return match super::RelPath::new(path) {
                Ok(_) if rest.len() <= 107 && scheme == "unix" => Ok(Address::Unix(rest.to_owned())),
                Ok(_) if rest.len() <= 107 => Ok(Address::UnixDatagram(rest.to_owned())),
                Ok(_) => Err(error("a unix socket's path has at most 107 bytes")),
                Err(_) => Err(error("the path has an empty, `.` or `..` part or a control character")),
            };
        }
        if !matches!(scheme, "tcp" | "udp") {
            return Err(error(SCHEMES));
        }
        let socket: SocketAddr = rest
            .parse()
            .map_err(|_| error("write a numeric address and a port, like 127.0.0.1:80 or [::1]:80"))?;
        if socket.port() == 0 {
            return Err(error("port 0 is none"));
        }
        Ok(if scheme == "tcp" { Address::Tcp(socket) } else { Address::Udp(socket) })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(socket) => write!(f, "tcp://{socket}"),
            Address::Udp(socket) => write!(f, "udp://{socket}"),
            Address::Unix(path) => write!(f, "unix://{path}"),
            Address::UnixDatagram(path) => write!(f, "unix-dgram://{path}"),
        }
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Address, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p10_an_address_says_everything() {
        for text in [
            "tcp://127.0.0.1:80",
            "tcp://0.0.0.0:80",
            "tcp://[::1]:80",
            "udp://[::]:53",
            "unix:///run/x.sock",
            "unix:///a b",
            "unix-dgram:///run/log",
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            let json = serde_json::to_string(&address).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
        }
        let long = format!("unix:///{}", "x".repeat(107));
        for (text, why) in [
            ("127.0.0.1:80", SCHEMES),
            ("http://127.0.0.1:80", SCHEMES),
            ("tcp://127.0.0.1", "write a numeric address and a port, like 127.0.0.1:80 or [::1]:80"),
            ("tcp://localhost:80", "write a numeric address and a port, like 127.0.0.1:80 or [::1]:80"),
            ("tcp://::1:80", "write a numeric address and a port, like 127.0.0.1:80 or [::1]:80"),
            ("tcp://127.0.0.1:70000", "write a numeric address and a port, like 127.0.0.1:80 or [::1]:80"),
            ("udp://127.0.0.1:0", "port 0 is none"),
            ("unix://run/x", "a unix socket needs an absolute path"),
            ("unix:///a/../b", "the path has an empty, `.` or `..` part or a control character"),
            ("unix-dgram://x", "a unix socket needs an absolute path"),
            (&long, "a unix socket's path has at most 107 bytes"),
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().why(), why, "{text}");
        }
        assert!(serde_json::from_str::<Address>("\"tcp://x\"").is_err());
    }
}
