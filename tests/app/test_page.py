import gc
import re
from pathlib import Path

import keras
import numpy as np
import odd_pictures
import pandas as pd
import pytest
import tiny_training
from controls import too_small, unnamed
from PIL import Image
from small_slide import PLAN

from pcam_tf import __main__, slides, synthetic
from pcam_tf.app import findings, page, serve
from pcam_tf.errors import InputError
from pcam_tf.models import backbones, classifier
from pcam_tf.synthetic import slide_files

SCREENSHOT = Path(__file__).parent.parent.parent / "figures" / "smoke" / "app.png"


# gradio leaves sockets and an event loop for the garbage collector to close.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    """Return a small, untrained classifier in a file."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, "Tiny", tiny_training.TINY)
        model = classifier.build(backbone="Tiny", weights=None, crop_px=96)
    path = tmp_path_factory.mktemp("models") / "tiny.keras"
    classifier.save(model, path)
    return path


@pytest.fixture(scope="module")
def reader(model_file):
    """Return the reader of a tiny model, with the settings of the shipped one."""
    shipped = findings.load_reader()
    return findings.load_reader(model_file)._replace(points=shipped.points)


@pytest.fixture(scope="module")
def patches():
    """Return four synthetic patches."""
    return synthetic.draw_patches(4, split="test").image


@pytest.fixture(scope="module")
def served(reader, tmp_path_factory):
    """Return the address of a page that is served, and its file of reviews."""
    file = tmp_path_factory.mktemp("reviews") / "reviews.csv"
    built = page.build(reader, file)
    yield serve.serve(built, wait=False), file, built.handlers
    built.close()
    gc.collect()  # here, where such warnings are ignored, and not in another module's test


@pytest.fixture(scope="module")
def client(served, tmp_path_factory):
    """Return a program's way to the page."""
    import gradio_client

    folder = tmp_path_factory.mktemp("downloads")
    return gradio_client.Client(served[0], verbose=False, download_files=folder)


def ask(client, path, **words):
    from gradio_client import handle_file

    return client.predict(picture=handle_file(path), api_name="/predict", **words)


