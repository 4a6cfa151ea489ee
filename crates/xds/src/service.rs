//! ADS as a gRPC service. It is tonic's but for the answers, which tonic would encode whole, into a buffer that a stream
//! keeps for as long as it lives.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use envoy_api::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::body::Body;
use tonic::codec::Codec as _;
use tonic::codegen::{Service, http};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::pieces::{self, Form, Outgoing};
use crate::server::{AdsServer, Generator};
use crate::session::Session;

/// Answers waiting for a slow reader; it then holds up only itself.
const QUEUE: usize = 16;

type Refusable<M> = Result<Vec<Outgoing<M>>, Status>;

/// What a stream does with a request, and with a change.
struct Serve<G: Generator, Q, M> {
    form: Form,
    request: fn(&mut Session<G>, Q) -> Refusable<M>,
    changed: fn(&mut Session<G>) -> Vec<Outgoing<M>>,
}

impl<G: Generator> AdsServer<G> {
    fn serve<Q, M>(&self, request: http::Request<Body>, by: Serve<G, Q, M>) -> http::Response<Body>
    where
        Q: Message + Default + 'static,
        M: Message + Default + 'static,
    {
        let (head, body) = request.into_parts();
        let decoder = ProstCodec::<M, Q>::default().decoder();
        let requests = Streaming::new_request(decoder, body, None, None);
        let request = Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, requests);
        let (mut session, mut requests) = Session::new(self, request);
        let (sender, receiver) = mpsc::channel(QUEUE);
        let mut changes = self.changes();
        tokio::spawn(async move {
            loop {
                let answers: Vec<Result<Outgoing<M>, Status>> = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(request)) => match (by.request)(&mut session, request) {
                            Ok(answers) => answers.into_iter().map(Ok).collect(),
                            Err(status) => vec![Err(status)],
                        },
                        _ => return,
                    },
                    changed = changes.changed() => match changed {
                        Ok(()) => (by.changed)(&mut session).into_iter().map(Ok).collect(),
                        Err(_) => return,
                    },
                };
                for answer in answers {
                    let last = answer.is_err();
                    if sender.send(answer).await.is_err() || last {
                        return;
                    }
                }
            }
        });
        let mut response = http::Response::new(pieces::body(receiver, by.form));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }
}

impl<G: Generator> Service<http::Request<Body>> for AdsServer<G> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        ready(Ok(match method {
            "DeltaAggregatedResources" => self.serve(
                request,
                Serve::<G, DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
                    form: Form::Delta,
                    request: Session::delta,
                    changed: Session::changed,
                },
            ),
            "StreamAggregatedResources" => self.serve(
                request,
                Serve::<G, DiscoveryRequest, DiscoveryResponse> {
                    form: Form::World,
                    request: Session::world,
                    changed: Session::changed_world,
                },
            ),
            other => Status::unimplemented(format!("ADS has no method {other}")).into_http(),
        }))
    }
}

impl<G: Generator> NamedService for AdsServer<G> {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}
