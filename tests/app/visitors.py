"""A visitor without a browser: requests, uploads, and clicks on places and rows."""

import gradio as gr
from PIL import Image

from pcam_tf.task import PCAM


def tab(name="a tab"):
    """Return a request of a tab."""
    return gr.Request(session_hash=name)


def uploaded(handlers, pixels, name="one.png", *, mpp=PCAM.mpp):
    """Return the path of a picture that was uploaded; None: without a scale."""
    file = handlers.files.new_upload() / name
    # A patch need not state its scale.
    is_stated = mpp and len(pixels) > PCAM.side_px
    Image.fromarray(pixels).save(file, **({"dpi": (25_400 / mpp,) * 2} if is_stated else {}))
    return str(file)


def clicked(**data):
    """Return the event of a click on a place (row, column) or a row (number)."""
    return gr.EventData(None, data)
