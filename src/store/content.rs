//! The content of files: reading it once, hashing and copying it.

use std::io::{Read, Write as _};

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

/// Reads to the end into `bytes`, expecting `len`; gives up one byte after that, where it must have
/// grown. Gives how many were read.
pub(super) fn fill(file: &mut impl Read, bytes: &mut Vec<u8>, len: u64) -> std::io::Result<usize> {
    let most = usize::try_from(len).expect("small files only") + 1;
    if bytes.len() < most {
        bytes.resize(most, 0);
    }
    let mut at = 0;
    while at < most {
        match file.read(&mut bytes[at..most]) {
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

/// Which side of a copy failed.
pub(super) enum Failed {
    Read(std::io::Error),
    Write(std::io::Error),
}

/// Copies a large file and hashes it on another thread meanwhile, in a few pieces of 1 MiB.
pub(super) fn copy(from: &mut impl Read, to: &mut fs_err::File) -> Result<(u64, ContentHash), Failed> {
    const PIECE: usize = 1 << 20;
    std::thread::scope(|scope| {
        let (full, pieces) = std::sync::mpsc::sync_channel::<(Vec<u8>, usize)>(4);
        let (back, empty) = std::sync::mpsc::channel::<Vec<u8>>();
        for _ in 0..4 {
            back.send(vec![0; PIECE]).expect("the receiver is in scope");
        }
        let hashing = scope.spawn(move || {
            let mut hasher = blake3::Hasher::new();
            for (piece, len) in pieces {
                hasher.update(&piece[..len]);
                let _ = back.send(piece); // nobody is left to reuse it at the end
            }
            ContentHash::finish(&hasher)
        });
        let mut total = 0;
        let done = loop {
            let mut piece = empty.recv().expect("the hasher gives back every piece while we send");
            match from.read(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(len) => {
                    if let Err(e) = to.write_all(&piece[..len]) {
                        break Err(Failed::Write(e));
                    }
                    total += len as u64;
                    full.send((piece, len)).expect("the hasher runs while we send");
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {
                    full.send((piece, 0)).expect("the hasher runs while we send");
                }
                Err(e) => break Err(Failed::Read(e)),
            }
        };
        drop(full);
        let hash = hashing.join().expect("hashing does not panic");
        done.map(|()| (total, hash))
    })
}
