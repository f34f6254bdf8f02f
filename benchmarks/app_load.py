"""Answers and memory of the page under load: many visitors, and regions that are cancelled.

    python benchmarks/app_load.py [--visitors 30] [--seconds 60] [--regions 5] [--model MODEL]

Starts the page on this machine as a process of its own. Each visitor uploads a synthetic patch and
has it read, again and again; half of them upload the same file. One more drops a region of 49
megapixels and takes it away again before it is read. The time to an answer is measured with and
without the regions, and the memory of the server at the start, at most, and after all have left.
Visitors and server share the machine's cores.
"""

import argparse
import concurrent.futures
import contextlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
import uuid

import httpx
import numpy as np
import psutil
from PIL import Image

from pcam_tf import synthetic

_IDLE_SECONDS = 45
_REGION_PX = 7000


def main() -> None:
    """Print percentiles of the time to an answer, and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60, help="of each of the two parts")
    parser.add_argument("--regions", type=int, default=5, help="that are cancelled")
    parser.add_argument("--model", help="a .keras file or a run's folder; default: the shipped one")
    arguments = parser.parse_args()
    patches = synthetic.draw_patches(arguments.visitors, split="test").image
    files = [_png(patches[number // 2 * 2 % len(patches)]) for number in range(len(patches))]
    region = _png(np.tile(patches[0], (_REGION_PX // 96, _REGION_PX // 96, 1)))
    with _served(arguments.model) as (address, server):
        with Visitor(address) as first:
            first.read(files[0])
        memory = [_gibibytes(server)]
        most, stop = [0.0], threading.Event()
        watch = threading.Thread(target=_watch, args=(server, most, stop))
        watch.start()
        for with_regions in (False, True):
            took, failed = _load(address, files, arguments, region if with_regions else None)
            _print(took, failed, arguments.visitors, with_regions)
        stop.set()
        watch.join()
        time.sleep(_IDLE_SECONDS)
        memory.append(_gibibytes(server))
        print(
            f"memory of the server: {memory[0]:.2f} GiB at the start, at most {most[0]:.2f} GiB, "
            f"{memory[1]:.2f} GiB when all had left"
        )


def _load(address, files, arguments, region):
    """Return the seconds that answers took, and how many failed."""
    end = time.monotonic() + arguments.seconds

    def visit(file):
        took, failed = [], 0
        with Visitor(address) as visitor:
            while time.monotonic() < end:
                begun = time.monotonic()
                try:
                    visitor.read(file)
                    took.append(time.monotonic() - begun)
                except (RuntimeError, httpx.HTTPError) as error:
                    failed += 1
                    print(f"failed: {error}")
        return took, failed

    with concurrent.futures.ThreadPoolExecutor(len(files) + 1) as users:
        if region:
            users.submit(_cancel_regions, address, region, arguments.regions)
        results = list(users.map(visit, files))
    return np.concatenate([took for took, _ in results]), sum(failed for _, failed in results)


def _cancel_regions(address, region, count):
    for _ in range(count):
        with Visitor(address) as visitor, contextlib.suppress(httpx.HTTPError, RuntimeError):
            visitor.read(region, patience_s=5)


def _print(took, failed, visitors, with_regions):
    middle, most, worst = np.percentile(took, [50, 95, 100])
    print(
        f"{visitors} visitors{', regions' if with_regions else ''}: {len(took)} answers, {failed} "
        f"failed; seconds to an answer: median {middle:.2f}, 95 % below {most:.2f}, worst "
        f"{worst:.2f}",
        flush=True,
    )


class Visitor:
    """An open tab of the page, as a browser speaks with the server."""

    def __init__(self, address):
        self.session = uuid.uuid4().hex
        self.http = httpx.Client(base_url=f"{address}gradio_api/", timeout=120)
        dependencies = httpx.get(f"{address}config").json()["dependencies"]
        self.reads = next(each["id"] for each in dependencies if each["api_name"] == "read_files")
        self.tab = None

    def __enter__(self):
        # The tab's sign of life; when it ends, the visitor has left.
        self.tab = self.http.stream("GET", f"heartbeat/{self.session}")
        self.tab.__enter__()
        return self

    def __exit__(self, *error):
        self.tab.__exit__(None, None, None)
        self.http.close()

    def read(self, content, patience_s=120):
        """Upload a picture and wait for the answer."""
        name = {"files": ("picture.png", content)}
        path = self.http.post("upload", files=name).raise_for_status().json()[0]
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        job = {
            "data": [[file], "Balanced"],
            "fn_index": self.reads,
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": None,
        }
        event = self.http.post("queue/join", json=job).raise_for_status().json()["event_id"]
        way = {"session_hash": self.session}
        with self.http.stream("GET", "queue/data", params=way, timeout=patience_s) as answer:
            begun = time.monotonic()
            for line in answer.iter_lines():
                if time.monotonic() - begun > patience_s:
                    raise RuntimeError("the visitor left")
                said = json.loads(line[6:]) if line.startswith("data: ") else {}
                if said.get("msg") == "process_completed" and said["event_id"] == event:
                    if not said["success"]:
                        raise RuntimeError(said["output"])
                    return
        raise RuntimeError("no answer")


@contextlib.contextmanager
def _served(model):
    """Yield the address of a served page and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "pcam_tf", "app", "--port", port]
    command += ["--model", model] if model else []
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stderr:
                if "the page is at" in line:
                    break
            else:
                raise RuntimeError("the page did not start")
            yield f"http://127.0.0.1:{port}/", psutil.Process(process.pid)
        finally:
            process.terminate()


def _watch(server, most, stop):
    while not stop.wait(0.2):
        most[0] = max(most[0], _gibibytes(server))


def _gibibytes(server):
    """Return what a process and its children hold of memory."""
    processes = [server, *server.children(recursive=True)]
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**30


def _png(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG", compress_level=1)
    return content.getvalue()


if __name__ == "__main__":
    main()
