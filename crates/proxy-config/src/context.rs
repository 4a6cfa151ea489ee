//! What compiling needs from its surroundings, and how it fails.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwapOption;
use mtls::SecretStore;
use parking_lot::Mutex;
use telemetry::Telemetry;
use upstream::Registry;

use crate::routes::Routes;
use crate::trace::Exporter;

/// A route configuration by name; what stands behind it comes and goes.
#[derive(Debug)]
pub struct RouteSlot {
    /// Name of the route configuration.
    pub name: Arc<str>,
    current: ArcSwapOption<Routes>,
}

impl RouteSlot {
    /// The table now, when one has arrived.
    pub fn load(&self) -> Option<Arc<Routes>> {
        self.current.load_full()
    }

    /// Puts a table in force, or takes it away.
    pub fn store(&self, routes: Option<Arc<Routes>>) {
        self.current.store(routes);
    }
}

/// The slots that compiled resources refer to.
#[derive(Debug)]
pub struct Context {
    /// Clusters by name.
    pub clusters: Arc<Registry>,
    /// Certificates and roots by name.
    pub secrets: Arc<SecretStore>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    routes: Mutex<HashMap<String, Arc<RouteSlot>>>,
    exporters: Mutex<Vec<Weak<Exporter>>>,
}

impl Context {
    /// An empty surrounding.
    pub fn new(clusters: Arc<Registry>, secrets: Arc<SecretStore>, telemetry: Arc<Telemetry>) -> Self {
        Self { clusters, secrets, telemetry, routes: Mutex::default(), exporters: Mutex::default() }
    }

    /// The slot of a route configuration; it exists from its first mention on.
    pub fn route_slot(&self, name: &str) -> Arc<RouteSlot> {
        let fresh = || Arc::new(RouteSlot { name: Arc::from(name), current: None.into() });
        self.routes.lock().entry(name.to_owned()).or_insert_with(fresh).clone()
    }

    /// The one exporter of spans that is as this one, so that listeners share its batches.
    pub(crate) fn exporter(&self, wanted: Exporter) -> Arc<Exporter> {
        let mut all = self.exporters.lock();
        all.retain(|known| known.strong_count() > 0);
        if let Some(known) = all.iter().filter_map(Weak::upgrade).find(|known| **known == wanted) {
            return known;
        }
        let fresh = Arc::new(wanted);
        all.push(Arc::downgrade(&fresh));
        fresh
    }
}

/// Why a resource was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}: {field}: {reason}")]
pub struct ConfigError {
    /// Name of the resource.
    pub resource: String,
    /// Path of the field inside it.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A refusal below the level that knows the resource's name.
#[derive(Debug)]
pub(crate) struct Refusal {
    field: String,
    reason: String,
}

pub(crate) type Result<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub(crate) fn new(field: &str, reason: impl std::fmt::Display) -> Self {
        Self { field: field.to_owned(), reason: reason.to_string() }
    }

    /// A field that is understood but not built.
    pub(crate) fn unsupported(field: &str) -> Self {
        Self::new(field, "is not supported by this proxy; remove it or use a stock Envoy for this workload")
    }

    /// Puts the path of the enclosing message in front.
    pub(crate) fn under(mut self, parent: impl std::fmt::Display) -> Self {
        self.field = if self.field.is_empty() { parent.to_string() } else { format!("{parent}.{}", self.field) };
        self
    }

    pub(crate) fn of(self, resource: &str) -> ConfigError {
        ConfigError { resource: resource.to_owned(), field: self.field, reason: self.reason }
    }
}

/// Puts a path in front of a failure.
pub(crate) trait Under<T> {
    fn under(self, parent: impl std::fmt::Display) -> Result<T>;
}

impl<T> Under<T> for Result<T> {
    fn under(self, parent: impl std::fmt::Display) -> Self {
        self.map_err(|e| e.under(parent))
    }
}
