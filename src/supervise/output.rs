//! What a program that dies with us says: read as it comes, so that it never waits for us, and only the end
//! of it kept, so that one that never stops talking fills neither memory nor disk.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::fsx::{Dir, FsError, Meta};

/// How much of the end is kept.
const TAIL: usize = 64 << 10;
/// More than this is not taken at once, so that whoever reads looks at the clock in between: twice what a
/// pipe can hold without being told to hold more.
const AT_ONCE: usize = 128 << 10;
/// A log of stages that is longer is put aside before more is added; one old one is kept.
const LOG: u64 = 1 << 20;

/// The reading end.
#[derive(Debug)]
pub(super) struct Output {
    pipe: OwnedFd,
    bytes: Vec<u8>,
    over: bool,
}

impl Output {
    /// A new one, and the end that the program writes to.
    pub(super) fn new() -> Result<(Output, OwnedFd), Errno> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&read, true)?;
        Ok((Output { pipe: read, bytes: Vec::new(), over: false }, write))
    }

    /// The descriptor to poll; `None` once nobody can write any more.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        (!self.over).then_some(&self.pipe)
    }

    /// Takes what is there, a bounded amount.
    pub(super) fn take(&mut self) {
        let mut taken = 0;
        let mut buffer = [0u8; 16 << 10];
        while taken < AT_ONCE && !self.over {
            match rustix::io::read(&self.pipe, &mut buffer[..]) {
                Ok(0) => self.over = true,
                Ok(count) => {
                    taken += count;
                    self.bytes.extend_from_slice(&buffer[..count]);
                    // cut rarely, not at every reading
                    if self.bytes.len() > 4 * TAIL {
                        self.bytes.drain(..self.bytes.len() - TAIL);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.over = true,
            }
        }
    }

    /// The last 64 KiB, as text.
    pub(super) fn tail(&self) -> String {
        let from = self.bytes.len().saturating_sub(TAIL);
        String::from_utf8_lossy(&self.bytes[from..]).trim_end().to_owned()
    }

    /// Adds the end of what `who` has said to the log `path`, made with 0640, under a line with the name.
    pub(super) fn log(&self, path: &Path, who: &str) -> Result<(), FsError> {
        let parent = Dir::create_all(path.parent().unwrap_or(Path::new("/")), 0o755)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("log");
        let (mut file, _) = parent.append_file(name, 0o640)?;
        if Meta::of_fd(file.file(), path)?.len > LOG {
            parent.rename(name, &parent, format!("{name}.1"))?;
            (file, _) = parent.append_file(name, 0o640)?;
        }
        let from = self.bytes.len().saturating_sub(TAIL);
        let mut text = format!("==> {who}\n").into_bytes();
        text.extend_from_slice(&self.bytes[from..]);
        if text.last() != Some(&b'\n') {
            text.push(b'\n');
        }
        crate::fsx::append(&mut file, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w3_only_the_end_of_a_long_output_is_kept() {
        let (mut output, write) = Output::new().unwrap();
        for _ in 0..64 {
            rustix::io::write(&write, &[b'x'; 32 << 10]).unwrap();
            output.take();
        }
        rustix::io::write(&write, b"the end\n").unwrap();
        drop(write);
        output.take();
        assert!(output.bytes.len() <= 4 * TAIL + (16 << 10), "{}", output.bytes.len());
        assert!(output.tail().ends_with("the end") && output.tail().len() < TAIL);
        output.take();
        assert!(output.fd().is_none(), "nobody can write any more");
        let temp = tempfile::tempdir().unwrap();
        let log = temp.path().join("log/stages.log");
        for _ in 0..40 {
            output.log(&log, "loader").unwrap();
        }
        let old = Meta::of_path(&temp.path().join("log/stages.log.1")).unwrap();
        assert!(old.len > LOG && old.len < LOG + 2 * TAIL as u64);
        assert!(Meta::of_path(&log).unwrap().len < LOG);
    }
}
