"""Which weights a training changes: the halves of shared/methods that need torch, found by name."""
