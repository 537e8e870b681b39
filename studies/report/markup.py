"""Pieces of HTML. Everything that comes from outside goes through `text`: labels, notes and the
tails of logs may hold anything.
"""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from plotly.offline import get_plotlyjs

_NUMBER = re.compile(r"-|none|[+-]?[\d.,]+(e[+-]?\d+)?[kMBT%]?(·\S+)?( to \S+)?|10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+")
STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #59636e; --line: #d9dee3; --back: #ffffff;
  --panel: #f5f7f9; --accent: #0E7ABF; --warn: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa5b1; --line: #333c45;
  --back: #0f1419; --panel: #182028; --accent: #58b0e8; --warn: #ff8a80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 18px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .9rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.02rem; margin: 1.7rem 0 .35rem; }
p { margin: .5rem 0; max-width: 72ch; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.question { font-size: 1.1rem; color: var(--soft); margin-top: 0; }
.answer { background: var(--panel); border-left: 4px solid var(--accent); padding: .9rem 1.1rem;
  font-size: 1.12rem; max-width: none; border-radius: 0 6px 6px 0; overflow-wrap: anywhere; }
.refused { border-left-color: var(--warn); }
.warn { color: var(--warn); font-weight: 600; }
figure { margin: 1rem 0 1.6rem; }
figure > div { width: 100%; }
figcaption { margin-top: .4rem; max-width: 80ch; }
.scroll { overflow-x: auto; margin: .6rem 0 1rem; border: 1px solid var(--line);
  border-radius: 6px; }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .65rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
td.wide { white-space: normal; min-width: 16rem; overflow-wrap: anywhere; }
td.trial { white-space: normal; min-width: 15rem; overflow-wrap: break-word; }
th { background: var(--panel); font-weight: 600; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; }
details { margin: .7rem 0; }
summary { cursor: pointer; color: var(--accent); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  overflow-x: auto; font-size: .82rem; line-height: 1.45; max-height: 30rem; }
ul { padding-left: 1.2rem; max-width: 76ch; }
li { margin: .25rem 0; overflow-wrap: anywhere; }
@media (max-width: 640px) { td.trial { min-width: 9.5rem; }
  main { padding: 18px 14px 48px; } h1 { font-size: 1.4rem; }
  .answer { font-size: 1.02rem; padding: .75rem .85rem; } }
@media print { .scroll { overflow: visible; } }
"""
DRAW = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function dressed(layout) {
  const ink = dark.matches ? "#e4e8ec" : "#1c2126", line = dark.matches ? "#333c45" : "#d9dee3";
  const axis = {gridcolor: line, linecolor: line, tickcolor: line, zerolinecolor: line};
  const template = {layout: {font: {color: ink}, xaxis: axis, yaxis: axis,
    hoverlabel: {bgcolor: dark.matches ? "#182028" : "#ffffff", font: {color: ink}}}};
  return Object.assign({}, layout, {template: template, autosize: true});
}
function draw() {
  for (const [name, figure] of Object.entries(FIGURES)) {
    const place = document.getElementById("figure-" + name);
    Plotly.react(place, figure.data, dressed(figure.layout),
      {responsive: true, displaylogo: false, displayModeBar: false});
  }
}
draw();
dark.addEventListener("change", draw);
"""
"""A figure has no colours for text and grid: they follow the page's scheme."""


def text(value: Any) -> str:
    """Returns what came from outside as text that a browser only shows."""
    return escape(str(value), quote=True)


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def heading(words: str, level: int = 2) -> str:
    return f"<h{level}>{text(words)}</h{level}>"


def bullets(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>" if lines else ""


def folded(title: str, inside: str) -> str:
    """Returns markup that opens on a click. inside: markup."""
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def block(words: str) -> str:
    return f"<pre>{text(words)}</pre>"


def table(rows: Sequence[Mapping[str, Any]], wide: Sequence[str] = ()) -> str:
    """Returns a table headed by the first row's keys; numbers stand at the right.

    It scrolls by itself where the page is narrow. wide: columns whose text may wrap.
    """
    if not rows:
        return ""
    names = list(rows[0])
    numbers = {name for name in names if all(_is_number(row[name]) for row in rows)}

    def kind(name: str) -> str:
        word = "number" if name in numbers else "wide" if name in wide else ""
        word = "trial" if name == "trial" else word
        return f' class="{word}"' if word else ""

    head = "".join(f"<th{kind(name)}>{text(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{kind(name)}>{text(row[name])}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(name: str, title: str, caption: str) -> str:
    """Returns the place of a figure; `script` fills it."""
    return (
        f'{heading(title, 3)}<figure><div id="figure-{text(name)}" role="img" '
        f'aria-label="{text(title)}"></div><figcaption>{text(caption)}</figcaption></figure>'
    )


def script(figures: Mapping[str, Any]) -> str:
    """Returns plotly.js, once, and what draws the figures; empty where there are none."""
    if not figures:
        return ""
    # < as an escape: a label with </script> must not end the script
    data = json.dumps(figures, allow_nan=False).replace("<", "\\u003c")
    data = data.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return f"<script>{get_plotlyjs()}</script>\n<script>const FIGURES = {data};\n{DRAW}</script>"


def document(title: str, body: str, scripts: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n"
        f"</main>\n{scripts}\n</body>\n</html>\n"
    )


def _is_number(value: Any) -> bool:
    return bool(_NUMBER.fullmatch(str(value)))