def test_a_program_gets_what_the_page_shows(client, reader, patches, tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(patches[0]).save(path)
    found = ask(client, path)
    expected = findings.probabilities(reader, patches[:1])[0, 1]
    assert found["kind"] == "patch" and found["probability"] == pytest.approx(expected, abs=1e-6)
    assert found["call"] in ("tumour", "normal")
    assert found["research_use_only"] == "Research use only. Not for diagnosis."
    assert "0.972" in found["notes"][0]
    other = ask(client, path, setting="Misses few tumours", mpp=0.972)
    assert other["threshold"] < found["threshold"] and other["notes"] == []


def test_a_program_gets_the_heat_map_of_a_region(client, reader, patches, tmp_path):
    region = np.concatenate([np.concatenate(patches[:2], axis=1)] * 2)
    path = tmp_path / "region.tif"
    Image.fromarray(region).save(path, resolution=25_400 / 0.972, resolution_unit=2)
    found = ask(client, path)
    expected = slides.heat_map(lambda each: findings.probabilities_one_view(reader, each), region)[
        ..., 1
    ]
    assert found["kind"] == "region" and found["notes"] == []
    np.testing.assert_allclose(found["heat_map"], expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["text", "truncated", "huge", "glass", "tiny scale"])
def test_what_is_no_patch_is_refused_in_a_line(client, patches, tmp_path, kind):
    from gradio_client.exceptions import AppError

    words, message = {}, "is not a picture that can be read"
    if kind in ("text", "truncated", "huge"):
        path = odd_pictures.make(tmp_path, kind)
        message = "at most 50" if kind == "huge" else message
    elif kind == "glass":
        path, message = tmp_path / "glass.png", "shows no tissue"
        Image.new("RGB", (200, 200), "white").save(path)
    else:
        path, words, message = tmp_path / "one.png", {"mpp": 0.25}, "at least 96×96"
        Image.fromarray(patches[0]).save(path)
    with pytest.raises(AppError, match=message) as error:
        ask(client, path, **words)
    assert "Traceback" not in str(error.value) and "/" not in str(error.value)


def test_a_page_of_the_shipped_model_is_built():
    # gradio copies what its components hold, and an engine cannot be copied.
    built = page.build(findings.load_reader())
    assert built.blocks
    built.close()
    del built
    gc.collect()


@pytest.mark.parametrize("mpp", ["0.486", "0,486", 0.486])
def test_a_program_may_give_the_scale_as_text(client, patches, tmp_path, mpp):
    path = tmp_path / "large.png"
    Image.fromarray(patches[0]).resize((192, 192)).save(path)
    assert ask(client, path, mpp=mpp)["notes"] == []


@pytest.mark.parametrize("mpp", ["much", "NaN", "inf", -1, "-0.25", True, [0.25]])
def test_a_scale_that_is_no_number_is_refused_in_a_line(client, patches, tmp_path, mpp):
    from gradio_client.exceptions import AppError

    path = tmp_path / "one.png"
    Image.fromarray(patches[0]).save(path)
    with pytest.raises(AppError, match=r"give a number from 0\.1 to 5"):
        ask(client, path, mpp=mpp)


def test_a_program_is_told_that_there_is_no_tissue(client, tmp_path):
    path = tmp_path / "white.png"
    Image.new("RGB", (96, 96), "white").save(path)
    found = ask(client, path, mpp="")
    assert (found["call"], found["probability"]) == ("no tissue", None)
    assert "0.972" in found["notes"][0]


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "http://127.0.0.1:9/picture.png", "../../etc/hostname"]
)
def test_a_request_reaches_nothing_but_its_upload(served, path):
    import httpx

    body = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, 0, "Balanced"]}
    bare = {"data": [{"path": path}, 0, "Balanced"]}
    for content in (body, bare):
        begun = httpx.post(f"{served[0]}gradio_api/call/predict", json=content)
        if begun.status_code == 200:
            event = begun.json()["event_id"]
            answer = httpx.get(f"{served[0]}gradio_api/call/predict/{event}", timeout=20).text
            assert "event: error" in answer and "probability" not in answer
    assert httpx.get(f"{served[0]}gradio_api/file=/etc/hostname").status_code in (403, 404)


def test_the_settings_say_what_the_report_counted():
    reader = findings.load_reader()
    assert list(reader.points) == ["Balanced", "Misses few tumours", "Few false alarms"]
    thresholds = [point.threshold for point in reader.points.values()]
    assert thresholds[1] < thresholds[0] < thresholds[2]
    assert "patches of the test slides" in reader.points["Balanced"].meaning


