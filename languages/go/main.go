// Sends a run, follows it, and shows why a call is refused: SERVER RUN_ID.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	runlogv1 "example.com/agent/gen/runlog/v1"
)

// snippet: connect
func connect(server string) (*grpc.ClientConn, error) {
	return grpc.NewClient(server,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// More often than every 10 s grpc-go does not ping.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(20<<20)),
	)
}

// snippet end

// snippet: detail
// detailOf tells why the server refused a call; nil where the server did not say.
func detailOf(err error) *runlogv1.ErrorDetail {
	for _, detail := range status.Convert(err).Details() {
		if detail, ok := detail.(*runlogv1.ErrorDetail); ok {
			return detail
		}
	}
	return nil
}

// snippet end

func send(ctx context.Context, connection *grpc.ClientConn, runID string) error {
	stream, err := runlogv1.NewIngestServiceClient(connection).Ingest(ctx)
	if err != nil {
		return err
	}
	open := &runlogv1.OpenRun{
		RunId: runID, Create: &runlogv1.RunSpec{AgentId: "agent"}, ProducerId: runID, Attempt: 1,
	}
	err = stream.Send(&runlogv1.IngestRequest{Frame: &runlogv1.IngestRequest_Open{Open: open}})
	if err != nil {
		return err
	}
	for {
		answer, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch frame := answer.Frame.(type) {
		case *runlogv1.IngestResponse_Opened:
			fmt.Println("opened", frame.Opened.LastRunSeq)
			append := &runlogv1.Append{RunId: runID, FirstRunSeq: frame.Opened.LastRunSeq + 1, Events: []*runlogv1.Event{
				{Type: "plan.made", Data: []byte(`{"steps":2}`)},
				{Type: "step.done", Data: []byte(`{"step":1}`)},
			}}
			err = stream.Send(&runlogv1.IngestRequest{Frame: &runlogv1.IngestRequest_Append{Append: append}})
		case *runlogv1.IngestResponse_Ack:
			fmt.Println("acked", frame.Ack.RunSeq)
			finish := &runlogv1.FinishRun{
				RunId: runID, LastRunSeq: frame.Ack.RunSeq,
				Result: &runlogv1.RunResult{State: runlogv1.RunState_RUN_STATE_SUCCEEDED},
			}
			err = stream.Send(&runlogv1.IngestRequest{Frame: &runlogv1.IngestRequest_Finish{Finish: finish}})
		case *runlogv1.IngestResponse_Ended:
			fmt.Println("ended", frame.Ended.Run.State)
			err = stream.CloseSend()
		case *runlogv1.IngestResponse_Rejected:
			err = fmt.Errorf("rejected: %v", frame.Rejected.Detail)
		}
		if err != nil {
			return err
		}
	}
}

func subscribe(ctx context.Context, connection *grpc.ClientConn, runIDs []string) error {
	scope := &runlogv1.EventFilter_RunIds{RunIds: &runlogv1.RunIdsScope{RunIds: runIDs}}
	stream, err := runlogv1.NewSubscribeServiceClient(connection).Subscribe(ctx, &runlogv1.SubscribeRequest{
		Filter: &runlogv1.EventFilter{Scope: scope},
		Stop:   runlogv1.StopPolicy_STOP_POLICY_FINISHED,
	})
	for err == nil {
		var answer *runlogv1.SubscribeResponse
		if answer, err = stream.Recv(); err != nil {
			break
		}
		for _, record := range answer.GetEvents().GetEvents() {
			switch record := record.Record.(type) {
			case *runlogv1.SequencedEvent_RunStarted:
				fmt.Println("started", record.RunStarted.Spec.AgentId)
			case *runlogv1.SequencedEvent_Event:
				fmt.Println("event", record.Event.Type, string(record.Event.Data))
			case *runlogv1.SequencedEvent_RunFinished:
				fmt.Println("finished", record.RunFinished.Result.State)
			}
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func main() {
	server, runID := os.Args[1], os.Args[2]
	connection, err := connect(server)
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := send(ctx, connection, runID); err != nil {
		log.Fatal(err)
	}
	if err := subscribe(ctx, connection, []string{runID}); err != nil {
		log.Fatal(err)
	}
	err = subscribe(ctx, connection, make([]string, 101))
	if status.Code(err) != codes.InvalidArgument {
		log.Fatalf("101 run ids are not refused: %v", err)
	}
	fmt.Println("refused", detailOf(err).GetReason(), detailOf(err).GetLimit())
}
