//! Kubernetes' choice by labels, with expressions.
#![allow(missing_docs, reason = "each field is Kubernetes' of the same name; its reference documents them")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Kubernetes' choice by labels.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LabelSelector {
    pub match_labels: BTreeMap<String, String>,
    pub match_expressions: Vec<LabelExpression>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct LabelExpression {
    pub key: String,
    pub operator: LabelOperator,
    pub values: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum LabelOperator {
    In,
    NotIn,
    #[default]
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// Whether everything asked for holds; an empty selector takes all.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let holds = |e: &LabelExpression| {
            let value = labels.get(&e.key);
            match e.operator {
                LabelOperator::In => value.is_some_and(|v| e.values.contains(v)),
                LabelOperator::NotIn => value.is_none_or(|v| !e.values.contains(v)),
                LabelOperator::Exists => value.is_some(),
                LabelOperator::DoesNotExist => value.is_none(),
            }
        };
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v)) && self.match_expressions.iter().all(holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_selects() {
        let selector: LabelSelector = serde_json::from_str(
            r#"{"matchLabels": {"mesh": "on"}, "matchExpressions": [
                {"key": "env", "operator": "In", "values": ["prod", "test"]},
                {"key": "old", "operator": "DoesNotExist"}]}"#,
        )
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert!(selector.selects(&labels(&[("mesh", "on"), ("env", "prod")])));
        assert!(!selector.selects(&labels(&[("mesh", "on"), ("env", "dev")])));
        assert!(!selector.selects(&labels(&[("mesh", "on"), ("env", "prod"), ("old", "")])));
        assert!(LabelSelector::default().selects(&labels(&[])));
    }
}