def test_a_model_without_a_report_has_one_setting_of_which_nothing_is_known(model_file):
    reader = findings.load_reader(model_file)
    assert list(reader.points) == ["Threshold 0.5"] and reader.temperature == 1
    assert "unknown" in reader.points["Threshold 0.5"].meaning


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "give --auth USER:FILE"),
        (["--host", "192.0.2.1", "--auth", "somebody"], "--auth is USER:FILE"),
        (["--auth", "somebody:missing"], "cannot read the password"),
        (["--auth", "somebody:empty"], "the file holds a password"),
        (["--model", "missing.keras"], "there is no model"),
    ],
)
def test_an_open_page_needs_a_password(tmp_path, monkeypatch, capfd, words, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").write_text("\n")
    assert __main__.main(["app", *words]) == 2
    printed = capfd.readouterr().err
    assert message in printed and len(printed.splitlines()) == 1


def test_a_password_is_read_from_a_file(tmp_path):
    (tmp_path / "password").write_text("a long one\n")
    assert serve.login(f"somebody:{tmp_path / 'password'}", "0.0.0.0") == ("somebody", "a long one")
    assert serve.login(None, "127.0.0.1") is serve.login(None, "localhost") is None
    with pytest.raises(InputError, match="can be reached by others"):
        serve.login(None, "::")


@pytest.fixture
def tab(served, open_tab):
    """Return a page in a browser that must stay on this machine and say nothing on its console."""
    return open_tab(served[0], viewport={"width": 1280, "height": 900}, accept_downloads=True)


def test_a_visit(tab, served, reader, patches, tmp_path):
    files = []
    for number, patch in enumerate(patches):
        files.append(tmp_path / f"patch <b>{number}.png")
        Image.fromarray(patch).save(files[-1])
    tab.get_by_text("Research use only. Not for diagnosis.").wait_for()

    # One patch: its answer, the slider over it, the words of another setting.
    tab.locator("input[type=file]").first.set_input_files(files[0])
    tab.locator("#patch .frame").wait_for()
    summary = tab.locator("#summary")
    assert "Probability of tumour in the centre square" in summary.inner_text()
    assert "does not state its scale" in summary.inner_text()
    slider = tab.locator("#patch input[type=range]")
    slider.fill("0")
    assert opacity(tab, "#patch") == "0"
    slider.press("ArrowRight")
    assert opacity(tab, "#patch") == "0.01"
    tab.get_by_label("Few false alarms").check()
    tab.get_by_text(reader.points["Few false alarms"].meaning).wait_for()
    assert tab.locator("#patch .tissue").get_attribute("alt").startswith("Patch under")

    with tab.expect_download() as download:
        tab.get_by_role("button", name="Report (HTML)").click()
    report = Path(download.value.path()).read_text(encoding="utf-8")
    assert "Few false alarms" in report and "<script" not in report and "<b>" not in report
    assert report.count("data:image/png") == 2

    tab.get_by_role("button", name="Disagree").click()
    tab.get_by_text("The reviewer disagrees").wait_for()
    table = pd.read_csv(served[1])
    assert list(table["agrees"]) == ["no"]

    # Several patches: one is chosen.
    tab.get_by_label("Clear").first.click()
    tab.locator("input[type=file]").first.set_input_files(files[1:])
    tab.get_by_text(re.compile(r"3 patches: \d called tumour")).wait_for()
    names = tab.locator("#batch .open")
    assert names.all_inner_texts() == [f"patch b{number}.png" for number in (1, 2, 3)]
    assert tab.locator("#batch td img").count() == 3
    head = tab.get_by_role("columnheader", name="Probability of tumour")
    for order, sign in (("ascending", 1), ("descending", -1)):
        head.get_by_role("button").click()
        assert head.get_attribute("aria-sort") == order
        values = tab.locator("#batch td[data-value]").evaluate_all(
            "cells => cells.map((cell) => Number(cell.dataset.value))"
        )
        assert values == sorted(values, reverse=sign < 0)
    name = names.nth(1).inner_text()
    names.nth(1).press("Enter")
    tab.locator("#patch .frame").wait_for()
    assert name in tab.locator("#summary").inner_text()
    current = tab.locator("#batch tr[aria-current]")
    # The order stays, the row is marked and keeps the focus.
    assert current.locator(".open").inner_text() == names.nth(1).inner_text() == name
    tab.wait_for_function(
        "document.querySelector('#batch tr[aria-current]').contains(document.activeElement)"
    )
    assert head.get_attribute("aria-sort") == "descending"
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Predictions (CSV)").click()
    assert len(pd.read_csv(download.value.path())) == 3
    # One file is taken away: the others keep their answers.
    tab.get_by_label("Remove this file").first.click()
    tab.wait_for_function("document.querySelectorAll('#batch .open').length === 2")
    assert not any("patch b1" in each for each in names.all_inner_texts())
    assert tab.locator("#summary .call").is_visible()

    # A visitor's pictures are gone once the visitor is.
    visits = served[2].files.visits
    assert any(visits.rglob("patch*.png"))
    tab.goto("about:blank")
    for _ in range(300):
        if not any(visits.iterdir()):
            break
        tab.wait_for_timeout(100)
    assert not any(visits.iterdir())


def test_no_old_answer_stands_beside_a_new_file(tab, served, patches, tmp_path):
    """B is given while A is judged; then a file that is refused; then none."""
    files = [tmp_path / f"{name}.png" for name in ("a", "b", "small")]
    for file, pixels in zip(files, [*patches[:2], patches[0][:20]], strict=True):
        Image.fromarray(pixels).save(file)

    def give(file):
        tab.get_by_label("Clear").first.click()
        tab.locator("input[type=file]").first.set_input_files(file)

    tab.locator("input[type=file]").first.set_input_files(files[0])
    answer = tab.locator("#patch .frame")
    answer.wait_for()
    saved = served[1].read_text()

    def slowly(route):
        tab.wait_for_timeout(500)
        route.continue_()

    tab.route("**/queue/join*", slowly)  # the server hears of B after the click below
    with served[2].turns.small():  # the model is busy
        tab.locator("#files input[type=file]").set_input_files(files[1])
        tab.get_by_text("The new picture is being read.").wait_for()
        assert not answer.is_visible() and not tab.get_by_role("button", name="Accept").is_visible()
        # A click that comes all the same is not kept either.
        tab.evaluate(
            "[...document.querySelectorAll('#review_row button')].forEach((b) => b.click())"
        )
    tab.locator("#summary").get_by_text("2 patches").wait_for()
    assert not answer.is_visible()
    assert "a.png" not in served[1].read_text()[len(saved) :]
    give(files[2])
    tab.locator("#summary").get_by_text("px are needed").wait_for()
    assert not answer.is_visible() and not tab.get_by_role("button", name="Accept").is_visible()
    give(files[0])
    answer.wait_for()
    tab.get_by_label("Clear").first.click()
    tab.get_by_text("No picture yet.").wait_for()
    assert not answer.is_visible()


def test_the_browser_asks_before_a_visit_is_lost(tab, served):
    playwright = pytest.importorskip("playwright.sync_api")
    asked = []

    def stay(dialog):
        asked.append(dialog.type)
        dialog.dismiss()

    tab.on("dialog", stay)
    tab.get_by_text("This session").click()  # browsers ask only where something was done
    tab.reload()
    assert asked == []
    tab.get_by_role("button", name="Patch with tumour").click()
    tab.locator("#patch .frame").wait_for()
    with pytest.raises(playwright.Error):
        tab.reload(timeout=2000)
    assert asked == ["beforeunload"] and tab.locator("#patch .frame").is_visible()

    tab.remove_listener("dialog", stay)
    tab.on("dialog", lambda dialog: (asked.append("left"), dialog.accept()))
    tab.reload()
    tab.get_by_text("No picture yet.").wait_for()
    assert asked == ["beforeunload", "left"]


def test_a_slide_file_opens_in_the_viewer(tab, tmp_path):
    pytest.importorskip("imagecodecs")
    file = slide_files.write_slide(PLAN, tmp_path / "one.svs", mpp=0.5, kind="svs")
    tab.locator("input[type=file]").first.set_input_files(file)
    viewer = tab.frame_locator("#region iframe")
    viewer.locator("body[data-ready]").wait_for()
    assert "of the tissue is called tumour" in tab.locator("#summary").inner_text()
    assert viewer.locator("h1").inner_text() == "one.svs"
    assert tab.get_by_label("Microns per pixel").input_value() == "0.5"


@pytest.mark.usefixtures("small_regions")
def test_a_large_slide_is_read_on_the_page_when_asked_and_judged(tab, served, tmp_path):
    pytest.importorskip("imagecodecs")
    file = slide_files.write_slide(PLAN, tmp_path / "one.svs", mpp=0.5, kind="svs")
    tab.locator("input[type=file]").first.set_input_files(file)
    viewer = tab.frame_locator("#region iframe")
    viewer.get_by_text("Not read yet.").wait_for()
    with served[2].turns.small():  # so that it is still being read
        viewer.get_by_role("button", name="Read", exact=True).click()
        viewer.get_by_role("button", name="Cancel").wait_for()
        tab.get_by_role("button", name="Patch with tumour").click()
        tab.get_by_text("The new picture is being read.").wait_for()
    tab.locator("#patch .frame").wait_for()
    # Its job has gone on; the row of the history leads back to it.
    tab.get_by_text("This session").click()
    tab.locator("#log .open").filter(has_text="one.svs").click()
    viewer.get_by_role("heading", name="Findings").wait_for()
    viewer.locator("body[data-ready]").wait_for()
    viewer.locator("#picture").press("Enter")
    viewer.locator("#answer.read").wait_for()
    assert "A whole slide: one.svs" in tab.locator("#summary").inner_text()
    tab.get_by_role("button", name="Disagree").click()
    tab.locator("#reviewed").get_by_text("The reviewer disagrees").wait_for()
    row = pd.read_csv(served[1]).iloc[-1]
    assert row["file"] == "one.svs" and len(row["file_sha256"]) == 64
    centre_um = 9.5 * 32 * 0.972
    assert (row["x_um"], row["x_px"]) == pytest.approx((centre_um, centre_um / 0.5), abs=0.1)
    viewer.locator("#picture").press("3")
    tab.get_by_label("Few false alarms").check()
    assert viewer.get_by_role("button", name="10×").get_attribute("aria-current") == "true"


def opacity(tab, where):
    return tab.locator(f"{where} .overlay").evaluate("each => getComputedStyle(each).opacity")


def test_a_region_is_looked_at_in_the_viewer_and_judged(tab, served):
    tab.get_by_role("button", name="Region", exact=True).click()
    tab.locator("#region iframe").wait_for()
    viewer = tab.frame_locator("#region iframe")
    viewer.locator("body[data-ready]").wait_for()
    assert "of the tissue is called tumour" in tab.locator("#summary").inner_text()

    # A place is looked at, and the picture stays where it is; the page asks for a judgement.
    viewer.locator("#picture").focus()
    box = tab.locator("#region iframe").bounding_box()
    viewer.locator("#picture").press("Enter")
    viewer.locator("#answer.read").wait_for()
    called = viewer.locator("#answer .call").inner_text().lower()
    tab.get_by_text("Do you accept that?").wait_for()
    assert (
        f"the centre square {called.removeprefix('called ')}"
        in tab.locator("#reviewed").inner_text()
    )
    assert tab.locator("#region iframe").bounding_box() == box
    assert tab.locator("#patch .frame").count() == 0
    tab.get_by_role("button", name="Accept").click()
    tab.get_by_text("agrees").wait_for()
    assert "x 233 µm, y 202 µm" in pd.read_csv(served[1])["id"].iloc[-1]

    # Another setting moves the threshold; zoom and place stay.
    viewer.locator("#picture").press("3")
    threshold = viewer.get_by_role("slider", name="Threshold")
    before = threshold.input_value()
    tab.get_by_label("Few false alarms").check()
    for _ in range(100):
        if threshold.input_value() != before:
            break
        tab.wait_for_timeout(100)
    assert threshold.input_value() != before
    assert viewer.get_by_role("button", name="10×").get_attribute("aria-current") == "true"
    assert viewer.locator("#answer.read").count() == 1
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Heat map (PNG)").click()
    with Image.open(download.value.path()) as picture:
        assert picture.size == (480, 384)

    # Another place; then the history opens the first one again, in the viewer too.
    viewer.locator("#picture").press("ArrowRight")
    viewer.locator("#picture").press("Enter")
    tab.get_by_text("Do you accept that?").wait_for()
    tab.get_by_text("This session").click()
    rows = tab.locator("#log .open")
    rows.first.wait_for()
    count = rows.count()
    assert count == 3  # the region's own row, and its two places
    rows.filter(has_text="x 233 µm, y 202 µm").click()
    tab.locator("#reviewed").get_by_text("The reviewer agrees").wait_for()
    viewer.locator("#answer.read").get_by_text("x 233 µm, y 202 µm").wait_for()
    tab.wait_for_timeout(500)  # the viewer has told the page where it is
    assert rows.count() == count

    # What was read before opens again in place of a patch: the region, at that place.
    tab.get_by_role("button", name="Patch with tumour").click()
    tab.locator("#patch .frame").wait_for()
    rows.filter(has_text="x 233 µm, y 202 µm").click()
    viewer.locator("#answer.read").get_by_text("x 233 µm, y 202 µm").wait_for()
    assert not tab.locator("#patch .frame").is_visible() and rows.count() == count + 1
    tab.locator("#reviewed").get_by_text("The reviewer agrees").wait_for()


def test_several_regions_are_read_while_the_first_is_looked_at(tab, served, patches, tmp_path):
    files = []
    for number, (name, patch) in enumerate(zip(("one", "two", "three"), patches, strict=False)):
        files.append(tmp_path / f"{name}.png")
        region = np.tile(patch, (3 + number, 4, 1))
        Image.fromarray(region).save(files[-1], dpi=(25_400 / 0.972,) * 2)
    tab.locator("input[type=file]").first.set_input_files(files)
    rows = tab.locator("#batch .open")
    tab.wait_for_function("document.querySelectorAll('#batch .open').length === 3")
    assert rows.all_inner_texts() == ["one.png", "two.png", "three.png"]
    assert tab.locator("#batch td img").count() == 3
    assert "3 regions" in tab.locator("#summary").inner_text()
    tab.get_by_role("button", name="Stop reading").wait_for(state="hidden")
    rows.nth(1).click()
    viewer = tab.frame_locator("#region iframe")
    viewer.locator("body[data-ready]").wait_for()
    assert viewer.locator("h1").inner_text() == "two.png"
    assert "two.png: " in tab.locator("#summary").inner_text()
    assert tab.locator("#batch tr[aria-current] .open").inner_text() == "two.png"
    rows.nth(2).press("Enter")
    viewer.locator("h1", has_text="three.png").wait_for(state="attached")
    viewer.locator("body[data-ready]").wait_for()
    viewer.locator("#picture").press("Enter")
    tab.get_by_text("Do you accept that?").wait_for()
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Predictions (CSV)").click()
    assert len(pd.read_csv(download.value.path())) == 15 * 12

    # While a drop is read, it can be stopped.
    with served[2].turns.large(served[2].visits.begin("nobody").stop):
        tab.get_by_label("Clear").first.click()
        tab.locator("input[type=file]").first.set_input_files(files[:2])
        stop = tab.get_by_role("button", name="Stop reading")
        stop.wait_for()
        tab.locator("#reading").get_by_text(
            "Waiting for 1 other region, then 1 of 2: one.png"
        ).wait_for()
        stop.click()
        stop.wait_for(state="hidden")
    assert (
        tab.locator("#batch td.call, #batch td:nth-child(2)").all_inner_texts()
        == ["not read: stopped"] * 2
    )
    served[2].visits.end("nobody")


@pytest.mark.parametrize(("width", "height"), [(1366, 768), (390, 844)])
def test_every_control_has_a_name_and_room_for_a_finger(tab, patches, tmp_path, width, height):
    files = [tmp_path / f"{name}.png" for name in ("one", "two")]
    for file, patch in zip(files, patches, strict=False):
        Image.fromarray(patch).save(file)
    tab.set_viewport_size({"width": width, "height": height})
    tab.locator("input[type=file]").first.set_input_files(files)
    tab.locator("#batch .open").first.click()
    tab.locator("#patch .frame").wait_for()
    tab.get_by_text("This session").click()
    tab.locator("#log .open").first.wait_for()
    assert unnamed(tab) == [] and too_small(tab) == []
    assert tab.get_by_role("button", name=re.compile(r"^common\.")).count() == 0  # a key of gradio
    page = "document.documentElement"
    assert tab.evaluate(f"{page}.scrollWidth <= {page}.clientWidth")
    for name in ("Accept", "Disagree", "I am unsure"):
        box = tab.get_by_text(name, exact=True).bounding_box()
        assert box["x"] > 0 and box["x"] + box["width"] < width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_warning_is_legible_and_a_narrow_page_fits(tab, scheme):
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": 640, "height": 450})  # as 1280 px are at a zoom of 200 %
    tab.reload()
    banner = tab.get_by_text("Research use only. Not for diagnosis.")
    banner.wait_for()
    assert banner.evaluate("each => getComputedStyle(each).color") == "rgb(90, 38, 0)"
    tab.get_by_role("button", name="Region", exact=True).click()
    tab.locator("#region iframe").wait_for()
    top = "document.querySelector('#summary').getBoundingClientRect().top"
    tab.wait_for_function(f"0 <= {top} && {top} < 450")  # the answer is in view
    assert tab.evaluate("scrollY") > 0 and 0 <= banner.bounding_box()["y"] < 40  # it is sticky
    page = "document.documentElement"
    assert tab.evaluate(f"{page}.scrollWidth - {page}.clientWidth") == 0
    assert tab.evaluate("[...document.images].every((each) => each.hasAttribute('alt'))")
