//! Proto-JSON straight to protobuf's wire format, for what is made in large numbers: reading a message into memory first,
//! as the library does, costs several times as much.
//!
//! What is not covered here is left to the library, which knows every shape and says what is wrong with a bad one. See
//! <https://protobuf.dev/programming-guides/encoding> and <https://protobuf.dev/programming-guides/json>.

use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value};

use crate::Any;

/// Where a message says of what type it is.
const TYPE: &str = "@type";
/// Messages with a form of their own in JSON are in this package.
const WELL_KNOWN: &str = "google.protobuf.";

/// A message that names its type by `@type`, as an `Any`; none when it is the library's turn.
pub(crate) fn any(pool: &DescriptorPool, json: &Value) -> Option<Any> {
    let mut value = Vec::new();
    let type_url = typed(pool, json.as_object()?, |_, write| write(&mut value))?;
    Some(Any { type_url: type_url.to_owned(), value: value.into() })
}

/// Has the fields of a message that names its type written; its type.
fn typed<'a>(
    pool: &DescriptorPool,
    json: &'a Map<String, Value>,
    to: impl FnOnce(&str, &mut dyn FnMut(&mut Vec<u8>) -> Option<()>) -> Option<()>,
) -> Option<&'a str> {
    let url = json.get(TYPE)?.as_str()?;
    let of = pool.get_message_by_name(url.rsplit('/').next()?)?;
    if of.full_name().starts_with(WELL_KNOWN) {
        return None;
    }
    to(url, &mut |out| fields(&of, json.iter().filter(|(name, _)| *name != TYPE), out))?;
    Some(url)
}

fn message(of: &MessageDescriptor, json: &Value, out: &mut Vec<u8>) -> Option<()> {
    if let Some(short) = of.full_name().strip_prefix(WELL_KNOWN) {
        return well_known(short, of, json, out);
    }
    fields(of, json.as_object()?.iter(), out)
}

fn fields<'a>(
    of: &MessageDescriptor,
    json: impl Iterator<Item = (&'a String, &'a Value)>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut all = Vec::new();
    for (name, value) in json {
        if value.is_null() {
            return None;
        }
        let field = of.get_field_by_json_name(name).or_else(|| of.get_field_by_name(name))?;
        all.push((field.number(), field, value));
    }
    // By number, as the library writes them.
    all.sort_unstable_by_key(|(number, ..)| *number);
    // Of one by two names, and of two of a oneof, the library says that it is wrong.
    let mut oneofs: Vec<String> = Vec::new();
    for (index, (number, field, value)) in all.iter().enumerate() {
        if index.checked_sub(1).and_then(|before| all.get(before)).is_some_and(|(before, ..)| before == number) {
            return None;
        }
        if let Some(oneof) = field.containing_oneof() {
            let name = oneof.name().to_owned();
            if oneofs.contains(&name) {
                return None;
            }
            oneofs.push(name);
        }
        any_field(field, value, out)?;
    }
    Some(())
}

fn any_field(field: &FieldDescriptor, value: &Value, out: &mut Vec<u8>) -> Option<()> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { return None };
        let (key, held) = (entry.map_entry_key_field(), entry.map_entry_value_field());
        for (name, value) in value.as_object()? {
            // Other keys than text are nowhere in what we make.
            let Kind::String = key.kind() else { return None };
            encode_key(field.number(), WireType::LengthDelimited, out);
            delimited(out, |out| {
                written(key.number(), &Kind::String, &Value::String(name.clone()), false, out)?;
                written(held.number(), &held.kind(), value, false, out)
            })?;
        }
        return Some(());
    }
    if !field.is_list() {
        return written(field.number(), &field.kind(), value, !field.supports_presence(), out);
    }
    let items = value.as_array()?;
    let kind = field.kind();
    if field.is_packed() && !items.is_empty() {
        encode_key(field.number(), WireType::LengthDelimited, out);
        return delimited(out, |out| items.iter().try_for_each(|item| bare(&kind, item, out).map(drop)));
    }
    items.iter().try_for_each(|item| written(field.number(), &kind, item, false, out))
}

/// One value with its key; left out when it is the default and its absence means that.
fn written(number: u32, kind: &Kind, value: &Value, implicit: bool, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    encode_key(number, wire_type(kind), out);
    if bare(kind, value, out)? && implicit {
        out.truncate(start);
    }
    Some(())
}

