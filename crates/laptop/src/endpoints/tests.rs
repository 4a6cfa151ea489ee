use super::*;

fn service(text: &str) -> Service {
    let value: Value = serde_json::from_str(text).expect("JSON");
    Service::parse("production", "payment-api", &value).expect("a service")
}

fn labels(app: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("app".to_owned(), app.to_owned())])
}

#[test]
fn ready_pods_of_the_namespace_stand_behind_the_service() {
    let service = service(r#"{"spec":{"selector":{"app":"payment"},"ports":[{"port":80,"targetPort":"web"}]}}"#);
    let containers: Vec<Container> =
        serde_json::from_str(r#"[{"name":"a","ports":[{"name":"web","containerPort":8080}]}]"#).expect("containers");
    let (payment, other) = (labels("payment"), labels("other"));
    let pod = |labels, last, ready, namespace| Backend {
        namespace,
        labels,
        address: Ipv4Addr::new(10, 244, 0, last),
        ready,
        containers: &containers,
    };
    let pods = [
        pod(&payment, 10, true, "production"),
        pod(&payment, 11, true, "production"),
        pod(&payment, 12, false, "production"),
        pod(&other, 13, true, "production"),
        pod(&payment, 14, true, "elsewhere"),
    ];
    let ip = Ipv4Addr::new(10, 96, 1, 1);
    let served = Served::find(&service, Some(ip), &pods);
    let script = nft_script(std::slice::from_ref(&served));
    assert!(
        script.contains(
            "tcp dport 80 dnat to numgen random mod 2 map { 0 : 10.244.0.10 . 8080, 1 : 10.244.0.11 . 8080 }"
        ),
        "{script}"
    );
    let none = Served::find(&service, Some(ip), &pods[2..]);
    assert!(nft_script(&[none]).contains("ip daddr 10.96.1.1 tcp dport 80 reject"));
}

#[test]
fn names_stand_for_cluster_ips_pods_or_other_names() {
    let ip = Ipv4Addr::new(10, 96, 1, 1);
    let normal = service(r#"{"spec":{"ports":[{"port":80}]}}"#);
    let table = dns_table(&[Served::find(&normal, Some(ip), &[])], ip);
    assert_eq!(table.find("payment-api.production.svc.cluster.local"), Some(&Answer::Addresses(vec![ip])));
    let external = service(r#"{"spec":{"type":"ExternalName","externalName":"bank.example"}}"#);
    let table = dns_table(&[Served::find(&external, None, &[])], ip);
    assert_eq!(
        table.find("PAYMENT-api.production.svc.cluster.local."),
        Some(&Answer::Alias("bank.example".to_owned()))
    );
}
