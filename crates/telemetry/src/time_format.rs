//! Time stamps in a form of the user's: what Envoy takes in `%START_TIME(FORMAT)%`, compiled once. Times are UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::clock::{civil, number, rfc3339_millis};
use crate::format::FormatError;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// One piece of a time stamp.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(Box<str>),
    /// A number of this many digits.
    Digits(Field, u32),
    /// A number with spaces in front, two wide.
    Padded(Field),
    /// Seconds since 1970.
    Epoch,
    /// Digits of the fraction of a second.
    Fraction(u32),
    Day {
        long: bool,
    },
    Month {
        long: bool,
    },
    HalfOfDay,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Field {
    Year,
    YearOfCentury,
    Century,
    Month,
    DayOfMonth,
    DayOfYear,
    /// From 1, Monday.
    DayOfWeek,
    /// From 0, Sunday.
    DayFromSunday,
    Hour,
    HourOfHalf,
    Minute,
    Second,
}

/// A compiled form.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TimeFormat(Option<Box<[Part]>>);

impl TimeFormat {
    /// `2026-11-23T15:04:05.678Z`.
    pub(crate) const USUAL: Self = Self(None);

    /// Compiles a form; an empty one is the usual one (as with Envoy).
    pub(crate) fn new(text: &str) -> Result<Self, FormatError> {
        if text.is_empty() {
            return Ok(Self::USUAL);
        }
        let mut parts = Vec::new();
        compile(text, &mut parts)?;
        Ok(Self(Some(parts.into_boxed_slice())))
    }

    /// Writes a time.
    pub(crate) fn write(&self, time: SystemTime, out: &mut Vec<u8>) {
        let Some(parts) = &self.0 else { return rfc3339_millis(time, out) };
        let moment = Moment::new(time);
        for part in parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Digits(field, width) => number(out, moment.field(*field), *width),
                Part::Padded(field) => match moment.field(*field) {
                    value @ 0..=9 => {
                        out.push(b' ');
                        number(out, value, 1);
                    }
                    value => number(out, value, 2),
                },
                Part::Epoch => out.extend_from_slice(itoa::Buffer::new().format(moment.seconds).as_bytes()),
                Part::Fraction(digits) => {
                    number(out, u64::from(moment.nanos) / 10_u64.pow(9_u32.saturating_sub(*digits)), *digits);
                }
                Part::Day { long } => name(&DAYS, moment.field(Field::DayFromSunday), *long, out),
                Part::Month { long } => name(&MONTHS, moment.month.saturating_sub(1), *long, out),
                Part::HalfOfDay => out.extend_from_slice(if moment.field(Field::Hour) < 12 { b"AM" } else { b"PM" }),
            }
        }
    }
}

fn name(all: &[&str], index: u64, long: bool, out: &mut Vec<u8>) {
    let name = usize::try_from(index).ok().and_then(|index| all.get(index)).copied().unwrap_or_default();
    out.extend_from_slice(name.get(..3).filter(|_| !long).unwrap_or(name).as_bytes());
}

fn compile(text: &str, parts: &mut Vec<Part>) -> Result<(), FormatError> {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        push_text(before, parts);
        rest = specifier(after, parts)?;
    }
    push_text(rest, parts);
    Ok(())
}

fn push_text(text: &str, parts: &mut Vec<Part>) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(known)) => *known = format!("{known}{text}").into(),
        _ => parts.push(Part::Text(text.into())),
    }
}

/// Compiles the specifier behind a percent sign, and gives what follows it.
fn specifier<'t>(after: &'t str, parts: &mut Vec<Part>) -> Result<&'t str, FormatError> {
    let unknown = |shown: &str| FormatError::Argument(format!("%{shown} is no specifier of a time"));
    let mut chars = after.chars();
    let first = chars.next().ok_or_else(|| unknown(""))?;
    if let Some(digits) = first.to_digit(10).filter(|digits| *digits > 0) {
        let rest = chars.as_str().strip_prefix('f').ok_or_else(|| unknown(&first.to_string()))?;
        parts.push(Part::Fraction(digits));
        return Ok(rest);
    }
    if first == 'E' {
        let rest = chars.as_str().strip_prefix('z').ok_or_else(|| unknown("E"))?;
        push_text("+00:00", parts);
        return Ok(rest);
    }
    let digits = |field, width| Part::Digits(field, width);
    match first {
        'Y' => parts.push(digits(Field::Year, 4)),
        'y' => parts.push(digits(Field::YearOfCentury, 2)),
        'C' => parts.push(digits(Field::Century, 2)),
        'm' => parts.push(digits(Field::Month, 2)),
        'd' => parts.push(digits(Field::DayOfMonth, 2)),
        'e' => parts.push(Part::Padded(Field::DayOfMonth)),
        'j' => parts.push(digits(Field::DayOfYear, 3)),
        'u' => parts.push(digits(Field::DayOfWeek, 1)),
        'w' => parts.push(digits(Field::DayFromSunday, 1)),
        'H' => parts.push(digits(Field::Hour, 2)),
        'I' => parts.push(digits(Field::HourOfHalf, 2)),
        'M' => parts.push(digits(Field::Minute, 2)),
        'S' => parts.push(digits(Field::Second, 2)),
        'p' => parts.push(Part::HalfOfDay),
        's' => parts.push(Part::Epoch),
        'f' => parts.push(Part::Fraction(9)),
        'a' | 'A' => parts.push(Part::Day { long: first == 'A' }),
        'b' | 'h' | 'B' => parts.push(Part::Month { long: first == 'B' }),
        'z' => push_text("+0000", parts),
        'Z' => push_text("UTC", parts),
        'n' => push_text("\n", parts),
        't' => push_text("\t", parts),
        '%' => push_text("%", parts),
        'F' => compile("%Y-%m-%d", parts)?,
        'T' | 'X' => compile("%H:%M:%S", parts)?,
        'R' => compile("%H:%M", parts)?,
        'r' => compile("%I:%M:%S %p", parts)?,
        'D' | 'x' => compile("%m/%d/%y", parts)?,
        'c' => compile("%a %b %e %H:%M:%S %Y", parts)?,
        other => return Err(unknown(&other.to_string())),
    }
    Ok(chars.as_str())
}

