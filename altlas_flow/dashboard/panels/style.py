"""Colours and styles of the panels."""

from __future__ import annotations

#: Colours of models, which differ also to eyes that see few (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#7f7f7f")
#: What all tables share. Bokeh's widgets have a shadow root each: no style of the page reaches into them.
STYLE = """
:host { font: 12px/1.35 Helvetica, Arial, sans-serif; color: #222; overflow: auto;
        container-type: inline-size; }
.bk-clearfix { width: 100%; }
h2 { font-size: 15px; margin: 0 0 4px; font-weight: 600; }
h2 small { font-weight: 400; font-size: 12px; color: #555; margin-left: 6px; }
.small { color: #555; }
p { margin: 4px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 2px 5px 2px 0; border-bottom: 1px solid #e4e4e4; white-space: nowrap;
         max-width: 13em; overflow: hidden; text-overflow: ellipsis; vertical-align: top; }
th { font-weight: 600; font-size: 11px; color: #555; position: sticky; top: 0; background: #fafafa; }
td.n, th.n { text-align: right; padding-right: 9px; }
td.wide { white-space: normal; max-width: none; overflow-wrap: anywhere; }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 5px; }
.ONLINE, .done { background: #009e73; } .BUSY, .running { background: #e69f00; }
.OFFLINE, .gone { background: #7f7f7f; } .ERROR, .failed { background: #d55e00; }
.bar { display: inline-block; width: 40px; height: 8px; border-radius: 2px; background: #ddd;
       margin-right: 5px; }
.bar.small { width: 22px; margin-right: 3px; }
.bar i { display: block; height: 8px; border-radius: 2px; background: #0072b2; }
.bar i.high { background: #d55e00; }
.empty { color: #555; }
code, pre { font: 12px/1.35 Menlo, Consolas, monospace; }
pre { margin: 2px 0 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
summary { cursor: pointer; }
@container (max-width: 430px) {
  table { font-size: 11px; }
  th { font-size: 10.5px; }
  th, td { padding-right: 3px; max-width: 10em; }
  td.n, th.n { padding-right: 6px; }
  td:first-child { max-width: 7.5em; }
  .bar { width: 26px; margin-right: 3px; }
  .dot { margin-right: 3px; }
}
@media (prefers-color-scheme: dark) {
  :host { color: #ddd; }
  h2 small, th, .empty, .small { color: #aaa; }
  th { background: #1b1c1e; }
  th, td { border-color: #38393c; }
  .bar { background: #44464a; }
  .bar i { background: #56b4e9; }
}
"""


#: Of what people choose from.
CHOICE = """
@media (prefers-color-scheme: dark) {
  .bk-input, select { background-color: #26282b !important; color: #ddd !important;
                      border-color: #55585d !important; }
}
"""
