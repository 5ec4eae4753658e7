import itertools, os, queue, signal, sys, time, grpc
from sidebus.v1 import sidebus_pb2 as pb, sidebus_pb2_grpc as rpc

def handle(message):
    print(message.routing_key, message.body.decode(), flush=True)

def settle(delivery):
    try:
        handle(delivery.message)
        return pb.Settlement(delivery_ids=[delivery.id], ack=pb.Ack())
    except ValueError as e:  # no attempt will ever succeed
        return pb.Settlement(delivery_ids=[delivery.id], dead_letter=pb.DeadLetter(reason="INVALID", description=str(e)))
    except Exception as e:  # the next one may
        return pb.Settlement(delivery_ids=[delivery.id], retry=pb.Retry(reason="UNEXPECTED", description=str(e)))

out, stop, local = queue.SimpleQueue(), [], [("grpc.default_authority", "localhost")]  # for unix:/path as well
name, *keys = sys.argv[1:] or ["player-projector", "player.#"]
spec = {"subscription": name, "declare": {"bindings": [{"routing_key": key} for key in keys]} if keys else None}
signal.signal(signal.SIGTERM, lambda *_: (stop.append(True), out.put(pb.SubscribeRequest(leave=True))))
while not stop:
    try:
        with grpc.insecure_channel(os.environ.get("SIDEBUS_ENDPOINT", "127.0.0.1:7672"), local) as channel:
            frames = itertools.chain([pb.SubscribeRequest(open=spec)], iter(out.get, None))
            for frame in rpc.ConsumerServiceStub(channel).Subscribe(frames):
                out.put(pb.SubscribeRequest(settlements=[settle(delivery) for delivery in frame.deliveries]))
    except grpc.RpcError as e:
        print(e.code(), e.details(), file=sys.stderr, flush=True)
    out, _, _ = queue.SimpleQueue(), out.put(None), stop or time.sleep(1)  # the None ends the old sender
