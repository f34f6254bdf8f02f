"""Who may ask what of the server: hosts, origins, the password, the server's own files."""

import asyncio
import gc
import socket
import types

import httpx
import numpy as np
import pytest
from own_loop import in_own_loop
from starlette.responses import PlainTextResponse

from pcam_tf.app import findings, guard, page, serve
from pcam_tf.errors import InputError
from pcam_tf.task import PCAM

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


class Engine:
    """An engine that predicts 0.3 for any patch."""

    task = PCAM

    def predict_on_batch(self, patches):
        return np.full((len(patches), 1), 0.3, "float32")


@pytest.fixture(scope="module")
def served():
    """Return the address of a page with a password, and the page."""
    points = {"Balanced": findings.Point(0.5, "balanced")}
    reader = findings.Reader(None, Engine(), PCAM, "a model", 1.0, points, method=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "with_explanations", lambda reader: reader)
        built = page.build(reader)
    yield serve.serve(built, auth=("somebody", "a long one"), wait=False), built
    built.close()
    gc.collect()


@pytest.fixture
def logged_in(served):
    """Return a client that gave the password."""
    with httpx.Client(base_url=served[0]) as client:
        answer = client.post("login", data={"username": "somebody", "password": "a long one"})
        assert answer.status_code == 200
        yield client


ROUTES = (
    "gradio_api/info", "gradio_api/openapi.json", "gradio_api/runs", "gradio_api/heartbeat/a",
    "gradio_api/queue/status", "gradio_api/queue/data?session_hash=a", "gradio_api/file=/etc/hosts",
    "gradio_api/upload_progress?upload_id=a", "gradio_api/app_id", "gradio_api/token",
    "gradio_api/stream/a/1/1/playlist.m3u8", "gradio_api/vibe-code/", "monitoring", "openapi.json",
    "gradio_api/deep_link", "docs",
)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
def test_a_route_needs_the_password(served, route):
    with httpx.stream("GET", served[0] + route) as answer:
        assert answer.status_code in (401, 404)


@pytest.mark.parametrize("route", ["cancel", "upload", "queue/join", "run/predict", "reset"])
def test_a_change_needs_the_password(served, route):
    assert httpx.post(f"{served[0]}gradio_api/{route}", json={}).status_code == 401


def test_the_page_asks_for_the_password_and_takes_it(served, logged_in):
    assert httpx.get(served[0]).status_code == 200
    assert httpx.get(f"{served[0]}config").status_code == 401
    assert logged_in.get("gradio_api/info").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example"])
def test_a_name_that_others_point_here_is_not_answered(logged_in, host):
    answer = logged_in.get("gradio_api/info", headers={"host": host})
    assert answer.status_code == 400 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]", "192.0.2.1"])
def test_an_own_name_and_any_address_are_answered(logged_in, host):
    assert logged_in.get("gradio_api/info", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    ],
)
def test_a_page_of_another_site_reaches_nothing(served, logged_in, headers):
    files = {"files": ("a.png", b"content")}
    before = list(served[1].handlers.files.uploads.iterdir())
    answer = logged_in.post("gradio_api/upload", files=files, headers=headers)
    assert answer.status_code == 403
    assert list(served[1].handlers.files.uploads.iterdir()) == before
    assert logged_in.get("gradio_api/info", headers=headers).status_code == 403


def test_a_link_from_elsewhere_leads_to_the_page_but_no_frame_does(logged_in):
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    answer = logged_in.get("", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


def test_nothing_is_fetched_for_a_visitor(logged_in):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.5)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/picture.png"
        assert logged_in.get(f"gradio_api/file={url}").status_code == 404
        data = {"data": [{"path": url, "meta": {"_type": "gradio.FileData"}}, 0, "Balanced"]}
        event = logged_in.post("gradio_api/call/predict", json=data).json()["event_id"]
        answer = logged_in.get(f"gradio_api/call/predict/{event}").text
        assert "event: error" in answer and "null" not in answer
        with pytest.raises(TimeoutError):
            listening.accept()


def test_a_program_gives_the_password(served):
    import gradio_client

    with pytest.raises(ValueError, match="Could not"):
        gradio_client.Client(served[0], verbose=False)
    client = gradio_client.Client(served[0], verbose=False, auth=("somebody", "a long one"))
    assert "/predict" in str(client.view_api(return_format="dict"))


@pytest.fixture
def attempts(monkeypatch, tmp_path):
    """Return a guard before a login that refuses all, and the delays that it made."""
    delays = []

    async def sleep(seconds):
        delays.append(seconds)
        await asyncio.sleep(0)

    async def app(scope, receive, send):
        await PlainTextResponse("no", 400)(scope, receive, send)

    # The guard's own only: a browser of other tests waits in this process as well.
    monkeypatch.setattr(guard, "asyncio", types.SimpleNamespace(sleep=sleep, Lock=asyncio.Lock))
    return guard.Guard(app, {"localhost"}, tmp_path, lambda _: False), delays


def test_after_failures_a_login_takes_longer_and_is_logged(attempts, caplog):
    guarded, delays = attempts

    async def log_in(times):
        transport = httpx.ASGITransport(guarded, client=("192.0.2.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await asyncio.gather(*(client.post("/login") for _ in range(times)))

    in_own_loop(log_in(4))
    assert delays == [0.5, 1, 2, 4]
    assert "a login from 192.0.2.7 failed, 4 in a row" in caplog.text
    answers = in_own_loop(log_in(30))
    assert {answer.status_code for answer in answers} == {400, 429}
    assert max(delays) == 30


def test_a_password_that_others_can_read_is_warned_of(tmp_path, caplog):
    file = tmp_path / "password"
    file.write_text("a long one\n")
    file.chmod(0o644)
    serve.login(f"somebody:{file}", "0.0.0.0")
    assert "others can read the password" in caplog.text
    caplog.clear()
    file.chmod(0o600)
    assert serve.login(f"somebody:{file}", "0.0.0.0") == ("somebody", "a long one")
    assert caplog.text == ""


def test_a_taken_port_is_said():
    with serve.listen() as taken, pytest.raises(InputError, match="cannot serve on"):
        serve.listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(InputError, match=r"no\.such\.host\.invalid"):
        serve.listen("no.such.host.invalid", 0)
