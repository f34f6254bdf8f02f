"""How the viewer's routes answer: pages from templates, and refusals in one line."""

import re
from collections.abc import Callable
from typing import Any

import fastapi
from fastapi.responses import HTMLResponse

from pcam_tf.app import views
from pcam_tf.errors import InputError

_FOLDERS = re.compile(r"(?<!\S)/(?:[^/\n:()]+/)+")


def rendered(template: str, **values) -> HTMLResponse:
    """Return a page from a template of `static/`; every value is escaped."""
    text = views.template(template)
    return HTMLResponse(text.render(research_only=views.RESEARCH_ONLY, **values))


def plain(text: str) -> str:
    """Return a message without folders of this server, which are no visitor's concern."""
    return _FOLDERS.sub("", text)


def or_refused(work: Callable[[], Any]) -> Any:
    """Return what work returns; what the user can mend is answered by one line and 400."""
    try:
        return work()
    except InputError as error:
        text = plain(str(error))
        raise fastapi.HTTPException(400, text[0].upper() + text[1:]) from error
