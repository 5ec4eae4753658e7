"""A handler for tests with everything as gRPC has it by default: it tells the size of each body and the attempt, and acks."""

import itertools, os, queue, signal, sys, grpc
from sidebus.v1 import sidebus_pb2 as pb, sidebus_pb2_grpc as rpc

out = queue.SimpleQueue()
signal.signal(signal.SIGTERM, lambda *_: out.put(pb.SubscribeRequest(leave=True)))
with grpc.insecure_channel(os.environ["SIDEBUS_ENDPOINT"]) as channel:
    opening = pb.SubscribeRequest(open={"subscription": sys.argv[1], "handler": "measuring"})
    for frame in rpc.ConsumerServiceStub(channel).Subscribe(itertools.chain([opening], iter(out.get, None))):
        for delivery in frame.deliveries:
            print(len(delivery.message.body), delivery.attempt, flush=True)
            out.put(pb.SubscribeRequest(settlements=[pb.Settlement(delivery_ids=[delivery.id], ack=pb.Ack())]))
os._exit(0)
