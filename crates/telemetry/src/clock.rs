//! Time stamps for logs.

use std::time::{SystemTime, UNIX_EPOCH};

/// `2026-11-23T15:04:05.678Z`, the form of Envoy's `%START_TIME%`.
pub fn rfc3339_millis(time: SystemTime, out: &mut Vec<u8>) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    number(out, year, 4);
    out.push(b'-');
    number(out, month, 2);
    out.push(b'-');
    number(out, day, 2);
    out.push(b'T');
    number(out, seconds / 3600, 2);
    out.push(b':');
    number(out, seconds / 60 % 60, 2);
    out.push(b':');
    number(out, seconds % 60, 2);
    out.push(b'.');
    number(out, u64::from(since.subsec_millis()), 3);
    out.push(b'Z');
}

/// Year, month and day of a day number since 1970 (proleptic Gregorian; eras of 400 years that start in March).
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// The last digits of a number.
pub(crate) fn number(out: &mut Vec<u8>, value: u64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (value / 10_u64.pow(place) % 10) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn stamp(seconds: u64, millis: u64) -> String {
        let mut out = Vec::new();
        rfc3339_millis(UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn stamps_are_right_across_leap_days_and_centuries() {
        assert_eq!(stamp(0, 7), "1970-01-01T00:00:00.007Z");
        assert_eq!(stamp(951_782_400, 0), "2000-02-29T00:00:00.000Z");
        assert_eq!(stamp(1_709_251_199, 999), "2024-02-29T23:59:59.999Z");
        assert_eq!(stamp(4_102_444_800, 0), "2100-01-01T00:00:00.000Z");
    }
}
