//! Merging as Kubernetes' strategic merge patch does it: maps by key, lists of named things by name.

use serde_json::Value;

/// The field that names an element of a list, by the list's own field.
fn key_of(field: &str) -> Option<&'static str> {
    Some(match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "sysctls" => "name",
        "ports" => "containerPort",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "hostAliases" => "ip",
        "topologySpreadConstraints" => "topologyKey",
        _ => return None,
    })
}

/// Puts one value over another.
pub(crate) fn over(base: &mut Value, patch: &Value) {
    let (Value::Object(base), Value::Object(patch)) = (&mut *base, patch) else {
        *base = patch.clone();
        return;
    };
    for (field, value) in patch {
        match (base.get_mut(field), value) {
            (Some(Value::Array(old)), Value::Array(new)) if key_of(field).is_some() => {
                let key = key_of(field).unwrap_or_default();
                for item in new {
                    match old.iter_mut().find(|o| o[key] == item[key] && !item[key].is_null()) {
                        // A volume is of one kind; another one replaces it.
                        Some(found) if field == "volumes" => *found = item.clone(),
                        Some(found) => over(found, item),
                        None => old.push(item.clone()),
                    }
                }
            }
            (Some(old @ Value::Object(_)), Value::Object(_)) => over(old, value),
            _ => {
                base.insert(field.clone(), value.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn named_things_are_merged_and_plain_lists_replaced() {
        let mut base = json!({"containers": [{"name": "a", "args": ["x"], "env": [{"name": "K", "value": "1"}]}]});
        over(
            &mut base,
            &json!({"containers": [{"name": "a", "args": ["y"], "env": [{"name": "L", "value": "2"}]}, {"name": "b"}]}),
        );
        let wanted = json!({"containers": [
            {"name": "a", "args": ["y"], "env": [{"name": "K", "value": "1"}, {"name": "L", "value": "2"}]}, {"name": "b"},
        ]});
        assert_eq!(base, wanted);
    }
}
