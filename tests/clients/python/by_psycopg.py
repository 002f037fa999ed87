"""psycopg, which brings a libpq of its own."""

import psycopg

from arrival import begin, end

host, port, _ = begin()
with psycopg.connect(host=host, port=port, user="app", dbname="postgres") as connection:
    (address,) = connection.execute("select host(inet_server_addr())").fetchone()
end(address)
