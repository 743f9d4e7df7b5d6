"""The page of a report: style, head, summary, curves; one HTML file that needs no other file and no JavaScript."""

from collections.abc import Mapping, Sequence

from fusionjax.recipes.charts import draw_curves
from fusionjax.recipes.escaping import escape

_STYLE = """
:root { color-scheme: light dark; --text: #1d2330; --quiet: #5b6475; --page: #f6f7f9; --card: #ffffff; --rule: #dde1e8;
  --c0: #2563c9; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; --right: #15803d; --wrong: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ef; --quiet: #9aa4b5; --page: #14171d; --card: #1d2129;
  --rule: #333a46; --c0: #7cabff; --c1: #fb923c; --c2: #4ade80; --c3: #d8a4ff; --right: #4ade80; --wrong: #f87171; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 76rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .75rem; }
.quiet { color: var(--quiet); font-size: .875rem; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem; margin: 0 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: left; border-bottom: 1px solid var(--rule); font-weight: 400; }
tr:last-child > * { border-bottom: 0; } td.number { text-align: right; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.charts .card { margin: 0; padding: .5rem; } .chart { width: 100%; height: auto; display: block; }
.chart text { fill: var(--quiet); font-size: 11px; }
.chart .title { fill: var(--text); font-size: 13px; font-weight: 600; }
.grid { stroke: var(--rule); } .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); } .line2 { stroke: var(--c2); } .line3 { stroke: var(--c3); }
.chart .name { stroke: none; font-weight: 600; } .dot { stroke: none; }
.chart .line0.name, .line0.dot { fill: var(--c0); } .chart .line1.name, .line1.dot { fill: var(--c1); }
.chart .line2.name, .line2.dot { fill: var(--c2); } .chart .line3.name, .line3.dot { fill: var(--c3); }
.sample { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.sample > div { flex: 1 1 18rem; min-width: 0; }
.picture { width: 256px; max-width: 100%; height: auto; border-radius: 6px; display: block; }
.caption { font-size: 1.15rem; font-weight: 600; margin: 0 0 .25rem; } .sample p { margin: 0 0 .5rem; }
.sample ul { margin: .25rem 0 .5rem; padding-left: 1.2rem; }
.words { display: flex; flex-wrap: wrap; gap: .6rem; margin-top: 1rem; } .words figure { margin: 0; width: 120px; }
.words img { width: 100%; height: auto; border-radius: 4px; display: block; }
.words figcaption { text-align: center; font-size: .9rem; line-height: 1.25; padding-top: .2rem; }
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 16rem), 1fr)); gap: 1rem; }
.gallery .card { margin: 0; } .gallery p { margin: .5rem 0 0; } .gallery .picture { width: 100%; }
.found { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 11rem), 1fr)); gap: 1rem; }
.found figure { margin: 0; } .found img { width: 100%; height: auto; border-radius: 6px; display: block; }
.found figcaption { font-size: .9rem; line-height: 1.35; padding-top: .25rem; }
.right, .wrong { font-weight: 600; } .right { color: var(--right); } .wrong { color: var(--wrong); }
.matrix td { text-align: right; background: rgb(37 99 201 / calc(var(--share) * .85)); border: 1px solid var(--rule); }
.matrix td.strong { color: #ffffff; } .matrix th { color: var(--quiet); }
"""


def build_page(
    title: str, summary: Mapping[str, float | str], history: Sequence[Mapping[str, float]], sections: Sequence[str]
) -> str:
    """Builds the whole page: title, table of the summary, curves of the training, then the sections.

    Args:
        title: of the page; any text.
        summary: names and values of the table; any text.
        history: rows of `step` and metrics (see `draw_curves`); may be empty.
        sections: HTML, in order.

    Returns:
        The page, which forbids itself scripts and everything from outside.

    Example:
        >>> build_page("A run", {"test/bleu_4": 0.1}, [], []).splitlines()[0]
        '<!DOCTYPE html>'
    """
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{escape(show_value(value))}</td></tr>'
        for name, value in summary.items()
    )
    charts = "".join(f'<div class="card">{chart}</div>' for chart in draw_curves(history))
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<h2>Summary</h2><div class="card scroll"><table>{rows}</table></div>' if rows else "",
        f'<h2>Training</h2><div class="charts">{charts}</div>' if charts else "",
        *sections,
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


def show_value(value: float | str) -> str:
    """Writes a value as people read it: whole numbers whole, others with four digits.

    Args:
        value: number or text.

    Returns:
        The text.

    Example:
        >>> [show_value(value) for value in (0.123456, 12000.0, 1234.5678, "beam")]
        ['0.1235', '12,000', '1,235', 'beam']
    """
    if isinstance(value, str):
        return value
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
