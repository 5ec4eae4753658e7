"""A handler for tests. The first word of a body says what becomes of it: `kill` takes the process down, `raise` ends it
as any exception does, `reject` is given up,
`retry` fails every time, anything else is done. It tells what it is handed, and works on whole frames."""

import itertools, os, queue, signal, sys, grpc
from sidebus.v1 import sidebus_pb2 as pb, sidebus_pb2_grpc as rpc

subscription, hold = sys.argv[1], int(sys.argv[2])
out, held = queue.SimpleQueue(), []


def settle(delivery):
    ids, kind = [delivery.id], delivery.message.body.decode().split()[0]
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise RuntimeError("as bugs do")
    if kind == "reject":
        return pb.Settlement(delivery_ids=ids, dead_letter=pb.DeadLetter(reason="BAD", description="never"))
    if kind == "retry":
        return pb.Settlement(delivery_ids=ids, retry=pb.Retry(reason="BUSY", description="later"))
    return pb.Settlement(delivery_ids=ids, ack=pb.Ack())


signal.signal(signal.SIGTERM, lambda *_: out.put(pb.SubscribeRequest(leave=True)))
with grpc.insecure_channel(os.environ["SIDEBUS_ENDPOINT"]) as channel:
    opening = pb.SubscribeRequest(open={"subscription": subscription, "handler": "mortal"})
    for frame in rpc.ConsumerServiceStub(channel).Subscribe(itertools.chain([opening], iter(out.get, None))):
        for delivery in frame.deliveries:
            print(delivery.message.body.decode(), delivery.attempt, flush=True)
        held += frame.deliveries
        if len(held) >= hold:
            hold = 0
            out.put(pb.SubscribeRequest(settlements=[settle(delivery) for delivery in held]))
            held = []
os._exit(0)
