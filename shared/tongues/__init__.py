"""Two tongues: what the product says stands in English where it is declared, its Chinese in the files under zh/.

`Text` keeps a sentence's template and its values apart, `chinese.py` looks templates up. Chinese comes beside the
English, never instead of it, and a sentence without one is said in English alone: nothing here raises.
"""

from shared.tongues.text import Text, listed

__all__ = ["Text", "listed"]
