"""A process that reads one large picture: what decoding takes of memory ends with it.

    python -m pcam_tf.app.picture_worker < request.json

The request names the file, where its pixels are put at the task's scale, as an array of numpy, the
task, the microns per pixel and what the picture is called in messages. The answer on standard
output is what is known of the picture, or why it cannot be read.
"""

import json
import sys
from pathlib import Path

import numpy as np

from pcam_tf import task
from pcam_tf.data import image_files
from pcam_tf.errors import InputError
from pcam_tf.files import written_whole


def main() -> None:
    """Read the picture of a request."""
    request = json.load(sys.stdin)
    try:
        picture = image_files.read(
            request["file"], task.from_json(request["task"]), request["mpp"], request["name"]
        )
        with written_whole(Path(request["pixels"])) as temporary:
            np.save(temporary, picture.pixels)
    except InputError as error:
        json.dump({"refused": str(error)}, sys.stdout)
    else:
        json.dump(picture._replace(pixels=None)._asdict(), sys.stdout)


if __name__ == "__main__":
    main()
