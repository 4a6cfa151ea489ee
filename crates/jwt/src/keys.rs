//! Key sets (RFC 7517).

use jsonwebtoken::jwk::{Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;

/// Keys of one set at the most.
const MAX_KEYS: usize = 256;

/// The keys of an issuer.
#[derive(Clone)]
pub struct KeySet(Vec<Key>);

#[derive(Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    decoding: DecodingKey,
}

impl std::fmt::Debug for KeySet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|k| &k.id)).finish()
    }
}

/// Why no key of a set vouches for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsigned {
    /// No key has the token's id and algorithm.
    NoKey,
    /// One has, and the signature is not its.
    Forged,
}

impl KeySet {
    /// Reads a set; keys that are of no use here (encryption, unknown kinds) are passed over, as Envoy does.
    ///
    /// # Errors
    /// When the text is no key set, or no key of it can verify a signature.
    pub fn parse(text: &str) -> Result<Self, String> {
        let set: Value = serde_json::from_str(text).map_err(|e| format!("the key set is no JSON: {e}"))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("the key set has no list \"keys\"")?;
        let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(Key::read).collect();
        if keys.is_empty() {
            return Err("the key set holds no key that can verify a signature".to_owned());
        }
        Ok(Self(keys))
    }

    /// Checks the signature of a whole token whose head is given.
    pub(crate) fn check(&self, token: &str, id: Option<&str>, algorithm: Algorithm) -> Result<(), Unsigned> {
        let mut validation = Validation::new(algorithm);
        // Times and audience are judged by the provider, with Envoy's words for each failure.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let mut seen = Unsigned::NoKey;
        for key in self.0.iter().filter(|k| k.fits(id, algorithm)) {
            if jsonwebtoken::decode::<Value>(token, &key.decoding, &validation).is_ok() {
                return Ok(());
            }
            seen = Unsigned::Forged;
        }
        Err(seen)
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let algorithm = match jwk.common.key_algorithm {
            Some(algorithm) => Some(signature(algorithm)?),
            None => None,
        };
        Some(Self { id: jwk.common.key_id.clone(), algorithm, decoding: DecodingKey::from_jwk(&jwk).ok()? })
    }

    /// A key without id, or a token without, is tried on its algorithm alone. The family is the key's own: a public RSA
    /// key never serves as an HMAC secret.
    fn fits(&self, id: Option<&str>, algorithm: Algorithm) -> bool {
        let same_id = match (&self.id, id) {
            (Some(own), Some(asked)) => own == asked,
            _ => true,
        };
        same_id && self.algorithm.is_none_or(|own| own == algorithm) && self.decoding.family() == algorithm.family()
    }
}

fn signature(algorithm: KeyAlgorithm) -> Option<Algorithm> {
    algorithm.to_string().parse().ok()
}
