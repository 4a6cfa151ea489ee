//! How a mesh stands, put together from all who know a part of it.

use super::{Inner, Node};
use crate::manifest::Problem;
use crate::status::{self, Status};

impl Node {
    /// How the mesh stands.
    pub(super) fn status(&self) -> Status {
        let problems = self.problems();
        let (inner, view) = (self.inner.borrow(), self.view.borrow());
        let mut pods: Vec<_> = inner.pods.values().map(|p| p.status()).collect();
        for pod in &mut pods {
            pod.sync = view.sync.get(&format!("{}.{}", pod.name, pod.namespace)).cloned();
        }
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let complete = inner.desired.workloads.iter().all(|((namespace, name), workload)| {
            let mine = inner.pods.values().filter(|p| p.namespace == *namespace && p.workload == *name);
            mine.filter(|p| p.hash == workload.hash && (p.ready() || p.finished().is_some())).count()
                == workload.replicas
        });
        let done = |p: &status::Pod| matches!(p.phase.as_str(), "Succeeded" | "Failed");
        let settled = pods.iter().all(|p| done(p) || p.ready && (!p.injected || p.sync.as_deref() == Some("SYNCED")));
        let mut troubles: Vec<_> = inner.troubles.iter().cloned().collect();
        if let Some(end) = self.istiod.last_end() {
            troubles.push(format!("istiod does not run ({end}); see `meltemi logs istiod`"));
        }
        Status {
            ready: complete && settled && self.is_published(&inner) && (self.options.plain || view.ready),
            istiod: self.istiod.status(view.ready),
            pods,
            problems,
            troubles,
        }
    }

    /// Whether every pod reaches the services as they stand now.
    fn is_published(&self, inner: &Inner) -> bool {
        let script = self.script.borrow();
        let mut running = inner.pods.values().filter(|p| p.sandbox().is_some() && !p.terminating());
        *self.published.borrow() == inner.ready() && running.all(|p| *p.applied.borrow() == *script)
    }

    /// The files' problems: istiod's view of them and our own, each place once.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut all = self.view.borrow().problems.clone();
        for problem in &self.inner.borrow().problems {
            if !all.iter().any(|p| p.file == problem.file && p.line == problem.line) {
                all.push(problem.clone());
            }
        }
        all.sort();
        all
    }
}
