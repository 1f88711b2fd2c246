package example;

import com.google.protobuf.Any;
import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.Status;
import com.runlog.v1.*;
import io.grpc.ManagedChannel;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.StreamObserver;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;

/** Sends a run, follows it, and shows why a call is refused: SERVER RUN_ID. */
public final class Client {
  // snippet: connect
  static ManagedChannel connect(String server) {
    return NettyChannelBuilder.forTarget(server)
        .usePlaintext()
        // grpc-java does not ping more often than every 10 s.
        .keepAliveTime(10, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .keepAliveWithoutCalls(true)
        .maxInboundMessageSize(20 << 20)
        .build();
  }

  // snippet end

  // snippet: detail
  /** Tells why the server refused a call; null where the server did not say. */
  static ErrorDetail detailOf(Throwable error) throws InvalidProtocolBufferException {
    Status status = StatusProto.fromThrowable(error);
    if (status == null) return null;
    for (Any packed : status.getDetailsList()) {
      if (packed.is(ErrorDetail.class)) return packed.unpack(ErrorDetail.class);
    }
    return null;
  }

  // snippet end

  static void send(ManagedChannel channel, String runId) throws Exception {
    CompletableFuture<Void> ended = new CompletableFuture<>();
    StreamObserver<IngestRequest>[] requests = new StreamObserver[1];
    StreamObserver<IngestResponse> answers =
        new StreamObserver<>() {
          @Override
          public void onNext(IngestResponse answer) {
            switch (answer.getFrameCase()) {
              case OPENED -> {
                long last = answer.getOpened().getLastRunSeq();
                System.out.println("opened " + last);
                Append.Builder append =
                    Append.newBuilder()
                        .setRunId(runId)
                        .setFirstRunSeq(last + 1)
                        .addEvents(event("plan.made", "{\"steps\":2}"))
                        .addEvents(event("step.done", "{\"step\":1}"));
                requests[0].onNext(IngestRequest.newBuilder().setAppend(append).build());
              }
              case ACK -> {
                long last = answer.getAck().getRunSeq();
                System.out.println("acked " + last);
                FinishRun.Builder finish =
                    FinishRun.newBuilder()
                        .setRunId(runId)
                        .setLastRunSeq(last)
                        .setResult(RunResult.newBuilder().setState(RunState.RUN_STATE_SUCCEEDED));
                requests[0].onNext(IngestRequest.newBuilder().setFinish(finish).build());
              }
              case ENDED -> {
                System.out.println("ended " + answer.getEnded().getRun().getState());
                requests[0].onCompleted();
              }
              case REJECTED ->
                  ended.completeExceptionally(
                      new IllegalStateException(answer.getRejected().getMessage()));
              default -> {}
            }
          }

          @Override
          public void onError(Throwable error) {
            ended.completeExceptionally(error);
          }

          @Override
          public void onCompleted() {
            ended.complete(null);
          }
        };
    requests[0] = IngestServiceGrpc.newStub(channel).ingest(answers);
    OpenRun.Builder open =
        OpenRun.newBuilder()
            .setRunId(runId)
            .setCreate(RunSpec.newBuilder().setAgentId("agent"))
            .setProducerId(runId)
            .setAttempt(1);
    requests[0].onNext(IngestRequest.newBuilder().setOpen(open).build());
    ended.get(30, TimeUnit.SECONDS);
  }

  static Event event(String type, String data) {
    return Event.newBuilder().setType(type).setData(ByteString.copyFromUtf8(data)).build();
  }

  static void subscribe(ManagedChannel channel, List<String> runIds) {
    SubscribeRequest request =
        SubscribeRequest.newBuilder()
            .setFilter(
                EventFilter.newBuilder().setRunIds(RunIdsScope.newBuilder().addAllRunIds(runIds)))
            .setStop(StopPolicy.STOP_POLICY_FINISHED)
            .build();
    SubscribeServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(30, TimeUnit.SECONDS)
        .subscribe(request)
        .forEachRemaining(
            answer -> {
              for (SequencedEvent record : answer.getEvents().getEventsList()) {
                switch (record.getRecordCase()) {
                  case RUN_STARTED ->
                      System.out.println("started " + record.getRunStarted().getSpec().getAgentId());
                  case EVENT ->
                      System.out.println(
                          "event "
                              + record.getEvent().getType()
                              + " "
                              + record.getEvent().getData().toStringUtf8());
                  case RUN_FINISHED ->
                      System.out.println(
                          "finished " + record.getRunFinished().getResult().getState());
                  default -> {}
                }
              }
            });
  }

  public static void main(String[] arguments) throws Exception {
    ManagedChannel channel = connect(arguments[0]);
    try {
      send(channel, arguments[1]);
      subscribe(channel, List.of(arguments[1]));
      subscribe(channel, Collections.nCopies(101, ""));
    } catch (StatusRuntimeException error) {
      if (error.getStatus().getCode() != Code.INVALID_ARGUMENT) throw error;
      ErrorDetail detail = detailOf(error);
      System.out.println("refused " + detail.getReason() + " " + detail.getLimit());
    } finally {
      channel.shutdownNow();
    }
  }
}
