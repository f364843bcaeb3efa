"""The demo: the product's main job on a small real model, through the HTTP API, checked at the end.

It is a client: all it does to the platform it does over HTTP. It starts the platform when none answers, with the same
command a user would type. Nothing is canned: every number and answer on its screen comes from the run.
"""
