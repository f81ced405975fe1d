//! The members of a tar stream, one after the other: what a push and an import have in common.
//!
//! The stream is hostile until proven otherwise. Extension headers are read by us with a limit, and the end
//! marker must be there: a stream that was cut between two members is no archive.

use std::cell::Cell;
use std::io::Read;
use std::rc::Rc;

use tar::{EntryType, PaxExtensions};

/// Extension headers hold a path or a few numbers.
const LARGEST_EXTENSION: u64 = 64 << 10;
/// GNU and pax write four at most before one member.
const MOST_EXTENSIONS: usize = 16;
/// What is read behind the end marker, so that the writer is not cut off in its padding.
const PADDING: u64 = 1 << 20;
pub(super) const BLOCK: u64 = 512;

/// What a member's headers say of it; nothing is checked yet.
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    /// bytes of its content
    pub(super) length: u64,
    pub(super) name: Vec<u8>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) sparse: bool,
}

impl Member {
    /// Its name for messages.
    pub(super) fn shown(&self) -> String {
        shown(&self.name)
    }
}

/// A name that anybody may have written, for messages.
pub(super) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).escape_debug().to_string()
}

/// A stream that is no whole archive, and why.
#[derive(Debug)]
pub(super) struct Broken(pub(super) String);

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Broken {
        // the library quotes the stream in its messages as it is
        Broken(error.to_string().escape_debug().to_string())
    }
}

/// Calls `each` with every member of `stream` and its content, in order; what of the content it does not read
/// is skipped. After `Ok` the end marker has been there.
pub(super) fn each_member<E: From<Broken>>(
    stream: impl Read,
    mut each: impl FnMut(Member, &mut dyn Read) -> Result<(), E>,
) -> Result<(), E> {
    let broken = |error: std::io::Error| E::from(Broken::from(error));
    let count = Rc::new(Cell::new(0));
    let mut archive = tar::Archive::new(Counted { inner: stream, count: Rc::clone(&count) });
    let mut end = 0;
    let mut extension = Extension::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let header = entry.header();
        let (kind, length) = (header.entry_type(), header.entry_size().map_err(broken)?);
        end = entry.raw_file_position() + length.next_multiple_of(BLOCK);
        if extension.read(kind, &mut entry, length)? {
            continue;
        }
        let extension = std::mem::take(&mut extension);
        let mode = entry.header().mode().map_err(broken)?;
        let name = extension.path.unwrap_or_else(|| entry.path_bytes().into_owned());
        if extension.size.is_some_and(|size| size != length) {
            return Err(Broken(format!("{}: its two lengths differ", shown(&name))).into());
        }
        let link = extension.link.or_else(|| entry.link_name_bytes().map(std::borrow::Cow::into_owned));
        let sparse = extension.sparse || kind == EntryType::GNUSparse;
        each(Member { kind, mode, length, name, link, sparse }, &mut entry)?;
    }
    let mut rest = archive.into_inner();
    if count.get() < end + BLOCK {
        return Err(Broken("it ends without its end marker: it was cut".to_owned()).into());
    }
    // a writer that is cut off in its padding would report a failure; its zeros mean nothing
    let _ = std::io::copy(&mut rest.by_ref().take(PADDING), &mut std::io::sink());
    Ok(())
}

/// Counts what has been read, for whoever holds the other end of the counter.
struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get() + read as u64);
        Ok(read)
    }
}

/// What the extension headers before a member say of it.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
    headers: usize,
}

impl Extension {
    /// Takes in an extension header; `false` where it is none.
    fn read(&mut self, kind: EntryType, entry: &mut impl Read, length: u64) -> Result<bool, Broken> {
        match kind {
            EntryType::XGlobalHeader => content(entry, length).map(drop)?,
            EntryType::XHeader => self.pax(&content(entry, length)?)?,
            EntryType::GNULongName => self.path = Some(trimmed(content(entry, length)?)),
            EntryType::GNULongLink => self.link = Some(trimmed(content(entry, length)?)),
            _ => return Ok(false),
        }
        self.headers += 1;
        if self.headers > MOST_EXTENSIONS {
            return Err(Broken(format!("more than {MOST_EXTENSIONS} extension headers before one member")));
        }
        Ok(true)
    }

    fn pax(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        for extension in PaxExtensions::new(bytes) {
            let extension = extension?;
            match extension.key_bytes() {
                b"path" => self.path = Some(extension.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(extension.value_bytes().to_vec()),
                b"size" => self.size = extension.value().ok().and_then(|text| text.parse().ok()),
                key => self.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

/// What an extension header holds.
fn content(entry: &mut impl Read, length: u64) -> Result<Vec<u8>, Broken> {
    if length > LARGEST_EXTENSION {
        return Err(Broken(format!(
            "an extension header of {length} bytes; {LARGEST_EXTENSION} are enough for any path"
        )));
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A long name ends with a zero byte.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    bytes
}
