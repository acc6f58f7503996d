"""The ZIP of a finished job, laid out as unified_api.md draws it.

The same job always gives the same bytes (entries in one order, times of the job and not of the
packing), so an interrupted download can go on where it stopped.
"""

from __future__ import annotations

import time
import zipfile
from typing import IO

from serve_app.jobs.protocol import JobView
from serve_app.storage import Storage

# Deflating these again costs time and saves nothing.
ALREADY_SMALL = (".png", ".webp", ".zip")
OLDEST = (1980, 1, 1, 0, 0, 0)  # the first moment a ZIP entry can name


def write_archive(view: JobView, storage: Storage, target: IO[bytes]) -> None:
    """Write a job's files into ``target``, under the names that the job gives them."""
    finished = time.gmtime(view.finished_at or view.created_at)[:6]
    with zipfile.ZipFile(target, "w") as archive:
        for name in sorted(view.files):
            entry = zipfile.ZipInfo(name, max(finished, OLDEST))
            small = name.endswith(ALREADY_SMALL)
            entry.compress_type = zipfile.ZIP_STORED if small else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, storage.read(view.files[name]))
