"""2, 3, 4 or 8-bit weights, 16-bit activations, in GPTQ's files: what most tools of other houses read."""

from __future__ import annotations

from shared.declarations import ANY_NEWER, Format, Served

FORMAT = Format(
    name="gptq",
    doc="2, 3, 4 or 8-bit weights chosen by AutoRound with calibration texts, GPTQ's files; vLLM serves 4 and 8 bits.",
    bits=(4, 2, 3, 8),
    calibrated=True,
    learned=True,
    served=Served(cuda=(7.5, ANY_NEWER), cpu=True),
    # vLLM has no kernel for 2 and 3 bits, and none on CPUs for 8.
    served_at={2: None, 3: None, 8: Served(cuda=(7.5, ANY_NEWER), cpu=False)},
)
