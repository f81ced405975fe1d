//! The two things a network namespace of one's own needs before anybody can listen in it: its loopback up,
//! and addresses on it. Spoken to the kernel directly (rtnetlink(7)): no program has to be there for it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

// linux/rtnetlink.h, linux/netlink.h, linux/if_addr.h, linux/if.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 1 | 4;
const CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// the loopback of every network namespace
const LOOPBACK: u32 = 1;

/// Talks to the kernel about the network namespace it was made in.
pub(super) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    pub(super) fn open() -> Result<Netlink, Errno> {
        let flags = SocketFlags::CLOEXEC;
        // no protocol is NETLINK_ROUTE
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Netlink { socket })
    }

    /// Turns loopback on; with it come 127.0.0.1/8 and ::1.
    pub(super) fn loopback_up(&self) -> Result<(), Errno> {
        let mut body = vec![0, 0, 0, 0];
        for word in [LOOPBACK, IFF_UP, IFF_UP] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        self.ask(RTM_NEWLINK, REQUEST_ACK, &body)
    }

    /// Puts `address` on loopback; fine where it is there.
    pub(super) fn add(&self, address: IpAddr) -> Result<(), Errno> {
        let (family, bytes) = match address {
            IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
            IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
        };
        let family = u8::try_from(family.as_raw()).map_err(|_| Errno::AFNOSUPPORT)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut body = vec![family, bits, IFA_F_NODAD, 0];
        body.extend_from_slice(&LOOPBACK.to_ne_bytes());
        for kind in [IFA_LOCAL, IFA_ADDRESS] {
            let length = if address.is_ipv4() { 8u16 } else { 20 };
            body.extend_from_slice(&length.to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(&bytes);
        }
        match self.ask(RTM_NEWADDR, REQUEST_ACK | CREATE, &body) {
            Err(Errno::EXIST) => Ok(()),
            answer => answer,
        }
    }

    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Errno> {
        let length = u32::try_from(16 + body.len()).map_err(|_| Errno::MSGSIZE)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&[0; 8]); // number and sender: there is one question at a time
        message.extend_from_slice(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = [0u8; 4096];
        let (count, _) = rustix::net::recv(&self.socket, &mut answer[..], RecvFlags::empty())?;
        let answer = &answer[..count.min(answer.len())];
        let is_answer = answer.len() >= 20 && answer[4..6] == NLMSG_ERROR.to_ne_bytes();
        let code = answer.get(16..20).and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)));
        match code.filter(|_| is_answer) {
            Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw_os_error(code.saturating_neg())),
            None => Err(Errno::PROTO),
        }
    }
}
