"""What the page shows, and the endpoint returns, of what a visitor looks at."""

import html

import numpy as np

from pcam_tf import slides
from pcam_tf.app import findings, overlays, viewer, visit
from pcam_tf.app.finding_page import RESEARCH_ONLY
from pcam_tf.app.findings import Point, Reader
from pcam_tf.app.visit import Found, Region, Visit


def summary(state: Visit, point: Point, found: Found | None) -> str:
    """Return the answer as HTML; `found` is the patch that is looked at closely, if one is."""
    lines = []
    if state.region:
        share = slides.tumour_share(state.region.heat, point.threshold)
        places = int(np.isfinite(state.region.heat).sum())
        kind = "tumour" if share else "normal"
        microns = state.region.stride_px * slides.PCAM_MPP
        lines.append(
            f'<p class="call {kind}">{findings.percent(share)} of the tissue is called tumour</p>'
            f"<p>{places:,} places, {microns:.0f} microns apart, each read once.</p>"
        )
    if found:
        kind = findings.call(found.probability, point)
        lines.append(
            f'<p class="call {kind}">Called {kind}</p><p>Probability of tumour in the centre '
            f"square: <strong>{findings.percent(found.probability)}</strong>, "
            f"{findings.in_words(found.probability)}. Tumour is called from "
            f"{findings.percent(point.threshold)} on. {html.escape(found.name)}.</p>"
        )
    elif len(state.patches) > 1:
        called = sum(findings.call(each.probability, point) == "tumour" for each in state.patches)
        lines.append(
            f'<p class="call {"tumour" if called else "normal"}">{called} of {len(state.patches)} '
            "patches are called tumour</p><p>Choose one to see why.</p>"
        )
    lines += [f'<p class="notice">{html.escape(each)}</p>' for each in visit.notices(state)]
    return f'<div class="result" role="status">{"".join(lines)}</div>'


def question(found: Found, point: Point) -> str:
    """Return what the reviewer is asked, or said already."""
    call = findings.call(found.probability, point)
    return visit.reviewed(found) or f"The model calls the centre square {call}. Do you accept that?"


def region_value(region: Region, point: Point) -> dict:
    """Return what the viewer shows of a region."""
    share = findings.percent(slides.tumour_share(region.heat, point.threshold))
    return viewer.of_region(
        region.pixels(),
        overlays.heat(region.heat, point.threshold),
        region.heat.shape,
        region.stride_px,
        key=f"{region.name} {region.heat.tobytes()[:64].hex()}",
        alt=f"Region under its heat map; {share} of the tissue is called tumour.",
    )


def patch_value(found: Found, point: Point) -> dict:
    """Return what the viewer shows of a patch that has been explained."""
    call = findings.call(found.probability, point)
    return viewer.of_patch(
        found.patch,
        overlays.explanation(found.explained),
        key=found.patch_id,
        alt=f"Patch under its explanation, called {call}, its centre square drawn.",
    )


def as_json(looked_at: Visit, point: Point, reader: Reader) -> dict:
    """Return a result for programs: of `kind` "patch" or "region"."""
    common = {"threshold": point.threshold, "notes": looked_at.notes, "model": reader.name}
    if looked_at.region:
        region = looked_at.region
        return common | {
            "kind": "region",
            "tumour_share": slides.tumour_share(region.heat, point.threshold),
            "stride_px": region.stride_px,
            "heat_map": [
                [None if np.isnan(cell) else round(float(cell), 4) for cell in row]
                for row in region.heat
            ],
            "unlike_training": region.notice,
            "research_use_only": RESEARCH_ONLY,
        }
    found = looked_at.patches[0]
    return common | {
        "kind": "patch",
        "probability": found.probability,
        "call": findings.call(found.probability, point),
        "unlike_training": found.notice,
        "research_use_only": RESEARCH_ONLY,
    }
