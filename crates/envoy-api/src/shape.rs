//! What fields a message has, for those who must go through all of them.

use prost_reflect::{FieldDescriptor, Kind};

use crate::json::{JsonError, pool};

/// A field of a message, under the name that proto-JSON as Envoy prints it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name, such as `connect_timeout`.
    pub name: String,
    /// What it holds; of a map: what its values are.
    pub holds: Holds,
    /// How many it holds.
    pub many: Many,
    /// Of a `oneof`: the other fields, of which none may be set beside it.
    pub excludes: Vec<String>,
}

/// How many values a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Many {
    /// One or none.
    One,
    /// A list.
    List,
    /// A map from texts.
    Map,
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// `true` or `false`.
    Bool,
    /// A whole number; `signed` may be below zero.
    Whole {
        /// May be below zero.
        signed: bool,
    },
    /// A number with a fraction.
    Fraction,
    /// Text.
    Text,
    /// Bytes, in JSON as base64.
    Bytes,
    /// One of these names.
    Choice(Vec<String>),
    /// A message of this full name.
    Message(String),
}

/// All fields of a message, by its full name.
///
/// # Errors
/// When the message is not compiled in.
pub fn fields(message: &str) -> Result<Vec<Field>, JsonError> {
    let descriptor = pool()?.get_message_by_name(message).ok_or_else(|| JsonError::UnknownType(message.to_owned()))?;
    Ok(descriptor.fields().map(|field| describe(&field)).collect())
}

fn describe(field: &FieldDescriptor) -> Field {
    let (many, kind) = match field.kind() {
        Kind::Message(entry) if field.is_map() => (Many::Map, entry.map_entry_value_field().kind()),
        kind if field.is_list() => (Many::List, kind),
        kind => (Many::One, kind),
    };
    let holds = match kind {
        Kind::Bool => Holds::Bool,
        Kind::Int32 | Kind::Int64 | Kind::Sint32 | Kind::Sint64 | Kind::Sfixed32 | Kind::Sfixed64 => {
            Holds::Whole { signed: true }
        }
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => Holds::Whole { signed: false },
        Kind::Double | Kind::Float => Holds::Fraction,
        Kind::String => Holds::Text,
        Kind::Bytes => Holds::Bytes,
        Kind::Enum(choices) => Holds::Choice(choices.values().map(|v| v.name().to_owned()).collect()),
        Kind::Message(inner) => Holds::Message(inner.full_name().to_owned()),
    };
    let beside = field.containing_oneof().filter(|o| !o.is_synthetic());
    let excludes = beside
        .into_iter()
        .flat_map(|choice| choice.fields().map(|f| f.name().to_owned()).collect::<Vec<_>>())
        .filter(|name| name != field.name())
        .collect();
    Field { name: field.name().to_owned(), holds, many, excludes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_as_json_has_them() {
        let of = |message: &str, field: &str| {
            let all = fields(message).unwrap();
            all.into_iter().find(|f| f.name == field).unwrap_or_else(|| panic!("{message} has no {field}"))
        };
        let cluster = "envoy.config.cluster.v3.Cluster";
        let timeout = of(cluster, "connect_timeout");
        assert_eq!(timeout.holds, Holds::Message("google.protobuf.Duration".to_owned()));
        assert_eq!(of(cluster, "type").excludes, ["cluster_type"]);
        let options = of(cluster, "typed_extension_protocol_options");
        assert_eq!((options.many, options.holds), (Many::Map, Holds::Message("google.protobuf.Any".to_owned())));
        assert!(matches!(of(cluster, "lb_policy").holds, Holds::Choice(names) if names.contains(&"MAGLEV".to_owned())));
        assert!(fields("no.such.Message").is_err());
    }
}
