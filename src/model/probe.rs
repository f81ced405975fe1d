//! Questions that a worker can be asked from outside: an HTTP request or a command.

use serde::{Deserialize, Serialize};

use super::{Address, Command};

/// One question: whether a worker does its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// GET of this [`HttpUrl`], placeholders unexpanded: yes is a status from 200 to 399
    Http(String),
    /// yes is exit status 0
    Command(Command),
}

/// What [`Probe::Http`] gets: `http://127.0.0.1:8080/health`, or `http://unix:/run/x.sock:/health` for a
/// server on a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    /// where to connect to: never a datagram socket
    pub address: Address,
    /// what the server is called, for the `Host` header
    pub host: String,
    /// path and query
    pub target: String,
}

/// Text that is no [`HttpUrl`], and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HttpUrlError(&'static str);

impl HttpUrl {
    /// Reads a URL that has no placeholders any more. The address is numeric or `localhost` (127.0.0.1):
    /// no name is looked up.
    pub fn parse(text: &str) -> Result<HttpUrl, HttpUrlError> {
        let rest = text.strip_prefix("http://").ok_or(HttpUrlError("write http://; there is no TLS here"))?;
        if rest.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(HttpUrlError("write blanks and control characters as %20 and the like"));
        }
        let (address, host, target) = match rest.strip_prefix("unix:") {
            Some(rest) => {
                let (path, target) = rest.split_once(':').unwrap_or((rest, ""));
                let address = format!("unix://{path}").parse();
                let address =
                    address.map_err(|_| HttpUrlError("write http://unix:/PATH:/ for a unix socket"))?;
                (address, "localhost", target)
            }
            None => {
                let (host, target) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let (name, port) = match host.rsplit_once(':') {
                    Some((name, port)) if !port.contains(']') => (name, port),
                    _ => (host, "80"),
                };
                let name = if name == "localhost" { "127.0.0.1" } else { name };
                let address = format!("tcp://{name}:{port}").parse();
                let address = address
                    .map_err(|_| HttpUrlError("the address is numeric, like 127.0.0.1:80 or [::1]:80"))?;
                (address, host, target)
            }
        };
        let target = if target.is_empty() { "/" } else { target };
        if !target.starts_with('/') {
            return Err(HttpUrlError("the path begins with /"));
        }
        Ok(HttpUrl { address, host: host.to_owned(), target: target.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_a_url_says_where_and_what() {
        for (text, address, host, target) in [
            ("http://127.0.0.1:8080/health?x=1", "tcp://127.0.0.1:8080", "127.0.0.1:8080", "/health?x=1"),
            ("http://[::1]:80", "tcp://[::1]:80", "[::1]:80", "/"),
            ("http://[::1]/a", "tcp://[::1]:80", "[::1]", "/a"),
            ("http://localhost:81/", "tcp://127.0.0.1:81", "localhost:81", "/"),
            ("http://unix:/run/x.sock:/up", "unix:///run/x.sock", "localhost", "/up"),
            ("http://unix:/run/x.sock", "unix:///run/x.sock", "localhost", "/"),
        ] {
            let url = HttpUrl::parse(text).unwrap();
            assert_eq!(
                (url.address.to_string().as_str(), url.host.as_str(), url.target.as_str()),
                (address, host, target),
                "{text}"
            );
        }
        for bad in [
            "https://127.0.0.1/",
            "127.0.0.1:80",
            "http://example.com/",
            "http:///x",
            "http:///run/x.sock/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:80 /",
            "http://127.0.0.1/a\r\nX: y",
            "http://unix:x.sock:/",
            "http://unix:/run/x.sock:up",
        ] {
            assert!(HttpUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
