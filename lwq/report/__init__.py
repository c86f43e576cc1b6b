"""Tables and a template to report.md, report.html and figures; no model, no torch."""
