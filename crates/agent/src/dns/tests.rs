use std::net::{Ipv4Addr, SocketAddr};

use envoy_api::istio::networking::nds::v1::{NameTable, name_table::NameInfo};
use hickory_proto::op::Query;

use super::*;

fn names() -> Arc<Names> {
    let names = Names::new("prod", vec!["prod.svc.cluster.local".to_owned(), "cluster.local".to_owned()]);
    let info = |ips: &[&str], short: &str| NameInfo {
        ips: ips.iter().map(|ip| (*ip).to_owned()).collect(),
        shortname: short.to_owned(),
        namespace: if short.is_empty() { String::new() } else { "prod".to_owned() },
        ..NameInfo::default()
    };
    let many: Vec<String> = (0..100).map(|i| format!("10.9.0.{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    names.replace(&NameTable {
        table: [
            ("pay.prod.svc.cluster.local".to_owned(), info(&["10.96.0.5"], "pay")),
            ("api.bank.example".to_owned(), info(&["240.240.0.7"], "")),
            ("*.wild.example".to_owned(), info(&["240.240.0.8", "2001:2::8"], "")),
            ("many.example".to_owned(), info(&many, "")),
        ]
        .into_iter()
        .collect(),
    });
    Arc::new(names)
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// A resolver that knows one name, and the sidecar's DNS in front of it.
async fn served() -> (SocketAddr, SocketAddr) {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let reply = |query: &[u8]| {
        let asked = Message::from_vec(query).unwrap();
        let mut reply = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
        reply.add_queries(asked.queries.clone());
        let name = asked.queries[0].name().clone();
        if name.to_ascii() == "outside.example." {
            reply.add_answer(Record::from_rdata(name, 5, RData::A(Ipv4Addr::new(192, 0, 2, 1).into())));
        } else {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        reply.to_vec().unwrap()
    };
    // Somebody else may have the port for TCP: then another one.
    let (up, up_tcp, at) = loop {
        let up = UdpSocket::bind(local).await.unwrap();
        let at = up.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(at).await {
            break (up, tcp, at);
        }
    };
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = up.recv_from(&mut buffer).await {
            let _ = up.send_to(&reply(&buffer[..length]), from).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = up_tcp.accept().await {
            let query = read_message(&mut stream).await.unwrap();
            write_message(&mut stream, &reply(&query)).await.unwrap();
        }
    });
    let resolvers = Arc::new(Resolvers::at(vec![at]));
    let udp = UdpSocket::bind(local).await.unwrap();
    let tcp = TcpListener::bind(local).await.unwrap();
    let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    tokio::spawn(serve_udp(udp, names(), resolvers.clone()));
    tokio::spawn(serve_tcp(tcp, names(), resolvers));
    addresses
}

async fn ask(at: SocketAddr, query: &[u8]) -> Message {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.send_to(query, at).await.unwrap();
    let mut buffer = [0; 4096];
    let (length, _) = socket.recv_from(&mut buffer).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

fn addresses(of: &Message) -> Vec<String> {
    of.answers.iter().filter(|r| !matches!(r.data, RData::CNAME(_))).map(|r| r.data.to_string()).collect()
}

#[tokio::test]
async fn names_of_the_mesh_are_answered_in_every_form() {
    let (udp, _) = served().await;
    for form in ["pay", "pay.prod", "pay.prod.svc", "pay.prod.svc.cluster.local.", "PAY.prod.svc.cluster.local."] {
        let answer = ask(udp, &question(form, RecordType::A)).await;
        assert_eq!(addresses(&answer), ["10.96.0.5"], "{form}");
    }
    // What a resolver with a search list asks first: the real name is told, so that it need not ask again.
    let answer = ask(udp, &question("api.bank.example.prod.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.answers[0].data.to_string(), "api.bank.example.");
    assert_eq!(addresses(&answer), ["240.240.0.7"]);
    assert_eq!(addresses(&ask(udp, &question("a.b.wild.example.", RecordType::AAAA)).await), ["2001:2::8"]);
}

#[tokio::test]
async fn a_known_name_without_an_address_of_the_family_is_an_empty_answer() {
    let (udp, _) = served().await;
    let answer = ask(udp, &question("pay.prod.svc.cluster.local.", RecordType::AAAA)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
}

#[tokio::test]
async fn the_rest_is_asked_of_the_pods_resolvers_over_udp_and_tcp() {
    let (udp, tcp) = served().await;
    assert_eq!(addresses(&ask(udp, &question("outside.example.", RecordType::A)).await), ["192.0.2.1"]);
    let unknown = ask(udp, &question("nowhere.example.", RecordType::A)).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    // Other records of a name of the mesh are the resolvers' business.
    let text = ask(udp, &question("pay.prod.svc.cluster.local.", RecordType::TXT)).await;
    assert_eq!(text.metadata.response_code, ResponseCode::NXDomain);
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    for (name, expected) in [("outside.example.", "192.0.2.1"), ("pay.prod.", "10.96.0.5")] {
        write_message(&mut stream, &question(name, RecordType::A)).await.unwrap();
        let answer = Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap();
        assert_eq!(addresses(&answer), [expected]);
    }
}

#[tokio::test]
async fn what_does_not_fit_is_cut_over_udp_and_whole_over_tcp() {
    let (udp, tcp) = served().await;
    let short = ask(udp, &question("many.example.", RecordType::A)).await;
    assert!(short.metadata.truncation, "the client asks again over TCP");
    let mut stream = TcpStream::connect(tcp).await.unwrap();
    write_message(&mut stream, &question("many.example.", RecordType::A)).await.unwrap();
    let whole = Message::from_vec(&read_message(&mut stream).await.unwrap()).unwrap();
    assert_eq!(whole.answers.len(), 100);
}

#[tokio::test]
async fn without_a_resolver_the_answer_is_a_failure_and_noise_gets_none() {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let socket = UdpSocket::bind(local).await.unwrap();
    let at = socket.local_addr().unwrap();
    tokio::spawn(serve_udp(socket, names(), Arc::new(Resolvers::default())));
    let noise = UdpSocket::bind(local).await.unwrap();
    for bytes in [&[][..], &[0xff; 12], &[0; 3], &ask(at, &question("pay.", RecordType::A)).await.to_vec().unwrap()] {
        noise.send_to(bytes, at).await.unwrap();
    }
    let answer = ask(at, &question("outside.example.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert!(noise.try_recv_from(&mut [0; 100]).is_err(), "answers are no questions");
}

#[test]
fn resolvers_are_read_as_the_system_reads_them() {
    let text = "# made by a person\nnameserver 10.96.0.10\nsearch a.example b.example ; here\nnameserver bad\noptions ndots:5\n";
    let read = Resolvers::read(text);
    assert_eq!(read.search, ["a.example", "b.example"]);
    assert_eq!(format!("{read:?}").matches("10.96.0.10:53").count(), 1);
}
