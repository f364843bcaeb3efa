"""What a training learns from: the halves of shared/stages that need torch, found by name."""
