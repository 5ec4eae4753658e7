"""Consumes so many messages and says how long that took: consume.py pika|aio-pika|sidebus ADDRESS QUEUE COUNT PREFETCH"""
import asyncio, itertools, json, queue, sys, time

side, address, name, count, prefetch = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
done, began = 0, None


def handle(body):
    """The work itself; true with the last message."""
    global done, began
    began = began or (time.perf_counter(), time.process_time())
    done += 1
    return done == count


def with_pika():
    import pika

    channel = pika.BlockingConnection(pika.URLParameters(address)).channel()
    channel.basic_qos(prefetch_count=prefetch)
    for method, _, body in channel.consume(name):
        is_last = handle(body)
        channel.basic_ack(method.delivery_tag)
        if is_last:
            channel.connection.process_data_events()  # writes what is written
            return


async def with_aio_pika():
    import aio_pika

    connection = await aio_pika.connect(address)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch)
    async with (await channel.get_queue(name)).iterator() as messages:
        async for message in messages:
            is_last = handle(message.body)
            await message.ack()
            if is_last:
                return


def with_sidebus():
    import grpc
    from sidebus.v1 import sidebus_pb2 as pb, sidebus_pb2_grpc as rpc

    out, flow = queue.SimpleQueue(), pb.FlowControl(max_in_flight_messages=prefetch)
    first = pb.SubscribeRequest(open=pb.SubscribeOpen(subscription="work", flow=flow))
    with grpc.insecure_channel(address, [("grpc.default_authority", "localhost")]) as channel:
        for frame in rpc.ConsumerServiceStub(channel).Subscribe(itertools.chain([first], iter(out.get, None))):
            is_last = any([handle(delivery.message.body) for delivery in frame.deliveries])
            ids = [delivery.id for delivery in frame.deliveries]
            if ids:
                settlement = pb.Settlement(delivery_ids=ids, ack=pb.Ack())
                out.put(pb.SubscribeRequest(settlements=[settlement], leave=is_last))
            assert not frame.results and not frame.revocations, "an ack did not count"
    out.put(None)  # ends its sender


if side == "pika":
    with_pika()
elif side == "aio-pika":
    asyncio.run(with_aio_pika())
else:
    with_sidebus()
assert done == count, done
now = (time.perf_counter(), time.process_time())
print(json.dumps({"seconds": now[0] - began[0], "cpu_seconds": now[1] - began[1]}))
