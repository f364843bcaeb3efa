"""`tunesmith backup` and `tunesmith restore`: ledger and artifacts, copied while the platform runs.

A place (a folder, or s3://bucket/folder) holds many backups and each file once:

    objects/<aa>/<sha256>                 the files of artifacts, by digest: a second backup writes only what is new
    backups/<id>/ledger.jsonl.gz          every row, read in one transaction (rows.py)
    backups/<id>/artifacts.jsonl.gz       which files make each artifact that a row names (files.py)
    backups/<id>/backup.json              written last: without it there is no such backup
    lock                                  who writes (hold.py)

The ledger is copied by its rows and not by its database's own tools: so it goes from SQLite to PostgreSQL and back, and
needs no client of the server's version. The rows are read first: what they name is sealed and never changes, it can
only be deleted meanwhile, and then both are read anew. Logs of attempts and caches stay on their machines.
"""
