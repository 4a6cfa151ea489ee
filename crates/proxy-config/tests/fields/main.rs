//! No field is accepted and ignored: every field of every message that a resource may hold is set, one at a time, in
//! resources that compile. Then either the resource is refused, or what it compiles to is another thing, or the field is
//! in the list of those that change no traffic, with the reason.

mod known;
mod samples;
mod walk;

#[test]
fn every_field_is_read_or_refused() {
    let mut found = walk::Found::default();
    samples::all().iter().for_each(|sample| walk::try_all(sample, &mut found));
    assert!(found.tried > 1000, "only {} changes were tried", found.tried);
    let lines = |all: Vec<&String>| all.into_iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    let unknown: Vec<&String> =
        found.silent.iter().filter(|field| !known::all().any(|known| known == *field)).collect();
    assert!(unknown.is_empty(), "{} fields are accepted and ignored:\n{}", unknown.len(), lines(unknown));
    let unseen: Vec<&String> =
        found.blind.difference(&found.walked).filter(|message| !known::REFUSED.contains(&message.as_str())).collect();
    assert!(unseen.is_empty(), "no sample holds these messages, which compile only when complete:\n{}", lines(unseen));
    let stale: Vec<&str> = known::all().filter(|field| !found.silent.contains(*field)).collect();
    assert!(stale.is_empty(), "these are read or refused by now; take them out of the list: {stale:?}");
}
