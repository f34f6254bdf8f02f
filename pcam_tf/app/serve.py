"""The pathologists' web page: drop in a patch or a region, and look at what the model saw.

It serves the machine that it runs on, and others only behind a password. Nothing on the page comes
from another host.
"""

import ipaddress
import signal
from pathlib import Path

import gradio as gr

from pcam_tf.errors import InputError

LARGEST_FILE = "200mb"
WAITING = 40  # requests in the queue, beyond which the next is told to come again
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
_MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]
_CSS = """
.gradio-container { max-width: 1240px !important; }
#only { position: sticky; top: 0; z-index: 50; background: #fff3e6; color: #5a2600;
  border: 1px solid #D55E00; border-radius: 4px; padding: .4rem .9rem; font-weight: 600; }
#only p { margin: 0; }
/* The theme is dark where the visitor's system is; the banner stays light. */
#only * { color: #5a2600 !important; }
#title h1 { font-size: 1.5rem; margin: .2rem 0; }
#summary .html-container, #region .html-container, #patch .html-container { padding: 0; }
.result .call { font-size: 1.45rem; font-weight: 650; margin: 0; padding-left: .7rem;
  border-left: 6px solid #0072B2; }
.result .call.tumour { border-color: #D55E00; }
.result .notice { border-left: 4px solid #D55E00; padding-left: .7rem; margin: .5rem 0; }
.result p { margin: .4rem 0; }
"""


def login(text: str | None, host: str) -> tuple[str, str] | None:
    """Return user and password, read from `USER:FILE`; None where none is needed and given.

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
    blocks: gr.Blocks,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    wait: bool = True,
) -> str:
    """Serve the page and return its address.

    Args:
        blocks: what `page.build` returned.
        host: the address to listen on.
        port: 0 or None for one that is free.
        auth: user and password; see `login`.
        wait: until the process is interrupted, rather than returning at once.

    Raises:
        InputError: the port is taken.
    """
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
            css=_CSS,
        )
    except OSError as error:
        raise InputError(f"cannot serve on {host}, port {port}: choose another --port.") from error
    if wait:
        # Ended by whichever signal, the visitors' pictures go as well.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        blocks.block_thread()
    return address
