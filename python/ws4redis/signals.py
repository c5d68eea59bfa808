"""Django signals that `manage.py ws4redis_worker` sends: one per type of event.

Receivers get the keyword argument `event`, a `ws4redis.events.Event`; the sender is that class. A receiver that raises
is retried like a handler, but its return value acknowledges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from django.dispatch import Signal

from ws4redis import events

client_connected = Signal()
client_disconnected = Signal()
# The identity of an open connection changed, for example by a login.
user_changed = Signal()
user_online = Signal()
user_offline = Signal()
message_received = Signal()
# Events of Socket.IO clients.
event_received = Signal()
# A gateway process started or stopped.
node_changed = Signal()

BY_TYPE: Final[Mapping[str, Signal]] = {
    events.CONNECT: client_connected,
    events.DISCONNECT: client_disconnected,
    events.USER: user_changed,
    events.ONLINE: user_online,
    events.OFFLINE: user_offline,
    events.MESSAGE: message_received,
    events.CLIENT_EVENT: event_received,
    events.NODE: node_changed,
}
