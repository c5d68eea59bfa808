"""Emits with an installed python-socketio, and writes the acknowledgement as JSON.

    python old_publisher.py REDIS_URL SID
"""

import json
import os
import queue
import sys

import socketio

url, sid = sys.argv[1:]
server = socketio.Server(client_manager=socketio.RedisManager(url), async_mode="threading")
# A web server would do this with its first client.
server.manager.initialize()
answers = queue.Queue()
server.emit("news", {"text": "ż€🎉", "none": None}, room=sid)
# 5.15.0 cannot encode bytes within a tuple.
server.emit("news", b"\x00\xff", room=sid)
server.emit("question", 21, room=sid, callback=lambda *values: answers.put(values))
print(json.dumps(answers.get(timeout=15)), flush=True)
# In old releases the thread that listens keeps the process alive.
os._exit(0)