fn wire_type(of: &Kind) -> WireType {
    match of {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

/// One value without its key; says whether it is the default of its kind.
fn bare(kind: &Kind, value: &Value, out: &mut Vec<u8>) -> Option<bool> {
    let varint = |number: u64, out: &mut Vec<u8>| {
        encode_varint(number, out);
        Some(number == 0)
    };
    match kind {
        Kind::String => {
            let text = value.as_str()?;
            encode_varint(text.len() as u64, out);
            out.extend_from_slice(text.as_bytes());
            Some(text.is_empty())
        }
        Kind::Message(of) => delimited(out, |out| message(of, value, out)).map(|()| false),
        Kind::Bool => varint(u64::from(value.as_bool()?), out),
        Kind::Uint32 => varint(u64::from(u32::try_from(whole(value)?).ok()?), out),
        Kind::Uint64 => varint(u64::try_from(whole(value)?).ok()?, out),
        Kind::Int32 => varint(i64::from(i32::try_from(whole(value)?).ok()?).cast_unsigned(), out),
        Kind::Int64 => varint(i64::try_from(whole(value)?).ok()?.cast_unsigned(), out),
        Kind::Enum(of) => varint(i64::from(enumerated(of, value)?).cast_unsigned(), out),
        Kind::Double => {
            let number = value.as_f64()?;
            out.extend_from_slice(&number.to_le_bytes());
            Some(number.to_bits() == 0)
        }
        Kind::Float => {
            let number = value.as_f64()? as f32;
            out.extend_from_slice(&number.to_le_bytes());
            number.is_finite().then_some(number.to_bits() == 0)
        }
        // Bytes, and the fixed and zig-zag numbers.
        _ => None,
    }
}

/// A whole number, or one as text, as 64-bit ones are written.
fn whole(value: &Value) -> Option<i128> {
    match value {
        Value::Number(number) => number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn enumerated(of: &EnumDescriptor, value: &Value) -> Option<i32> {
    match value {
        Value::String(name) => Some(of.get_value_by_name(name)?.number()),
        number => i32::try_from(number.as_i64()?).ok(),
    }
}

/// What `write` writes, behind its length.
fn delimited(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    let start = out.len();
    write(out)?;
    let length = out.len() - start;
    let mut prefix = Vec::with_capacity(5);
    encode_varint(length as u64, &mut prefix);
    let room = prefix.len();
    out.resize(start + length + room, 0);
    out.copy_within(start..start + length, start + room);
    out.get_mut(start..start + room)?.copy_from_slice(&prefix);
    Some(())
}

/// Messages with a form of their own in JSON.
fn well_known(short: &str, of: &MessageDescriptor, json: &Value, out: &mut Vec<u8>) -> Option<()> {
    match short {
        "Any" => packed(of.parent_pool(), json.as_object()?, out),
        "Duration" => duration(json.as_str()?, out),
        "Struct" => structure(json.as_object()?, out),
        "Value" => dynamic(json, out),
        "ListValue" => list(json.as_array()?, out),
        "Empty" => json.as_object()?.is_empty().then_some(()),
        "BoolValue" | "UInt32Value" | "UInt64Value" | "Int32Value" | "Int64Value" | "DoubleValue" | "FloatValue"
        | "StringValue" => {
            let field = of.get_field(1)?;
            written(1, &field.kind(), json, true, out)
        }
        _ => None,
    }
}

fn packed(pool: &DescriptorPool, json: &Map<String, Value>, out: &mut Vec<u8>) -> Option<()> {
    typed(pool, json, |url, write| {
        text(1, url, out);
        let start = out.len();
        encode_key(2, WireType::LengthDelimited, out);
        let value = out.len();
        delimited(out, write)?;
        // A message without fields is no bytes at all.
        if out.len() == value + 1 {
            out.truncate(start);
        }
        Some(())
    })?;
    Some(())
}

fn text(number: u32, value: &str, out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value.as_bytes());
}

/// Seconds with up to nine digits behind the point, and `s`.
fn duration(of: &str, out: &mut Vec<u8>) -> Option<()> {
    let number = of.strip_suffix('s')?;
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, ""));
    // Signs are the library's.
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if seconds.is_empty() || seconds.len() > 12 || fraction.len() > 9 || !digits(seconds) || !digits(fraction) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    for (number, value) in [(1, seconds.parse().ok()?), (2, nanos)] {
        if value != 0 {
            encode_key(number, WireType::Varint, out);
            encode_varint(value, out);
        }
    }
    Some(())
}

fn structure(of: &Map<String, Value>, out: &mut Vec<u8>) -> Option<()> {
    of.iter().try_for_each(|(name, value)| {
        encode_key(1, WireType::LengthDelimited, out);
        delimited(out, |out| {
            text(1, name, out);
            encode_key(2, WireType::LengthDelimited, out);
            delimited(out, |out| dynamic(value, out))
        })
    })
}

/// A value of a `Struct`.
fn dynamic(value: &Value, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Null => {
            encode_key(1, WireType::Varint, out);
            encode_varint(0, out);
        }
        Value::Number(number) => {
            encode_key(2, WireType::SixtyFourBit, out);
            out.extend_from_slice(&number.as_f64()?.to_le_bytes());
        }
        Value::String(value) => text(3, value, out),
        Value::Bool(value) => {
            encode_key(4, WireType::Varint, out);
            encode_varint(u64::from(*value), out);
        }
        Value::Object(map) => {
            encode_key(5, WireType::LengthDelimited, out);
            return delimited(out, |out| structure(map, out));
        }
        Value::Array(items) => {
            encode_key(6, WireType::LengthDelimited, out);
            return delimited(out, |out| list(items, out));
        }
    }
    Some(())
}

fn list(of: &[Value], out: &mut Vec<u8>) -> Option<()> {
    of.iter().try_for_each(|item| {
        encode_key(1, WireType::LengthDelimited, out);
        delimited(out, |out| dynamic(item, out))
    })
}

#[cfg(test)]
mod tests;
