//! Tables for people.

use std::fmt::Write;

use crate::status::Status;

/// `ps`: a line a pod, then what is wrong.
pub fn pods(status: &Status, namespace: Option<&str>) -> String {
    let mut rows =
        vec![["NAMESPACE", "POD", "IP", "READY", "STATUS", "RESTARTS", "SIDECAR", "SYNC", "AGE"].map(str::to_owned)];
    for pod in status.pods.iter().filter(|p| namespace.is_none_or(|n| p.namespace == n)) {
        let running = pod.containers.iter().filter(|c| c.pid.is_some()).count();
        let sidecar = match (pod.injected, pod.sidecar_ready) {
            (false, _) => "none",
            (true, true) => "ready",
            (true, false) => "starting",
        };
        rows.push([
            pod.namespace.clone(),
            pod.name.clone(),
            pod.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            format!(
                "{}/{}",
                if pod.ready { pod.containers.len() } else { running.saturating_sub(1) },
                pod.containers.len()
            ),
            pod.phase.clone(),
            pod.containers.iter().map(|c| c.restarts).sum::<u32>().to_string(),
            sidecar.to_owned(),
            pod.sync.clone().unwrap_or_else(|| "-".to_owned()),
            age(pod.age_seconds),
        ]);
    }
    let mut out = columns(&rows);
    for pod in status.pods.iter().filter(|p| namespace.is_none_or(|n| p.namespace == n)) {
        if let Some(message) = &pod.message {
            line(&mut out, &format!("pod {}/{}: {message}", pod.namespace, pod.name));
        }
    }
    if status.istiod.stopped && status.pods.iter().any(|p| p.injected) {
        line(&mut out, "istiod is stopped");
    }
    for problem in &status.problems {
        line(&mut out, &format!("refused: {problem}"));
    }
    out
}

/// Columns as wide as their widest cell.
pub fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        line(&mut out, cells.join("   ").trim_end());
    }
    out
}

fn line(out: &mut String, text: &str) {
    let written = writeln!(out, "{text}");
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        _ => format!("{}h", seconds / 3600),
    }
}
