"""What the Python clients share: where they go, and the line in which they say where they arrived and in how long."""

import sys
import time

_start = 0.0


def begin():
    """The name or address, the port, and what an URL calls the two. The clock starts."""
    global _start
    host, port = sys.argv[1], int(sys.argv[2])
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _start = time.monotonic()
    return host, port, authority


def end(said):
    """The server says at which of its addresses it was reached."""
    print(said.strip(), (time.monotonic() - _start) * 1e3)
