"""Drives python-socketio; see ../README.md for the protocol."""

import asyncio
import json
import sys

import socketio

sockets = {}
running = set()


def report(c, on, **rest):
    sys.stdout.write(json.dumps({"c": c, "on": on, **rest}) + "\n")
    sys.stdout.flush()


async def connect(c, url, transports):
    socket = socketio.AsyncClient(reconnection=False, ssl_verify=False)
    sockets[c] = socket

    async def disconnected(reason=None):
        report(c, "disconnected", reason=str(reason))

    async def event(name, *args):
        report(c, "event", name=name, args=args)

    socket.on("disconnect", disconnected)
    socket.on("*", event)
    try:
        await socket.connect(url, transports=transports, wait_timeout=20)
    except socketio.exceptions.ConnectionError as error:
        report(c, "error", message=str(error))
        return
    report(c, "connected")
    # The upgrade is over, one way or the other, when connect returns.
    if len(transports) > 1 and socket.transport() == "websocket":
        report(c, "upgraded")


async def emit(c, event, args, ack=None):
    callback = None
    if ack is not None:

        async def callback(*given):
            report(c, "ack", ack=ack, args=given)

    try:
        await sockets[c].emit(event, tuple(args), callback=callback)
    except socketio.exceptions.BadNamespaceError:
        pass  # emitted after the end, which is reported by itself


async def disconnect(c):
    await sockets[c].disconnect()


async def serve(c, queue):
    """Runs the commands of one connection in their order."""
    commands = {"connect": connect, "emit": emit, "disconnect": disconnect}
    while True:
        command = await queue.get()
        await commands[command.pop("do")](**command)


async def main():
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader(limit=16 * 1024 * 1024)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    report(0, "ready")
    queues = {}
    while line := await stdin.readline():
        command = json.loads(line)
        c = command["c"]
        if c not in queues:
            queues[c] = asyncio.Queue()
            task = asyncio.create_task(serve(c, queues[c]))
            running.add(task)
        queues[c].put_nowait(command)


asyncio.run(main())
