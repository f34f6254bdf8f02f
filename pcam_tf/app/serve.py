"""Serve the pathologists' page: to this machine, and to others only with a password.

Nothing on the page comes from another host.
"""

import contextlib
import importlib.resources
import ipaddress
import logging
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from pcam_tf.errors import InputError

WAITING = 40  # requests in gradio's queue; a further one is refused
_MOST_CONNECTIONS = 1000
_SWEEP_SECONDS = 30
_SESSIONS = 50
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]

log = logging.getLogger(__name__)


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
        if password and stat.S_IMODE(Path(file).stat().st_mode) & 0o077:
            log.warning("others can read the password in %s: chmod 600 %s", file, file)
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


def listen(host: str = "127.0.0.1", port: int | None = None) -> socket.socket:
    """Return a socket that listens, before the long work of loading a model begins.

    Args:
        host: the address to listen on.
        port: 0 or None for one that is free.

    Raises:
        InputError: the port is taken, or there is no such address.
    """
    try:
        address = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[4][:2], family=address[0], backlog=1024)
    except OSError as error:
        raise InputError(
            f"cannot serve on {host}, port {port}: {error.strerror or error}; choose another "
            "--port or --host."
        ) from error


def serve(
    page,
    *,
    listening: socket.socket | None = None,
    auth: tuple[str, str] | None = None,
    names: Iterable[str] = (),
    wait: bool = True,
) -> str:
    """Serve the page and return its address.

    Args:
        page: what `page.build` returned; `page.close()` ends a server that is not waited for.
        listening: what `listen` returned; None for any free port of this machine.
        auth: user and password; see `login`.
        names: by which visitors reach the server, beside its addresses and this machine's name.
        wait: whether to return only when the process is interrupted.
    """
    # Not above: a wrong --auth is reported at once, without gradio.
    import uvicorn

    listening = listening or listen()
    host, port = listening.getsockname()[:2]
    application = _guarded(page, host, port, auth, names)
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            log_level="warning",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,  # open tabs never end by themselves
            limit_concurrency=_MOST_CONNECTIONS,
            server_header=False,
        )
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
    stop = threading.Event()
    sweeper = threading.Thread(target=_sweep, args=(page, stop), daemon=True)
    sweeper.start()
    page.ending.append(stop.set)
    if wait:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        try:
            # uvicorn ends the server at SIGTERM or Ctrl-C, then raises the signal again.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listening])
        finally:
            page.close()
        return address
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    page.ending.append(lambda: _end(server, thread))
    while thread.is_alive() and not server.started:
        time.sleep(0.02)
    return address


def _end(server, thread):
    server.should_exit = True
    thread.join()


def _sweep(page, stop):
    while not stop.wait(_SWEEP_SECONDS):
        try:
            page.sweep()
        except Exception:  # it must go on: the next time it may succeed
            log.exception("cannot delete old files")


def _guarded(page, host, port, auth, names):
    """Return the application that answers requests."""
    import fastapi
    import gradio as gr

    from pcam_tf.app import uploads
    from pcam_tf.app.guard import Guard

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for router in (uploads.router(page.handlers.files, page.blocks.upload_file_set), *page.routers):
        app.include_router(router)
    static = importlib.resources.files("pcam_tf.app") / "static"
    css, *scripts = (
        (static / name).read_text("utf-8") for name in ("page.css", "pending.js", "leaving.js")
    )
    page.blocks.queue(max_size=WAITING)
    # What gradio keeps of a session: visits are kept elsewhere, so nobody loses anything.
    page.blocks.state_session_capacity = _SESSIONS
    gr.mount_gradio_app(
        app, page.blocks, "/", server_name=host, server_port=port,
        auth=auth, show_error=False, footer_links=[], run_history=False, enable_monitoring=False,
        ssr_mode=False, pwa=False, mcp_server=False, max_file_size=uploads.LARGEST_BYTES,
        theme=gr.themes.Default(
            primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_MONOSPACE
        ),
        i18n=gr.I18n(en={"common.upload": "Add files"}),  # gradio has a button, and no name for it
        css=css, head="".join(f"<script>{script}</script>" for script in scripts),
    )  # fmt: skip
    mounted = app.routes[-1].app

    def is_logged_in(request):
        if auth is None:
            return True
        # gradio's cookies: one for TLS, one without.
        cookies = (f"access-token-{each}{mounted.cookie_id}" for each in ("", "unsecure-"))
        return any(request.cookies.get(cookie) in mounted.tokens for cookie in cookies)

    hosts = {"localhost", host, socket.gethostname(), socket.getfqdn(), *names}
    return Guard(app, hosts, page.handlers.files.folder, is_logged_in)
