import os, sys, time, uuid, grpc
from sidebus.v1 import sidebus_pb2 as pb, sidebus_pb2_grpc as rpc

count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
key = sys.argv[2] if len(sys.argv) > 2 else "player.PlayerRegistered"
later = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)

def message(number):  # the id stays with its message through every try, so that duplicates can be seen
    body = b'{"number": %d}' % number
    return pb.Message(routing_key=key, body=body, content_type="application/json", message_id=str(uuid.uuid4()))

def publish(stub, batch, pause=0.2):
    while True:
        try:
            return stub.Publish(pb.PublishRequest(messages=batch), timeout=30)
        except grpc.RpcError as e:
            if e.code() not in later:
                sys.exit(f"{e.code()} {e.details()}")
            print(e.code(), e.details(), file=sys.stderr, flush=True)
            time.sleep(pause)
            pause = min(pause * 2, 5)

endpoint = os.environ.get("SIDEBUS_ENDPOINT", "127.0.0.1:7672")
options = [("grpc.max_reconnect_backoff_ms", 2000), ("grpc.default_authority", "localhost")]  # for unix:/path as well
with grpc.insecure_channel(endpoint, options) as channel:
    for start in range(0, count, 500):
        publish(rpc.PublisherServiceStub(channel), [message(n) for n in range(start, min(start + 500, count))])
print(f"{count} published and confirmed")
