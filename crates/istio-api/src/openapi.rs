//! The OpenAPI schema of a kind's spec, as a CustomResourceDefinition wants it (structural), found by asking the Rust
//! type what it reads: each field as often as it takes to see every variant of every enum.

use std::fmt;

use serde::Deserialize;
use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_json::{Map, Value, json};

use crate::edge::{Gateway, Sidecar};
use crate::extensions::{EnvoyFilter, ProxyConfig, Telemetry, TrafficExtension, WasmPlugin};
use crate::networking::{DestinationRule, VirtualService};
use crate::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use crate::service_entry::{ServiceEntry, WorkloadEntry, WorkloadGroup};

/// Enums with more variants than this show the first ones only; ours have far fewer.
const MAX_VARIANTS: usize = 64;
/// A text that every type reads which is made of text: a duration is one.
const SAMPLE: &str = "0s";
/// Structs of which one field at most may be there.
const ALONE: [&str; 1] = ["StringPattern"];

/// The schema of a kind's spec; `None` when the kind is not Istio's, or its type reads what no schema can say.
pub fn spec(group: &str, kind: &str) -> Option<Value> {
    match (group, kind) {
        ("networking.istio.io", "VirtualService") => schema::<VirtualService>(),
        ("networking.istio.io", "DestinationRule") => schema::<DestinationRule>(),
        ("networking.istio.io", "ServiceEntry") => schema::<ServiceEntry>(),
        ("networking.istio.io", "WorkloadEntry") => schema::<WorkloadEntry>(),
        ("networking.istio.io", "WorkloadGroup") => schema::<WorkloadGroup>(),
        ("networking.istio.io", "Sidecar") => schema::<Sidecar>(),
        ("networking.istio.io", "Gateway") => schema::<Gateway>(),
        ("networking.istio.io", "EnvoyFilter") => schema::<EnvoyFilter>(),
        ("networking.istio.io", "ProxyConfig") => schema::<ProxyConfig>(),
        ("security.istio.io", "AuthorizationPolicy") => schema::<AuthorizationPolicy>(),
        ("security.istio.io", "PeerAuthentication") => schema::<PeerAuthentication>(),
        ("security.istio.io", "RequestAuthentication") => schema::<RequestAuthentication>(),
        ("telemetry.istio.io", "Telemetry") => schema::<Telemetry>(),
        ("extensions.istio.io", "WasmPlugin") => schema::<WasmPlugin>(),
        ("extensions.istio.io", "TrafficExtension") => schema::<TrafficExtension>(),
        _ => None,
    }
}

/// The schema of a type.
pub fn schema<'de, T: Deserialize<'de>>() -> Option<Value> {
    let mut merged = Value::Null;
    let mut round = 0;
    loop {
        let (mut found, mut more) = (Value::Null, false);
        T::deserialize(Probe { out: &mut found, round, more: &mut more }).ok()?;
        merge(&mut merged, found);
        round += 1;
        if !more || round > MAX_VARIANTS {
            return Some(merged);
        }
    }
}

/// What another round has found besides.
fn merge(into: &mut Value, new: Value) {
    match (into, new) {
        (Value::Object(into), Value::Object(new)) => {
            for (key, value) in new {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        // The names of an enum's variants.
        (Value::Array(into), Value::Array(new)) => {
            for value in new {
                if !into.contains(&value) {
                    into.push(value);
                }
            }
        }
        (into, new) => *into = new,
    }
}

/// A type that cannot be asked.
#[derive(Debug)]
struct Unreadable;

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the type reads what a schema cannot say")
    }
}

impl std::error::Error for Unreadable {}

impl de::Error for Unreadable {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// Stands where a value would be and notes what is wanted there.
struct Probe<'a> {
    out: &'a mut Value,
    /// The variant that enums show this time.
    round: usize,
    /// Whether an enum has more.
    more: &'a mut bool,
}

