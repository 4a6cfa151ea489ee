//! Following changes: inotify tells at once, a slow re-scan catches what it misses.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecursiveMode, Watcher as _};
use tokio::sync::watch;

use crate::directory::{Directory, Loaded, Stamp};

/// Several writes of one edit are gathered this long; nothing is read that was written to in this time.
const GATHER: Duration = Duration::from_millis(20);
/// How often quiet is waited for; a file that never rests is read all the same.
const PATIENCE: usize = 100;
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
            if is_change(&event) {
                // Without a listener the thread has ended.
                let _ = events.send(event);
            }
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
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(RESCAN),
            }
            while heard.try_recv().is_ok() {}
            let stamps = settled(&source);
            if let Some(loaded) = source.read(stamps) {
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

/// Whether something may be different now. That a file or folder was opened or read is told as well, and we do so at each
/// scan: to heed it would be to scan for ever.
fn is_change(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(kind)) => kind == AccessKind::Close(AccessMode::Write),
        Ok(_) | Err(_) => true,
    }
}

/// The stamps of all files, after those that differ from what was read have been left alone for a moment: an editor
/// truncates a file before it writes it, and half a file must not be taken for the whole.
fn settled(source: &Directory) -> Vec<(PathBuf, Stamp)> {
    let mut last = source.stamps();
    for _ in 0..PATIENCE {
        if source.has(&last) {
            break;
        }
        std::thread::sleep(GATHER);
        let now = source.stamps();
        if now == last && !source.is_truncated(&now) {
            break;
        }
        last = now;
    }
    last
}

fn report(loaded: &Loaded) {
    for problem in loaded.problems.iter() {
        tracing::error!("refused: {problem}; the last good configuration stays in force");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(port: u16) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: pay}}\nspec: {{ports: [{{name: http, port: {port}}}]}}\n"
        )
    }

    #[test]
    fn what_we_do_ourselves_is_no_change() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("pay.yaml"), service(1)).expect("a file");
        let source = Directory::new(vec![folder.path().to_owned()], "prod");
        let (events, heard) = channel();
        let mut watcher = notify::recommended_watcher(move |event| {
            let _ = events.send(event);
        })
        .expect("a watcher");
        watcher.watch(folder.path(), RecursiveMode::Recursive).expect("watched");
        source.stamps();
        std::fs::read(folder.path().join("pay.yaml")).expect("read");
        // Events come in order: those of the scan before that of the new file.
        std::fs::write(folder.path().join("end"), "").expect("a file");
        let mut told = 0;
        loop {
            let event = heard.recv_timeout(Duration::from_secs(20)).expect("the new file is told");
            told += 1;
            if is_change(&event) {
                let paths = event.expect("an event").paths;
                assert!(paths.iter().all(|p| p.ends_with("end")), "{paths:?}");
                break;
            }
        }
        assert!(told > 1, "a scan is told by the kernel");
    }

    #[tokio::test]
    async fn edits_in_place_never_lose_an_object_and_the_last_one_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("pay.yaml");
        std::fs::write(&file, service(1)).expect("a file");
        let mut loaded = watch(Directory::new(vec![folder.path().to_owned()], "prod"));
        let writer = std::thread::spawn(move || {
            for port in 2..=100 {
                // Truncates first, then writes.
                std::fs::write(&file, service(port)).expect("a write");
                std::thread::yield_now();
            }
        });
        let wait = async {
            loop {
                let port = {
                    let now = loaded.borrow_and_update();
                    assert!(now.problems.is_empty(), "{:?}", now.problems);
                    let service =
                        now.snapshot.service("pay.prod.svc.cluster.local").expect("the service is always there");
                    service.ports.first().map(|p| p.port)
                };
                if port == Some(100) {
                    return;
                }
                loaded.changed().await.expect("the source is followed");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("the last edit comes into force");
        writer.join().expect("the writer ends");
    }
}
