"""TOFU (https://arxiv.org/abs/2401.06121) on a model that was taught it: fictitious authors, of whom a share is forgotten again."""
