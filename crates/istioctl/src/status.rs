//! `istioctl proxy-status`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use crate::output::{Format, print_machine};
use crate::table::columns;

/// Show which proxies have what istiod sent last.
#[derive(Debug, Args)]
pub(crate) struct ProxyStatus {
    /// Only this proxy (`POD.NAMESPACE` or `POD`).
    pod: Option<String>,
    /// istiod's debug port, `HOST:PORT`; inside a laptop mesh's pods the default is right.
    #[arg(long, env = "MELTEMI_ISTIOD_DEBUG", default_value = "istiod.istio-system.svc.cluster.local:15014")]
    istiod: String,
    /// How rows are printed.
    #[arg(short, long, default_value = "table")]
    output: Format,
}

impl ProxyStatus {
    pub(crate) fn run(self) -> Result<ExitCode, String> {
        let mut rows = rows(&self.istiod)?;
        if let Some(pod) = &self.pod {
            rows.retain(|r| r["proxy"].as_str().is_some_and(|p| p == pod || p.split('.').next() == Some(pod)));
            if rows.is_empty() {
                return Err(format!("istiod knows no proxy {pod}"));
            }
        }
        match self.output.machine() {
            None => print!("{}", table(&rows)),
            Some(format) => print_machine(format, &Value::Array(rows))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(rows: &[Value]) -> String {
    let head = ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "VERSION"].map(str::to_owned).to_vec();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let row = |r: &Value| {
        let of = |key: &str| text(r, &format!("{key}_status"));
        vec![
            text(r, "proxy"),
            text(r, "cluster_id"),
            of("cluster"),
            of("listener"),
            of("endpoint"),
            of("route"),
            text(r, "istio_version"),
        ]
    };
    let mut all = vec![head];
    all.extend(rows.iter().map(row));
    columns(&all)
}

/// The rows of `/debug/syncz`.
fn rows(istiod: &str) -> Result<Vec<Value>, String> {
    const LIMIT: Duration = Duration::from_secs(10);
    let unreachable = |e: std::io::Error| format!("istiod does not answer at {istiod}: {e}");
    let mut stream = TcpStream::connect(istiod).map_err(unreachable)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(unreachable)?;
    write!(stream, "GET /debug/syncz HTTP/1.0\r\nhost: istiod\r\nconnection: close\r\n\r\n").map_err(unreachable)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(unreachable)?;
    let (_, body) = answer.split_once("\r\n\r\n").ok_or("istiod's answer is no HTTP")?;
    let value: Value = serde_json::from_str(body).map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
    value.as_array().cloned().ok_or_else(|| "istiod's answer is no list".to_owned())
}