/// A time, taken apart.
struct Moment {
    seconds: u64,
    nanos: u32,
    days: u64,
    year: u64,
    month: u64,
    day: u64,
}

impl Moment {
    fn new(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let days = since.as_secs() / 86_400;
        let (year, month, day) = civil(days);
        Self { seconds: since.as_secs(), nanos: since.subsec_nanos(), days, year, month, day }
    }

    fn field(&self, of: Field) -> u64 {
        let hour = self.seconds % 86_400 / 3600;
        // 1970 began on a Thursday.
        let from_sunday = (self.days + 4) % 7;
        match of {
            Field::Year => self.year,
            Field::YearOfCentury => self.year % 100,
            Field::Century => self.year / 100,
            Field::Month => self.month,
            Field::DayOfMonth => self.day,
            Field::DayOfYear => self.day_of_year(),
            Field::DayOfWeek => {
                if from_sunday == 0 {
                    7
                } else {
                    from_sunday
                }
            }
            Field::DayFromSunday => from_sunday,
            Field::Hour => hour,
            Field::HourOfHalf => {
                if hour.is_multiple_of(12) {
                    12
                } else {
                    hour % 12
                }
            }
            Field::Minute => self.seconds / 60 % 60,
            Field::Second => self.seconds % 60,
        }
    }

    fn day_of_year(&self) -> u64 {
        const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year.is_multiple_of(4) && (!self.year.is_multiple_of(100) || self.year.is_multiple_of(400));
        let index = usize::try_from(self.month.saturating_sub(1)).unwrap_or(0);
        BEFORE.get(index).copied().unwrap_or(0) + self.day + u64::from(leap && self.month > 2)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shown(format: &str, seconds: u64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::new(format).unwrap().write(UNIX_EPOCH + Duration::new(seconds, nanos), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_take_the_form_they_are_given() {
        // 2026-11-24T23:41:08.012345678Z, a Tuesday.
        for (format, expected) in [
            ("", "2026-11-24T23:41:08.012Z"),
            ("%Y/%m/%dT%H:%M:%S%z", "2026/11/24T23:41:08+0000"),
            ("%s", "1795563668"),
            ("%s.%3f", "1795563668.012"),
            ("%s.%6f", "1795563668.012345"),
            ("%f", "012345678"),
            ("%9f %1f", "012345678 0"),
            ("%F %T %Z%Ez", "2026-11-24 23:41:08 UTC+00:00"),
            ("%a %A %b %h %B", "Tue Tuesday Nov Nov November"),
            ("%I:%M %p %r", "11:41 PM 11:41:08 PM"),
            ("%j %u %w %y %C", "328 2 2 26 20"),
            ("%D %R %c", "11/24/26 23:41 Tue Nov 24 23:41:08 2026"),
            ("100%% at %e", "100% at 24"),
        ] {
            assert_eq!(shown(format, 1_795_563_668, 12_345_678), expected, "{format}");
        }
        assert_eq!(shown("%c %j %u %I%p", 951_782_400, 0), "Tue Feb 29 00:00:00 2000 060 2 12AM");
        assert_eq!(shown("%e|%j|%A", 4_070_908_800, 0), " 1|001|Thursday");
    }

    #[test]
    fn what_is_no_specifier_is_refused_by_name() {
        for (format, said) in [("%Q", "%Q"), ("%3S", "%3"), ("a%", "%"), ("%EY", "%E"), ("%0f", "%0")] {
            let error = TimeFormat::new(format).unwrap_err().to_string();
            assert_eq!(error, format!("{said} is no specifier of a time"), "{format}");
        }
    }
}
