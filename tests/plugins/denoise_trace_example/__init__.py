"""A distribution that adds one thing of each kind to denoise-trace, one file each; tests put it on the path."""
