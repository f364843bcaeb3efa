"""8-bit floating-point weights and activations, in compressed-tensors form: for cards that multiply such numbers."""

from __future__ import annotations

from shared.declarations import ANY_NEWER, Format, Served

FORMAT = Format(
    name="fp8",
    doc="8-bit floating-point weights and activations, compressed-tensors files; nothing is calibrated.",
    bits=(8,),
    streamed=True,
    # From 8.9 on in the cards' own arithmetic; older ones compute in 16 bits. A CPU loads it but answers at a tenth of
    # the speed of the merged model.
    served=Served(cuda=(7.5, ANY_NEWER), cpu=False),
)
