use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::config::ClusterConfig;
use crate::registry::Registry;

/// A server that counts questions; its answers hold `ttl` seconds.
pub(crate) async fn server(ttl: u32) -> (Arc<AtomicU32>, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = socket.local_addr().unwrap();
    let count = Arc::new(AtomicU32::new(0));
    let asked = count.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let number = asked.fetch_add(1, Relaxed) + 1;
            let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
            reply.add_queries(query.queries.clone());
            let question = &query.queries[0];
            if question.name().to_ascii() == "gone.example." {
                reply.metadata.response_code = ResponseCode::ServFail;
            } else if question.query_type() == RecordType::A {
                let ip = Ipv4Addr::new(192, 0, 2, u8::try_from(number).unwrap());
                reply.add_answer(Record::from_rdata(question.name().clone(), ttl, RData::A(ip.into())));
            }
            socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (count, at)
}

fn cluster(registry: &Registry, host: &str) -> Arc<Cluster> {
    let target = DnsTarget::new(host, 443);
    registry.apply(ClusterConfig::new(host, Discovery::Dns(vec![target])));
    registry.slot(host).load().unwrap()
}

fn addresses(of: &Cluster) -> Vec<String> {
    of.hosts().iter().map(|h| h.address.to_string()).collect()
}

#[tokio::test]
async fn nothing_is_asked_before_somebody_calls_and_while_an_answer_holds() {
    let (asked, at) = server(300).await;
    let (registry, resolver) = (Registry::default(), Resolver::at(vec![at]));
    let bank = cluster(&registry, "api.bank.example");
    for _ in 0..3 {
        refresh(&bank, &resolver).await;
    }
    assert_eq!(asked.load(Relaxed), 0, "nobody has called");
    let callers = futures_join(&bank, &resolver).await;
    assert_eq!((callers, asked.load(Relaxed)), (3, 1), "callers at the same time ask once");
    assert_eq!(addresses(&bank), ["192.0.2.1:443"]);
    for _ in 0..3 {
        ready(&bank, &resolver).await;
        refresh(&bank, &resolver).await;
    }
    assert_eq!(asked.load(Relaxed), 1, "the answer holds 300 s");
}

async fn futures_join(cluster: &Cluster, resolver: &Resolver) -> usize {
    tokio::join!(ready(cluster, resolver), ready(cluster, resolver), ready(cluster, resolver));
    3
}

#[tokio::test]
async fn an_answer_that_ran_out_is_asked_again_only_for_who_calls() {
    let (asked, at) = server(1).await;
    let (registry, resolver) = (Registry::default(), Resolver::at(vec![at]));
    let bank = cluster(&registry, "api.bank.example");
    ready(&bank, &resolver).await;
    let over = bank.fresh_until.load(Relaxed);
    while host::now() < over {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    refresh(&bank, &resolver).await;
    assert_eq!(asked.load(Relaxed), 1, "nobody has called since");
    ready(&bank, &resolver).await;
    assert_eq!(addresses(&bank), ["192.0.2.1:443"], "the old answer serves while the new one is fetched");
    refresh(&bank, &resolver).await;
    assert_eq!(addresses(&bank), ["192.0.2.2:443"]);
}

#[tokio::test]
async fn a_server_that_fails_takes_nothing_away() {
    let (_, at) = server(300).await;
    let registry = Registry::default();
    let gone = cluster(&registry, "gone.example");
    ready(&gone, &Resolver::at(vec![at])).await;
    assert!(gone.is_empty(), "there never was an address");
    let bank = cluster(&registry, "api.bank.example");
    ready(&bank, &Resolver::at(vec![at])).await;
    let before = addresses(&bank);
    assert_eq!(before.len(), 1);
    bank.fresh_until.store(0, Relaxed);
    bank.called.store(true, Relaxed);
    // Nobody listens there any more.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    refresh(&bank, &Resolver::at(vec![silent])).await;
    assert_eq!(addresses(&bank), before);
}
