use super::*;

fn ask(name: &str, kind: u16) -> Vec<u8> {
    let mut query = vec![0xAB, 0xCD, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend(encode(name).expect("a name"));
    query.extend(kind.to_be_bytes());
    query.extend([0, 1]);
    query
}

fn table() -> Table {
    let mut table = Table::default();
    table.insert("payment.production.svc.cluster.local", Answer::Addresses(vec![Ipv4Addr::new(10, 96, 1, 2)]));
    table.insert("bank.production.svc.cluster.local", Answer::Alias("payment.production.svc.cluster.local".to_owned()));
    let many = (0..30).map(|i| Ipv4Addr::new(10, 244, 0, i)).collect();
    table.insert("headless.production.svc.cluster.local", Answer::Addresses(many));
    table
}

fn counts(answer: &[u8]) -> (u8, u16) {
    (answer[3] & 0x0F, u16::from_be_bytes([answer[6], answer[7]]))
}

#[test]
fn addresses_aliases_and_names_that_are_not() {
    let table = table();
    let answer = respond(&ask("Payment.production.svc.cluster.local", TYPE_A), &table, true).expect("an answer");
    assert_eq!(counts(&answer), (0, 1));
    assert!(answer.ends_with(&[10, 96, 1, 2]));
    let answer = respond(&ask("bank.production.svc.cluster.local", TYPE_A), &table, true).expect("an answer");
    assert_eq!(counts(&answer), (0, 2));
    let missing = respond(&ask("payment.svc.cluster.local", TYPE_A), &table, true).expect("an answer");
    assert_eq!(counts(&missing), (3, 0));
}

#[test]
fn other_types_of_a_known_name_are_empty_not_missing() {
    // A resolver that gets "no such name" for AAAA would not ask for A any more.
    let answer = respond(&ask("payment.production.svc.cluster.local", 28), &table(), true).expect("an answer");
    assert_eq!(counts(&answer), (0, 0));
}

#[test]
fn many_addresses_are_truncated_on_udp_only() {
    let query = ask("headless.production.svc.cluster.local", TYPE_A);
    let udp = respond(&query, &table(), true).expect("an answer");
    assert_eq!((udp[2] & 0x02, counts(&udp).1), (0x02, 14));
    let tcp = respond(&query, &table(), false).expect("an answer");
    assert_eq!((tcp[2] & 0x02, counts(&tcp).1), (0, 30));
}

#[test]
fn garbage_never_panics() {
    let table = table();
    let query = ask("payment.production.svc.cluster.local", TYPE_A);
    for end in 0..query.len() {
        let _ = respond(&query[..end], &table, true);
    }
    for byte in 0..query.len() {
        let mut broken = query.clone();
        broken[byte] = 0xFF;
        let _ = respond(&broken, &table, true);
    }
}
