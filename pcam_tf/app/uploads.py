"""The route that takes uploads: each lies in a folder of its own, or nowhere if it is broken off.

gradio's own route puts equal files of all visitors in one place, and forgets what was broken off.
"""

import asyncio

import fastapi
from fastapi.responses import PlainTextResponse
from gradio import route_utils
from gradio.routes import file_upload_statuses

from pcam_tf.app import private_files
from pcam_tf.app.private_files import PrivateFiles
from pcam_tf.errors import InputError

PATH = "/gradio_api/upload"
LARGEST_BYTES = 200 * 10**6


def router(files: PrivateFiles, known: set[str]) -> fastapi.APIRouter:
    """Return the route.

    Args:
        files: where uploads are kept.
        known: paths that gradio takes for uploads; changed by this.
    """
    found = fastapi.APIRouter()

    @found.post(PATH)
    async def upload(request: fastapi.Request, upload_id: str | None = None):
        try:
            size = int(request.headers.get("content-length", ""))
        except ValueError:
            return PlainTextResponse("The upload does not say how large it is.", 411)
        try:
            with await asyncio.to_thread(files.reserved, size):
                paths = await _stored(request, upload_id, files)
        except InputError as error:
            return PlainTextResponse(str(error), 507)
        except OSError:
            return PlainTextResponse("The server has no room for more pictures.", 507)
        except route_utils.MultiPartException as error:
            return PlainTextResponse(error.message, 413 if "size" in error.message else 400)
        known.update(paths)
        return paths

    return found


async def _stored(request, upload_id, files):
    folder = files.new_upload()
    try:
        paths, _, _ = await route_utils.upload_fn(
            request,
            str(folder),
            LARGEST_BYTES,
            upload_id,
            upload_progress=file_upload_statuses if upload_id else None,
        )
    except BaseException:
        private_files.remove(folder)
        raise
    return paths
