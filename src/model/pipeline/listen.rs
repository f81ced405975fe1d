//! Reads `listen:` of a group: addresses by name, each with its options, or what the program binds by itself.

use std::collections::BTreeMap;

use super::super::document::{DocumentError, quoted};
use super::super::field::Field;
use super::super::placeholder::is_socket_name;
use super::super::{Address, AddressError, Socket};
use super::read::variable;
use super::{Group, Listen};

const ADDRESS: &str = "an address like tcp://127.0.0.1:80, udp://[::1]:53 or unix:///run/x.sock";
const OPTIONS: [&str; 9] =
    ["address", "backlog", "nonblocking", "free_bind", "v6only", "receive_buffer", "mode", "owner", "group"];

/// Reads `listen:`.
pub(super) fn read(field: &Field<'_>) -> Result<Listen, DocumentError> {
    let what = "a map from names to addresses, or {inherit: VARIABLE}";
    let members = field.members(what)?;
    if let Some(inherit) = field.get("inherit") {
        if members.len() > 1 {
            return Err(inherit.key_error("expected `inherit` alone: the program binds all of its sockets"));
        }
        let name = inherit.text("the name of an environment variable")?;
        variable(&inherit, name, false)?;
        return Ok(Listen::Inherit(name.to_owned()));
    }
    let mut sockets: BTreeMap<String, Socket> = BTreeMap::new();
    for (name, field) in members {
        if !is_socket_name(name) {
            return Err(field.key_error("expected a socket name of 1 to 32 of a-z 0-9 -"));
        }
        let socket = socket(&field)?;
        if let Some((other, _)) = sockets.iter().find(|(_, known)| meets(&known.address, &socket.address)) {
            return Err(field.error(format!("expected an address of its own, found that of `{other}`")));
        }
        sockets.insert(name.to_owned(), socket);
    }
    Ok(Listen::Sockets(sockets))
}

/// One address is one socket: no two groups say different things of it.
pub(super) fn agree(root: &Field<'_>, groups: &BTreeMap<String, Group>) -> Result<(), DocumentError> {
    let mut known: Vec<(&str, &Socket)> = Vec::new();
    for (group, listen) in groups.iter().map(|(name, group)| (name, &group.listen)) {
        let Listen::Sockets(sockets) = listen else { continue };
        for (name, socket) in sockets {
            let other = known.iter().find(|(_, other)| meets(&other.address, &socket.address));
            if let Some((other, _)) = other.filter(|(_, other)| *other != socket) {
                let all = root.get("workers").and_then(|all| all.get(group));
                let place = all.and_then(|group| group.get("listen")?.get(name));
                let place = place.unwrap_or_else(|| root.clone());
                return Err(place.error(format!(
                    "expected what `{other}` says of {}, or another address: one address is one socket",
                    socket.address
                )));
            }
            known.push((group, socket));
        }
    }
    Ok(())
}

/// Whether both cannot be there at once.
fn meets(a: &Address, b: &Address) -> bool {
    a == b || (a.path().is_some() && a.path() == b.path())
}

fn socket(field: &Field<'_>) -> Result<Socket, DocumentError> {
    if !field.is_map() {
        return Ok(Socket::new(address(field)?));
    }
    field.only("an address, or a map with `address`", &OPTIONS)?;
    let mut socket = Socket::new(address(&field.need("address", ADDRESS)?)?);
    let (is_unix, is_stream) = (socket.address.path().is_some(), socket.address.is_stream());
    let is_v6 = matches!(&socket.address, Address::Tcp(at) | Address::Udp(at) if at.is_ipv6());
    let get = |key: &str, means: bool, of: &str| match field.get(key) {
        Some(option) if !means => Err(option.key_error(format!("`{key}` means something of {of} only"))),
        option => Ok(option),
    };
    if let Some(backlog) = get("backlog", is_stream, "a socket that accepts connections")? {
        socket.backlog = backlog.number(1..=1 << 20)?;
    }
    if let Some(nonblocking) = field.get("nonblocking") {
        socket.nonblocking = nonblocking.boolean()?;
    }
    if let Some(free) = get("free_bind", !is_unix, "an internet address")? {
        socket.free_bind = free.boolean()?;
    }
    if let Some(only) = get("v6only", is_v6, "an IPv6 address")? {
        socket.v6only = only.boolean()?;
    }
    if let Some(size) = field.get("receive_buffer") {
        let bytes = size.size()?;
        if bytes == 0 || bytes > 1 << 30 {
            return Err(size.expected("a size from 1B to 1GiB"));
        }
        socket.receive_buffer = Some(bytes);
    }
    if let Some(mode) = get("mode", is_unix, "a unix socket")? {
        socket.mode = octal(&mode)?;
    }
    if let Some(owner) = get("owner", is_unix, "a unix socket")? {
        socket.owner = Some(account(&owner)?);
    }
    if let Some(group) = get("group", is_unix, "a unix socket")? {
        socket.group = Some(account(&group)?);
    }
    Ok(socket)
}

fn address(field: &Field<'_>) -> Result<Address, DocumentError> {
    let text = field.text(ADDRESS)?;
    text.parse().map_err(|why: AddressError| {
        field.error(format!("expected {ADDRESS}, found {} ({})", quoted(text), why.why()))
    })
}

fn octal(field: &Field<'_>) -> Result<u32, DocumentError> {
    let what = "a mode like \"0660\", at most 0777, in quotes";
    let text = field.text(what)?;
    let digits = text.bytes().all(|digit| matches!(digit, b'0'..=b'7')) && matches!(text.len(), 3 | 4);
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
    mode.ok_or_else(|| field.expected(what))
}

fn account(field: &Field<'_>) -> Result<String, DocumentError> {
    let what = "a name or a number in quotes";
    let text = field.text(what)?;
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '$' | '@');
    match !text.is_empty() && text.len() <= 256 && !text.starts_with('-') && text.chars().all(word) {
        true => Ok(text.to_owned()),
        false => Err(field.expected(what)),
    }
}
