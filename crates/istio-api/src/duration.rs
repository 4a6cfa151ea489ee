//! Durations as Go writes them: `5s`, `1m30s`, `250ms`.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, Serializer};

/// Reads a duration; `None` when it is malformed.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let (unit, seconds) = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)]
            .into_iter()
            .find(|(unit, _)| rest.starts_with(unit))?;
        rest = &rest[unit.len()..];
        total = total.checked_add(Duration::try_from_secs_f64(value * seconds).ok()?)?;
    }
    Some(total)
}

/// For `#[serde(with)]`.
///
/// # Errors
/// When the text is no duration.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| {
        serde::de::Error::custom(format!("\"{text}\" is not a duration; write it like 5s, 250ms or 1m30s"))
    })
}

/// For `#[serde(with)]`.
///
/// # Errors
/// When the serializer fails.
pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(d) => serializer.serialize_str(&format!("{}s", d.as_secs_f64())),
        None => serializer.serialize_none(),
    }
}
