"""One result as one page that needs nothing else, for a file or for paper."""

import jinja2
from PIL import Image

from pcam_tf.app import overlays

RESEARCH_ONLY = "Research use only. Not for diagnosis."

# Every value is escaped: a picture's name is the user's.
_PAGE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff;
  max-width: 46rem; margin: 1.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .3rem; }
.only { border: 2px solid #D55E00; padding: .4rem .8rem; font-weight: bold; }
.notice { border-left: 4px solid #D55E00; padding-left: .8rem; }
th, td { text-align: left; vertical-align: top; padding: .2rem 1rem .2rem 0; }
th { white-space: nowrap; font-weight: 600; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: .6rem 0; } img { max-width: 100%; max-height: 24rem; }
figcaption { font-size: .85rem; color: #444; max-width: 24rem; }
@media print { body { margin: 0; } }
</style>
</head>
<body>
<p class="only">{{ research_only }}</p>
<h1>{{ title }}</h1>
{% for notice in notices %}<p class="notice">{{ notice }}</p>{% endfor %}
<table>
{% for name, value in rows %}
<tr><th scope="row">{{ name }}</th><td>{{ value }}</td></tr>
{% endfor %}
</table>
<div class="pictures">
{% for caption, source in pictures %}
<figure><img alt="{{ caption }}" src="{{ source }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</div>
</body>
</html>
"""
)


def page(
    title: str,
    rows: list[tuple[str, str]],
    pictures: list[tuple[str, Image.Image]],
    notices: list[str],
) -> str:
    """Return a self-contained page, HTML.

    Args:
        title: of the page.
        rows: what was found and how: a name and a value each.
        pictures: a caption and a picture each.
        notices: what to be careful about.
    """
    return _PAGE.render(
        title=title,
        rows=rows,
        pictures=[(caption, overlays.data_url(picture)) for caption, picture in pictures],
        notices=notices,
        research_only=RESEARCH_ONLY,
    )
