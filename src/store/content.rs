//! The content of files: reading and hashing it.

use std::io::Read;

use crate::model::ContentHash;

/// Length and hash of what is left to read of `file`.
pub(super) fn hash_rest(
    file: &mut fs_err::File,
    buffer: &mut Vec<u8>,
) -> std::io::Result<(u64, ContentHash)> {
    buffer.resize(128 * 1024, 0);
    let mut hasher = blake3::Hasher::new();
    let mut len = 0;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok((len, ContentHash::finish(&hasher))),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                len += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Reads `len` bytes into `room`, fewer where there are no more, and more where there are and a read gives them
/// along: with a room that is larger than `len`, a file that has grown shows. Gives how many bytes were read.
pub(super) fn fill(from: &mut impl Read, room: &mut [u8], len: usize) -> std::io::Result<usize> {
    let mut at = 0;
    while at < len {
        match from.read(&mut room[at..]) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}
