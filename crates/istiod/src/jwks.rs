//! Key sets of token issuers: fetched for the sidecars, which must not need a way out of the mesh; kept when a later
//! fetch fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use istio_api::security::JwtRule;
use mesh::{KeySets, Snapshot};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

/// Between two fetches of a set (Istio's PILOT_JWT_PUB_KEY_REFRESH_INTERVAL).
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// The first pause after a failed fetch; doubled each time up to [`REFRESH`].
const RETRY: Duration = Duration::from_secs(1);
/// One fetch (Istio's default of a rule's `timeout`).
const PATIENCE: Duration = Duration::from_secs(5);
/// A set is smaller than this.
const MAX_BODY: usize = 1 << 20;
/// Sets fetched at the most.
const MAX_SETS: usize = 1000;
/// A redirection is followed this often.
const MAX_REDIRECTS: usize = 3;

/// One set and when to look again.
#[derive(Debug)]
struct Kept {
    next: Instant,
    pause: Duration,
}

/// Follows the rules in force and fetches what they name, until nobody listens.
pub(crate) fn keep(mut rules: watch::Receiver<Snapshot>) -> watch::Receiver<Arc<KeySets>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let mut kept: BTreeMap<String, Kept> = BTreeMap::new();
        loop {
            let wanted = wanted(&rules.borrow_and_update());
            kept.retain(|uri, _| wanted.contains(uri));
            for uri in wanted {
                kept.entry(uri).or_insert_with(|| Kept { next: Instant::now(), pause: RETRY });
            }
            refresh(&mut kept, &sender).await;
            let next = kept.values().map(|k| k.next).min();
            let alarm = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = rules.changed() => if changed.is_err() { return },
                () = alarm => {}
                () = sender.closed() => return,
            }
        }
    });
    receiver
}

/// What the rules name and do not bring along.
fn wanted(snapshot: &Snapshot) -> BTreeSet<String> {
    let rules = snapshot.request_authentications().flat_map(|object| object.spec.jwt_rules.iter());
    rules.filter_map(JwtRule::key_set_uri).take(MAX_SETS).collect()
}

/// Fetches every set whose time has come.
async fn refresh(kept: &mut BTreeMap<String, Kept>, sender: &watch::Sender<Arc<KeySets>>) {
    let mut sets = (**sender.borrow()).clone();
    sets.retain(|uri, _| kept.contains_key(uri));
    for (uri, kept) in kept.iter_mut().filter(|(_, k)| k.next <= Instant::now()) {
        match timeout(PATIENCE, key_set(uri)).await.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
            Ok(text) => {
                *kept = Kept { next: Instant::now() + REFRESH, pause: RETRY };
                sets.insert(uri.clone(), text.into());
            }
            Err(reason) => {
                let held = sets.contains_key(uri);
                tracing::warn!(%uri, %reason, held, "the key set cannot be fetched; without one, tokens are refused");
                kept.next = Instant::now() + kept.pause;
                kept.pause = (kept.pause * 2).min(REFRESH);
            }
        }
    }
    sender.send_if_modified(|now| {
        let changed = **now != sets;
        if changed {
            *now = Arc::new(sets);
        }
        changed
    });
}

/// The set itself, or by way of OpenID Connect Discovery (section 4) when the address is an issuer's description.
async fn key_set(uri: &str) -> Result<String, String> {
    let text = fetch(uri).await?;
    let text = if uri.ends_with(JwtRule::DISCOVERY) {
        let about: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("no description: {e}"))?;
        let keys = about.get("jwks_uri").and_then(|v| v.as_str()).ok_or("the description names no jwks_uri")?;
        fetch(keys).await?
    } else {
        text
    };
    // A set that a sidecar would refuse must not reach it: its whole listener would be refused with it.
    jwt::KeySet::parse(&text).map(|_| text)
}

