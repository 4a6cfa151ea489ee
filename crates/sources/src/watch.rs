//! Following changes: inotify tells at once, a slow re-scan catches what it misses.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::watch;

use crate::directory::{Directory, Loaded};

/// Several writes of one edit are gathered this long.
const GATHER: Duration = Duration::from_millis(20);
/// Between two scans when nothing is heard.
const RESCAN: Duration = Duration::from_millis(500);

/// Follows a source on a thread of its own, until nobody listens any more. The first content is there at once.
pub fn watch(mut source: Directory) -> watch::Receiver<Loaded> {
    let first = source.refresh().unwrap_or_default();
    report(&first);
    let (sender, receiver) = watch::channel(first);
    std::thread::spawn(move || {
        let (events, heard) = channel();
        let watcher = notify::recommended_watcher(move |event| {
            // Without a listener the thread has ended.
            let _ = events.send(event);
        });
        let mut watcher = match watcher {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::warn!(%error, "changes are not notified; the files are scanned twice a second instead");
                None
            }
        };
        for path in source.paths().cloned().collect::<Vec<_>>() {
            if let Some(Err(error)) = watcher.as_mut().map(|w| w.watch(&path, RecursiveMode::Recursive)) {
                tracing::warn!(path = %path.display(), %error, "changes here are found by scanning only");
            }
        }
        loop {
            match heard.recv_timeout(RESCAN) {
                Ok(_) => {
                    std::thread::sleep(GATHER);
                    while heard.try_recv().is_ok() {}
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN),
            }
            if let Some(loaded) = source.refresh() {
                report(&loaded);
                if sender.send(loaded).is_err() {
                    return;
                }
            } else if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}

fn report(loaded: &Loaded) {
    for problem in loaded.problems.iter() {
        tracing::error!("refused: {problem}; the last good configuration stays in force");
    }
}
