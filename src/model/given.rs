//! A listening socket that somebody else owns and passes on, as a `.socket` unit of systemd does (W36 of
//! `spec/workers.md`).

use serde::{Deserialize, Serialize};

use super::Socket;

/// What is known of such a socket. None of it is ours to change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenSocket {
    /// what its owner calls it: `FileDescriptorName=`
    pub name: String,
    /// where it listens, as a pipeline writes it
    pub address: String,
    /// whether accepting or reading never waits
    pub nonblocking: bool,
    /// IPv6 means IPv6 only
    pub v6only: bool,
}

/// How what is given and what a pipeline listens on go together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// given by the name of a socket of the pipeline that is elsewhere: in words
    pub misnamed: Vec<String>,
    /// asked for by nobody, or otherwise than it is given: in words
    pub doubts: Vec<String>,
}

impl GivenSocket {
    /// Which of `given` a pipeline's `socket`, which it calls `name`, is: the one at its address, of several that of
    /// its name. `None`: it is to be bound.
    ///
    /// # Errors
    /// Why what is given cannot be it, in words for the operator.
    pub fn find(given: &[GivenSocket], name: &str, socket: &Socket) -> Result<Option<usize>, String> {
        let address = socket.address.to_string();
        let at: Vec<usize> = (0..given.len()).filter(|&i| given[i].address == address).collect();
        let named: Vec<usize> = at.iter().copied().filter(|&i| given[i].name == name).collect();
        let one = match (at.as_slice(), named.as_slice()) {
            ([], _) => return Ok(None),
            ([one], _) | (_, [one]) => *one,
            _ => {
                return Err(format!(
                    "several sockets are given at {address}, and a pipeline has one; let `FileDescriptorName={name}` say \
                     which it is"
                ));
            }
        };
        let GivenSocket { name, address, v6only, .. } = &given[one];
        if *v6only == socket.v6only {
            return Ok(Some(one));
        }
        let unit = if socket.v6only { "ipv6-only" } else { "both" };
        Err(format!(
            "the socket `{name}` that is given at {address} is not as `v6only` says; write `BindIPv6Only={unit}` into its \
             unit, or `v6only: {v6only}` into the pipeline"
        ))
    }

    /// A program that waits in `accept` for what another one has taken keeps its clients waiting. The other way round it
    /// is told: programs change this for everybody who has the socket, so what is seen need not be what was given.
    fn waits(&self, socket: &Socket) -> Result<Option<String>, String> {
        let GivenSocket { name, address, .. } = self;
        let is = format!("the socket `{name}` that is given at {address}");
        match (self.nonblocking, socket.nonblocking) {
            (false, true) => Err(format!(
                "{is} blocks; write `NonBlocking=yes` into the unit that it is given to, or `nonblocking: false` into the \
                 pipeline"
            )),
            (true, false) => Ok(Some(format!(
                "{is} does not block; where the program relies on that, write `NonBlocking=no` into the unit that it is \
                 given to"
            ))),
            _ => Ok(None),
        }
    }

