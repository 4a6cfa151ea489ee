//! Where log lines go: one bounded buffer and one writer thread per path; a request never waits for a disk.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What may wait to be written; lines beyond it are dropped and counted.
const MAX_BUFFERED: usize = 8 * 1024 * 1024;
/// Lines are gathered this long before a write, so that a busy proxy makes few system calls.
const GATHER: Duration = Duration::from_millis(50);

/// A buffer in front of a file.
#[derive(Debug)]
pub(crate) struct Sink {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    dropped: u64,
}

impl Sink {
    /// The sink of a path; loggers of one path share it. `/dev/stdout` and `/dev/stderr` are this process's own.
    pub(crate) fn open(path: &str) -> io::Result<Arc<Self>> {
        static SINKS: OnceLock<Mutex<HashMap<String, Arc<Sink>>>> = OnceLock::new();
        let mut sinks = SINKS.get_or_init(Mutex::default).lock();
        if let Some(found) = sinks.get(path) {
            return Ok(found.clone());
        }
        let target: Box<dyn Write + Send> = match path {
            "/dev/stdout" => Box::new(io::stdout()),
            "/dev/stderr" => Box::new(io::stderr()),
            path => Box::new(open_append(path)?),
        };
        let sink = Arc::new(Self { state: Mutex::default(), wake: Condvar::new() });
        let writer = sink.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || writer.run(target))?;
        sinks.insert(path.to_owned(), sink.clone());
        Ok(sink)
    }

    /// Adds a line; never blocks on the file.
    pub(crate) fn append(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.buffer.len() + line.len() > MAX_BUFFERED {
            state.dropped += 1;
            return;
        }
        let was_empty = state.buffer.is_empty();
        state.buffer.extend_from_slice(line);
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
    }

    fn run(&self, mut target: Box<dyn Write + Send>) {
        let mut taken = Vec::new();
        loop {
            {
                let mut state = self.state.lock();
                while state.buffer.is_empty() {
                    self.wake.wait(&mut state);
                }
            }
            std::thread::sleep(GATHER);
            let dropped = {
                let mut state = self.state.lock();
                std::mem::swap(&mut state.buffer, &mut taken);
                std::mem::take(&mut state.dropped)
            };
            if dropped > 0 {
                let _ = writeln!(taken, "{{\"access_log_lines_dropped\":{dropped}}}");
            }
            // A closed pipe or a full disk must not stop the proxy; the next lines are tried again.
            let _ = target.write_all(&taken).and_then(|()| target.flush());
            taken.clear();
            taken.shrink_to(64 * 1024);
        }
    }
}

fn open_append(path: &str) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
