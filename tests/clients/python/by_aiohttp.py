"""aiohttp, which asks either the C library ("threads") or c-ares ("c-ares") for addresses."""

import asyncio
import sys

import aiohttp

from arrival import begin, end


async def main():
    _, _, authority = begin()
    threads = sys.argv[3] == "threads"
    resolver = aiohttp.ThreadedResolver() if threads else aiohttp.AsyncResolver()
    connector = aiohttp.TCPConnector(resolver=resolver)
    async with aiohttp.ClientSession(connector=connector) as session:
        async with session.get(f"http://{authority}/") as answer:
            answer.raise_for_status()
            text = await answer.text()
    end(text)


asyncio.run(main())
