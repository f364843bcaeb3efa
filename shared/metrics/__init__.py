"""What the services measure for Prometheus: declared once (declared.py), counted by processes (counted.py), read from
the ledger, the broker and the machine at each scrape (ledger.py, broker.py, machine.py), told on a port (page.py).

Nothing is global: a service makes one `Metrics` on a registry of its own and passes it on.
"""
