"""Serve the pathologists' page: to this machine, and to others only with a password.

Nothing on the page comes from another host.
"""

import importlib.resources
import ipaddress
import signal
from pathlib import Path

from pcam_tf.errors import InputError

LARGEST_FILE = "200mb"
WAITING = 40  # requests in the queue; a further one is refused
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]


def login(text: str | None, host: str) -> tuple[str, str] | None:
    """Return user and password, read from `USER:FILE`; None where none is given or needed.

    Raises:
        InputError: others could reach the page and no password was given, or the file has none.
    """
    if text is None:
        if _is_loopback(host):
            return None
        raise InputError(
            f"{host} can be reached by others: give --auth USER:FILE, FILE holding a password."
        )
    user, _, file = text.partition(":")
    try:
        password = Path(file).read_text(encoding="utf-8").strip() if user and file else ""
    except OSError as error:
        raise InputError(f"cannot read the password in {file}: {error.strerror}.") from error
    if not password:
        raise InputError("--auth is USER:FILE, and the file holds a password.")
    return user, password


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    page,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    wait: bool = True,
) -> str:
    """Serve the page and return its address.

    Args:
        page: what `page.build` returned.
        host: the address to listen on.
        port: 0 or None for one that is free.
        auth: user and password; see `login`.
        wait: whether to return only when the process is interrupted.

    Raises:
        InputError: the port is taken.
    """
    # Not above: a wrong --auth is reported at once, without gradio.
    import fastapi
    import gradio as gr

    blocks = page.blocks
    css = importlib.resources.files("pcam_tf.app") / "static" / "page.css"
    script = css.with_name("pending.js")
    blocks.queue(max_size=WAITING, default_concurrency_limit=1)
    try:
        _, address, _ = blocks.launch(
            server_name=host,
            server_port=port or None,
            auth=auth,
            share=False,
            inbrowser=False,
            prevent_thread_lock=True,
            show_error=False,
            quiet=True,
            footer_links=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            max_file_size=LARGEST_FILE,
            state_session_capacity=100,
            theme=gr.themes.Default(
                primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE
            ),
            css=css.read_text(encoding="utf-8"),
            head=f"<script>{script.read_text(encoding='utf-8')}</script>",
        )
    except OSError as error:
        raise InputError(f"cannot serve on {host}, port {port}: choose another --port.") from error
    for router in page.routers:
        blocks.app.include_router(router, dependencies=[fastapi.Depends(_signed_in(blocks.app))])
    if wait:
        # SIGTERM ends the process like Ctrl-C, so that visitors' pictures are deleted.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        try:
            blocks.block_thread()
        finally:
            page.close()
    return address


def _signed_in(app):
    """Return what refuses a request of the viewer without the password, where one is needed."""
    # Not above: see `serve`. FastAPI has to know the class by its name.
    from fastapi import HTTPException
    from starlette.requests import HTTPConnection

    def check(request: HTTPConnection):
        names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
        if app.auth is not None and not any(request.cookies.get(n) in app.tokens for n in names):
            raise HTTPException(401, "Log in first.")

    return check
