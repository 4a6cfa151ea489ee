//! `internal-debug`: istiod's debug pages, over xDS or through the mesh.

use std::process::ExitCode;

use clap::Args;

use crate::Session;
use crate::ask::Xds;

/// Debug pages of istiod.
#[derive(Debug, Args)]
pub(crate) struct InternalDebug {
    /// A page such as syncz, or config_dump?proxyID=POD.NAMESPACE.
    page: Option<String>,
    /// List the pages.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    xds: Xds,
}

impl InternalDebug {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let page = match (&self.page, self.list) {
            (None, true) => "list",
            (Some(page), false) => page.as_str(),
            _ => return Err("name a page; --list shows them".to_owned()),
        };
        let bodies: Vec<Vec<u8>> = if self.xds.wanted() {
            let answer = self.xds.ask("istio.io/debug", &[page], session)?;
            answer.resources.into_iter().map(|any| any.value.to_vec()).collect()
        } else {
            vec![session.access()?.istiod_page(&format!("/debug/{page}"))?]
        };
        for body in bodies {
            println!("{}", String::from_utf8_lossy(&body).trim_end());
        }
        Ok(ExitCode::SUCCESS)
    }
}
