"""How the page looks: in the light, in the dark, on a telephone and on paper. No script, nothing from elsewhere."""

from __future__ import annotations

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --sheet: #f6f7f9; --edge: #d5dae1; --ink: #1b2430; --soft: #566273;
  --a: #1f5fbf; --b: #b35309; --c: #6b7280; --d: #8b5cf6; --good: #17713f; --warn: #8a5a00; --bad: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --sheet: #1b212a; --edge: #364150; --ink: #e8ecf2; --soft: #a5b1c2;
    --a: #7db2ff; --b: #f0a35e; --c: #9aa5b5; --d: #b79cff; --good: #63cf8f; --warn: #e6b450; --bad: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 64rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
a { color: var(--a); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; margin: .75rem 0; list-style: none; }
section { border-top: 1px solid var(--edge); margin-top: 2.5rem; padding-top: 1.5rem; }
.head { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem 1rem; }
.way { display: flex; flex-wrap: wrap; gap: .35rem; padding: 0; margin: .75rem 0; list-style: none; font-size: .9rem; }
.way li { padding: .15rem .7rem; border: 1px solid var(--edge); border-radius: 1rem; color: var(--soft); }
.way li.now { background: var(--sheet); color: var(--ink); font-weight: 600; }
.way li.next { border-color: var(--a); color: var(--a); font-weight: 600; }
.advice { background: var(--sheet); border-left: .35rem solid var(--a); border-radius: .3rem; padding: .75rem 1rem; }
.advice p:first-child { font-size: 1.15rem; font-weight: 600; margin-top: 0; }
.advice.bad { border-color: var(--bad); } .advice.wait { border-color: var(--warn); }
.advice.good { border-color: var(--good); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile { background: var(--sheet); border-radius: .4rem; padding: .7rem .9rem; margin: 0; }
.tile dt { font-size: .85rem; color: var(--soft); }
.tile dd { margin: 0; }
.tile .big { font-size: 1.6rem; line-height: 1.25; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile .small { font-size: .82rem; color: var(--soft); line-height: 1.35; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
th, td { text-align: left; vertical-align: top; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid var(--edge); }
thead th { color: var(--soft); font-weight: 600; font-size: .85rem; }
tbody th { font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead th.number { text-align: right; }
.verdict { display: inline-block; white-space: nowrap; font-weight: 600; }
.verdict.yes { color: var(--good); } .verdict.partly { color: var(--warn); } .verdict.no { color: var(--ink); }
.verdict.unknown { color: var(--soft); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.5rem 2rem; }
figure { margin: 0; min-width: 0; max-width: 36rem; }
figcaption { font-size: .92rem; }
figcaption b { display: block; font-size: 1rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; padding: 0; margin: .2rem 0; list-style: none; }
.legend { font-size: .82rem; }
.legend svg { width: 1.1rem; height: .8rem; margin-right: .35rem; vertical-align: -.05rem; }
figure > svg { display: block; width: 100%; height: auto; }
details { font-size: .88rem; margin-top: .2rem; }
summary { cursor: pointer; color: var(--soft); }
code { font: .9em/1.4 ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
svg text { font-size: 12px; fill: var(--ink); } svg .tick { font-size: 11.5px; fill: var(--soft); }
svg .strong { font-size: 14px; font-weight: 600; }
svg .grid { stroke: var(--edge); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; } svg .line.a { stroke: var(--a); } svg .line.b { stroke: var(--b); }
svg .a, svg .local { fill: var(--a); } svg .b, svg .upstream { fill: var(--b); } svg .line { fill: none; }
svg .deferred { fill: var(--d); } svg .abstained { fill: var(--c); }
svg .rest { fill: var(--edge); } svg .band { fill: var(--a); opacity: .2; } svg .gain { fill: var(--b); opacity: .15; }
svg .whisker { stroke: var(--a); stroke-width: 2; opacity: .55; } svg .none { display: none; }
svg .target { stroke: var(--b); stroke-width: 2; stroke-dasharray: 6 4; }
svg .mark { stroke: var(--ink); stroke-width: 1.5; }
@media (max-width: 34rem) {
  body { padding-top: 1rem; } .tile .big { font-size: 1.35rem; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  .questions thead { display: none; }
  .questions tr { display: block; border-bottom: 1px solid var(--edge); padding: .5rem 0; }
  .questions th, .questions td { display: block; border: 0; padding: .1rem 0; }
}
@media print {
  :root {
    --paper: #fff; --sheet: #f4f4f4; --edge: #bbb; --ink: #000; --soft: #444; --a: #1f5fbf; --b: #b35309;
    --c: #6b7280; --d: #8b5cf6; --good: #17713f; --warn: #8a5a00; --bad: #b3261e;
  }
  body { max-width: none; padding: 0; font-size: 10.5pt; } nav, details:not([open]), summary { display: none; }
  section { break-before: page; border: 0; margin: 0; padding: 0; } section:first-of-type { break-before: auto; }
  figure, .advice, .tile, tr { break-inside: avoid; } .charts { grid-template-columns: 1fr 1fr; }
  .tile, .advice { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""
