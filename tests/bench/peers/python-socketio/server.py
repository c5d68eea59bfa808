"""python-socketio with its RedisManager on uvicorn. Addresses as for Bun's server."""

import os
from urllib.parse import parse_qs

import socketio
import uvicorn

manager = socketio.AsyncRedisManager(f"redis://127.0.0.1:{os.environ['REDIS_PORT']}")
server = socketio.AsyncServer(async_mode="asgi", client_manager=manager)


@server.event
async def connect(sid, environ):
    user = parse_qs(environ["QUERY_STRING"]).get("user", [""])[0]
    await server.enter_room(sid, f"user:{user}")
    await server.enter_room(sid, "group:staff")


if __name__ == "__main__":
    uvicorn.run(socketio.ASGIApp(server), host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
