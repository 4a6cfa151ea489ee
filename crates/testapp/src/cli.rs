//! `meltemi app`: the command line.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Parser, Subcommand};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::client::{self, Caller, ClientOptions};
use crate::fault::FaultOptions;
use crate::server::{ServerOptions, start};
use crate::stream::{self, StreamOptions};
use crate::{parse_span, tcp};

/// How long open connections get after SIGTERM.
const STOP_AT_MOST: Duration = Duration::from_secs(10);

#[derive(Parser)]
#[command(
    name = "meltemi app",
    about = "A small application for tests and examples, and its client",
    disable_version_flag = true
)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Subcommand)]
enum Command {
    /// Serve (also the default).
    Serve(Serve),
    /// Call an HTTP or gRPC server, once or many times.
    Get(Box<Get>),
    /// Call a TCP server and print what it says.
    Tcp(Tcp),
    /// Keep gRPC streams or TCP connections open, with a message after the other on each.
    Stream(Stream),
}

#[derive(Args)]
struct Serve {
    /// Ports for HTTP/1.1, h2c and gRPC.
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    http: Vec<u16>,
    /// Ports for TCP echo.
    #[arg(long, value_delimiter = ',', value_name = "PORT")]
    tcp: Vec<u16>,
    /// The TCP ports speak first, with this line.
    #[arg(long)]
    banner: Option<String>,
    /// The TCP ports echo lines, say `bye` after SIGTERM, and let their clients end the connection.
    #[arg(long)]
    farewell: bool,
    /// Name of the application in answers.
    #[arg(long, env = "APP_NAME", default_value = "app")]
    name: String,
    /// Version in answers.
    #[arg(long, env = "APP_VERSION", default_value = "v1")]
    version: String,
    /// Share of requests that fail, 0 to 1.
    #[arg(long, default_value_t = 0.0)]
    fail_rate: f64,
    /// Their status.
    #[arg(long, default_value_t = 503)]
    fail_status: u16,
    /// Every answer waits this long (250ms, 2s).
    #[arg(long, value_parser = parse_span, default_value = "0s")]
    delay: Duration,
    /// New connections are served this long after SIGTERM, and kept ones told to go.
    #[arg(long, value_parser = parse_span, default_value = "200ms")]
    linger: Duration,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    bind: IpAddr,
}

#[derive(Args)]
struct Get {
    /// http://HOST:PORT/PATH
    url: Uri,
    /// `NAME: VALUE`, may be repeated.
    #[arg(short = 'H', long = "header", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Method.
    #[arg(short = 'X', long = "method", default_value = "GET")]
    method: Method,
    /// Body.
    #[arg(short = 'd', long = "data", default_value = "")]
    data: String,
    /// How many requests.
    #[arg(short = 'n', long = "count")]
    count: Option<u64>,
    /// For how long (30s, 5m).
    #[arg(long, value_parser = parse_span)]
    duration: Option<Duration>,
    /// How many at the same time.
    #[arg(short = 'c', long = "concurrency", default_value_t = 1)]
    concurrency: usize,
    /// Requests a second, in all.
    #[arg(long)]
    rate: Option<f64>,
    /// HTTP/2 with prior knowledge.
    #[arg(long)]
    h2: bool,
    /// The body is one gRPC message.
    #[arg(long)]
    grpc: bool,
    /// A new connection for each request.
    #[arg(long)]
    fresh: bool,
    /// Longest time for one request.
    #[arg(long, value_parser = parse_span, default_value = "60s")]
    timeout: Duration,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    /// Report after each interval too, as a line of JSON.
    #[arg(long, value_parser = parse_span)]
    every: Option<Duration>,
    /// Print status and headers of a single answer.
    #[arg(short = 'i', long)]
    include: bool,
}

#[derive(Args)]
struct Tcp {
    /// HOST:PORT
    target: String,
    /// Text to send; nothing by default (then the server is to speak first).
    #[arg(short = 'd', long = "data", default_value = "")]
    data: String,
    /// Stop after this many bytes; by default as many as were sent, or one at least.
    #[arg(long)]
    want: Option<usize>,
    /// Longest wait.
    #[arg(long, value_parser = parse_span, default_value = "5s")]
    timeout: Duration,
    /// How many connections.
    #[arg(short = 'n', long = "count")]
    count: Option<u64>,
    /// For how long.
    #[arg(long, value_parser = parse_span)]
    duration: Option<Duration>,
    /// Connections a second.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
    /// Report after each interval too, as a line of JSON.
    #[arg(long, value_parser = parse_span)]
    every: Option<Duration>,
}

#[derive(Args)]
struct Stream {
    /// http://HOST:PORT/SERVICE/METHOD for gRPC, tcp://HOST:PORT for TCP, ws://HOST:PORT/PATH for an upgrade.
    url: Uri,
    /// How many at the same time.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Messages a second, in all.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// For how long.
    #[arg(long, value_parser = parse_span, default_value = "10s")]
    duration: Duration,
    /// Longest wait for one echo.
    #[arg(long, value_parser = parse_span, default_value = "10s")]
    timeout: Duration,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs `meltemi app ARGS`; `args` start with the program's name.
///
/// The exit code of a single `get` is 0 for an answer below 400, 22 for another answer, 7 for none (as curl's).
pub fn cli(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done when the terminal is gone.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("meltemi app: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        match cli.command {
            None => serve(cli.serve).await,
            Some(Command::Serve(options)) => serve(options).await,
            Some(Command::Get(options)) => get(*options).await,
            Some(Command::Tcp(options)) => call_tcp(options).await,
            Some(Command::Stream(options)) => keep_streams(options).await,
        }
    })
}

