"""How the page looks, and the few lines of script that read a column out. Nothing is fetched from anywhere."""

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fdfdfc; --ink: #1c2025; --quiet: #5b646e; --rule: #e3e4e2; --sunk: #f4f4f1;
  --accent: #bf4408; --good: #0c7250; --warn: #8a6100;
  --blocked: #d9571a; --inline: #2f6aa8; --handoff: #a98000; --queue: #728da6; --largest: #e6b293;
  --unknown: #8d6a9f; --steps: #7d8288;
  --startup: #6f757e; --boundary: #e29a1c; --wait: #c8450c; --transfer: #d3bf22; --compute: #2f6aa8;
  --validation: #74bde6; --checkpoint: #0c7c5d; --callbacks: #a4568a; --sync: #7a2352; --loop: #414952;
  --unattributed: #c6c9cc;
  --on-dark: #ffffff; --on-light: #16191c;
  --validation-band: #d9ebf6; --checkpoint-band: #bfe3d4;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #15181b; --ink: #e9e7e3; --quiet: #a3abb3; --rule: #30353b; --sunk: #1d2125;
    --accent: #ff9254; --good: #4cc79c; --warn: #e3b341;
    --blocked: #ff7e3a; --inline: #5b9bd9; --handoff: #e6c83c; --queue: #5f7488; --largest: #84462a;
    --unknown: #b894c9; --steps: #8a9097;
    --startup: #868e98; --boundary: #f2b03e; --wait: #ff7e3a; --transfer: #eadb5a; --compute: #5b9bd9;
    --validation: #9ad4f5; --checkpoint: #38b98f; --callbacks: #d997c1; --sync: #c96a9a; --loop: #b0b8c2;
    --unattributed: #6d757e;
    --on-dark: #101315; --on-light: #101315;
    --validation-band: #20384a; --checkpoint-band: #1d4a3b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 3rem 1.5rem 5rem; max-width: 62rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere;
}
h1 { margin: 0; font-size: 1rem; font-weight: 600; letter-spacing: 0.01em; }
h2 { margin: 0 0 0.35rem; font-size: 1.3rem; font-weight: 600; letter-spacing: -0.01em; }
h3 { margin: 2rem 0 0.5rem; font-size: 1rem; font-weight: 600; }
p { margin: 0 0 0.75rem; max-width: 46rem; }
section { margin-top: 3.5rem; padding-top: 1.75rem; border-top: 1px solid var(--rule); }
code { font: 0.92em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.lead, .quiet, .meta, figcaption, .none { color: var(--quiet); }
.lead { margin-bottom: 1.25rem; }
.meta { margin: 0.1rem 0 0; font-size: 0.9rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }

.alert { margin: 1.75rem 0 0; padding: 0.9rem 1.1rem; border: 1px solid var(--warn); border-left-width: 5px;
  border-radius: 4px; }
.alert p { margin: 0; font-weight: 600; }
.alert ul { margin: 0.3rem 0 0; padding-left: 1.2rem; }

.level { display: inline-block; margin: 2.25rem 0 0.75rem; font-size: 0.85rem; font-weight: 600; color: var(--quiet); }
.level::before { content: "●"; margin-right: 0.45em; }
.level.fine { color: var(--good); }
.level.fine::before { content: "✓"; }
.level.moderate { color: var(--warn); }
.level.moderate::before { content: "◐"; }
.level.input-bound { color: var(--accent); }
.level.input-bound::before { content: "▲"; }
.verdict { max-width: 52rem; margin: 0; font-size: clamp(1.3rem, 1.05rem + 1.2vw, 1.85rem); line-height: 1.3;
  font-weight: 550; letter-spacing: -0.015em; text-wrap: pretty; }
.why { margin: 0.9rem 0 0; font-size: 1.05rem; }
.try { max-width: 46rem; margin: 1.5rem 0 0; padding: 0.1rem 0 0.1rem 1rem; border-left: 3px solid var(--accent); }
.try b { display: block; font-size: 0.85rem; font-weight: 600; color: var(--accent); }
.keys { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.75rem 1.5rem;
  margin: 2.75rem 0 0; }
.keys div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
.keys dt { font-size: 0.88rem; line-height: 1.35; }
.keys dd { margin: 0; font-size: 1.75rem; font-weight: 550; line-height: 1.25; letter-spacing: -0.02em; }
.keys .unknown { font-size: 1.1rem; font-weight: 500; letter-spacing: 0; color: var(--quiet); white-space: normal; }
.ceiling { margin: 1.75rem 0 0; color: var(--quiet); }

.scrolls { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; width: 100%; font-size: 0.95rem; overflow-wrap: normal; }
th, td { padding: 0.42rem 0 0.42rem 1.5rem; text-align: left; vertical-align: baseline; font-weight: 400; }
th:first-child { padding-left: 0; }
thead th { padding-top: 0; font-size: 0.82rem; color: var(--quiet); white-space: nowrap; }
tbody tr { border-top: 1px solid var(--rule); }
.number { text-align: right; white-space: nowrap; }
.path { min-width: 12rem; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 0 3rem;
  margin: 0 0 1rem; }
.facts div { display: flex; justify-content: space-between; gap: 1.25rem; padding: 0.42rem 0;
  border-top: 1px solid var(--rule); }
.facts dt { color: var(--quiet); }
.facts dd { margin: 0; text-align: right; overflow-wrap: break-word; }
.short, .figure { white-space: nowrap; }
figcaption + .facts, figure + .facts { margin-top: 1.5rem; }
td .inner, th .inner { padding-left: 1.2rem; }
.scrolls + .notes, .notes + .facts, .facts + .notes { margin-top: 1.25rem; }
.notes { margin: 0; padding-left: 1.1rem; max-width: 46rem; }

.key { display: inline-block; width: 0.8em; height: 0.8em; margin-right: 0.6em; border-radius: 2px;
  vertical-align: -0.03em; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin: 0.4rem 0 0; padding: 0; list-style: none;
  font-size: 0.86rem; color: var(--quiet); }
.ledger-bar { display: flex; gap: 2px; height: 3.25rem; margin: 0 0 1.5rem; border-radius: 4px; overflow: hidden; }
.segment { flex: 0 1 0; min-width: 2px; padding: 0 0.6rem; overflow: hidden; display: flex; flex-direction: column;
  justify-content: center; white-space: nowrap; font-size: 0.82rem; line-height: 1.3; }
.segment:empty { padding: 0; }
.segment .name { font-weight: 600; overflow: hidden; text-overflow: ellipsis; }
.account-startup { background: var(--startup); color: var(--on-dark); }
.account-boundary { background: var(--boundary); color: var(--on-light); }
.account-wait { background: var(--wait); color: var(--on-dark); }
.account-transfer { background: var(--transfer); color: var(--on-light); }
.account-compute { background: var(--compute); color: var(--on-dark); }
.account-validation { background: var(--validation); color: var(--on-light); }
.account-checkpoint { background: var(--checkpoint); color: var(--on-dark); }
.account-callbacks { background: var(--callbacks); color: var(--on-dark); }
.account-sync { background: var(--sync); color: var(--on-dark); }
.account-loop { background: var(--loop); color: var(--on-dark); }
.account-unattributed { color: var(--on-light); background:
  repeating-linear-gradient(135deg, var(--unattributed) 0 4px, var(--paper) 4px 6px); }

figure { margin: 1.5rem 0 0; }
figcaption { margin: 0.6rem 0 0; font-size: 0.86rem; max-width: 46rem; }
.plot { position: relative; margin: 1.6rem 0 2.1rem 4rem; }
.chart { display: block; width: 100%; height: 15rem; overflow: visible; outline-offset: 6px; }
.chart.low { height: 7.5rem; }
.chart path { vector-effect: non-scaling-stroke; fill: none; stroke: none; }
.chart text { font-size: 12px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
.chart .mark, .chart .beyond { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.chart .strong { fill: var(--ink); font-weight: 600; }
.chart .beyond { fill: var(--ink); stroke-width: 3px; font-size: 9px; }
.chart path.grid { stroke: var(--rule); }
.chart path.epoch { stroke: var(--quiet); stroke-dasharray: 1 4; }
.chart path.threshold { stroke: var(--ink); stroke-dasharray: 6 4; stroke-opacity: 0.55; }
.chart path.capacity { stroke: var(--ink); stroke-dasharray: 6 4; stroke-opacity: 0.55; }
.chart path.percentile { stroke: var(--ink); }
.chart path.fewest { stroke: var(--ink); stroke-width: 1.25; }
.chart path.largest { fill: var(--largest); }
.chart path.bar.blocked { fill: var(--blocked); }
.chart path.bar.inline { fill: var(--inline); }
.chart path.bar.handoff { fill: var(--handoff); }
.chart path.bar.wait { fill: var(--unknown); }
.chart path.bar.steps { fill: var(--steps); }
.chart path.queue { fill: var(--queue); }
.chart path.band.validation { fill: var(--validation-band); }
.chart path.band.checkpoint { fill: var(--checkpoint-band); }
.key.bar.blocked { background: var(--blocked); }
.key.bar.wait { background: var(--unknown); }
.key.bar.inline { background: var(--inline); }
.key.bar.handoff { background: var(--handoff); }
.key.largest { background: var(--largest); }
.key.queue { background: var(--queue); }
.key.band.validation { background: var(--validation-band); box-shadow: inset 0 0 0 1px var(--rule); }
.key.band.checkpoint { background: var(--checkpoint-band); box-shadow: inset 0 0 0 1px var(--rule); }
.key.epoch { width: 0; height: 1em; border-left: 2px dotted var(--quiet); border-radius: 0; vertical-align: -0.15em; }
.key.threshold { width: 1.4em; height: 0; border-top: 2px dashed var(--quiet); border-radius: 0;
  vertical-align: 0.25em; }
.key.glyph { display: none; }
.key.fewest { height: 0; border-top: 2px solid var(--ink); border-radius: 0; vertical-align: 0.25em; }
.cursor { position: absolute; top: 0; bottom: 0; width: 1px; background: var(--ink); pointer-events: none; }
.readout { margin: -0.4rem 0 0.4rem; font-size: 0.9rem; }

.ranks { display: grid; grid-template-columns: minmax(4rem, auto) 1fr auto; gap: 0.5rem 1rem; align-items: center;
  margin: 0.5rem 0 1.5rem; padding: 0; list-style: none; font-size: 0.92rem; }
.ranks li { display: contents; }
.ranks .track { height: 0.9rem; background: var(--sunk); border-radius: 2px; overflow: hidden; }
.ranks .fill { display: block; height: 100%; background: var(--queue); }
.ranks .slowest .fill { background: var(--wait); }
.ranks .slowest .rank { font-weight: 600; }
.ranks .share { text-align: right; }

@media (max-width: 600px) {
  body { padding: 1.75rem 1rem 3rem; }
  section { margin-top: 2.5rem; padding-top: 1.25rem; }
  .keys { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.25rem 1rem; }
  .keys dd { font-size: 1.4rem; }
  .plot { margin-left: 3.4rem; }
  .chart { height: 12rem; }
  .chart text { font-size: 11px; }
  .segment { padding: 0 0.3rem; }
  .segment .name { display: none; }
  th, td { padding-left: 0.9rem; }
}
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11pt; }
  section { margin-top: 1.5rem; padding-top: 1rem; }
  figure, tr, .keys, .ledger-bar { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .readout, .cursor { display: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SCRIPT = """
(function () {
  "use strict";
  var chart = document.getElementById("wait-chart"), data = document.getElementById("columns");
  var readout = document.getElementById("readout"), cursor = document.getElementById("cursor");
  if (!chart || !data) { return; }
  var columns = JSON.parse(data.textContent), at = -1;
  readout.hidden = false;
  function show(place) {
    at = Math.max(0, Math.min(columns.length - 1, place));
    readout.textContent = columns[at][1];
    cursor.hidden = false;
    cursor.style.left = (columns[at][0] * 100) + "%";
  }
  chart.addEventListener("pointermove", function (event) {
    var box = chart.getBoundingClientRect(), across = (event.clientX - box.left) / box.width, nearest = 0;
    for (var i = 1; i < columns.length; i++) {
      if (Math.abs(columns[i][0] - across) < Math.abs(columns[nearest][0] - across)) { nearest = i; }
    }
    show(nearest);
  });
  chart.addEventListener("pointerleave", function () { cursor.hidden = true; });
  chart.addEventListener("keydown", function (event) {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      show(at + (event.key === "ArrowRight" ? 1 : -1));
      event.preventDefault();
    }
  });
}());
"""