async fn fetch(uri: &str) -> Result<String, String> {
    let mut uri: Uri = uri.parse().map_err(|e| format!("{uri}: {e}"))?;
    for _ in 0..=MAX_REDIRECTS {
        match once(&uri).await? {
            Fetched::Text(text) => return Ok(text),
            Fetched::Elsewhere(next) => uri = next,
        }
    }
    Err("too many redirections".to_owned())
}

enum Fetched {
    Text(String),
    Elsewhere(Uri),
}

async fn once(uri: &Uri) -> Result<Fetched, String> {
    let host = uri.host().ok_or_else(|| format!("{uri} names no host"))?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream =
        TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| format!("{host}:{port}: {e}"))?;
    if !secure {
        return exchange(stream, uri).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|e| e.to_string())?;
    let stream = connector()?.connect(name, stream).await.map_err(|e| format!("{host}: {e}"))?;
    exchange(stream, uri).await
}

/// Trusts what the system trusts, as SSL_CERT_FILE and SSL_CERT_DIR say.
fn connector() -> Result<TlsConnector, String> {
    let mut roots = rustls::RootCertStore::empty();
    let (taken, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if taken == 0 {
        return Err("the system trusts no authority; install ca-certificates or set SSL_CERT_FILE".to_owned());
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn exchange(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, uri: &Uri) -> Result<Fetched, String> {
    let wrong = |e: hyper::Error| e.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(wrong)?;
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let authority = uri.authority().map_or("", |a| a.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, "istiod")
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    // What is sent to a connection just as another thread ends it may be lost without a word: it has the request first.
    let response = sender.send_request(request);
    tokio::spawn(connection);
    let response = response.await.map_err(wrong)?;
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
        let next = location.and_then(|l| l.parse::<Uri>().ok()).filter(|u| u.host().is_some());
        // What was asked for over TLS must not come without.
        let next = next.filter(|n| uri.scheme_str() == Some("http") || n.scheme_str() == Some("https"));
        return next.map(Fetched::Elsewhere).ok_or_else(|| format!("{status} without a usable location"));
    }
    if !status.is_success() {
        return Err(format!("the issuer answers {status}"));
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| e.to_string())?;
    String::from_utf8(body.to_bytes().into()).map(Fetched::Text).map_err(|_| "the answer is no text".to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const SET: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0","alg":"HS256","kid":"1"}]}"#;

    /// Answers one connection after the other, each with the next of the answers.
    async fn issuer(answers: Vec<(u16, String)>) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let mut head = [0; 1024];
                let _ = stream.read(&mut head).await;
                let answer = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.expect("an answer");
            }
        });
        at
    }

    fn snapshot(rule: &str) -> Snapshot {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a, namespace: b}}\n\
             spec: {{jwtRules: [{rule}]}}\n"
        );
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a.yaml"), text).expect("written");
        let loaded = sources::Directory::new(vec![folder.path().to_owned()], "default").refresh().expect("content");
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.snapshot
    }

    #[tokio::test]
    async fn a_set_is_fetched_again_until_it_comes_and_a_useless_one_is_not_taken() {
        let at = issuer(vec![(500, String::new()), (200, "{\"keys\":[]}".to_owned()), (200, SET.to_owned())]).await;
        let (_rules, heard) = watch::channel(snapshot(&format!("{{issuer: i, jwksUri: 'http://{at}/keys'}}")));
        let mut sets = keep(heard);
        sets.changed().await.expect("a set");
        assert_eq!(sets.borrow().get(&format!("http://{at}/keys")).map(|s| &**s), Some(SET));
    }

    #[tokio::test]
    async fn an_issuer_without_jwks_uri_describes_itself() {
        let keys = issuer(vec![(200, SET.to_owned())]).await;
        let about = format!("{{\"jwks_uri\": \"http://{keys}/k\"}}");
        let at = issuer(vec![(200, about)]).await;
        let (_rules, heard) = watch::channel(snapshot(&format!("{{issuer: 'http://{at}/'}}")));
        let mut sets = keep(heard);
        sets.changed().await.expect("a set");
        assert_eq!(sets.borrow().values().next().map(|s| &**s), Some(SET));
    }
}
