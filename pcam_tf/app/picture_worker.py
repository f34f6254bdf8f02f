"""A process that reads one large picture: what decoding takes of memory ends with it.

    python -m pcam_tf.app.picture_worker < request.json

The request names the file, where its pixels are put at the task's scale, as an array of numpy, the
task, the microns per pixel and what the picture is called in messages. The answer on standard
output is what is known of the picture, or why it cannot be read. A slide is read alike; of one that
is larger than a region, the answer is its scale.
"""

import contextlib
import json
import sys
from pathlib import Path

import numpy as np

from pcam_tf import task
from pcam_tf.app import slide_uploads
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole

_MOST_BYTES = 4 * 10**9  # of addresses, for a slide: its tiles may claim to be of any size


def main() -> None:
    """Read the picture of a request."""
    request = json.load(sys.stdin)
    if request["is_slide"]:
        _limit_memory()
    read = slide_uploads.read if request["is_slide"] else image_files.read
    try:
        picture = read(
            Path(request["file"]), task.from_json(request["task"]), request["mpp"], request["name"]
        )
        with written_whole(Path(request["pixels"])) as temporary:
            np.save(temporary, picture.pixels)
    except slide_uploads.LargeSlide as large:
        json.dump({"large_slide": large.mpp}, sys.stdout)
    except slide_uploads.UnknownScale as error:
        json.dump({"unknown_scale": str(error)}, sys.stdout)
    except InputError as error:
        json.dump({"refused": str(error)}, sys.stdout)
    else:
        json.dump(picture._replace(pixels=None)._asdict(), sys.stdout)


def _limit_memory():
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, _MOST_BYTES))


if __name__ == "__main__":
    main()
