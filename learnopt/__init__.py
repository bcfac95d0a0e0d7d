"""learnopt: learned optimization for PyTorch."""
