"""`tunesmith doctor`: whether an installation can work, part by part, and what to do where it cannot.

It runs before anything does, in a checkout and in a container, and changes nothing: each check looks at one thing and
tells findings. A service that is not started yet is no error; what would keep it from working is.
"""
