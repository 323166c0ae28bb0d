"""One HTML file with the figures of one or two models."""

import base64
import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from ..deploy.draw import Annotator
from ..whole_files import replace_file
from . import figures
from .evaluation import Evaluation, Wrong

SIDE = 480  # pixels of a shown image
BACKGROUND = 'background'

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
  color: #222; }
h1 { font-size: 1.5rem; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
th { cursor: pointer; position: sticky; top: 0; background: #fff; }
.row { display: flex; flex-wrap: wrap; gap: 1rem 2rem; align-items: flex-start; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.grid { gap: 0 2rem; } .wide { grid-column: 1 / -1; } .wide figure { flex: 1 1 480px; }
figure { margin: 0; max-width: 100%; } figure img { max-width: 100%; }
figcaption { font-size: .85rem; color: #555; overflow-wrap: anywhere; }
</style></head><body>
<h1>{{ title }}</h1>
<ul>{% for line in lines %}<li>{{ line }}</li>{% endfor %}</ul>
<div class="row"><div><h2>Metrics</h2>
<table><tr><th></th>{% for name in short %}<th>{{ name }}</th>{% endfor %}
{% if evaluations|length == 2 %}<th>{{ short[1] }} - {{ short[0] }}</th>{% endif %}</tr>
{% for row in summary %}<tr><td>{{ row[0] }}</td>{% for v in row[1] %}<td>{{ number(v) }}</td>
{% endfor %}{% if row[1]|length == 2 %}<td>{{ number(row[1][1] - row[1][0]) }}</td>{% endif %}
</tr>{% endfor %}
</table></div>
<div><h2>Classes</h2>
<table id="classes"><thead><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table %}<tr>{% for v in row %}<td>{{ v if v is string else number(v) }}</td>
{% endfor %}</tr>{% endfor %}</tbody></table>
<p>A click on a column sorts the table.</p>
{% if missing %}<p>Classes without {{ columns[1] }}: {{ missing|join(', ') }}</p>{% endif %}
</div></div>
<div class="grid">
{% for section in sections %}<section{% if section.images|length > 1 %} class="wide"{% endif %}>
<h2>{{ section.title }}</h2>
{% if section.text %}<p>{{ section.text }}</p>{% endif %}<div class="row">
{% for caption, data in section.images %}<figure><img alt="{{ caption }}" src="{{ data }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}</div></section>{% endfor %}
</div>
<script>
const body = document.querySelector('#classes tbody');
document.querySelectorAll('#classes th').forEach((head, i) => {
  let down = true;
  head.onclick = () => {
    const text = row => row.cells[i].textContent;
    const value = row => { const v = parseFloat(text(row)); return isNaN(v) ? -1 : v; };
    const rows = [...body.rows].sort(
      (a, b) => value(b) - value(a) || text(a).localeCompare(text(b)));
    (down ? rows : rows.reverse()).forEach(row => body.append(row));
    down = !down;
  };
});
</script></body></html>
"""


def write_page(
    folder: str, evaluations: Sequence[Evaluation], title: str, lines: Sequence[str]
) -> str:
    """Write ``index.html``, which needs no other file.

    Args:
        folder: The folder; it is made.
        evaluations: One model, or two to compare.
        title: The title.
        lines: Facts about the data and the test.

    Returns:
        The path of the page.

    Raises:
        OSError: If the file cannot be written; an old page stays.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    names = dict.fromkeys(name for each in evaluations for name in each.summary)
    nan = float('nan')
    summary = [(name, [e.summary.get(name, nan) for e in evaluations]) for name in names]
    columns, rows = _classes(evaluations)
    page = environment.from_string(PAGE).render(
        title=title,
        lines=lines,
        evaluations=evaluations,
        short=[each.short for each in evaluations],
        summary=summary,
        columns=columns,
        table=[row for row in rows if row[1] != 0],
        missing=[row[0] for row in rows if row[1] == 0],
        sections=_sections(evaluations),
        number=_number,
    )
    path = os.path.join(folder, 'index.html')
    replace_file(path, page.encode())
    return path


def _classes(evaluations: Sequence[Evaluation]) -> tuple[list[str], list[tuple]]:
    """Return names of columns and the rows of the table of classes.

    The first column of a table, the number of objects, images or pixels, is the same for all.
    """
    first = evaluations[0]
    columns: dict[str, list] = {'class': list(first.classes)}
    for i, name in enumerate(first.table):
        for each in evaluations[: 1 if i == 0 else None]:
            several = i > 0 and len(evaluations) > 1
            title = f'{name}, {each.short}' if several else name
            columns[title] = each.table.get(name, [float('nan')] * len(first.classes))
    return list(columns), list(zip(*columns.values(), strict=True))


def _sections(evaluations: Sequence[Evaluation]) -> list[dict]:
    """Return the sections with pictures."""
    sections = []

    def add(title: str, text: str, images: list[tuple[str, bytes]], kind: str = 'png') -> None:
        coded = [(c, f'data:image/{kind};base64,{base64.b64encode(d).decode()}') for c, d in images]
        if coded:
            sections.append(dict(title=title, text=text, images=coded))

    titles = dict.fromkeys(title for each in evaluations for title in each.curves)
    for title in titles:
        curves = [(e.short, e.curves[title]) for e in evaluations if title in e.curves]
        add(title, '', [(name, figures.draw_curves(title, found)) for name, found in curves])
    matrices = []
    for each in evaluations:
        names = each.classes
        if len(each.confusion) > len(names):
            names = (*names, BACKGROUND)
        counts = each.confusion
        met = np.flatnonzero(counts.sum(0) + counts.sum(1))
        names = tuple(names[i] for i in met)
        matrices.append((each.short, figures.draw_confusion(counts[np.ix_(met, met)], names)))
    add('Confusion', '', matrices)
    bins = [(e.short, figures.draw_calibration(e.bins)) for e in evaluations if e.bins]
    text = 'Predictions of a score of 0.8 should be right in 80 % of the cases.'
    add('Calibration', text, bins)
    for each in evaluations:
        text = f'{each.short}: ground truth on the left, prediction on the right.'
        shown = [(f'{w.text}: {w.path}', _picture(each, w)) for w in each.wrong]
        title = 'Worst images' + f' of {each.short}' * (len(evaluations) > 1)
        add(title, text, [(caption, data) for caption, data in shown if data], 'jpeg')
    return sections


def _picture(evaluation: Evaluation, wrong: Wrong) -> bytes | None:
    """Return a JPEG of ground truth and prediction; None if the image cannot be read any more."""
    image = mmcv.imread(wrong.path) if os.path.exists(wrong.path) else None
    if image is None:
        return None
    image, sample = enlarge(image, wrong.sample)
    annotator = Annotator(evaluation.classes, evaluation.palette)
    truth = annotator.ground_truth(image, sample)
    prediction = annotator.prediction(image, sample)
    pair = prediction if truth is None else np.hstack([truth, prediction])
    scale = min(1.0, 2 * SIDE / pair.shape[1])
    pair = cv2.resize(pair, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode('.jpg', pair)[1].tobytes()


def enlarge(image: np.ndarray, sample: BaseDataElement) -> tuple[np.ndarray, BaseDataElement]:
    """Enlarge a small image and its sample by a whole number, so that labels hide less of it.

    Args:
        image: The image (H, W, 3).
        sample: Objects, label maps or classes, each predicted or true.
    """
    times = SIDE // max(image.shape[:2])
    if times < 2:
        return image, sample

    def repeat(maps: Any) -> torch.Tensor:
        return torch.as_tensor(maps).repeat_interleave(times, -1).repeat_interleave(times, -2)

    sample = sample.clone()
    for kind in ('gt', 'pred'):
        if objects := sample.get(f'{kind}_instances'):
            found = dict(objects.items(), bboxes=objects.bboxes * times)
            if 'masks' in objects:
                found['masks'] = repeat(objects.masks)
            setattr(sample, f'{kind}_instances', InstanceData(**found))
        if regions := sample.get(f'{kind}_sem_seg'):
            setattr(sample, f'{kind}_sem_seg', PixelData(data=repeat(regions.data)))
    return cv2.resize(image, None, fx=times, fy=times, interpolation=cv2.INTER_CUBIC), sample


def _number(value: float) -> str:
    """Return a value of a table; '-' for NaN."""
    if isinstance(value, int):
        return f'{value:,}'
    return '-' if math.isnan(value) else f'{value:.4f}'
