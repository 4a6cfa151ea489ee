//! Service account tokens, as the API server judges them.

use serde_json::{Value, json};

use crate::cluster::{Cluster, ClusterError, Place};

impl Cluster {
    /// The namespace and name of the service account that a token proves, for an audience; `None`: it proves nothing.
    ///
    /// # Errors
    /// When the server does not answer: then nothing is known.
    pub async fn review_token(&self, token: &str, audience: &str) -> Result<Option<(String, String)>, ClusterError> {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        });
        let list = Place::list("authentication.k8s.io/v1", "tokenreviews", None);
        let answer = self.create(&list, &review).await?;
        Ok(proved(&answer["status"], audience))
    }

    /// A token of a service account for an audience, good for ten minutes, which is the least that a server gives.
    ///
    /// # Errors
    /// When there is no such account, or the caller may not have its tokens.
    pub async fn token_of(&self, namespace: &str, account: &str, audience: &str) -> Result<String, ClusterError> {
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        });
        let place = Place::list("v1", "serviceaccounts", Some(namespace)).object(&format!("{account}/token"));
        let answer = self.create(&place, &request).await?;
        answer["status"]["token"].as_str().map(str::to_owned).ok_or_else(|| ClusterError::Refused {
            what: format!("a token of service account {namespace}/{account}"),
            reason: "the answer has none".to_owned(),
            code: 200,
        })
    }
}

/// A server that does not know audiences leaves them out; its word is not enough.
fn proved(status: &Value, audience: &str) -> Option<(String, String)> {
    let ours = status["audiences"].as_array().is_some_and(|all| all.iter().any(|a| a == audience));
    if status["authenticated"] != true || !ours {
        return None;
    }
    let name = status["user"]["username"].as_str()?.strip_prefix("system:serviceaccount:")?;
    let (namespace, account) = name.split_once(':')?;
    Some((namespace.to_owned(), account.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_service_accounts_of_the_audience_prove_anything() {
        let user = json!({"username": "system:serviceaccount:prod:pay"});
        let good = json!({"authenticated": true, "audiences": ["istio-ca"], "user": user});
        assert_eq!(proved(&good, "istio-ca"), Some(("prod".to_owned(), "pay".to_owned())));
        for (field, value) in [
            ("authenticated", json!(false)),
            ("audiences", json!(["other"])),
            ("audiences", Value::Null),
            ("user", json!({"username": "system:node:n1"})),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(proved(&bad, "istio-ca"), None, "{bad}");
        }
    }
}
