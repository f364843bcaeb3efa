"""What runs on the server: `up` (the embedded platform under one supervisor), `keys` and `migrate`.

These open the ledger themselves; clients of the HTTP API are in gateway/cli. No import of Flask here: the gateway is
a service that `up` starts like the others.
"""
