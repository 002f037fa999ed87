"""asyncpg, which speaks PostgreSQL's protocol by itself."""

import asyncio

import asyncpg

from arrival import begin, end


async def main():
    host, port, _ = begin()
    connection = await asyncpg.connect(host=host, port=port, user="app", database="postgres")
    address = await connection.fetchval("select host(inet_server_addr())")
    await connection.close()
    end(address)


asyncio.run(main())
