"""Synthetic slides, written once."""

import pytest

from pcam_tf.synthetic import slide, slide_files, slide_plan

PLAN = slide_plan.plan_slide(640, radii_px=(90, 60, 12))


@pytest.fixture(scope="session")
def plan():
    """Return what the slides show."""
    return PLAN


@pytest.fixture(scope="session")
def drawing():
    """Return the whole slide at the scale of the drawing, uint8 (640, 640, 3)."""
    return slide.draw_window(PLAN, 0, 0, 640, 640)


@pytest.fixture(scope="session")
def slide_file(tmp_path_factory):
    """Return a function from options of `write_slide` to a file, each written once."""
    pytest.importorskip("imagecodecs")
    folder, written = tmp_path_factory.mktemp("slides"), {}

    def file(**options):
        key = tuple(sorted(options.items()))
        if key not in written:
            suffix = "svs" if options.get("kind") == "svs" else "tif"
            path = folder / str(len(written)) / f"slide.{suffix}"
            written[key] = slide_files.write_slide(PLAN, path, **options)
        return written[key]

    return file
