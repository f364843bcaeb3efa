"""What an export borrows from llama.cpp: its conversion, its quantized types, and itself to load and ask the file.

The conversion is the Python code of llama.cpp that AutoRound carries, the types and the server are in xllamacpp, whose
library exports ggml. Nothing here is downloaded or compiled.
"""