    /// How `given` and the sockets of a whole pipeline, by their names, go together.
    ///
    /// # Errors
    /// Why a worker of that pipeline could not be started on what is given, or should not.
    pub fn fit(given: &[GivenSocket], sockets: &[(&str, &Socket)]) -> Result<Fit, String> {
        let found = sockets.iter().map(|(name, socket)| GivenSocket::find(given, name, socket));
        let found: Vec<Option<usize>> = found.collect::<Result<_, _>>()?;
        let mut fit = Fit::default();
        for (i, (_, socket)) in found.iter().zip(sockets) {
            if let Some(i) = i {
                fit.doubts.extend(given[*i].waits(socket)?);
            }
        }
        for (_, one) in given.iter().enumerate().filter(|(i, _)| !found.contains(&Some(*i))) {
            let GivenSocket { name, address, .. } = one;
            let mut bound = sockets.iter().zip(&found).filter(|(_, found)| found.is_none());
            let elsewhere = bound.find(|((own, _), _)| own == name);
            match elsewhere {
                Some(((_, socket), _)) => fit.misnamed.push(format!(
                    "the socket `{name}` is given at {address}, and the pipeline has it at {}; write the same address in \
                     both, or another name into one of them",
                    socket.address
                )),
                None => fit.doubts.push(format!(
                    "the socket `{name}` is given at {address}, and nobody listens on it: its clients wait; write its \
                     address into `listen`, or stop its unit"
                )),
            }
        }
        Ok(fit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: &str, address: &str) -> GivenSocket {
        GivenSocket { name: name.to_owned(), address: address.to_owned(), nonblocking: true, v6only: true }
    }

    fn at(address: &str) -> Socket {
        Socket::new(address.parse().unwrap())
    }

    #[test]
    fn w36_a_given_socket_is_found_by_its_address_and_then_by_its_name() {
        let (web, other) = (at("tcp://127.0.0.1:80"), at("udp://127.0.0.1:80"));
        let one = [given("any.socket", "tcp://127.0.0.1:80")];
        assert_eq!(GivenSocket::find(&one, "http", &web), Ok(Some(0)));
        assert_eq!(GivenSocket::find(&one, "http", &other), Ok(None), "another kind");
        let two = [given("a", "tcp://127.0.0.1:80"), given("http", "tcp://127.0.0.1:80")];
        assert_eq!(GivenSocket::find(&two, "http", &web), Ok(Some(1)));
        let said = GivenSocket::find(&two, "web", &web).unwrap_err();
        assert!(said.contains("several sockets") && said.contains("tcp://127.0.0.1:80"), "{said}");
    }

    #[test]
    fn w36_what_is_given_is_as_the_pipeline_says_or_is_refused() {
        let all = Socket { v6only: false, ..at("tcp://[::]:80") };
        let both = GivenSocket { v6only: false, ..given("http", "tcp://[::]:80") };
        assert_eq!(GivenSocket::find(std::slice::from_ref(&both), "http", &all), Ok(Some(0)));
        for (given, socket, says) in [
            (given("http", "tcp://[::]:80"), &all, "write `BindIPv6Only=both`"),
            (both.clone(), &at("tcp://[::]:80"), "write `BindIPv6Only=ipv6-only`"),
        ] {
            let said = GivenSocket::find(&[given], "http", socket).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
        let blocks = GivenSocket { nonblocking: false, ..both.clone() };
        let said = GivenSocket::fit(&[blocks], &[("http", &all)]).unwrap_err();
        assert!(said.contains("write `NonBlocking=yes`"), "{said}");
        let waits = Socket { nonblocking: false, ..all };
        let doubts = GivenSocket::fit(&[both], &[("http", &waits)]).unwrap().doubts;
        assert!(doubts[0].contains("write `NonBlocking=no`"), "{doubts:?}");
    }

    #[test]
    fn w36_what_is_elsewhere_and_what_nobody_wants_is_named() {
        let all = [given("http", "tcp://127.0.0.1:80"), given("dns", "udp://127.0.0.1:53")];
        let (web, moved) = (at("tcp://127.0.0.1:80"), at("tcp://127.0.0.1:8080"));
        let fit = GivenSocket::fit(&all, &[("http", &web)]).unwrap();
        assert_eq!((fit.misnamed.len(), fit.doubts.len()), (0, 1));
        assert!(fit.doubts[0].contains("`dns` is given at udp://127.0.0.1:53"), "{fit:?}");
        let fit = GivenSocket::fit(&all, &[("http", &moved)]).unwrap();
        assert_eq!((fit.misnamed.len(), fit.doubts.len()), (1, 1));
        assert!(fit.misnamed[0].contains("127.0.0.1:80, and the pipeline has it at tcp://127.0.0.1:8080"));
        // another group may call another socket so
        let fit = GivenSocket::fit(&all, &[("http", &moved), ("http", &web)]).unwrap();
        assert_eq!((fit.misnamed.len(), fit.doubts.len()), (0, 1));
    }
}
