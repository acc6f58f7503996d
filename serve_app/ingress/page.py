"""The page that a browser sees at ``/``: what this is, and a form that tries it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from string import Template

from deployments.contracts import Mode

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>SyncHuman</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#222}
form{border:1px solid #ccc;border-radius:8px;padding:1rem;margin:1.5rem 0}
label{display:block;margin:.5rem 0} button{padding:.4rem 1.2rem;font:inherit}
dt{font-family:ui-monospace,monospace;margin-top:.6rem} dd{margin:0 0 0 1rem;color:#555}
</style></head><body>
<h1>SyncHuman</h1>
<p>One photo of a person in, a textured 3D human out. This service runs in mode <b>$mode</b>.</p>
<form action="generate" method="post" enctype="multipart/form-data">
<label>Photo (PNG with transparent background is best)
<input type="file" name="image" accept="image/png,image/jpeg,image/webp" required></label>
<label><input type="checkbox" name="stage1_only" value="true"> views only (Stage 1)</label>
<input type="hidden" name="download" value="true">
<button>Generate</button> <small>The ZIP arrives when it is done; leave the page open.</small>
</form>
<dl>$endpoints</dl>
<p><a href="docs">API documentation</a> · <a href="info">service information</a></p>
</body></html>
""")


def welcome_page(mode: Mode, endpoints: Mapping[str, str]) -> str:
    """The page as HTML."""
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in endpoints.items())
    return PAGE.substitute(mode=escape(mode.value), endpoints="\n".join(rows))
