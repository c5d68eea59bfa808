"""A python-socketio server with two of its clients, `a` and `b`, in one process; run by python-socketio's own Python.

The argument is the URL of Redis. Prints a JSON object per line: `sids` by client and namespace once all are connected,
then what each client hears. Ends when its input does.
"""

import asyncio
import base64
import json
import sys

import socketio
from aiohttp import web

NAMESPACES = ["/", "/chat"]


def say(**fields):
    print(json.dumps(fields), flush=True)


def printable(value):
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value


async def connect(name, address):
    client = socketio.AsyncClient(reconnection=False)

    for namespace in NAMESPACES:

        async def heard(event, *arguments, namespace=namespace):
            say(client=name, event=event, namespace=namespace, args=printable(list(arguments)))

        async def left(reason, namespace=namespace):
            say(client=name, event="disconnect", namespace=namespace, args=[reason])

        client.on("*", heard, namespace=namespace)
        client.on("disconnect", left, namespace=namespace)
    await client.connect(address, namespaces=NAMESPACES, transports=["websocket"], wait_timeout=30)
    return client


async def main():
    manager = socketio.AsyncRedisManager(sys.argv[1])
    server = socketio.AsyncServer(
        async_mode="aiohttp", client_manager=manager, namespaces=NAMESPACES, monitor_clients=False
    )
    application = web.Application()
    server.attach(application)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    clients = {name: await connect(name, f"http://127.0.0.1:{port}") for name in ("a", "b")}
    say(
        sids={
            name: {namespace: client.get_sid(namespace) for namespace in NAMESPACES}
            for name, client in clients.items()
        }
    )
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    for client in clients.values():
        await client.disconnect()
    await runner.cleanup()


asyncio.run(main())