impl Probe<'_> {
    fn integer(&mut self, least: i128, most: i128) {
        *self.out = json!({"type": "integer"});
        // Numbers beyond these are not exact in JSON; the type's own limit says nothing a user could meet.
        if least >= i128::from(i32::MIN) {
            self.out["minimum"] = json!(i64::try_from(least).unwrap_or_default());
        }
        if most <= i128::from(u32::MAX) {
            self.out["maximum"] = json!(i64::try_from(most).unwrap_or_default());
        }
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Unreadable> {
            self.integer(i128::from(<$type>::MIN), i128::from(<$type>::MAX));
            visitor.$visit(<$type>::default())
        }
    )*};
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Unreadable;

    /// Whatever the user writes.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        *self.out = json!({"x-kubernetes-preserve-unknown-fields": true});
        visitor.visit_unit()
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        *self.out = json!({"type": "boolean"});
        visitor.visit_bool(false)
    }

    integers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        *self.out = json!({"type": "number"});
        visitor.visit_f64(0.0)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        *self.out = json!({"type": "string"});
        visitor.visit_str(SAMPLE)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Unreadable> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        *self.out = json!({"type": "array", "items": null});
        let mut items = Value::Null;
        let probe = Probe { out: &mut items, round: self.round, more: self.more };
        let value = visitor.visit_seq(Once(Some(probe)))?;
        self.out["items"] = items;
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unreadable> {
        let mut items = Value::Null;
        let probe = Probe { out: &mut items, round: self.round, more: self.more };
        let value = visitor.visit_map(Once(Some(probe)))?;
        *self.out = json!({"type": "object", "additionalProperties": items});
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        let mut properties = Map::new();
        let alone = ALONE.contains(&name);
        // Each round another one.
        let shown = if alone { fields.chunks(1).nth(self.round).or(fields.chunks(1).last()) } else { Some(fields) };
        *self.more |= alone && self.round + 1 < fields.len();
        let rest = shown.unwrap_or_default();
        let access = Fields { rest, now: None, properties: &mut properties, round: self.round, more: self.more };
        let value = visitor.visit_map(access)?;
        *self.out = json!({"type": "object", "properties": properties});
        if alone {
            self.out["maxProperties"] = json!(1);
        }
        Ok(value)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unreadable> {
        *self.more |= self.round + 1 < variants.len();
        let name = variants.get(self.round).or(variants.last()).copied().ok_or(Unreadable)?;
        visitor.visit_enum(Chosen { name, probe: self })
    }

    serde::forward_to_deserialize_any! {
        char bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// A list or a map with one element.
struct Once<'a>(Option<Probe<'a>>);

impl<'de> SeqAccess<'de> for Once<'_> {
    type Error = Unreadable;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unreadable> {
        self.0.take().map(|probe| seed.deserialize(probe)).transpose()
    }
}

impl<'de> MapAccess<'de> for Once<'_> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unreadable> {
        if self.0.is_none() {
            return Ok(None);
        }
        // Keys of JSON are text; a number is written as one.
        seed.deserialize("0".into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Unreadable> {
        seed.deserialize(self.0.take().ok_or(Unreadable)?)
    }
}

/// A struct with all its fields.
struct Fields<'a> {
    rest: &'static [&'static str],
    now: Option<&'static str>,
    properties: &'a mut Map<String, Value>,
    round: usize,
    more: &'a mut bool,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Unreadable;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unreadable> {
        let Some((name, rest)) = self.rest.split_first() else { return Ok(None) };
        self.rest = rest;
        self.now = Some(name);
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Unreadable> {
        let mut found = Value::Null;
        let value = seed.deserialize(Probe { out: &mut found, round: self.round, more: self.more })?;
        self.properties.insert(self.now.take().unwrap_or_default().to_owned(), found);
        Ok(value)
    }
}

/// One variant of an enum: a word, or an object with just that key.
struct Chosen<'a> {
    name: &'static str,
    probe: Probe<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Chosen<'a> {
    type Error = Unreadable;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Unreadable> {
        let value = seed.deserialize(de::value::StrDeserializer::<Unreadable>::new(self.name))?;
        Ok((value, self))
    }
}

impl<'de> VariantAccess<'de> for Chosen<'_> {
    type Error = Unreadable;

    fn unit_variant(self) -> Result<(), Unreadable> {
        *self.probe.out = json!({"type": "string", "enum": [self.name]});
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unreadable> {
        let mut inner = Value::Null;
        let Probe { out, round, more } = self.probe;
        let value = seed.deserialize(Probe { out: &mut inner, round, more })?;
        *out = json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": {self.name: inner}});
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Unreadable> {
        Err(Unreadable)
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Unreadable> {
        Err(Unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_says_what_the_type_reads() {
        let schema = spec("networking.istio.io", "VirtualService").unwrap();
        let at = |pointer: &str| schema.pointer(&pointer.replace("[]", "/items").replace('.', "/properties/")).unwrap();
        assert_eq!(at(".hosts"), &json!({"type": "array", "items": {"type": "string"}}));
        assert_eq!(at(".http[].timeout"), &json!({"type": "string"}), "a duration is text");
        let uri = at(".http[].match[].uri");
        let names: Vec<&str> = uri["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!((names, uri["maxProperties"].as_u64()), (vec!["exact", "prefix", "regex"], Some(1)));
        assert_eq!(at(".http[].match[].headers")["additionalProperties"], *uri);
        assert_eq!(at(".http[].route[].weight")["type"], "integer");
    }

    #[test]
    fn every_kind_has_one() {
        for kind in [
            "networking VirtualService",
            "networking DestinationRule",
            "networking ServiceEntry",
            "networking WorkloadEntry",
            "networking WorkloadGroup",
            "networking Sidecar",
            "networking Gateway",
            "networking EnvoyFilter",
            "networking ProxyConfig",
            "security PeerAuthentication",
            "security AuthorizationPolicy",
            "security RequestAuthentication",
            "telemetry Telemetry",
            "extensions WasmPlugin",
            "extensions TrafficExtension",
        ] {
            let (group, kind) = kind.split_once(' ').unwrap();
            let schema = spec(&format!("{group}.istio.io"), kind).unwrap_or_else(|| panic!("{kind}"));
            assert!(!schema["properties"].as_object().unwrap().is_empty(), "{kind}");
        }
    }
}
