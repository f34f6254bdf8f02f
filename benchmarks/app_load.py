"""Time to answer of the page's endpoint with many users at once.

    python benchmarks/app_load.py [--users 20] [--requests 10] [--seconds 120]

Starts the page with the shipped model on this machine and sends it synthetic patches. Each user
sends one after the other. It stops at the number of requests or of seconds, whichever comes first.
Users and server share the machine's cores.
"""

import argparse
import concurrent.futures
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from gradio_client import Client, handle_file
from PIL import Image

from pcam_tf import synthetic
from pcam_tf.app import findings, page, serve


def main() -> None:
    """Print percentiles of the time from request to answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--requests", type=int, default=10, help="of each user, at most")
    parser.add_argument(
        "--seconds", type=float, default=120, help="after which no new requests are sent"
    )
    parser.add_argument("--model", help="a .keras file or a run's folder; default: the shipped one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, patch in enumerate(synthetic.draw_patches(arguments.users, split="test").image):
            files.append(Path(folder) / f"{number}.png")
            Image.fromarray(patch).save(files[-1])
        built = page.build(findings.load_reader(arguments.model))
        address = serve.serve(built, wait=False)
        end = time.monotonic() + arguments.seconds

        def use(file):
            """Return the seconds that each answer took and how many requests were refused."""
            client = Client(address, verbose=False)
            took, refused = [], 0
            for _ in range(arguments.requests):
                if time.monotonic() > end:
                    break
                begun = time.monotonic()
                try:
                    client.predict(picture=handle_file(file), api_name="/predict")
                    took.append(time.monotonic() - begun)
                except Exception as error:  # a full queue, or a failure: both count
                    refused += 1
                    print(f"refused: {error}")
            return took, refused

        begun = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(arguments.users) as users:
            results = list(users.map(use, files))
        seconds = time.monotonic() - begun
        took = np.concatenate([times for times, _ in results])
        middle, most, worst = np.percentile(took, [50, 95, 100])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{arguments.users} users, {len(took)} answers in {seconds:.0f} s "
            f"({len(took) / seconds:.1f} a second), {sum(each for _, each in results)} refused; "
            f"seconds to an answer: median {middle:.2f}, 95 % below {most:.2f}, worst {worst:.2f}; "
            f"at most {memory:.1f} GiB of memory"
        )
        built.close()


if __name__ == "__main__":
    main()
