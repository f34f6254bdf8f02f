"""Run coroutines where a browser of other tests may keep a loop running in this thread."""

import asyncio
import concurrent.futures


def in_own_loop(coroutine):
    """Return the result of a coroutine, run in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
