"""Sends a run, follows it, and shows why a call is refused: SERVER RUN_ID."""

import queue
import sys

import grpc
from grpc_status import rpc_status

from runlog.v1 import error_pb2, event_pb2, ingest_pb2, record_pb2, run_pb2, subscribe_pb2
from runlog.v1 import ingest_pb2_grpc, subscribe_pb2_grpc


# snippet: connect
def connect(server):
    return grpc.insecure_channel(
        server,
        options=[
            ("grpc.keepalive_time_ms", 10_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            ("grpc.keepalive_permit_without_calls", 1),
            # By default it stops pinging after two without data in between.
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.max_receive_message_length", 20 << 20),
        ],
    )


# snippet end


# snippet: detail
def detail_of(error):
    """Tells why the server refused a call; None where the server did not say."""
    status = rpc_status.from_call(error)
    for packed in status.details if status else ():
        detail = error_pb2.ErrorDetail()
        if packed.Unpack(detail):
            return detail
    return None


# snippet end


def send(channel, run_id):
    requests = queue.SimpleQueue()
    spec = run_pb2.RunSpec(agent_id="agent")
    opening = ingest_pb2.OpenRun(run_id=run_id, create=spec, producer_id=run_id, attempt=1)
    requests.put(ingest_pb2.IngestRequest(open=opening))
    answers = ingest_pb2_grpc.IngestServiceStub(channel).Ingest(iter(requests.get, None), timeout=30)
    for answer in answers:
        kind = answer.WhichOneof("frame")
        frame = getattr(answer, kind) if kind else None
        if kind == "opened":
            print("opened", frame.last_run_seq)
            events = [
                event_pb2.Event(type="plan.made", data=b'{"steps":2}'),
                event_pb2.Event(type="step.done", data=b'{"step":1}'),
            ]
            first = frame.last_run_seq + 1
            append = ingest_pb2.Append(run_id=run_id, first_run_seq=first, events=events)
            requests.put(ingest_pb2.IngestRequest(append=append))
        elif kind == "ack":
            print("acked", frame.run_seq)
            result = run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED)
            finish = ingest_pb2.FinishRun(run_id=run_id, last_run_seq=frame.run_seq, result=result)
            requests.put(ingest_pb2.IngestRequest(finish=finish))
        elif kind == "ended":
            print("ended", run_pb2.RunState.Name(frame.run.state))
            requests.put(None)
        elif kind == "rejected":
            raise RuntimeError(f"rejected: {frame.detail}")


def subscribe(channel, run_ids):
    request = subscribe_pb2.SubscribeRequest(
        filter=record_pb2.EventFilter(run_ids=record_pb2.RunIdsScope(run_ids=run_ids)),
        stop=subscribe_pb2.STOP_POLICY_FINISHED,
    )
    answers = subscribe_pb2_grpc.SubscribeServiceStub(channel).Subscribe(request, timeout=30)
    for answer in answers:
        for record in answer.events.events:
            kind = record.WhichOneof("record")
            if kind == "run_started":
                print("started", record.run_started.spec.agent_id)
            elif kind == "event":
                print("event", record.event.type, record.event.data.decode())
            elif kind == "run_finished":
                print("finished", run_pb2.RunState.Name(record.run_finished.result.state))


def main(server, run_id):
    with connect(server) as channel:
        send(channel, run_id)
        subscribe(channel, [run_id])
        try:
            subscribe(channel, [""] * 101)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
            detail = detail_of(error)
            print("refused", error_pb2.Reason.Name(detail.reason), detail.limit)


main(*sys.argv[1:])
