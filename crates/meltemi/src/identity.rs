//! The laptop's tokens, issued by the mesh's own authority.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, Tokens};
use laptop::{Identity, Issuer};

/// Who vouches for identities in a laptop mesh.
const TRUST_DOMAIN: &str = "cluster.local";
/// Life of a token; renewed at half of it.
const LIFE: Duration = Duration::from_secs(3600);

struct Citadel {
    /// Of the authority; istiod keeps there what is trusted.
    folder: PathBuf,
    tokens: Tokens,
}

impl Issuer for Citadel {
    fn credentials(&self, namespace: &str, service_account: &str) -> Result<(String, String), String> {
        Ok((self.tokens.mint(namespace, service_account, LIFE), self.roots()?))
    }

    fn roots(&self) -> Result<String, String> {
        let read = |name: &str| std::fs::read_to_string(self.folder.join(name));
        let roots = read("root-cert.pem").or_else(|_| read("ca-cert.pem"));
        roots.map_err(|e| format!("the roots in {}: {e}", self.folder.display()))
    }

    fn trust_domain(&self) -> &'static str {
        TRUST_DOMAIN
    }

    fn renew_every(&self) -> Duration {
        LIFE / 2
    }
}

/// The issuer over the authority in a folder, which is made when it is missing.
pub(crate) fn of(folder: &Path) -> Result<Identity, String> {
    Authority::load_or_create(folder, TRUST_DOMAIN).map_err(|e| e.to_string())?;
    let tokens = Tokens::load_or_create(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(Identity::new(Arc::new(Citadel { folder: folder.to_owned(), tokens })))
}
