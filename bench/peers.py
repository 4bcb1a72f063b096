"""What other servers reach, and what this one must.

Measured on two cores of one virtual machine, the server on one and the load on the other, over
loopback without TLS: one channel, 250-byte messages, 1,000 sockets, medians of several rounds.
Figures of other machines are not comparable; ratios within one run are.
"""

from typing import NamedTuple


class Mark(NamedTuple):
    """A goal, and what peers reach."""

    goal: str
    peers: str


DELIVERIES = Mark(">= 1,000,000", "Node ws 188,000; nginx+nchan 174,000; Socket.IO 148,000")
CPU_PER_DELIVERY = Mark("<= 1.2", "Node ws 5.3; nginx+nchan 5.5; C send() loop 4.5")
SENDS = Mark(">= 5,000", "ejabberd 1,557; Synapse 132")
IDLE = Mark("<= 8", "Node ws 6.1 (bare); nginx+nchan 10.2; Socket.IO 14.6; ejabberd 67.5")
PACED = Mark("<= 4 / 10", "nginx+nchan 3.6 / 10.8; Node ws 4.1 / 12.0")
