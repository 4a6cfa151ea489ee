//! YAML into JSON values that remember where each of them stood. The YAML library is known here only.

use std::collections::HashMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// Bytes of one file; a configuration this large is a mistake, or an attack.
pub const MAX_FILE: usize = 1 << 20;
/// Aliases in one file; they are a convenience, not a way to grow.
const MAX_ALIASES: usize = 200;
/// What all aliases of a file may expand to, in parser events.
const MAX_EXPANSION: usize = 20_000;
/// Nesting.
const MAX_DEPTH: usize = 64;

/// A place in a file, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: u64,
    /// The column.
    pub column: u64,
}

/// Why a text is not YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlError {
    /// Where.
    pub place: Place,
    /// Why.
    pub reason: String,
}

impl fmt::Display for YamlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.place.line, self.place.column, self.reason)
    }
}

impl std::error::Error for YamlError {}

/// One document and where its values stand.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The value.
    pub value: Value,
    /// By JSON pointer.
    places: HashMap<String, Place>,
}

impl Document {
    /// A value that stands in no text.
    pub fn bare(value: Value) -> Self {
        Self { value, places: HashMap::new() }
    }

    /// Where the value of a JSON pointer stands, or the nearest value around it.
    pub fn place(&self, pointer: &str) -> Place {
        let mut pointer = pointer;
        loop {
            if let Some(place) = self.places.get(pointer) {
                return *place;
            }
            match pointer.rsplit_once('/') {
                Some((parent, _)) => pointer = parent,
                None => return Place { line: 1, column: 1 },
            }
        }
    }

    /// The same without members that are null: to Kubernetes they are absent.
    #[must_use]
    pub fn without_nulls(&self) -> Self {
        Self { value: prune(self.value.clone()), places: self.places.clone() }
    }

    /// The part of the document at a pointer, as a document of its own.
    pub fn part(&self, pointer: &str) -> Option<Self> {
        let value = self.value.pointer(pointer)?.clone();
        let places = self.places.iter();
        let places = places.filter_map(|(p, at)| p.strip_prefix(pointer).map(|rest| (rest.to_owned(), *at))).collect();
        Some(Self { value, places })
    }
}

/// Reads all documents of a text; empty ones are left out.
///
/// # Errors
/// The first mistake, and limits that were passed.
pub fn parse(text: &str) -> Result<Vec<Document>, YamlError> {
    if text.len() > MAX_FILE {
        let reason = format!("the file has {} bytes, the limit is {MAX_FILE}; split it", text.len());
        return Err(YamlError { place: Place { line: 1, column: 1 }, reason });
    }
    let options = serde_saphyr::options! {
        legacy_octal_numbers: true,
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_depth: MAX_DEPTH,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_EXPANSION,
        },
    };
    let trees: Vec<Spanned<Tree>> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let place =
            error.location().map_or(Place { line: 1, column: 1 }, |l| Place { line: l.line(), column: l.column() });
        let reason = error.without_snippet().to_string();
        YamlError { place, reason: reason.lines().next().unwrap_or_default().to_owned() }
    })?;
    let documents = trees.into_iter().map(|tree| {
        let mut document = Document::default();
        document.value = flatten(tree, &mut String::new(), &mut document.places);
        document
    });
    Ok(documents.filter(|d| !d.value.is_null()).collect())
}

fn prune(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.into_iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k, prune(v))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(prune).collect()),
        other => other,
    }
}

/// A value with the places of all values inside.
enum Tree {
    Scalar(Value),
    List(Vec<Spanned<Tree>>),
    Map(Vec<(String, Spanned<Tree>)>),
}

fn flatten(tree: Spanned<Tree>, pointer: &mut String, places: &mut HashMap<String, Place>) -> Value {
    let at = tree.referenced;
    places.insert(pointer.clone(), Place { line: at.line(), column: at.column() });
    let length = pointer.len();
    let mut inside = |key: &str, tree: Spanned<Tree>| {
        pointer.push('/');
        pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
        let value = flatten(tree, pointer, places);
        pointer.truncate(length);
        value
    };
    match tree.value {
        Tree::Scalar(value) => value,
        Tree::List(items) => {
            Value::Array(items.into_iter().enumerate().map(|(i, item)| inside(&i.to_string(), item)).collect())
        }
        Tree::Map(entries) => {
            let map: Map<String, Value> = entries
                .into_iter()
                .map(|(key, item)| {
                    let value = inside(&key, item);
                    (key, value)
                })
                .collect();
            Value::Object(map)
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Tree, E> {
        // Kubernetes reads 1e3 as the integer 1000.
        if value.fract() == 0.0 && value.abs() < 9e15 {
            return Ok(Tree::Scalar((value as i64).into()));
        }
        Number::from_f64(value).map(|n| Tree::Scalar(Value::Number(n))).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Scalar(value.into()))
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element::<Spanned<Tree>>()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries: Vec<(String, Spanned<Tree>)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if entries.iter().any(|(known, _)| *known == key) {
                return Err(A::Error::custom(format!("the key \"{key}\" stands here twice")));
            }
            let value = map.next_value::<Spanned<Tree>>()?;
            entries.push((key, value));
        }
        Ok(Tree::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_remember_their_places() {
        let text = "kind: A\nspec:\n  hosts: [x, y]\n  n: 0644\n---\nkind: B\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].value["spec"]["n"], 420);
        assert_eq!(documents[0].place("/spec/hosts/1"), Place { line: 3, column: 14 });
        assert_eq!(documents[0].place("/spec/missing/deep"), documents[0].place("/spec"));
        assert_eq!(documents[1].place("/kind").line, 6);
    }

    #[test]
    fn broken_large_and_exploding_texts_are_refused() {
        assert_eq!(parse("a: 1\nb: [1\nc: 2").unwrap_err().place.line, 3);
        let large = "a: ".to_owned() + &"x".repeat(10 << 20);
        assert!(parse(&large).unwrap_err().reason.contains("the limit is 1048576"));
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let former = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", vec![former; 9].join(", "));
        }
        assert!(parse(&bomb).is_err());
        assert!(parse("a: 1\na: 2\n").is_err());
    }
}
