"""The child of a generation job: sends rows to replicas over HTTP. Light: no torch, no ledger, no broker."""
