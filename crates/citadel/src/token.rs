//! Service account tokens of the laptop mesh: signed JWTs, as a Kubernetes API server would issue them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

/// Whom a token is for.
const AUDIENCE: &str = "istio-ca";
/// Bytes of the signing key.
const KEY: usize = 32;
/// A token longer than this is not looked at.
const MAX_TOKEN: usize = 16 * 1024;

/// Why a token proves nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// It is no token of ours.
    #[error("the token is malformed")]
    Malformed,
    /// Somebody else signed it, or it was changed.
    #[error("the token's signature is wrong")]
    Signature,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
    /// It is for somebody else.
    #[error("the token is not for the audience istio-ca")]
    Audience,
}

/// Mints and verifies tokens.
pub struct Tokens(hmac::Key);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}

impl Tokens {
    /// Uses the key file of a folder, or makes one.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn load_or_create(folder: &Path) -> std::io::Result<Self> {
        let path = folder.join("token.key");
        if !path.exists() {
            fs::create_dir_all(folder)?;
            let mut key = [0; KEY];
            SystemRandom::new().fill(&mut key).map_err(|_| std::io::Error::other("no randomness"))?;
            let part = path.with_extension("part");
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            file.write_all(&key)?;
            fs::rename(&part, &path)?;
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &fs::read(&path)?)))
    }

    /// Tokens of a key that nobody has: none is good. For a cluster, whose own server judges them.
    ///
    /// # Errors
    /// Without randomness.
    pub fn none() -> std::io::Result<Self> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self(key.map_err(|_| std::io::Error::other("no randomness"))?))
    }

    /// A token of a service account.
    pub fn mint(&self, namespace: &str, account: &str, life: Duration) -> String {
        let until = now() + life.as_secs();
        let claims = json!({
            "aud": [AUDIENCE], "exp": until, "iss": "meltemi-laptop",
            "sub": format!("system:serviceaccount:{namespace}:{account}"),
        });
        let head = BASE64.encode(json!({"alg": "HS256", "typ": "JWT"}).to_string());
        let signed = format!("{head}.{}", BASE64.encode(claims.to_string()));
        let signature = BASE64.encode(hmac::sign(&self.0, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The namespace and service account that a token proves.
    ///
    /// # Errors
    /// When it proves nothing.
    pub fn verify(&self, token: &str) -> Result<(String, String), TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let signature = BASE64.decode(signature).map_err(|_| TokenError::Malformed)?;
        hmac::verify(&self.0, signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;
        let body = signed.split_once('.').ok_or(TokenError::Malformed)?.1;
        let body = BASE64.decode(body).map_err(|_| TokenError::Malformed)?;
        let claims: Value = serde_json::from_slice(&body).map_err(|_| TokenError::Malformed)?;
        if claims["exp"].as_u64().is_none_or(|until| until <= now()) {
            return Err(TokenError::Expired);
        }
        if !claims["aud"].as_array().is_some_and(|all| all.iter().any(|a| a == AUDIENCE)) {
            return Err(TokenError::Audience);
        }
        let subject = claims["sub"].as_str().and_then(|s| s.strip_prefix("system:serviceaccount:"));
        let (namespace, account) = subject.and_then(|s| s.split_once(':')).ok_or(TokenError::Malformed)?;
        Ok((namespace.to_owned(), account.to_owned()))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
