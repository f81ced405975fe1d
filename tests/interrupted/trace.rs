//! strace on the first thread of a running manager, the one that decides and writes everything down: to see what
//! it calls, and to have it killed or refused the disk at one of the calls.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::Signal;

use crate::common::{PATIENCE, signal_to};
use crate::service::Service;

/// Every call that changes something.
const CALLS: &str = "write,pwrite64,writev,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,\
                     symlink,symlinkat,fsync,fdatasync,syncfs,ftruncate,fallocate,fchmod,fchmodat";

/// The `n`th time that the manager makes this call for an event.
#[derive(Clone, Debug)]
pub struct Point {
    pub call: String,
    pub n: usize,
    /// as strace writes it, with the files that descriptors are of
    pub line: String,
}

/// strace at work.
pub struct Trace {
    child: Child,
    log: PathBuf,
}

impl Trace {
    /// Attaches to a manager that waits for events.
    pub fn attach(service: &Service, manager: u32, inject: Option<&str>) -> Trace {
        let log = service.sandbox.path("strace.log");
        let mut command = Command::new("strace");
        command.args(["-y", "-s", "160", "-p", &manager.to_string()]).arg("-o").arg(&log);
        command.arg(format!("--trace={CALLS}")).args(inject.map(|inject| format!("--inject={inject}")));
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("attached"), "strace may not look at our processes: {said}");
        Trace { child, log }
    }

    /// What was seen so far, line by line.
    pub fn lines(&self) -> Vec<String> {
        std::fs::read_to_string(&self.log).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// Lets the manager alone again; gives what was seen.
    pub fn end(mut self) -> Vec<String> {
        signal_to(self.child.id(), Signal::INT);
        let begun = std::time::Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "strace does not end");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        self.lines()
    }
}

/// The points of what an untouched manager was seen to call.
pub fn points(lines: &[String]) -> Vec<Point> {
    let mut counts = BTreeMap::<String, usize>::new();
    let mut points = Vec::new();
    for line in lines {
        let Some((call, _)) = line.split_once('(') else { continue };
        if call.is_empty() || !call.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            continue;
        }
        let n = counts.entry(call.to_owned()).or_default();
        *n += 1;
        points.push(Point { call: call.to_owned(), n: *n, line: line.clone() });
    }
    points
}

/// So many of the points, evenly spread, the first and the last among them; all where there are not more.
pub fn spread(points: &[Point], many: usize) -> Vec<Point> {
    if points.len() <= many {
        return points.to_vec();
    }
    (0..many).map(|i| points[i * (points.len() - 1) / (many - 1)].clone()).collect()
}
