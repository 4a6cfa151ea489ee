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
