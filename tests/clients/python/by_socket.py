"""socket.create_connection: one address after the other."""

import socket

from arrival import begin, end

host, port, _ = begin()
with socket.create_connection((host, port)) as connection:
    connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = connection.makefile("rb").read()
end(answer.split(b"\r\n\r\n")[1].decode())