async fn serve(options: Serve) -> ExitCode {
    let http = if options.http.is_empty() && options.tcp.is_empty() { vec![8080] } else { options.http };
    let running = start(ServerOptions {
        bind: options.bind,
        http,
        tcp: options.tcp,
        banner: options.banner,
        farewell: options.farewell,
        name: options.name,
        version: options.version,
        pod: pod_name(),
        faults: FaultOptions { rate: options.fail_rate, status: options.fail_status, delay: options.delay },
        linger: options.linger,
    })
    .await;
    let running = match running {
        Ok(running) => running,
        Err(error) => {
            eprintln!("meltemi app: {error}");
            return ExitCode::FAILURE;
        }
    };
    eprintln!("meltemi app: http on {:?}, tcp on {:?}", running.http, running.tcp);
    if let Err(error) = stop_signal().await {
        eprintln!("meltemi app: cannot wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    running.stop(STOP_AT_MOST).await;
    ExitCode::SUCCESS
}

async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn pod_name() -> String {
    ["POD_NAME", "HOSTNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|h| h.trim().to_owned()))
        .unwrap_or_default()
}

async fn get(get: Get) -> ExitCode {
    let single = get.count.is_none() && get.duration.is_none() && !get.json;
    let (json, every, include) = (get.json, get.every, get.include);
    let options = client_options(get);
    let local = tokio::task::LocalSet::new();
    if single {
        return local.run_until(get_once(&options, include)).await;
    }
    let tell = |report: crate::Report| println!("{}", serde_json::to_string(&report).unwrap_or_default());
    let report = client::load(&options, every.map(|interval| (interval, &tell as &dyn Fn(crate::Report)))).await;
    if json {
        tell(report.clone());
    } else {
        print!("{report}");
    }
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(22) }
}

fn client_options(get: Get) -> ClientOptions {
    let count = get.count.or(get.duration.is_none().then_some(1));
    ClientOptions {
        url: get.url,
        method: get.method,
        headers: get.headers.into_iter().collect::<HeaderMap>(),
        body: Bytes::from(get.data),
        count,
        duration: get.duration,
        concurrency: get.concurrency,
        rate: get.rate,
        h2: get.h2,
        grpc: get.grpc,
        fresh: get.fresh,
        timeout: get.timeout,
    }
}

async fn get_once(options: &ClientOptions, include: bool) -> ExitCode {
    use std::io::Write;
    let answer = match Caller::new(options).call().await {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!("meltemi app get: {error}");
            return ExitCode::from(7);
        }
    };
    let mut out = std::io::stdout().lock();
    // A closed pipe (`| head`) is the reader's choice, not a failure.
    if include {
        let _ = writeln!(out, "{:?} {}", answer.parts.version, answer.parts.status);
        for (name, value) in answer.parts.headers.iter().chain(&answer.trailers) {
            let _ = writeln!(out, "{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
        let _ = writeln!(out);
    }
    let _ = out.write_all(&answer.body);
    let (status, ok) = answer.verdict(options.grpc);
    if ok {
        return ExitCode::SUCCESS;
    }
    eprintln!("meltemi app get: answered {status}");
    ExitCode::from(22)
}

async fn call_tcp(options: Tcp) -> ExitCode {
    use std::io::Write;
    let want = options.want.unwrap_or(options.data.len().max(1));
    if options.count.is_some() || options.duration.is_some() {
        let load = tcp::Load {
            target: options.target,
            data: options.data.into_bytes(),
            want,
            timeout: options.timeout,
            count: options.count,
            duration: options.duration,
            rate: options.rate,
            every: options.every,
        };
        let report = load.run(&|report| println!("{}", serde_json::to_string(&report).unwrap_or_default())).await;
        match options.json {
            true => println!("{}", serde_json::to_string(&report).unwrap_or_default()),
            false => print!("{report}"),
        }
        return if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(22) };
    }
    match tcp::call(&options.target, options.data.as_bytes(), want, options.timeout).await {
        Ok(answer) if answer.bytes.is_empty() => {
            eprintln!("meltemi app tcp: {} closed the connection without a byte", options.target);
            ExitCode::from(56)
        }
        Ok(answer) => {
            let _ = std::io::stdout().write_all(&answer.bytes);
            if let Some(first) = answer.first_byte {
                eprintln!("first byte after {:.1} ms", first.as_secs_f64() * 1e3);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("meltemi app tcp: {}: {error}", options.target);
            ExitCode::from(7)
        }
    }
}

async fn keep_streams(asked: Stream) -> ExitCode {
    let Stream { url, streams, rate, duration, timeout, json } = asked;
    if !matches!(url.scheme_str(), Some("http" | "tcp" | "ws")) || url.authority().is_none() {
        eprintln!(
            "meltemi app stream: `{url}` cannot be kept open; write http://HOST:PORT/METHOD, tcp://HOST:PORT or ws://HOST:PORT/PATH"
        );
        return ExitCode::from(2);
    }
    let report = stream::load(StreamOptions { url, streams, rate, duration, timeout }).await;
    match json {
        true => println!("{}", serde_json::to_string(&report).unwrap_or_default()),
        false => print!("{report}"),
    }
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(22) }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| format!("`{text}` is not `NAME: VALUE`"))?;
    let name = HeaderName::try_from(name.trim()).map_err(|e| format!("`{name}`: {e}"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|e| format!("`{value}`: {e}"))?;
    Ok((name, value))
}
