//! Conditions on the claims of verified tokens: Envoy's metadata matchers over what the `jwt_authn` filter has found.

use serde_json::{Map, Value};

use crate::matching::StringMatch;

/// What a value must be.
#[derive(Clone, Debug)]
pub enum ValueMatch {
    /// A text that matches.
    Text(StringMatch),
    /// A truth value.
    Bool(bool),
    /// A number in `[from, to)`, or exactly `from` when `to` is not given.
    Number(f64, Option<f64>),
    /// There at all.
    Present,
    /// Null.
    Null,
    /// A list of which one element is this.
    List(Box<ValueMatch>),
    /// One of these.
    Any(Vec<ValueMatch>),
}

impl ValueMatch {
    fn is_match(&self, value: &Value) -> bool {
        match self {
            Self::Text(pattern) => value.as_str().is_some_and(|text| pattern.is_match(text)),
            Self::Bool(wanted) => value.as_bool() == Some(*wanted),
            Self::Number(from, None) => value.as_f64() == Some(*from),
            Self::Number(from, Some(to)) => value.as_f64().is_some_and(|n| (*from..*to).contains(&n)),
            Self::Present => true,
            Self::Null => value.is_null(),
            Self::List(one) => value.as_array().is_some_and(|all| all.iter().any(|v| one.is_match(v))),
            Self::Any(any) => any.iter().any(|m| m.is_match(value)),
        }
    }
}

/// A condition on one claim.
#[derive(Clone, Debug)]
pub struct ClaimMatch {
    /// Names from the root, such as `payload`, `iss`.
    pub path: Vec<String>,
    /// What stands there.
    pub value: ValueMatch,
    /// Turn the result around.
    pub invert: bool,
}

impl ClaimMatch {
    /// Whether the claims of a request match; a request without tokens has none, and matches only what is inverted.
    pub fn is_match(&self, claims: Option<&Map<String, Value>>) -> bool {
        let mut path = self.path.iter();
        let root = path.next().and_then(|first| claims?.get(first));
        let found = root.and_then(|root| path.try_fold(root, |value, key| value.get(key)));
        found.is_some_and(|value| self.value.is_match(value)) != self.invert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_may_be_a_text_or_a_list_of_texts() {
        let claims: Map<String, Value> = serde_json::from_str(
            r#"{"payload": {"iss": "i", "groups": ["dev", "ops"], "realm": {"admin": true, "level": 3}}}"#,
        )
        .unwrap();
        let text = |t: &str| ValueMatch::Text(StringMatch::Exact(t.into()));
        let either = |t: &str| ValueMatch::Any(vec![ValueMatch::List(Box::new(text(t))), text(t)]);
        let check = |path: &[&str], value: ValueMatch, invert: bool| {
            let path = path.iter().map(|p| (*p).to_owned()).collect();
            ClaimMatch { path, value, invert }.is_match(Some(&claims))
        };
        assert!(check(&["payload", "groups"], either("ops"), false));
        assert!(check(&["payload", "iss"], either("i"), false));
        assert!(!check(&["payload", "groups"], either("op"), false));
        assert!(!check(&["payload", "groups"], text("ops"), false));
        assert!(check(&["payload", "realm", "admin"], ValueMatch::Bool(true), false));
        assert!(check(&["payload", "realm", "level"], ValueMatch::Number(3.0, None), false));
        assert!(!check(&["payload", "none"], ValueMatch::Present, false));
        assert!(check(&["payload", "none"], ValueMatch::Present, true));
        // No token: only an inverted condition holds.
        let lacking = ClaimMatch { path: vec!["payload".to_owned()], value: ValueMatch::Present, invert: true };
        assert!(lacking.is_match(None));
    }
}
