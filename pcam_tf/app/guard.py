"""What stands before every route of the page: hosts, origins, the password, files of the server.

A page on another site can make a visitor's browser ask this server, also under a name that it
points here (DNS rebinding). So a request must name a host that the server goes by, and one that a
browser sends for a page must be for a page from here.
"""

import asyncio
import collections
import ipaddress
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger(__name__)

# What the page for the password consists of.
_OPEN = ("/", "/login", "/logout", "/config", "/theme.css", "/favicon.ico", "/manifest.json",
         "/gradio_api/theme.css", "/gradio_api/startup-events")  # fmt: skip
_OPEN_FOLDERS = ("/assets/", "/static/", "/svelte/")
# Of gradio's routes, those that the page and gradio_client use; no other is answered.
_API = ("api", "app_id", "call", "cancel", "heartbeat", "info", "login_check", "queue", "reset",
        "run", "startup-events", "theme.css", "upload", "upload_progress", "user")  # fmt: skip
_FILE = "/gradio_api/file="
_CLOSED = ("/monitoring", "/dev", "/openapi.json")
_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_LONGEST_DELAY_S = 30
_MOST_AT_LOGIN = 20  # attempts from one address at a time
_REMEMBERED = 1000  # addresses whose attempts failed


class Guard:
    """An application that answers what may be asked, by another that knows no such limits."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str],
        folder: Path,
        is_logged_in: Callable[[Request], bool],
    ):
        """Stand before an application.

        Args:
            app: the application.
            hosts: names that the server goes by; its addresses need not be among them.
            folder: the only one whose files may be asked for.
            is_logged_in: whether a request comes from somebody who gave the password.
        """
        self.app = app
        self.hosts = {host.lower().rstrip(".") for host in hosts}
        self.folder = folder.resolve()
        self.is_logged_in = is_logged_in
        self._failures: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._logins: collections.Counter[str] = collections.Counter()
        self._locks: dict[str, asyncio.Lock] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or say why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close"})
            return
        request = Request(scope)
        refusal = self._refusal(request)
        if refusal:
            status, reason = refusal
            await PlainTextResponse(reason, status, _HEADERS)(scope, receive, send)
        elif request.method == "POST" and scope["path"].rstrip("/") == "/login":
            await self._login(request, receive, _with_headers(send))
        else:
            await self.app(scope, receive, _with_headers(send))

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """Return a status and a reason if a request is not answered."""
        host, path = request.headers.get("host", ""), request.scope["path"]
        if not self._is_own(host):
            return 400, "This server does not go by that name: start it with --name NAME."
        if _is_from_elsewhere(request, host):
            return 403, "This request comes from a page of another site."
        if not self._is_offered(path):
            return 404, "There is no such page."
        is_open = path in _OPEN or path.rstrip("/") in _OPEN or path.startswith(_OPEN_FOLDERS)
        if not is_open and not self.is_logged_in(request):
            return 401, "Give the password first."
        return None

    def _is_own(self, host):
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True  # nobody can point an address elsewhere

    def _is_offered(self, path):
        if path.startswith(_FILE):
            # gradio would fetch an address, too.
            asked = Path("/", path.removeprefix(_FILE))
            return ":" not in path and asked.resolve().is_relative_to(self.folder)
        if path.startswith("/gradio_api/"):
            return path.split("/")[2] in _API
        return not path.startswith(_CLOSED)

    async def _login(self, request, receive, send):
        """Pass an attempt to log in on; after failures, later ones of its address take longer."""
        address = request.client.host if request.client else "unknown"
        if self._logins[address] >= _MOST_AT_LOGIN:
            response = PlainTextResponse("Too many attempts: try again in a minute.", 429)
            await response(request.scope, receive, send)
            return

        async def count(message):
            if message["type"] == "http.response.start":
                await self._count_login(address, message["status"])
            await send(message)

        self._logins[address] += 1
        try:
            # One after the other, or many at a time would not wait.
            async with self._locks.setdefault(address, asyncio.Lock()):
                await self.app(request.scope, receive, count)
        finally:
            self._logins[address] -= 1
            if not self._logins[address]:
                del self._logins[address], self._locks[address]

    async def _count_login(self, address, status):
        if status < 400:
            self._failures.pop(address, None)
            return
        failed = self._failures.pop(address, 0) + 1
        self._failures[address] = failed
        if len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        log.warning("a login from %s failed, %d in a row", address, failed)
        await asyncio.sleep(min(0.5 * 2 ** min(failed - 1, 10), _LONGEST_DELAY_S))


def _is_from_elsewhere(request, host):
    """Return whether a browser sends a request for a page of another site."""
    headers = request.headers
    origin = headers.get("origin")
    if origin is not None:
        try:
            return urlsplit(origin).netloc.lower() != host.lower()
        except ValueError:
            return True
    site = headers.get("sec-fetch-site", "none")
    # A link to the page from elsewhere is no harm.
    is_visit = request.method == "GET" and headers.get("sec-fetch-mode") == "navigate"
    return site in ("cross-site", "same-site") and not is_visit


def _with_headers(send):
    async def send_with_headers(message):
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
