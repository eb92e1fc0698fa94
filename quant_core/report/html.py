"""A document as one HTML file: no script, no network, light or dark as the reader's system is, fit to print."""

from __future__ import annotations

from html import escape as html_escape

from quant_core.report.document import Block, Document, Fact, Listing, Table, Text, Verbatim, clean
from quant_core.report.svg import drawing

_STYLE = """
:root { color-scheme: light dark;
  --text: #1b2529; --quiet: #4d5a60; --page: #ffffff; --card: #f2f5f5; --line: #d5ddde; --accent: #0b6b79; }
.level-0 { fill: #f1efdb } .level-1 { fill: #81d0b4 } .level-2 { fill: #04a7a8 }
.level-3 { fill: #007795 } .level-4 { fill: #00497d } .level-5 { fill: #223264 }
.on-0, .on-1, .on-2 { fill: #000000 } .on-3, .on-4, .on-5 { fill: #ffffff }
@media screen and (prefers-color-scheme: dark) {
  :root { --text: #e3e8ea; --quiet: #a9b3b8; --page: #0f1418; --card: #181f26; --line: #35404a; --accent: #7ccbd4; }
  .level-0 { fill: #2d3859 } .level-1 { fill: #076391 } .level-2 { fill: #0291aa }
  .level-3 { fill: #40bfb3 } .level-4 { fill: #bfe1b7 } .level-5 { fill: #f2efd0 }
  .on-0, .on-1 { fill: #ffffff } .on-2, .on-3, .on-4, .on-5 { fill: #000000 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.6rem 1.2rem 3rem; max-width: 62rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .6rem } h2 { margin: 2.6rem 0 .4rem; font-size: 1.35rem }
h3 { margin: 2rem 0 .5rem; font-size: 1.08rem } h4 { margin: 1rem 0 .3rem; font-size: .95rem }
p { margin: .4rem 0 } .question { color: var(--quiet) } .answer { font-size: 1.15rem; margin: .2rem 0 1rem }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(15rem, 100%), 1fr)); gap: .7rem; margin: 0 }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: .45rem; padding: .6rem .8rem }
dt { color: var(--quiet); font-size: .87rem } dd { margin: 0 } dd.value { font-size: 1.35rem; font-weight: 550 }
dd.detail, footer { color: var(--quiet); font-size: .87rem } ul { margin: .4rem 0; padding-left: 1.2rem }
.wide { overflow-x: auto; margin: .6rem 0 } table { border-collapse: collapse; font-size: .87rem; min-width: 50%;
  overflow-wrap: normal }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  min-width: 5rem }
td.number { white-space: nowrap }
th { color: var(--quiet); font-weight: 600 } .number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: var(--card); border: 1px solid var(--line); border-radius: .45rem; padding: .6rem .8rem;
  margin: .3rem 0; white-space: pre-wrap;
  font: .84rem/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace }
pre.prose { font: inherit }
svg { display: block; width: 100%; max-width: 60rem; height: auto; font-size: 12px }
svg text:not([class]) { fill: var(--text) }
svg text.quiet { fill: var(--quiet) }
.grid { stroke: var(--line) } .span { stroke: var(--accent); stroke-width: 3 } .mark, .bar { fill: var(--accent) }
.curve { fill: none; stroke: var(--accent); stroke-width: 2 }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .6rem }
@media print { body { padding: 0; max-width: none; font-size: 11px } h2 { break-before: page }
  tr, svg, .facts div { break-inside: avoid } }
"""


def to_html(document: Document) -> str:
    """The document; every text of it is escaped here and in the drawings, and nothing else makes markup."""
    facts = "".join(_fact(fact) for fact in document.facts)
    appendix = "".join(
        f"<section><h3>{escaped(section.title)}</h3>{''.join(map(_block, section.blocks))}</section>\n"
        for section in document.appendix
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escaped(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escaped(document.title)}</h1>\n<p class="question">{escaped(document.question)}</p>\n'
        f'<p class="answer">{escaped(document.answer)}</p>\n<dl class="facts">{facts}</dl>\n'
        f"<h4>What it does not know</h4>\n{_list(document.unknown)}\n<h2>Appendix</h2>\n{appendix}</main>\n"
        f"<footer>Made by {escaped(document.made_by)}.</footer>\n</body>\n</html>\n"
    )


def escaped(text: str) -> str:
    """``text`` as it may stand in an element or a quoted attribute."""
    return html_escape(clean(text))


def _fact(fact: Fact) -> str:
    return (
        f'<div><dt>{escaped(fact.label)}</dt><dd class="value">{escaped(fact.value)}</dd>'
        f'<dd class="detail">{escaped(fact.detail)}</dd></div>'
    )


def _block(block: Block) -> str:
    match block:
        case Text(text):
            return f"<p>{escaped(text)}</p>"
        case Listing(items):
            return _list(items)
        case Table():
            return _table(block)
        case Verbatim(title, text, code):
            head = f"<h4>{escaped(title)}</h4>" if title else ""
            if code:
                return f"{head}<pre><code>{escaped(text)}</code></pre>"
            return f'{head}<pre class="prose"><span>{escaped(text)}</span></pre>'
        case chart:
            return f'<h4>{escaped(chart.title)}</h4><div class="wide" tabindex="0">{drawing(chart)}</div>'


def _list(items: tuple[str, ...]) -> str:
    return f"<ul>{''.join(f'<li>{escaped(item)}</li>' for item in items)}</ul>"


def _table(table: Table) -> str:
    kinds = [' class="number"' if place in table.numeric else "" for place in range(len(table.head))]
    head = "".join(
        f'<th scope="col"{kind}>{escaped(cell)}</th>' for kind, cell in zip(kinds, table.head, strict=True)
    )
    rows = "".join(
        f"<tr>{''.join(f'<td{kind}>{escaped(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))}</tr>"
        for row in table.rows
    )
    return f'<div class="wide" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
