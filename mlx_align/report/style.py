"""How the page looks: light or dark as the reader prefers, narrow or wide, on screen or on paper."""

from __future__ import annotations

CSS = """\
:root {
  color-scheme: light dark;
  --page: #f6f7fb; --card: #ffffff; --ink: #262b3f; --quiet: #5d6683; --line: #d3d8e5;
  --accent: #2c5cc5; --good: #33761a; --bad: #c0264a; --odd: #8a5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12131c; --card: #1a1c29; --ink: #c8d0f0; --quiet: #8b93b5; --line: #2f3449;
    --accent: #7aa2f7; --good: #9ece6a; --bad: #f7768e; --odd: #e0af68;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
}
header { margin-bottom: 2rem; }
.mark { color: var(--quiet); letter-spacing: .06em; text-transform: uppercase; font-size: .75rem; }
h1 { margin: .2rem 0 .4rem; font-size: 1.55rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 {
  margin: 2.6rem 0 .9rem; font-size: 1.05rem; border-bottom: 1px solid var(--line); padding-bottom: .35rem;
}
p { margin: .35rem 0; }
.quiet, footer { color: var(--quiet); }
.finished, .good { color: var(--good); }
.failed, .crashed, .error, .bad { color: var(--bad); }
.stopped, .warning { color: var(--odd); }
.running { color: var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; }
.tile, .card {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
}
.tile b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.tile span { color: var(--quiet); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; color: var(--quiet); font-weight: 500; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
.numbers th:not(:first-child), .numbers td:not(:first-child) {
  text-align: right; font-variant-numeric: tabular-nums;
}
.facts td:first-child { color: var(--quiet); white-space: nowrap; width: 1%; }
.facts td { overflow-wrap: anywhere; }
code { font: .87em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.chosen-here { font-weight: 600; }
.curves svg { width: 100%; height: auto; }
.card { margin-bottom: 1rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.prompt { font-weight: 600; margin-bottom: .6rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.25rem; }
.pair > div { min-width: 0; }
.pair h3 { margin: 0 0 .2rem; font-size: .8rem; font-weight: 500; color: var(--quiet); }
.data {
  margin-top: .6rem; border-top: 1px dashed var(--line); padding-top: .6rem;
  font-size: .9rem; color: var(--quiet);
}
.alert { border-left: 3px solid currentColor; padding-left: .8rem; margin: .6rem 0; }
.alert p { color: var(--ink); }
footer { margin-top: 3rem; font-size: .85rem; }
@media (max-width: 40rem) { .pair { grid-template-columns: 1fr; } }
@media print {
  :root { --page: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #bbb; --accent: #2c5cc5;
          --good: #33761a; --bad: #c0264a; --odd: #8a5a00; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  .card, .tile, tr, svg, .alert { break-inside: avoid; }
  h2 { break-after: avoid; }
  svg text { fill: #444 !important; }
}
"""
