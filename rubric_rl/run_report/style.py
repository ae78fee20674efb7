"""The style sheet of a report: light, dark, phone and print, without anything from elsewhere.

Curves have the eight colours c0 to c7, phases p0 to p8; both are the same hues, a tone
apart for a dark ground, and stay apart for colour-blind readers.
"""

from __future__ import annotations

_LIGHT = """
  --ground: #ffffff; --panel: #f6f7f9; --ink: #1b2230; --dim: #566173; --rule: #d9dee6;
  --good: #0a6b3d; --bad: #b3261e; --good-ground: #e3f4ea; --bad-ground: #fbe7e5;
  --c0: #2a78d6; --c1: #d9541e; --c2: #14855f; --c3: #b07800; --c4: #c2528a; --c5: #4a3aa7;
  --c6: #c93a39; --c7: #5c6675; --c8: #7b9a16;
"""
_DARK = """
  --ground: #14171c; --panel: #1d2128; --ink: #e6e9ee; --dim: #a3adbb; --rule: #39404b;
  --good: #6fd39d; --bad: #ff9b92; --good-ground: #173325; --bad-ground: #3d1f1d;
  --c0: #5c9ff0; --c1: #f0824f; --c2: #35b88a; --c3: #d9a437; --c4: #e07fb0; --c5: #9e93f0;
  --c6: #ee7473; --c7: #a3adbb; --c8: #a9c84a;
"""

_CURVES = "".join(
    f".curve.c{i}, .whisker.c{i} {{ stroke: var(--c{i}); }} "
    f".dot.c{i}, .band.c{i} {{ fill: var(--c{i}); }}\n"
    for i in range(8)
)
_PHASES = "".join(f".bar.p{i} {{ fill: var(--c{i}); }}\n" for i in range(9))

STYLE = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
@media print {{ :root {{ color-scheme: light; {_LIGHT} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 78rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }}
h1 {{ font-size: 1.5rem; margin: .5rem 0; }}
h2 {{ font-size: 1.25rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--rule); }}
h3 {{ font-size: 1.05rem; margin: 1.5rem 0 .5rem; }}
h4 {{ font-size: 1rem; margin: 1rem 0 .25rem; }}
h1, h2, h3, h4, code, dd, summary, li, figcaption, td.words {{ overflow-wrap: anywhere; }}
p {{ max-width: 60rem; }}
a {{ color: inherit; }}
nav ul, ul.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1rem;
  margin: .25rem 0; padding: 0; }}
.note, caption, summary {{ color: var(--dim); }}
.warning, .bottleneck {{ border-left: 4px solid var(--c3); background: var(--panel);
  padding: .5rem .75rem; }}
.bottleneck {{ border-color: var(--c0); }}
dl.facts {{ display: grid; grid-template-columns: minmax(7rem, max-content) 1fr;
  gap: .15rem 1rem; margin: .5rem 0; }}
dl.facts dt {{ color: var(--dim); }}
dl.facts dd {{ margin: 0; }}
code, pre {{ font: 13px/1.45 ui-monospace, "DejaVu Sans Mono", monospace; }}
pre {{ margin: .25rem 0; padding: .5rem .75rem; background: var(--panel); white-space: pre-wrap;
  overflow-wrap: anywhere; max-height: 24rem; overflow-y: auto; }}
.scroll {{ overflow-x: auto; margin: .5rem 0; }}
table {{ border-collapse: collapse; font-size: 14px; }}
caption {{ text-align: left; padding: .15rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .25rem .6rem;
  border-bottom: 1px solid var(--rule); font-weight: normal; min-width: 3.5rem; }}
thead th {{ font-weight: 600; overflow-wrap: normal; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
td.n, th.n {{ overflow-wrap: normal; }}
td.words, .words {{ min-width: 16rem; }}
summary {{ cursor: pointer; padding: .15rem 0; }}
.charts, .sides {{ display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }}
.sides {{ grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }}
.sides > * {{ min-width: 0; }}
figure {{ margin: 0; padding: .5rem; background: var(--panel); border-radius: 6px; min-width: 0;
  max-width: 34rem; }}
figcaption, ul.legend, figure summary {{ font-size: 13px; }}
figure > svg {{ display: block; overflow: visible; width: 100%; height: auto; }}
svg text {{ font: 11px system-ui, sans-serif; fill: var(--ink); }}
svg .tick {{ fill: var(--dim); }}
.middle {{ text-anchor: middle; }}
.end {{ text-anchor: end; }}
.grid {{ stroke: var(--rule); stroke-width: 1; }}
.refined {{ stroke: var(--dim); stroke-width: 1; stroke-dasharray: 3 3; }}
.curve {{ fill: none; stroke-width: 2; stroke-linejoin: round; }}
.whisker {{ stroke-width: 2; opacity: .5; }}
.band {{ opacity: .18; }}
{_CURVES}{_PHASES}
.readout > rect {{ fill: transparent; }}
.readout > g {{ visibility: hidden; pointer-events: none; }}
.readout:hover > g {{ visibility: visible; }}
.readout g rect {{ fill: var(--ground); stroke: var(--rule); }}
.readout .at {{ stroke: var(--dim); }}
.good, ins {{ color: var(--good); }}
.bad, del {{ color: var(--bad); }}
ins, del {{ text-decoration-thickness: 1px; }}
ins {{ background: var(--good-ground); text-decoration: none; }}
del {{ background: var(--bad-ground); }}
ul.changes {{ padding-left: 1.2rem; margin: .25rem 0; }}
.op {{ display: inline-block; min-width: 4.5rem; font-weight: 600; }}
@media (max-width: 40rem) {{
  body {{ padding: .75rem; }}
  dl.facts {{ grid-template-columns: 1fr; gap: 0; }}
  dl.facts dd {{ margin-bottom: .4rem; }}
}}
@media print {{
  body {{ max-width: none; font-size: 11px; }}
  nav {{ display: none; }}
  pre {{ max-height: none; }}
  .scroll {{ overflow: visible; }}
  figure, tr, .sides > * {{ break-inside: avoid; }}
  .charts {{ grid-template-columns: 1fr 1fr; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""
