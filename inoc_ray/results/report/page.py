"""The look of the report page."""

STYLE = """
:root { --ink: #1b1f24; --paper: #ffffff; --quiet: #5b6570; --line: #d8dde3; --band: #f4f6f8; --accent: #0072b2; --warn: #b34700 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --paper: #14171b; --quiet: #9aa5b1; --line: #333b44; --band: #1d2228; --accent: #56b4e9; --warn: #ffa64d }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
main { max-width: 68rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid var(--line) }
.quiet { color: var(--quiet) }
.warning { border: 2px solid var(--warn); border-radius: 8px; padding: 0 1rem; margin: 1.5rem 0 }
.warning h2 { border: 0; margin-top: .8rem; color: var(--warn) }
li { margin: .35rem 0 }
figure { margin: 1.5rem 0; padding: .75rem; background: #ffffff; border: 1px solid var(--line); border-radius: 8px;
  overflow-x: auto }
figure svg { width: 100%; min-width: 36rem; height: auto; display: block }
.wide { overflow-x: auto; margin: .6rem 0 }
table { border-collapse: collapse; font-size: .875rem; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line) }
th { color: var(--quiet); font-weight: 600; white-space: nowrap }
td { overflow-wrap: break-word }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
tbody tr:hover { background: var(--band) }
summary { cursor: pointer; color: var(--accent); padding: .3rem 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--band); padding: .6rem .8rem; border-radius: 6px;
  font: .8125rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace; margin: .3rem 0 }
.samples td { white-space: pre-wrap }
.samples td:nth-child(2), .samples td:nth-child(3) { overflow-wrap: anywhere }
dt { font-weight: 600; margin-top: .6rem }
dd { margin: 0 }
"""
