//! Interception: the rules that lead a pod's traffic through its sidecar, as `istio-iptables` sets them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// What is intercepted.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Where outbound connections go.
    pub outbound: u16,
    /// Where inbound connections go.
    pub inbound: u16,
    /// Whose own traffic is left alone.
    pub uid: String,
    /// Whose own traffic is left alone.
    pub gid: String,
    /// Inbound ports: `*` or a list; empty is none.
    pub inbound_ports: String,
    /// Inbound ports left alone.
    pub inbound_except: String,
    /// Outbound networks: `*` or a list; empty is none.
    pub outbound_networks: String,
    /// Outbound networks left alone.
    pub outbound_except: String,
    /// Outbound ports captured wherever they lead.
    pub outbound_ports: String,
    /// Outbound ports left alone.
    pub outbound_ports_except: String,
    /// DNS goes to the sidecar.
    pub dns: bool,
}

impl Default for Capture {
    /// What Istio's injector asks for.
    fn default() -> Self {
        Self {
            outbound: 15001,
            inbound: 15006,
            uid: "1337".to_owned(),
            gid: "1337".to_owned(),
            inbound_ports: "*".to_owned(),
            inbound_except: "15090,15021,15020".to_owned(),
            outbound_networks: "*".to_owned(),
            outbound_except: String::new(),
            outbound_ports: String::new(),
            outbound_ports_except: String::new(),
            dns: false,
        }
    }
}

/// Rules in the form of `iptables-restore`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules(String);

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|p| !p.is_empty())
}

impl Rules {
    /// The rules of a capture.
    pub fn new(capture: &Capture) -> Self {
        let mut out = String::from("*nat\n");
        for chain in ["ISTIO_INBOUND", "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT"] {
            let _ = writeln!(out, ":{chain} - [0:0]");
        }
        let mut rule = |text: &str| {
            let _ = writeln!(out, "-A {text}");
        };
        rule(&format!("ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports {}", capture.outbound));
        rule(&format!("ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports {}", capture.inbound));
        inbound(capture, &mut rule);
        outbound(capture, &mut rule);
        out.push_str("COMMIT\n");
        Self(out)
    }

    /// What takes the rules away again.
    pub fn undo() -> Self {
        let chains = ["ISTIO_INBOUND", "ISTIO_REDIRECT", "ISTIO_IN_REDIRECT", "ISTIO_OUTPUT"];
        let mut out = String::from("*nat\n");
        for chain in chains {
            let _ = writeln!(out, ":{chain} - [0:0]");
        }
        out.push_str("-D PREROUTING -p tcp -j ISTIO_INBOUND\n-D OUTPUT -j ISTIO_OUTPUT\n");
        for chain in chains {
            let _ = writeln!(out, "-F {chain}\n-X {chain}");
        }
        out.push_str("COMMIT\n");
        Self(out)
    }

    /// The text for `iptables-restore`.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Puts the rules in force in the current network namespace.
    ///
    /// # Errors
    /// When `iptables-restore` is missing or refuses.
    pub fn apply(&self) -> Result<(), String> {
        let missing = |e| format!("iptables-restore cannot be run: {e}; install the package iptables");
        let mut child = Command::new("iptables-restore")
            .args(["--noflush", "--wait"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(missing)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(self.0.as_bytes()).map_err(|e| e.to_string())?;
        }
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("iptables-restore refused the rules: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

fn inbound(capture: &Capture, rule: &mut impl FnMut(&str)) {
    if capture.inbound_ports.is_empty() {
        return;
    }
    rule("PREROUTING -p tcp -j ISTIO_INBOUND");
    if capture.inbound_ports == "*" {
        // The tunnel port of ambient mesh is never intercepted.
        rule("ISTIO_INBOUND -p tcp --dport 15008 -j RETURN");
        for port in list(&capture.inbound_except) {
            rule(&format!("ISTIO_INBOUND -p tcp --dport {port} -j RETURN"));
        }
        rule("ISTIO_INBOUND -p tcp -j ISTIO_IN_REDIRECT");
    } else {
        for port in list(&capture.inbound_ports) {
            rule(&format!("ISTIO_INBOUND -p tcp --dport {port} -j ISTIO_IN_REDIRECT"));
        }
    }
}

fn outbound(capture: &Capture, rule: &mut impl FnMut(&str)) {
    rule("OUTPUT -j ISTIO_OUTPUT");
    // The sidecar's own calls to the application, which it makes from 127.0.0.6.
    rule("ISTIO_OUTPUT -s 127.0.0.6/32 -o lo -j RETURN");
    for port in list(&capture.outbound_ports_except) {
        rule(&format!("ISTIO_OUTPUT -p tcp --dport {port} -j RETURN"));
    }
    for (owner, id) in [("uid", &capture.uid), ("gid", &capture.gid)] {
        for id in list(id) {
            // The sidecar calls its own pod by the service's address: in again through the front door.
            rule(&format!(
                "ISTIO_OUTPUT ! -d 127.0.0.1/32 -o lo -p tcp -m tcp ! --dport 15008 -m owner --{owner}-owner {id} -j ISTIO_IN_REDIRECT"
            ));
            // The application calls itself: nothing to do.
            rule(&format!("ISTIO_OUTPUT -o lo -m owner ! --{owner}-owner {id} -j RETURN"));
            // The sidecar's own traffic goes out untouched.
            rule(&format!("ISTIO_OUTPUT -m owner --{owner}-owner {id} -j RETURN"));
        }
    }
    if capture.dns {
        rule("ISTIO_OUTPUT -p udp --dport 53 -j REDIRECT --to-ports 15053");
        rule("ISTIO_OUTPUT -p tcp --dport 53 -j REDIRECT --to-ports 15053");
    }
    rule("ISTIO_OUTPUT -d 127.0.0.1/32 -j RETURN");
    for port in list(&capture.outbound_ports) {
        rule(&format!("ISTIO_OUTPUT -p tcp --dport {port} -j ISTIO_REDIRECT"));
    }
    for network in list(&capture.outbound_except) {
        rule(&format!("ISTIO_OUTPUT -d {network} -j RETURN"));
    }
    if capture.outbound_networks == "*" {
        rule("ISTIO_OUTPUT -j ISTIO_REDIRECT");
    } else {
        for network in list(&capture.outbound_networks) {
            rule(&format!("ISTIO_OUTPUT -d {network} -j ISTIO_REDIRECT"));
        }
        rule("ISTIO_OUTPUT -j RETURN");
    }
}
