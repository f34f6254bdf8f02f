"""What the page answers to programs: a prediction, without a visit."""

import dataclasses
import threading

import gradio as gr

from pcam_tf.app import batches, pictures, private_files, turns, views
from pcam_tf.app.batches import Uploads
from pcam_tf.app.findings import Reader
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.app.turns import Turns, Work
from pcam_tf.app.visit import Visit
from pcam_tf.errors import InputError


@dataclasses.dataclass
class Programs:
    """The calls of programs.

    Attributes:
        reader: the model.
        files: the private folder of this process.
        turns: at the model.
        calls: the stop flags of the calls, by session.
    """

    reader: Reader
    files: PrivateFiles
    turns: Turns
    calls: dict[str, set[threading.Event]] = dataclasses.field(default_factory=dict)

    def predict(self, picture, mpp, setting, request: gr.Request):
        """Predict one patch or region and return the result as JSON.

        Args:
            picture: a PNG, JPEG or TIFF file.
            mpp: its microns per pixel, a number or text; 0 or "": as the file states, or else the
                model's own.
            setting: the operating point, as on the page.
        """
        if not picture:
            raise InputError("give a picture.")
        point, work = self.reader.points[setting], Work(self.turns)
        flags = self.calls.setdefault(str(request.session_hash), set())
        flags.add(work.stop)
        state = Visit(self.files.new_visit())
        try:
            self.files.check_room()
            path, mpp = self.files.upload(picture), pictures.entered_mpp(mpp)
            found = Uploads(self.reader, self.files).read_one(state, path, mpp, work)
            batches.read_pictures(self.reader, state, [(path.name, found)], work=work)
            return views.as_json(self.reader, state, point)
        except turns.Stopped as error:
            raise InputError("the call was stopped.") from error
        finally:
            flags.discard(work.stop)
            if not flags:  # each call by its address has a session of its own
                self.calls.pop(str(request.session_hash), None)
            private_files.remove(state.folder)

    def leave(self, session: str) -> None:
        """Stop the calls of a session."""
        for stop in self.calls.pop(str(session), ()):
            stop.set()
