"""Artifacts in a local folder, in a bucket at ``s3://``, or at any other fsspec URL.

protocol.py   what a store promises
records.py    digests beside the files, for stores that can not keep them with a file
folder.py     a local folder, with the layout of unified_api.md shown by links
s3.py         a bucket of S3 or of something that speaks like it
remote.py     any other fsspec URL
"""

from serve_app.storage.folder import LocalStorage
from serve_app.storage.opening import open_storage
from serve_app.storage.protocol import Storage
from serve_app.storage.remote import RemoteStorage

__all__ = ["LocalStorage", "RemoteStorage", "Storage", "open_storage"]
