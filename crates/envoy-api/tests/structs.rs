//! Structs are read and written without descriptors just as with them.

use envoy_api::{Struct, message_from_json, message_to_json, release_descriptors, struct_from_json, struct_to_json};
use serde_json::json;

#[test]
fn the_short_way_and_the_long_way_agree() {
    let json = json!({
        "NAME": "pod-1", "LABELS": {"app": "shop", "empty": {}}, "PORTS": [8080, -1, 0.5, 1e300], "ON": true, "NONE": null,
        "NESTED": [[], [{"a": [1, "b"]}]],
    });
    let short = struct_from_json(json.clone()).unwrap();
    let long: Struct = message_from_json(json).unwrap();
    assert_eq!(short, long);
    // The long way prints whole numbers as doubles.
    let printed: serde_json::Value = message_to_json(&long).unwrap();
    assert_eq!(struct_from_json(printed).unwrap(), struct_from_json(struct_to_json(&short)).unwrap());
    assert_eq!(struct_to_json(&short)["PORTS"], json!([8080, -1, 0.5, 1e300]));
    release_descriptors();
    assert_eq!(message_to_json(&long).unwrap()["NAME"], "pod-1");
}

#[test]
fn only_an_object_is_a_struct() {
    assert_eq!(struct_from_json(json!([1])), None);
}
