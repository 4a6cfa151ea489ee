//! Secrets that hold what TLS needs: a client's certificate and key, the roots of a server, lists of what is revoked.
//!
//! Only these keys are read, whatever else a Secret holds. Nothing here can be printed or serialised with its content.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::validate::FieldError;

/// Of the two forms of Istio, `generic` before `kubernetes.io/tls`, which counts where both are complete.
const CERTIFICATE: [(&str, &str); 2] = [("cert", "key"), ("tls.crt", "tls.key")];
/// Roots, and the list of revoked certificates beside them.
const ROOTS: [(&str, &str); 2] = [("cacert", "crl"), ("ca.crt", "ca.crl")];
/// Behind the name of a Secret: one that holds its roots.
pub const ROOTS_SUFFIX: &str = "-cacert";
/// Kubernetes' limit of a whole Secret.
const MAX_BYTES: usize = 1 << 20;

/// What of a Secret is of use for TLS.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    files: BTreeMap<&'static str, String>,
}

impl Credential {
    /// Reads the `data` (and `stringData`, as it is written in files) of a Secret; `None` when nothing of it is of use.
    ///
    /// # Errors
    /// When a value is not base64 of text, with the JSON pointer of the place; never with the value.
    pub fn read(secret: &Value) -> Result<Option<Self>, Vec<FieldError>> {
        let mut files = BTreeMap::new();
        let mut errors = Vec::new();
        for name in CERTIFICATE.into_iter().chain(ROOTS).flat_map(|(a, b)| [a, b]) {
            let plain = secret["stringData"].get(name).and_then(Value::as_str).map(str::to_owned);
            let text = match (plain, secret["data"].get(name).filter(|value| !value.is_null())) {
                (Some(text), _) => text,
                (None, None) => continue,
                (None, Some(value)) => match decode(value) {
                    Some(text) => text,
                    None => {
                        errors.push(FieldError::new(&format!("/data/{name}"), "this is not base64 of PEM"));
                        continue;
                    }
                },
            };
            if !text.is_empty() {
                files.insert(name, text);
            }
        }
        if files.values().map(String::len).sum::<usize>() > MAX_BYTES {
            errors.push(FieldError::new("/data", "a Secret holds at most 1 MiB"));
        }
        match errors.is_empty() {
            true => Ok((!files.is_empty()).then_some(Self { files })),
            false => Err(errors),
        }
    }

    fn pair_of(&self, names: [(&str, &str); 2]) -> Option<(&str, &str)> {
        names.into_iter().find_map(|(a, b)| Some((self.files.get(a)?.as_str(), self.files.get(b)?.as_str())))
    }

    /// The chain, leaf first, and its private key, both PEM.
    pub fn certificate(&self) -> Option<(&str, &str)> {
        self.pair_of(CERTIFICATE)
    }

    /// The roots, and the list of revoked certificates beside them, both PEM.
    pub fn roots(&self) -> Option<(&str, Option<&str>)> {
        let of = |(roots, revoked): (&str, &str)| {
            Some((self.files.get(roots)?.as_str(), self.files.get(revoked).map(String::as_str)))
        };
        ROOTS.into_iter().find_map(of)
    }
}

/// The names of what is there, never what it says.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files.keys()).finish()
    }
}

fn decode(value: &Value) -> Option<String> {
    let text: String = value.as_str()?.split_ascii_whitespace().collect();
    if text.len() > MAX_BYTES * 2 {
        return None;
    }
    String::from_utf8(STANDARD.decode(text).ok()?).ok()
}

/// The name of the Secret that a `credentialName` means; `None` where it is no name of one: only the proxy's own namespace
/// is looked at, so no other can be named.
pub fn secret_name(credential: &str) -> Option<&str> {
    let name = credential.strip_prefix("kubernetes://").unwrap_or(credential);
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let good = name.len() <= 253 && name.chars().all(known) && edge(name.chars().next()) && edge(name.chars().last());
    good.then_some(name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(secret: Value) -> Credential {
        Credential::read(&secret).unwrap().unwrap()
    }

    #[test]
    fn both_forms_of_a_secret_are_read_and_generic_counts_first() {
        let tls = read(
            json!({"type": "kubernetes.io/tls", "data": {"tls.crt": "YQ==", "tls.key": "Yg==", "ca.crt": "Yw=="}}),
        );
        assert_eq!((tls.certificate(), tls.roots()), (Some(("a", "b")), Some(("c", None))));
        let generic = read(json!({"stringData": {"cert": "d", "key": "e", "cacert": "f", "crl": "g", "ca.crl": "x"},
            "data": {"tls.crt": "YQ==", "tls.key": "Yg=="}}));
        assert_eq!((generic.certificate(), generic.roots()), (Some(("d", "e")), Some(("f", Some("g")))));
        // A half counts for nothing, and so does an empty value.
        let half = read(json!({"stringData": {"cert": "d", "key": "", "cacert": "f"}}));
        assert_eq!((half.certificate(), half.roots()), (None, Some(("f", None))));
        assert_eq!(Credential::read(&json!({"data": {"password": "YQ=="}})), Ok(None));
    }

    #[test]
    fn nothing_of_the_content_is_printed() {
        let secret = read(json!({"stringData": {"cert": "certified", "key": "hidden"}}));
        assert_eq!(format!("{secret:?}"), r#"{"cert", "key"}"#);
        let wrong = Credential::read(&json!({"data": {"tls.key": "hid den!"}})).unwrap_err();
        assert_eq!(wrong[0].pointer, "/data/tls.key");
        assert!(!wrong[0].message.contains("hid"), "{wrong:?}");
    }

    #[test]
    fn only_names_of_secrets_are_names() {
        for (given, name) in [
            ("pay", Some("pay")),
            ("kubernetes://pay.v2", Some("pay.v2")),
            ("kubernetes://other/pay", None),
            ("other/pay", None),
            ("builtin://", None),
            ("pay,metadata.namespace!=x", None),
            ("../pay", None),
            ("", None),
        ] {
            assert_eq!(secret_name(given), name, "{given}");
        }
    }
}
