//! Envoy's response flags: why a request ended as it did, in two or three letters.

use std::fmt;

/// A set of response flags; prints as `UF,URX`, or `-` when empty.
///
/// Names and meanings are those of `%RESPONSE_FLAGS%` in Envoy's access log documentation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($bit:literal $name:ident $short:literal $long:literal $doc:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = $doc] pub const $name: Self = Self(1 << $bit);)*
            /// Every flag with its short name, in Envoy's order.
            const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $short),)*];
            /// The long names, in the same order.
            const LONG: &'static [(Self, &'static str)] = &[$((Self::$name, $long),)*];
        }
    };
}

flags! {
    0 LH "LH" "FailedLocalHealthCheck" "Local service failed its health check.";
    1 UH "UH" "NoHealthyUpstream" "No healthy upstream host.";
    2 UT "UT" "UpstreamRequestTimeout" "Upstream request timeout.";
    3 LR "LR" "LocalReset" "Connection local reset.";
    4 UR "UR" "UpstreamRemoteReset" "Upstream remote reset.";
    5 UF "UF" "UpstreamConnectionFailure" "Upstream connection failure.";
    6 UC "UC" "UpstreamConnectionTermination" "Upstream connection termination.";
    7 UO "UO" "UpstreamOverflow" "Upstream overflow (circuit breaking).";
    8 NR "NR" "NoRouteFound" "No route found, or no filter chain matched.";
    9 DI "DI" "DelayInjected" "Delayed by fault injection.";
    10 FI "FI" "FaultInjected" "Aborted by fault injection.";
    11 RL "RL" "RateLimited" "Rate limited locally.";
    12 UAEX "UAEX" "UnauthorizedExternalService" "Denied by the external authorization service.";
    13 RLSE "RLSE" "RateLimitServiceError" "The rate limit service failed.";
    14 DC "DC" "DownstreamConnectionTermination" "Downstream connection termination.";
    15 URX "URX" "UpstreamRetryLimitExceeded" "Upstream retry limit exceeded, or connection attempts exhausted.";
    16 SI "SI" "StreamIdleTimeout" "Stream idle timeout.";
    17 IH "IH" "InvalidEnvoyRequestHeaders" "Invalid value for a strictly checked header.";
    18 DPE "DPE" "DownstreamProtocolError" "Downstream protocol error.";
    19 UMSDR "UMSDR" "UpstreamMaxStreamDurationReached" "Upstream request reached its maximum stream duration.";
    20 NFCF "NFCF" "NoFilterConfigFound" "No filter configuration found.";
    21 DT "DT" "DurationTimeout" "Maximum connection or request duration reached.";
    22 UPE "UPE" "UpstreamProtocolError" "Upstream protocol error.";
    23 NC "NC" "NoClusterFound" "Upstream cluster not found.";
    24 OM "OM" "OverloadManagerTerminated" "Overload manager terminated the request.";
    25 DF "DF" "DnsResolutionFailed" "DNS resolution failed.";
    26 DR "DR" "DownstreamRemoteReset" "Downstream remote reset.";
}

impl ResponseFlags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// This set and `other`.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in this set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is in this set.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The long names, `UpstreamConnectionFailure,UpstreamRetryLimitExceeded`; nothing when there is none.
    pub fn long(self) -> String {
        let names: Vec<&str> =
            Self::LONG.iter().filter(|(flag, _)| self.contains(*flag)).map(|(_, name)| *name).collect();
        names.join(",")
    }

    /// The flag of a short name such as `NR`.
    pub fn from_short(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, short)| *short == name).map(|(flag, _)| *flag)
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        let mut separator = "";
        for (flag, short) in Self::ALL {
            if self.contains(*flag) {
                write!(f, "{separator}{short}")?;
                separator = ",";
            }
        }
        Ok(())
    }
}
