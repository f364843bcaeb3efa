"""Trackers of experiments beside a training: each in a process of its own, which reads what the job tells.

A tracker that is down, slow, or ends its process costs the training nothing: it is never asked, only waited for in the
end, and not for long. It gets what events.jsonl says, so its values are those of the job. Who starts it is beside.py,
what runs is __main__.py, and one file for each tracker says how it is written to.
"""
