//! The laptop's tokens, issued by the mesh's own authority.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, Tokens};
use laptop::{Identity, Issuer};

/// Who vouches for identities in a laptop mesh.
const TRUST_DOMAIN: &str = "cluster.local";
/// Life of a token; renewed at half of it.
const LIFE: Duration = Duration::from_secs(3600);

struct Citadel {
    authority: Authority,
    tokens: Tokens,
}

impl Issuer for Citadel {
    fn credentials(&self, namespace: &str, service_account: &str) -> Result<(String, String), String> {
        Ok((self.tokens.mint(namespace, service_account, LIFE), self.authority.root_pem().to_string()))
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
    let authority = Authority::load_or_create(folder, TRUST_DOMAIN).map_err(|e| e.to_string())?;
    let tokens = Tokens::load_or_create(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(Identity::new(Arc::new(Citadel { authority, tokens })))
}
