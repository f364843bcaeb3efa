"""4-bit weights with zero points, 16-bit activations, in AWQ's files."""

from __future__ import annotations

from shared.declarations import ANY_NEWER, Format, Served

FORMAT = Format(
    name="awq",
    doc="4-bit weights chosen by AutoRound with calibration texts, AWQ's files.",
    bits=(4,),
    calibrated=True,
    learned=True,
    served=Served(cuda=(7.5, ANY_NEWER), cpu=True),
)
