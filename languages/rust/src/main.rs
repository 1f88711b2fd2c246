//! Sends a run, follows it, and shows why a call is refused: SERVER RUN_ID.
use std::{error::Error, time::Duration};

use prost::Message;
use runlog::event_filter::Scope;
use runlog::ingest_request::Frame as Request;
use runlog::ingest_response::Frame as Answer;
use runlog::ingest_service_client::IngestServiceClient;
use runlog::sequenced_event::Record;
use runlog::subscribe_response::Frame;
use runlog::subscribe_service_client::SubscribeServiceClient;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

mod runlog {
    tonic::include_proto!("runlog.v1");
}

// snippet: connect
async fn connect(server: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(format!("http://{server}"))?
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect()
        .await
}

fn subscriber(channel: Channel) -> SubscribeServiceClient<Channel> {
    SubscribeServiceClient::new(channel).max_decoding_message_size(20 << 20)
}
// snippet end

// snippet: detail
/// `google.rpc.Status`, of which only the details are read.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// Tells why the server refused a call; `None` where the server did not say.
fn detail_of(status: &Status) -> Option<runlog::ErrorDetail> {
    let status = RpcStatus::decode(status.details()).ok()?;
    let packed = status.details.iter().find(|any| any.type_url.ends_with("/runlog.v1.ErrorDetail"))?;
    runlog::ErrorDetail::decode(&*packed.value).ok()
}
// snippet end

async fn send(channel: Channel, run_id: &str) -> Result<(), Box<dyn Error>> {
    let (sender, requests) = tokio::sync::mpsc::channel(16);
    let send = async |frame| sender.send(runlog::IngestRequest { frame: Some(frame) }).await;
    send(Request::Open(runlog::OpenRun {
        run_id: run_id.into(),
        create: Some(runlog::RunSpec { agent_id: "agent".into(), ..Default::default() }),
        producer_id: run_id.into(),
        attempt: 1,
        ..Default::default()
    }))
    .await?;
    let requests = ReceiverStream::new(requests);
    let mut answers = IngestServiceClient::new(channel).ingest(requests).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        match answer.frame {
            Some(Answer::Opened(opened)) => {
                println!("opened {}", opened.last_run_seq);
                let event = |kind: &str, data: &str| runlog::Event {
                    r#type: kind.into(),
                    data: data.into(),
                    ..Default::default()
                };
                send(Request::Append(runlog::Append {
                    run_id: run_id.into(),
                    first_run_seq: opened.last_run_seq + 1,
                    events: vec![
                        event("plan.made", r#"{"steps":2}"#),
                        event("step.done", r#"{"step":1}"#),
                    ],
                    ..Default::default()
                }))
                .await?;
            }
            Some(Answer::Ack(ack)) => {
                println!("acked {}", ack.run_seq);
                send(Request::Finish(runlog::FinishRun {
                    run_id: run_id.into(),
                    last_run_seq: ack.run_seq,
                    result: Some(runlog::RunResult {
                        state: runlog::RunState::Succeeded.into(),
                        ..Default::default()
                    }),
                    ..Default::default()
                }))
                .await?;
            }
            Some(Answer::Ended(ended)) => {
                println!("ended {}", ended.run.unwrap_or_default().state().as_str_name());
                return Ok(());
            }
            Some(Answer::Rejected(rejected)) => return Err(rejected.message.into()),
            _ => {}
        }
    }
    Err("the stream ended before the run".into())
}

async fn subscribe(channel: Channel, run_ids: Vec<String>) -> Result<(), Status> {
    let request = runlog::SubscribeRequest {
        filter: Some(runlog::EventFilter {
            scope: Some(Scope::RunIds(runlog::RunIdsScope { run_ids, ..Default::default() })),
            ..Default::default()
        }),
        stop: runlog::StopPolicy::Finished.into(),
        ..Default::default()
    };
    let mut answers = subscriber(channel).subscribe(request).await?.into_inner();
    while let Some(answer) = answers.message().await? {
        let Some(Frame::Events(batch)) = answer.frame else { continue };
        for record in batch.events.into_iter().filter_map(|event| event.record) {
            match record {
                Record::RunStarted(started) => {
                    println!("started {}", started.spec.unwrap_or_default().agent_id);
                }
                Record::Event(event) => {
                    println!("event {} {}", event.r#type, String::from_utf8_lossy(&event.data));
                }
                Record::RunFinished(finished) => {
                    let result = finished.result.unwrap_or_default();
                    println!("finished {}", result.state().as_str_name());
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("no server")?;
    let run_id = arguments.next().ok_or("no run id")?;
    let channel = connect(&server).await?;
    send(channel.clone(), &run_id).await?;
    subscribe(channel.clone(), vec![run_id]).await?;
    match subscribe(channel, vec![String::new(); 101]).await {
        Err(status) if status.code() == Code::InvalidArgument => {
            let detail = detail_of(&status).ok_or("no detail")?;
            println!("refused {} {}", detail.reason().as_str_name(), detail.limit);
            Ok(())
        }
        other => Err(format!("101 run ids are not refused: {other:?}").into()),
    }
}
