//! Proto-JSON, as Envoy's `/config_dump` prints it and as bootstrap files are written: `@type` is expanded.

use parking_lot::Mutex;
use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Value;

use crate::generated::google::protobuf::{ListValue, value::Kind};
use crate::{Any, Struct, wire};

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Why a message could not be turned into JSON or back.
#[derive(Debug)]
pub enum JsonError {
    /// The type is not in the compiled descriptor set.
    UnknownType(String),
    /// The bytes or the JSON do not have the shape of the type.
    Shape(String),
}

impl std::fmt::Display for JsonError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType(name) => write!(f, "unknown message type {name}"),
            Self::Shape(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for JsonError {}

static POOL: Mutex<Option<DescriptorPool>> = Mutex::new(None);

/// The pool is decoded on first use: only admin and command paths need it, and it is larger than all else that a
/// sidecar keeps.
pub(crate) fn pool() -> Result<DescriptorPool, JsonError> {
    let mut pool = POOL.lock();
    if let Some(pool) = &*pool {
        return Ok(pool.clone());
    }
    let decoded = DescriptorPool::decode(DESCRIPTORS).map_err(|e| JsonError::Shape(e.to_string()))?;
    Ok(pool.insert(decoded).clone())
}

/// Gives back the memory of the descriptors that JSON is read and written by. A long-lived process calls this when it
/// has written its page; the next use decodes them again, which takes some tens of milliseconds.
pub fn release_descriptors() {
    *POOL.lock() = None;
}

/// A `Struct` from JSON, without descriptors; `None` when it is not an object.
pub fn struct_from_json(json: serde_json::Value) -> Option<Struct> {
    let serde_json::Value::Object(map) = json else { return None };
    Some(Struct { fields: map.into_iter().map(|(name, value)| (name, well_known(value))).collect() })
}

fn well_known(json: Value) -> crate::Value {
    let kind = match json {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(value),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(well_known).collect() }),
        Value::Object(map) => Kind::StructValue(Struct {
            fields: map.into_iter().map(|(name, value)| (name, well_known(value))).collect(),
        }),
    };
    crate::Value { kind: Some(kind) }
}

/// A `Struct` as JSON, without descriptors. Whole numbers stay whole.
pub fn struct_to_json(message: &Struct) -> Value {
    Value::Object(message.fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect())
}

fn plain(value: &crate::Value) -> Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::NumberValue(number)) => number_to_json(*number),
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => Value::Array(list.values.iter().map(plain).collect()),
        Some(Kind::StructValue(inner)) => struct_to_json(inner),
    }
}

fn number_to_json(number: f64) -> Value {
    /// Beyond it a double no longer tells neighbouring integers apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        return Value::from(number as i64);
    }
    serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)
}

fn bare_name(type_url: &str) -> &str {
    type_url.rsplit('/').next().unwrap_or(type_url)
}

fn to_value(name: &str, bytes: &[u8]) -> Result<Value, JsonError> {
    let descriptor = pool()?.get_message_by_name(name).ok_or_else(|| JsonError::UnknownType(name.to_owned()))?;
    let message = DynamicMessage::decode(descriptor, bytes).map_err(|e| JsonError::Shape(e.to_string()))?;
    let options = SerializeOptions::new().use_proto_field_name(true).stringify_64_bit_integers(true);
    message.serialize_with_options(serde_json::value::Serializer, &options).map_err(|e| JsonError::Shape(e.to_string()))
}

fn from_value(name: &str, json: Value) -> Result<DynamicMessage, JsonError> {
    let descriptor = pool()?.get_message_by_name(name).ok_or_else(|| JsonError::UnknownType(name.to_owned()))?;
    DynamicMessage::deserialize_with_options(descriptor, json, &DeserializeOptions::new())
        .map_err(|e| JsonError::Shape(e.to_string()))
}

/// One message as JSON, with proto field names as Envoy's admin prints them.
///
/// # Errors
/// When a nested `Any` is of a type that is not compiled in.
pub fn message_to_json<M: Name>(message: &M) -> Result<Value, JsonError> {
    to_value(&M::full_name(), &message.encode_to_vec())
}

/// Reads a message from JSON; both camelCase and proto field names are taken.
///
/// # Errors
/// When the JSON does not have the shape of `M`.
pub fn message_from_json<M: Name + Default>(json: Value) -> Result<M, JsonError> {
    let message = from_value(&M::full_name(), json)?;
    M::decode(message.encode_to_vec().as_slice()).map_err(|e| JsonError::Shape(e.to_string()))
}

/// An `Any` as JSON with `@type`; a type that is not compiled in is shown by URL and base64 body.
pub fn any_to_json(any: &Any) -> Value {
    let mut body = match to_value(bare_name(&any.type_url), &any.value) {
        Ok(Value::Object(map)) => map,
        Ok(other) => serde_json::Map::from_iter([("value".to_owned(), other)]),
        Err(why) => serde_json::Map::from_iter([
            ("bytes".to_owned(), Value::from(any.value.len())),
            ("unreadable".to_owned(), Value::from(why.to_string())),
        ]),
    };
    body.shift_insert(0, "@type".to_owned(), Value::from(any.type_url.clone()));
    Value::Object(body)
}

/// Reads an `Any` from JSON that names its type by `@type`.
///
/// # Errors
/// When `@type` is missing or unknown, or the rest does not have its shape.
pub fn any_from_json(json: Value) -> Result<Any, JsonError> {
    match wire::any(&pool()?, &json) {
        Some(any) => Ok(any),
        None => by_library(json),
    }
}

pub(crate) fn by_library(mut json: Value) -> Result<Any, JsonError> {
    let type_url = json
        .as_object_mut()
        .and_then(|map| map.shift_remove("@type"))
        .and_then(|v| v.as_str().map(str::to_owned))
        .ok_or_else(|| JsonError::Shape("\"@type\" is missing".to_owned()))?;
    let message = from_value(bare_name(&type_url), json)?;
    Ok(Any { value: message.encode_to_vec().into(), type_url })
}
