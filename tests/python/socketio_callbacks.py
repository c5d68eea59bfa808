"""A python-socketio server that waits for an acknowledgement; run by python-socketio's own Python.

The argument is the URL of Redis. Prints the fields of the event that is to be acknowledged, then the arguments.
"""

import json
import sys
import threading

import socketio

arrived = threading.Event()


def on_answer(*arguments):
    print(json.dumps(arguments), flush=True)
    arrived.set()


manager = socketio.RedisManager(sys.argv[1])
socketio.Server(client_manager=manager, async_mode="threading")
manager.initialize()
number = manager._generate_ack_id("sid", on_answer)
print(json.dumps({"node": manager.host_id, "sid": "sid", "namespace": "/", "id": number}), flush=True)
sys.exit(0 if arrived.wait(30) else 1)
